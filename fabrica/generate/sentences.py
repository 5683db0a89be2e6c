"""Findings in sentences, and a second reading of each in the map that was written: what it does not show is marked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import io
from ..data.findings import SIZES, Lesion, Measured, facts_of, placed, sentence
from ..data.grid import Grid

HALF = 0.5  # of a volume: what another grid may change of it
ALIKE = 0.99  # cosine of two directions of slices


@dataclass(frozen=True)
class Finding:
    """What was measured, and the chance that the model gives it: the mean over its voxels."""

    measured: Measured
    chance: float


@dataclass(frozen=True)
class Sentence:
    """Words, what they are said of, and whether a second reading of the mask that was written says the same."""

    text: str
    findings: tuple[int, ...]
    checked: bool
    why: str = ""


def sentences_of(findings: Sequence[Finding], path: Path, grid: Grid) -> tuple[Sentence, ...]:
    """The whole in one sentence, then each finding; what they say is read again in the map of findings that was
    written. `grid`: of the model, whose middle and front sides and places are told from.
    """
    whole, again = sentence([f.measured.lesion for f in findings]), _read_again(path, grid)
    lost = [f.measured.label for f in findings if f.measured.label not in again]
    why = f"finding {lost[0]} is too small for the grid of the scan" if lost else _differs(whole, again)
    sentences = [Sentence(whole, tuple(f.measured.label for f in findings), not why, why)]
    for one in findings:
        m = one.measured
        text = (
            f"Finding {m.label}: {m.lesion.diameter_mm:.0f} mm across, {m.volume_ml:.2g} ml, {m.lesion.side},"
            f" {m.lesion.place}, chance {one.chance:.2f}."
        )
        other = again.get(m.label)
        why = "it is too small for the grid of the scan" if other is None else _contradicted(text, one, other)
        sentences.append(Sentence(text, (m.label,), not why, why))
    return tuple(sentences)


@dataclass(frozen=True)
class _Again:
    """A finding as the written map has it."""

    lesion: Lesion
    volume_ml: float
    centre_mm: NDArray[np.float64]
    coarse_mm: float  # the coarser voxel of both grids
    alike: bool  # whether its slices lie as the model's do, so that sections can be compared
    places: frozenset[tuple[str, str]]  # side and place, also of centres that voxels of that size may move to


def _read_again(path: Path, grid: Grid) -> dict[int, _Again]:
    written = io.read_image(path)
    own, affine = written.affine.numpy().astype(float), grid.affine.numpy().astype(float)
    values = written.data.reshape(-1, *written.data.shape[-2:]).numpy().round().astype(int)
    coarse = float(max(np.linalg.norm(a[:3, :3], axis=0).max() for a in (own, affine)))
    across = [np.cross(a[:3, 1], a[:3, 2]) for a in (own, affine)]
    alike = abs(float(across[0] @ across[1])) > ALIKE * float(np.prod([np.linalg.norm(n) for n in across]))
    found = {}
    for number in (n for n in np.unique(values).tolist() if n):
        places = np.argwhere(values == number)
        centre = (own @ np.array([*places.mean(0), 1.0]))[:3]
        section = float(np.unique(places[:, 0], return_counts=True)[1].max()) * float(np.linalg.norm(across[0]))
        lesion = Lesion(2 * float(np.sqrt(section / np.pi)), *placed(centre, grid.shape, affine))
        volume = len(places) * float(abs(np.linalg.det(own[:3, :3]))) / 1000
        around = product((-coarse, 0.0, coarse), repeat=2)
        near = frozenset(placed(centre + np.array([a, b, 0.0]), grid.shape, affine) for a, b in around)
        found[number] = _Again(lesion, volume, centre, coarse, alike, near)
    return found


def _differs(whole: str, again: Mapping[int, _Again]) -> str:
    """Why the facts of the sentence are not those of the written map; '' where they are."""
    order = [again[number] for number in sorted(again)]  # as they are numbered, the largest first
    said, seen = facts_of(whole), facts_of(sentence([one.lesion for one in order]))
    for name in said.keys() | seen.keys():
        if said.get(name) == seen.get(name):
            continue
        if name == "size" and order and (not order[0].alike or _near_an_end(order[0])):
            continue  # a section of another plane, or a diameter that voxels move over the end of a class
        if name in ("side", "place") and order and (said.get("side"), said.get("place")) in order[0].places:
            continue
        if name == "sides" and any(len({side for side, _ in one.places}) > 1 for one in order):
            continue  # one of them lies on a border
        return f"the map that was written says {name} {seen.get(name, 'nothing')}"
    return ""


def _near_an_end(one: _Again) -> bool:
    return any(abs(one.lesion.diameter_mm - end) < one.coarse_mm for end in SIZES.values())


def _contradicted(text: str, one: Finding, again: _Again) -> str:
    """Why what a sentence says of a finding is not what the written map shows; '' where it is."""
    told = re.fullmatch(r"Finding \d+: (\d+) mm across, ([\d.e+-]+) ml, (\w+), (\w+), chance [\d.]+\.", text)
    if told is None:
        return "its sentence is not of the grammar"
    across, volume, side, place = float(told[1]), float(told[2]), told[3], told[4]
    off = float(np.linalg.norm(again.centre_mm - np.array(one.measured.centre_mm)))
    if off > 2 * again.coarse_mm:
        return f"the map that was written has it {off:.0f} mm away"
    if (side, place) not in again.places:
        return f"the map that was written has it {again.lesion.side}, {again.lesion.place}"
    if again.alike and abs(across - again.lesion.diameter_mm) > 2 * again.coarse_mm:
        return f"the map that was written has it {again.lesion.diameter_mm:.0f} mm across"
    if abs(volume - again.volume_ml) > HALF * volume + (2 * again.coarse_mm) ** 3 / 1000:
        return f"the map that was written has {again.volume_ml:.2g} ml"
    return ""
