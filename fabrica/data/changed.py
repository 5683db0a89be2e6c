"""Simulated patients as they would be if something about them were otherwise: the truth of a counterfactual."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..contracts import Case
from ..io import Scan
from .cohort import Derived, Member, origin
from .moving import renamed
from .virtual import VirtualMember

CHANGED = "changed "  # before the name of a contrast
KNOWN = ("age", "disease", "sex", "severity")  # of a simulated head


def changed_value(said: float | str, change: str) -> float | str:
    """What a value becomes: a word or a number in its place, or a number more (+10) or less (-10).

    Raises ValueError for a step from what is no number.
    """
    if change[:1] not in "+-" or not change[1:2].isdigit():
        return change
    if not isinstance(said, int | float):
        raise ValueError(f"{change} is a step from a number, and the case says {said!r}.")
    return float(said) + float(change)


def with_truths(members: Sequence[Member], contrasts: Sequence[str], changes: Mapping[str, str]) -> tuple[Member, ...]:
    """Simulated patients beside their own counterfactuals; others as they are."""
    able = {*changes} <= {*KNOWN}
    return tuple(
        _Changed(*origin(m), m, tuple(contrasts), tuple(changes.items()))
        if able and isinstance(m, VirtualMember)
        else m
        for m in members
    )


@dataclass(frozen=True)
class _Changed(Derived):
    inner: VirtualMember
    made: tuple[str, ...]
    changes: tuple[tuple[str, str], ...]

    def contrasts(self) -> tuple[str, ...]:
        return (*self.inner.contrasts(), *(CHANGED + n for n in self.made))

    def scans_of(self, contrasts: Iterable[str]) -> tuple[Scan, ...]:
        return ()

    def load(self, contrasts: Iterable[str]) -> Case:
        wanted = list(contrasts)
        case = self.inner.load([n for n in wanted if not n.startswith(CHANGED)])
        asked = [n.removeprefix(CHANGED) for n in wanted if n.startswith(CHANGED)]
        if not asked:
            return case
        truth = self.inner.truth
        values: dict[str, Any] = {n: changed_value(self.inner.values[n], c) for n, c in self.changes}
        if "age" in values:  # at the first visit
            values["age"] = float(values["age"]) - truth.years
        other = replace(self.inner, truth=replace(truth, **values))
        images = {CHANGED + n: renamed(i, CHANGED + n) for n, i in other.load(asked).images.items()}
        return replace(case, images={**case.images, **images})
