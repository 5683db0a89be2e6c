"""A finished synthesis audited: draws held against the images that it learned from and against those it did not see."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..contracts import Field
from ..data.cases import prepare_case
from ..data.cohort import Member, find
from ..evaluate.report.audit import write_page
from ..io import UnreadableError
from ..machine.device import find_device
from ..run.answering import Answering
from ..run.draw import draw
from ..run.folder import RunFolder
from ..run.prepare import split_stage
from ..run.question import Shown
from ..safeguards.gate import Gate
from ..safeguards.privacy import (
    Copies,
    assessable,
    copies_check,
    copy_test,
    features,
    gallery,
    nearest,
    overlap,
    variants,
)
from .patients import asked_patients, synthesising_stage

Say = Callable[[str], None]
COPIES = "copies"  # the name of the check


@dataclass(frozen=True)
class Side:
    """Images of one side, (1, z, y, x) each, with whose they are."""

    images: list[Tensor]
    names: list[str]
    patients: list[str]


def audit(
    run: Path, *, draws: int = 1000, data: Path | None = None, holdout: Path | None = None,
    overrides: Mapping[str, str] | None = None, device: str = "auto", seed: int = 0, say: Say = print,
) -> Gate:  # fmt: skip
    """Writes RUN/audit/gate.json and RUN/audit/index.html. `data`: draws as files, in place of new ones; `holdout`:
    patients whom training did not see, in place of the test part.

    Raises ValueError for a run that synthesises nobody, UnreadableError for folders that cannot be read.
    """
    opened = RunFolder.open(run, "recipes/synthesis.yaml")
    stage = synthesising_stage(opened)
    answering = Answering(opened, stage, find_device(device))
    cohorts = {name: plan.find() for name, plan in opened.recipe.cohorts.items()}
    parts = split_stage(opened.recipe, stage, cohorts).parts
    field = next(f for f in answering.signature.x if f.kind == "intensity")
    train = _side(parts["train"], field, answering, say)
    held = _side(find(holdout).members if holdout else parts["test"], field, answering, say)
    made = _side(find(data).members, field, answering, say).images if data else _drawn(answering, draws, seed, say)
    by_image = len(set(train.patients)) == len(train.patients)
    if by_image:
        say("Every training image counts as a patient of its own: the audit is by image.")
    found, why_not, void = _tested(made, train, held)
    check = copies_check(found, why_not, void)
    weights = json.loads((opened.home(stage) / "checkpoint.json").read_text())["sha256"]
    gate = Gate(weights, {COPIES: check}).keeping(Gate.read(run)).overruled(overrides or {})
    path = gate.write(run)
    pairs = [] if found is None else gallery(found, made, train.images)
    about = f"{len(made)} draws, {len(train.images)} training and {len(held.images)} held-out images"
    write_page(run / "audit" / "index.html", run.name, about + (", by image" if by_image else ""), gate, pairs)
    for name, one in gate.checks.items():
        say(f"{name}: {one.verdict}. {one.reason}" + (f" Overruled: {one.overruled}" if one.overruled else ""))
    say(f"Gate: {path}")
    return gate


def _tested(made: Sequence[Tensor], train: Side, held: Side) -> tuple[Copies | None, str, str]:
    """(what the test found, why it shows nothing, why it does not hold)."""
    if why_not := assessable(len(made), train.patients, held.patients):
        return None, why_not, ""
    known, unseen = features(train.images), features(held.images)
    both = sorted(set(train.patients) & set(held.patients))
    if void := overlap(known, unseen, held.names) or (f"patient {both[0]} is on both sides." if both else ""):
        return None, "", void
    rows = [features(part) for part in variants(made)]
    gaps, where = nearest(rows, np.concatenate([known, unseen]))
    trained = np.arange(len(known) + len(unseen)) < len(known)
    return copy_test(gaps, where, [*train.patients, *held.patients], trained), "", ""


def _side(members: Sequence[Member], field: Field, answering: Answering, say: Say) -> Side:
    """Images of members as the run prepares them; what cannot be read is said and left out."""
    images, names, patients = list[Tensor](), list[str](), list[str]()
    for member in members:
        if field.name not in member.contrasts():
            continue
        try:
            tensor = prepare_case(member, [field.name], field.name, answering.preparation).tensors[field.name]
        except (UnreadableError, KeyError) as error:
            say(f"{member.name} is left out: {error}")
            continue
        slices = [tensor] if answering.layout.axes == "zyx" else [tensor[:, z : z + 1] for z in range(tensor.shape[1])]
        images += slices
        names += [member.name] * len(slices)
        patients += [member.patient] * len(slices)
    if not images:
        raise ValueError(f"There is no image of {field.name} to audit with. See: fabrica inspect DIR")
    return Side(_cut(images, answering), names, patients)


def _cut(images: Sequence[Tensor], answering: Answering) -> list[Tensor]:
    """All on one grid: the middle of what is larger, zeros around what is smaller."""
    depth, *sides = answering.layout.size
    wanted = (1 if answering.layout.axes == "yx" else depth, *sides)
    found = []
    for image in images:
        out = torch.zeros(1, *wanted)
        here, there = [slice(None)], [slice(None)]
        for have, want in zip(image.shape[1:], wanted, strict=True):
            n = min(have, want)
            here.append(slice((want - n) // 2, (want - n) // 2 + n))
            there.append(slice((have - n) // 2, (have - n) // 2 + n))
        out[tuple(here)] = image[tuple(there)]
        found.append(out)
    return found


def _drawn(answering: Answering, count: int, seed: int, say: Say) -> list[Tensor]:
    """The first intensity of so many patients who do not exist."""
    start = 0
    for f in answering.signature.x:
        if f.kind == "intensity":
            break
        start += f.channels
    found = []
    for shown in asked_patients(answering, count):
        x = draw(answering.family, answering.job, [Shown(one) for one in shown], answering.layout, seed, say)
        found += [one[start : start + 1] for one in x]
        say(f"{len(found)} of {count} draws made.")
    return _cut(found, answering)
