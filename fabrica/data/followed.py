"""Several visits of a patient as one case: the one that is asked about, with images of those before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ..contracts import Case
from .cohort import Member

LAST, BEFORE = "last visit's ", "earlier visit's "  # before the name of a contrast
AHEAD, APART = "years ahead", "years apart"  # values: to the visit that is asked about; between the two before
YEAR = 365.25  # days
NEXT = "next"  # the visit of a case that nobody has scanned yet


def followed(members: Sequence[Member], contrast: str, years_ahead: float | None = None) -> tuple[Member, ...]:
    """A case for each visit that two others came before, or, with `years_ahead`, for the one after the last.

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
            found += [_Followed.of(ordered[k - 2], ordered[k - 1], ordered[k]) for k in range(2, len(ordered))]
        elif len(ordered) >= 2:
            found.append(_Followed.next(ordered[-2], ordered[-1], years_ahead))
    return tuple(found)


@dataclass(frozen=True)
class _Followed(Member):
    patient: str
    visit: str
    site: str
    days: float
    values: Mapping[str, float | str]
    earlier: Member
    last: Member
    asked: Member | None  # None: nobody has scanned it yet

    @staticmethod
    def of(earlier: Member, last: Member, asked: Member) -> Member:
        gaps = {AHEAD: (asked.days - last.days) / YEAR, APART: (last.days - earlier.days) / YEAR}
        values = {**asked.values, **gaps}
        return _Followed(asked.patient, asked.visit, asked.site, asked.days, values, earlier, last, asked)

    @staticmethod
    def next(earlier: Member, last: Member, years: float) -> Member:
        values = {**last.values, AHEAD: years, APART: (last.days - earlier.days) / YEAR}
        return _Followed(last.patient, NEXT, last.site, last.days + YEAR * years, values, earlier, last, None)

    def contrasts(self) -> tuple[str, ...]:
        own = self.asked.contrasts() if self.asked else ()
        last, before = self.last.contrasts(), self.earlier.contrasts()
        return (*own, *(LAST + n for n in last), *(BEFORE + n for n in before))

    def load(self, contrasts: Iterable[str]) -> Case:
        wanted, images = tuple(contrasts), {}
        for mark, member in ((LAST, self.last), (BEFORE, self.earlier)):
            names = [n.removeprefix(mark) for n in wanted if n.startswith(mark)]
            for name, image in (member.load(names).images if names else {}).items():
                images[mark + name] = replace(image, meaning=replace(image.meaning, name=mark + name))
        own = [n for n in wanted if not n.startswith((LAST, BEFORE))]
        if self.asked is None:
            return Case(self.patient, images, self.values, self.visit, self.days, self.site)
        case = self.asked.load(own) if own else Case(self.patient, {})
        every, values = {**case.images, **images}, {**case.values, **self.values}
        return replace(case, images=every, values=values, visit=self.visit, days=self.days)
