"""Events for simulated patients: a hazard that depends on what their images show, and on what covariates say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..rng import Rng
from .cohort import Cohort, Member, overlaid
from .virtual import VirtualMember
from .virtual.patients import AGES

EVENT, YEARS = "event", "years"  # values of a case
TRUE = "true log hazard"  # a value that no job is given: what the best of all answers would say


@dataclass(frozen=True)
class SimulatedEvents:
    """`yearly` events per patient and year; by how much a standard deviation more of each thing raises its logarithm.

    `lesion` (ml, of cohorts that say lesion_ml) and `severity` (speed of atrophy, of cohorts that say it) are seen in
    images alone; `age` is a covariate. Whoever has no event by the end of his follow-up, drawn evenly from
    `followed_years`, is censored.
    """

    yearly: float = 0.1
    lesion: float = 1.0
    severity: float = 0.5
    age: float = 0.5
    followed_years: Sequence[float] = (2.0, 10.0)

    def __post_init__(self) -> None:
        low, high = self.followed_years[0], self.followed_years[-1]
        if not self.yearly > 0 or len(self.followed_years) != 2 or not 0 < low <= high:
            raise ValueError("expected a yearly rate above 0, and followed_years of [shortest, longest].")

    def added_to(self, cohort: Cohort) -> Cohort:
        """Every visit at which a patient was still without an event. Raises ValueError for patients that are real."""
        if any(not isinstance(member, VirtualMember) for member in cohort.members):
            raise ValueError("events are simulated of simulated patients alone. Write: virtual: {patients: 200}")
        members = [m for m in cohort.members if isinstance(m, VirtualMember)]
        spread = {k: _spread([_seen(m)[k] for m in members]) for k in ("lesion", "severity")}
        found = [self._followed(m, spread) for m in members]
        return replace(cohort, members=tuple(m for m in found if m is not None))

    def _followed(self, member: VirtualMember, spread: dict[str, tuple[float, float]]) -> Member | None:
        log_hazard = self._log_hazard(member, spread)
        chance = Rng([member.truth.seed]).child("event").uniform(2)[0].double().tolist()
        happens = -math.log(max(chance[0], 1e-12)) / (self.yearly * math.exp(log_hazard))
        low, high = self.followed_years[0], self.followed_years[-1]
        ends = low + (high - low) * chance[1]
        left = min(happens, ends) - member.truth.years
        if left <= 0:
            return None
        course = {YEARS: round(left, 4), EVENT: "1" if happens <= ends else "0", TRUE: log_hazard}
        return overlaid(member, {}, course)

    def _log_hazard(self, member: VirtualMember, spread: dict[str, tuple[float, float]]) -> float:
        seen, total = _seen(member), 0.0
        middle, width = sum(AGES) / 2, (AGES[1] - AGES[0]) / math.sqrt(12)
        total += self.age * (member.truth.age - middle) / width
        for name, weight in (("lesion", self.lesion), ("severity", self.severity)):
            mean, deviation = spread[name]
            total += weight * (seen[name] - mean) / deviation if deviation else 0.0
        return total


def _seen(member: VirtualMember) -> dict[str, float]:
    return {"lesion": member.truth.lesion_volume_ml or 0.0, "severity": member.truth.severity}


def _spread(numbers: Sequence[float]) -> tuple[float, float]:
    mean = sum(numbers) / len(numbers)
    return mean, math.sqrt(sum((n - mean) ** 2 for n in numbers) / len(numbers))
