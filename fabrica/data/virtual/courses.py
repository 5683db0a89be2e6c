"""Courses that bend: visits at uneven times, a treatment that starts between two of them, atrophy that speeds up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

from ...registry import check_type, unknown
from ...rng import Rng


@dataclass(frozen=True)
class Courses:
    """What a recipe says of them: `virtual: {courses: {gap_years: [0.5, 5], treated: 0.5, effect: 0.6}}`.

    `treated`: share of patients whose treatment starts at some time and goes on; it takes `effect` of the pace away.
    `speeds_up`: share of those whose pace is `faster` times as high from some time on.
    """

    gap_years: Sequence[float] = (0.5, 5.0)  # between visits, evenly
    treated: float = 0.5
    effect: float = 0.6
    speeds_up: float = 0.3
    faster: float = 2.0

    @staticmethod
    def of(plain: Mapping[str, Any]) -> Courses:
        """Strictly from plain data; raises ValueError."""
        known = {f.name for f in fields(Courses)}
        for key, value in plain.items():
            if key not in known:
                raise unknown("key of courses", str(key), sorted(known))
            check_type(f"courses.{key}", value, Sequence[float] if key == "gap_years" else float)
        made = Courses(**plain)
        low, high = made.gap_years[0], made.gap_years[-1]
        if len(made.gap_years) != 2 or not 0 < low <= high or not 0 <= made.effect < 1 or made.faster <= 0:
            raise ValueError("courses need gap_years of [shortest, longest], an effect in 0..1 and faster above 0.")
        if not (0 <= made.treated <= 1 and 0 <= made.speeds_up <= 1):
            raise ValueError("courses.treated and speeds_up are shares of patients, 0 to 1.")
        return made

    def drawn(self, visits: int, rng: Rng) -> Course:
        """One patient's."""
        low, high = self.gap_years[0], self.gap_years[-1]
        gaps = (low + (high - low) * rng.child("gaps").uniform(visits)[0].double()).tolist()
        times = [0.0]
        for gap in gaps[: visits - 1]:
            times.append(round(times[-1] + gap, 3))
        u = rng.child("bends").uniform(4)[0].double().tolist()
        start = times[-1] * u[1] if u[0] < self.treated else math.inf
        bend = times[-1] * u[3] if u[2] < self.speeds_up else math.inf
        return Course(tuple(times), start, math.inf, self.effect, bend, self.faster)


@dataclass(frozen=True)
class Course:
    """Years since the first visit: of the visits, of treatment from `start` to `end`, from which on it is faster."""

    visits: tuple[float, ...]
    start: float
    end: float
    effect: float
    bend: float
    faster: float

    def pace(self, year: float) -> float:
        """Relative to a patient without either."""
        treated = self.start <= year < self.end
        return (self.faster if year >= self.bend else 1.0) * (1 - self.effect if treated else 1.0)

    def worn(self, year: float) -> float:
        """Years that have passed at that pace."""
        inner = sorted(t for t in (self.start, self.end, self.bend) if 0 < t < year)
        return sum((b - a) * self.pace((a + b) / 2) for a, b in pairwise([0.0, *inner, year]))

    def treated(self, year: float) -> float:
        """Years under treatment by then."""
        return max(0.0, min(year, self.end) - self.start)

    def otherwise(self, after: float, treated: bool) -> Course:
        """The same until then, and from then on treated or not."""
        if treated:
            return self if self.start <= after else replace(self, start=after)
        return replace(self, end=min(self.end, max(after, self.start)) if self.start < after else self.start)
