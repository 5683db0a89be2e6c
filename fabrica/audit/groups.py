"""Fairness of a subject: its figures by group of patients, from its report or from what it draws."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..data.cohort import Member, one_each
from ..safeguards.amplification import Amplification, People, amplification
from ..safeguards.fairness import Fairness, assess, attributes_of
from ..safeguards.privacy.copies import nearest
from ..safeguards.privacy.spaces import encoded
from .subject import Subject

NEIGHBOUR = 5  # of a real patient: within the distance to it he counts as drawn
OURS = ("model: one draw", "model: mean of draws", "model")  # whose figures they are, in a report's words
Array = NDArray[np.float64]


def fairness(subject: Subject, made: Sequence[Tensor]) -> Fairness | str:
    """Every endpoint of the run's report by group; of draws of nobody, whom of the others' side they reach."""
    members = one_each(subject.held)
    attributes = attributes_of([_known(m) for m in members])
    if not attributes:
        return "no attribute of the test patients says a group: sex, age, site, scanner, disease as columns of a table"
    if subject.synthesises:
        endpoints = _reached(subject, members, made)
    else:
        endpoints = _reported(subject, [m.patient for m in members])
    if not endpoints:
        return "the run's report holds no figure by patient"
    return assess(endpoints, attributes, subject.seed)


def copied(subject: Subject, made: Sequence[Tensor]) -> Fairness | str:
    """Which groups' training patients have a draw nearer than any other person: copies by group."""
    members = one_each(subject.train)
    attributes = attributes_of([_known(m) for m in members])
    train = subject.sides[0]
    if not attributes or not made or len(set(train.patients)) < 2:
        return "no attribute of the training patients says a group"
    coded, others = subject.coded
    gaps, _ = nearest([coded], encoded(made))
    alone = np.full(len(coded), np.inf)
    for start in range(0, len(coded), 512):
        rows = slice(start, start + 512)
        apart = _apart(coded[rows], coded)
        same = np.array(train.patients[rows])[:, None] == np.array(train.patients)[None]
        alone[rows] = np.where(same, np.inf, apart).min(1)
        if len(others):
            alone[rows] = np.minimum(alone[rows], _apart(coded[rows], others).min(1))
    nearer: dict[str, float] = {}
    for patient, gap, other in zip(train.patients, gaps, alone, strict=True):
        nearer[patient] = max(nearer.get(patient, 0.0), float(gap < other))
    values = np.array([nearer.get(m.patient, np.nan) for m in members])
    return assess({"has a draw nearer than any other person": values}, attributes, subject.seed)


def amplified(subject: Subject, made: Sequence[Tensor]) -> Amplification | str:
    """Which groups are drawn more often than they are: told by real neighbours."""
    if not subject.synthesises or not made:
        return "its draws follow somebody's scan"
    sides = []
    for members, side, features in zip((subject.train, subject.held), subject.sides, subject.coded, strict=True):
        of = {m.patient: _known(m) for m in members}
        sides.append(People(features, attributes_of([of.get(p, {}) for p in side.patients])))
    return amplification(sides[0], sides[1], encoded(made), subject.seed)


def _apart(one: Array, other: Array) -> Array:
    squares: Array = (one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * one @ other.T
    return np.sqrt(np.maximum(squares, 0))


def _known(member: Member) -> dict[str, float | str]:
    site = {"site": member.site} if member.site else {}
    return {**site, **member.values}


def _reported(subject: Subject, patients: Sequence[str]) -> dict[str, Array]:
    """Metric -> mean of each patient's rows, NaN where he has none."""
    path = subject.run.path / "report" / "report.json"
    plain: Any = json.loads(path.read_text()) if path.is_file() else {"stages": []}
    stage: Any = next((s for s in plain["stages"] if s["name"] == subject.stage.name), {"cases": []})
    by = {row["by"] for row in stage["cases"]}
    ours = next((name for name in OURS if name in by), "")
    rows: dict[str, dict[str, list[float]]] = {}
    for row in stage["cases"]:
        if row["by"] in (ours, "model") and row["unit"] != "s" and isinstance(row["value"], int | float):
            name = " of ".join(n for n in (row["metric"], row["contrast"]) if n)
            rows.setdefault(name, {}).setdefault(row["patient"], []).append(float(row["value"]))
    return {m: np.array([np.mean(own[p]) if p in own else np.nan for p in patients]) for m, own in rows.items()}


def _reached(subject: Subject, members: Sequence[Member], made: Sequence[Tensor]) -> dict[str, Array]:
    """Is each held-out patient within the reach of draws (recall: Kynkäänniemi et al. 2019), and how near are they?"""
    _, held = subject.sides
    if not made or len(held.images) <= NEIGHBOUR:
        return {}
    real, drawn = encoded(held.images), encoded(made)
    own = _apart(real, real)
    radius = np.sort(own, axis=1)[:, NEIGHBOUR]
    gaps, _ = nearest([real], drawn)
    rows: dict[str, list[tuple[float, float]]] = {}
    for patient, gap, reach in zip(held.patients, gaps, radius, strict=True):
        rows.setdefault(patient, []).append((float(gap <= reach), float(gap)))
    empty = [(float("nan"), float("nan"))]
    mean = np.array([np.mean(rows.get(m.patient, empty), axis=0) for m in members])
    return {"recall": mean[:, 0], "distance to the nearest draw": mean[:, 1]}
