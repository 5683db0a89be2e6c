"""Several visits of a patient as one case: the one that is asked about, with images of those before."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ..contracts import Case
from ..io import Scan
from .cohort import Derived, Member, origin

LAST, BEFORE = "last visit's ", "earlier visit's "  # before the name of a contrast
EARLIER = (LAST, BEFORE, "third last visit's ", "fourth last visit's ")
AHEAD, APART = (
    "years ahead",
    "years apart",
)  # values: to the visit that is asked about; from the last back to the one before
SINCE = ("", APART, "years since the third last", "years since the fourth last")  # from the last visit back to each
TREATED_YEARS = "treated_years"  # a value of a visit: under treatment by then
TREATED_AHEAD, TREATED_BEFORE = "treated ahead", "treated before"  # shares of the years ahead, and of those before
YEAR = 365.25  # days
ROUNDED = 0.02  # of a share, as tables round
WITHIN = {AHEAD: (0.0, math.inf), TREATED_AHEAD: (0.0, 1.0), TREATED_BEFORE: (0.0, 1.0)}  # what these can be
NEXT = "next"  # the visit of a case that nobody has scanned yet


def followed(
    members: Sequence[Member], contrast: str, years_ahead: float | None = None, *, fewest: int = 2, most: int = 2
) -> tuple[Member, ...]:
    """A case for each visit that `fewest` others came before, with up to `most` of those; or, with `years_ahead`, for
    the one after the last.

    Visits are ordered by their days. Patients with too few are left out. Raises ValueError where two visits of a
    patient lie on one day: which came first is not known.
    """
    by_patient: dict[str, list[Member]] = {}
    for member in members:
        if contrast in member.contrasts():
            by_patient.setdefault(member.patient, []).append(member)
    found: list[Member] = []
    for patient, visits in by_patient.items():
        ordered = sorted(visits, key=lambda m: m.days)
        for one, other in pairwise(ordered):
            if one.days == other.days:
                raise ValueError(
                    f"{patient} has visits {one.visit or 'without a name'} and {other.visit or 'without a name'} on one"
                    " day. Say their days in a table: --write-table files.csv, add a column days, then table: files.csv"
                )
        if years_ahead is None:
            found += [
                _Followed.of(tuple(ordered[max(0, k - most) : k][::-1]), ordered[k])
                for k in range(fewest, len(ordered))
            ]
        elif len(ordered) >= fewest:
            found.append(_Followed.next(tuple(ordered[-most:][::-1]), years_ahead))
    return tuple(found)


@dataclass(frozen=True)
class _Followed(Derived):
    earlier: tuple[Member, ...]  # the last one first
    asked: Member | None  # None: nobody has scanned it yet

    @staticmethod
    def of(earlier: tuple[Member, ...], asked: Member) -> Member:
        values = _known(earlier, (asked.days - earlier[0].days) / YEAR, asked)
        return _Followed(*origin(asked, values), earlier, asked)

    @staticmethod
    def next(earlier: tuple[Member, ...], years: float) -> Member:
        last = earlier[0]
        values = _known(earlier, years, None)
        return _Followed(last.patient, NEXT, last.site, last.days + YEAR * years, values, earlier, None)

    def contrasts(self) -> tuple[str, ...]:
        own = self.asked.contrasts() if self.asked else ()
        before = (mark + n for mark, m in zip(EARLIER, self.earlier, strict=False) for n in m.contrasts())
        return (*own, *before)

    def scans_of(self, contrasts: Iterable[str]) -> tuple[Scan, ...]:
        parts = self._parted(contrasts)
        found = list(() if self.asked is None else self.asked.scans_of(parts[""]))
        for mark, member in zip(EARLIER, self.earlier, strict=False):
            found += member.scans_of(parts[mark])
        return tuple(found)

    def _parted(self, contrasts: Iterable[str]) -> dict[str, list[str]]:
        """Names by the visit that they are of, without its mark."""
        parts: dict[str, list[str]] = {mark: [] for mark in ("", *EARLIER)}
        for name in contrasts:
            mark = next((m for m in EARLIER if name.startswith(m)), "")
            parts[mark].append(name.removeprefix(mark))
        return parts

    def load(self, contrasts: Iterable[str]) -> Case:
        parts = self._parted(contrasts)
        images = dict(self.asked.load(parts[""]).images) if self.asked and parts[""] else {}
        for mark, member in zip(EARLIER, self.earlier, strict=False):
            for name, image in (member.load(parts[mark]).images if parts[mark] else {}).items():
                images[mark + name] = replace(image, meaning=replace(image.meaning, name=mark + name))
        return Case(self.patient, images, self.values, self.visit, self.days, self.site)

    def members(self) -> tuple[Member, ...]:
        """The visit that is asked about, where there is one, and those before it, the last one first."""
        return (*(() if self.asked is None else (self.asked,)), *self.earlier)


def visits_of_case(member: Member) -> tuple[Member, ...]:
    """As `members` of a followed case; nothing of others."""
    return member.members() if isinstance(member, _Followed) else ()


def _known(earlier: tuple[Member, ...], years: float, asked: Member | None) -> dict[str, float | str]:
    """What is known when the visit to come is asked about: the last visit's values, the times, the treatment that is
    planned; nothing of the answer's.
    """
    last = earlier[0]
    found: dict[str, float | str] = {**last.values, AHEAD: years}
    for name, member in zip(SINCE[1:], earlier[1:], strict=False):
        found[name] = (last.days - member.days) / YEAR
    now = _treated(last.values)
    if now is not None:
        found.pop(TREATED_YEARS)
        first = _treated(earlier[-1].values)
        if len(earlier) > 1 and first is not None:
            found[TREATED_BEFORE] = _share(now - first, (last.days - earlier[-1].days) / YEAR, last)
        then = None if asked is None else _treated(asked.values)
        if then is not None:
            found[TREATED_AHEAD] = _share(then - now, years, last if asked is None else asked)
    return found


def _share(treated: float, years: float, member: Member) -> float:
    """Raises ValueError for more treatment than time, and for treatment that was taken back."""
    share = treated / years
    if not -ROUNDED <= share <= 1 + ROUNDED:
        raise ValueError(
            f"{member.name} was treated {treated:.3g} of {years:.3g} years since the visit before. Correct the column"
            f" {TREATED_YEARS}: years under treatment by each visit."
        )
    return min(1.0, max(0.0, share))


def _treated(values: Mapping[str, float | str]) -> float | None:
    said = values.get(TREATED_YEARS)
    return float(said) if isinstance(said, int | float) else None


def impossible(name: str, value: float) -> str:
    """Why a number that somebody typed cannot be that of a visit to come; '' where it can, and for other names."""
    low, high = WITHIN.get(name, (-math.inf, math.inf))
    if name == AHEAD and value <= 0:
        return f"{name} is {value:g}, expected more than 0: the visit that is drawn comes after the last one."
    if not low <= value <= high:
        return f"{name} is {value:g}, expected a share from {low:g} to {high:g}."
    return ""
