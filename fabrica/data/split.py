"""Who trains and who tests: always whole patients, never a leak."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..rng import derive
from .cohort import Cohort, Member

PARTS = ("train", "validate", "calibrate", "test")


class LeakError(ValueError):
    """The same patient, image or near-copy stands on two sides of a split."""


@dataclass(frozen=True)
class Split:
    """Members by part; a part may be empty except where a run needs it."""

    parts: Mapping[str, tuple[Member, ...]]
    left_out: frozenset[str] = frozenset()  # patients who could be used, and whom the plan gives to no part

    @property
    def empty(self) -> tuple[str, ...]:
        return tuple(part for part in PARTS if not self.parts[part])


def split_cohort(cohort: Cohort, plan: Mapping[str, object], seed: int = 0, more: Sequence[Member] = ()) -> Split:
    """By names ({train: [p07], test: [p19]}) or by fractions ({train: 0.6, test: 0.4}); `by: {site: [C]}` goes to test.

    Test patients are drawn from the end of the shuffled cohort: the same ones however many train. `more` members, of
    other patients, only train.

    Raises ValueError for names that leave open who is whose patient, for an unknown patient, and when training or
    testing, where asked for, would be without patients; LeakError for a patient named twice.
    """
    if cohort.doubts:
        others = f" and {len(cohort.doubts) - 1} more" if len(cohort.doubts) > 1 else ""
        raise ValueError(
            f"Who is whose patient is not clear: {cohort.doubts[0]}{others}. Settle it before anybody trains and tests:"
            " fabrica inspect DIR --write-table files.csv, then table: files.csv"
        )
    asked = {part: plan[part] for part in PARTS if part in plan}
    if all(isinstance(value, list | tuple) for value in asked.values()):
        chosen = {part: _named(cohort, [str(n) for n in value]) for part, value in asked.items()}  # type: ignore[attr-defined]
    else:
        chosen = _drawn(cohort, {part: float(value) for part, value in asked.items()}, plan, seed)  # type: ignore[arg-type]
    seen: dict[str, str] = {}
    for part, patients in chosen.items():
        for patient in patients:
            if patient in seen:
                raise LeakError(f"Patient {patient} stands in {seen[patient]} and {part}. Name each patient once.")
            seen[patient] = part
    parts = {part: tuple(m for m in cohort.members if seen.get(m.patient) == part) for part in PARTS}
    if shared := sorted({m.patient for m in more} & {p for p, part in seen.items() if part != "train"}):
        raise LeakError(
            f"{shared[0]} may only train, and stands in {seen[shared[0]]} too. Give its images another name."
        )
    parts["train"] = (*parts["train"], *more)
    for part in ("train", "test"):
        if part in asked and not parts[part]:
            raise ValueError(
                f"The split leaves {part} without patients: {len(cohort.patients)} usable in all "
                f"({', '.join(cohort.patients[:5])}). Add patients, or name them: split: {{train: [a], test: [b]}}."
            )
    used = {m.patient for own in parts.values() for m in own}
    return Split(parts, frozenset(cohort.patients) - used)


def patient_hash(patient: str) -> str:
    """Enough to recognise a patient in another run, and no name in a checkpoint that travels."""
    return hashlib.sha256(patient.encode()).hexdigest()[:16]


def may_train(plan: Mapping[str, object], patient: str) -> bool:
    """Whether a plan by names lets a patient train; one by fractions lets everybody."""
    names = plan.get("train")
    return not isinstance(names, list | tuple) or any(str(n) == patient or _short_for(str(n), patient) for n in names)


def _named(cohort: Cohort, names: Sequence[str]) -> list[str]:
    chosen = []
    for name in names:
        exact = [p for p in cohort.patients if p == name]
        found = exact or [p for p in cohort.patients if _short_for(name, p)]
        if len(found) != 1:
            known = ", ".join(cohort.patients[:8])
            raise ValueError(f"The split names patient {name!r}, which matches {len(found)} patients. Known: {known}.")
        chosen += found
    return chosen


def _short_for(name: str, patient: str) -> bool:
    """p07 and p7 are short for patient07."""
    one, other = re.fullmatch(r"(\D*)(\d+)", name), re.search(r"(\d+)$", patient)
    return bool(one and other and int(one[2]) == int(other[1]) and patient.lower().startswith(one[1].lower()))


def _drawn(
    cohort: Cohort, fractions: Mapping[str, float], plan: Mapping[str, object], seed: int
) -> dict[str, list[str]]:
    held = _held_out(cohort, plan.get("by"))
    free = sorted((p for p in cohort.patients if p not in held), key=lambda p: derive(seed, "split", p))
    total = sum(fractions.values())
    if not fractions or total > 1 + 1e-6:
        raise ValueError(f"Split fractions add up to {total:g}, expected at most 1.")
    count = len(free)
    first_test = round((1 - fractions.get("test", 0.0)) * count + 1e-9)
    if count > 1 and "test" in fractions and not held:
        first_test = min(first_test, count - 1)  # test is never empty
    others = {part: share for part, share in fractions.items() if part != "test"}
    ends = [min(round(e), first_test) for e in np.cumsum([0.0, *others.values()]) * count + 1e-9]
    chosen = {part: free[ends[i] : ends[i + 1]] for i, part in enumerate(others)}
    if "test" in fractions:
        chosen["test"] = free[first_test:]
    chosen["test"] = [*chosen.get("test", []), *held]
    return chosen


def _held_out(cohort: Cohort, by: object) -> list[str]:
    if not isinstance(by, Mapping):
        return []
    held = []
    for key, wanted in by.items():
        for member in cohort.members:
            value = member.site if key == "site" else str(member.values.get(str(key), ""))
            if value in [str(w) for w in wanted] and member.patient not in held:
                held.append(member.patient)
    return held


def copies(
    prints: Mapping[str, Mapping[str, NDArray[np.float32]]], threshold: float = 0.9995
) -> list[tuple[str, str, str, str, float]]:
    """(part, case, later part, case there, correlation) of images that stand on both sides; prints: part -> case ->
    fingerprint.

    A near-copy is a correlation above `threshold` of mean-free 16^3 thumbnails: re-saving, noise of a few per cent or a
    small intensity change do not hide it. Each case of a later part is named once.
    """
    found = []
    parts = [part for part in prints if prints[part]]
    for i, one in enumerate(parts):
        for other in parts[i + 1 :]:
            a, b = list(prints[one]), list(prints[other])
            alike = np.stack([prints[one][k] for k in a]) @ np.stack([prints[other][k] for k in b]).T
            for column in np.flatnonzero(alike.max(0) > threshold):
                row = int(alike[:, column].argmax())
                found.append((one, a[row], other, b[column], float(alike[row, column])))
    return found


def check_leakage(prints: Mapping[str, Mapping[str, NDArray[np.float32]]], threshold: float = 0.9995) -> None:
    """Refuse images that stand on both sides (see `copies`); raises LeakError naming both cases."""
    for one, case, other, copy, correlation in copies(prints, threshold):
        raise LeakError(
            f"{case} ({one}) and {copy} ({other}) show the same image (correlation {correlation:.5f}). "
            "Put them on one side: they may be one patient under two names."
        )


def fingerprint(volume: NDArray[np.float32], side: int = 16) -> NDArray[np.float32]:
    """Unit-norm, mean-free thumbnail of (..., z, y, x) or (..., y, x) by block means."""
    spatial = volume.reshape(-1, *volume.shape[-3:])[0] if volume.ndim > 2 else volume
    for axis in range(spatial.ndim):
        n = spatial.shape[axis]
        edges = np.linspace(0, n, min(side, n) + 1).astype(int)[:-1]
        spatial = np.add.reduceat(spatial, edges, axis) / np.diff([*edges, n]).reshape(
            [-1 if a == axis else 1 for a in range(spatial.ndim)]
        )
        if n < side:
            spatial = np.repeat(spatial, -(-side // n), axis).take(range(side), axis)
    flat = (spatial - spatial.mean()).ravel().astype(np.float32)
    unit: NDArray[np.float32] = flat / max(float(np.linalg.norm(flat)), 1e-12)
    return unit
