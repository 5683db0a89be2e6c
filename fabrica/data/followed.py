"""Several visits of a patient as one case: the one that is asked about, with images of those before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ..contracts import Case
from ..io import Scan
from .cohort import Derived, Member, origin

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
class _Followed(Derived):
    earlier: Member
    last: Member
    asked: Member | None  # None: nobody has scanned it yet

    @staticmethod
    def of(earlier: Member, last: Member, asked: Member) -> Member:
        values = _known(earlier, last, (asked.days - last.days) / YEAR)
        return _Followed(*origin(asked, values), earlier, last, asked)

    @staticmethod
    def next(earlier: Member, last: Member, years: float) -> Member:
        values = _known(earlier, last, years)
        return _Followed(last.patient, NEXT, last.site, last.days + YEAR * years, values, earlier, last, None)

    def contrasts(self) -> tuple[str, ...]:
        own = self.asked.contrasts() if self.asked else ()
        last, before = self.last.contrasts(), self.earlier.contrasts()
        return (*own, *(LAST + n for n in last), *(BEFORE + n for n in before))

    def scans_of(self, contrasts: Iterable[str]) -> tuple[Scan, ...]:
        parts = self._parted(contrasts)
        own = () if self.asked is None else self.asked.scans_of(parts[""])
        return (*own, *self.last.scans_of(parts[LAST]), *self.earlier.scans_of(parts[BEFORE]))

    def _parted(self, contrasts: Iterable[str]) -> dict[str, list[str]]:
        """Names by the visit that they are of, without its mark."""
        parts: dict[str, list[str]] = {"": [], LAST: [], BEFORE: []}
        for name in contrasts:
            mark = next((m for m in (LAST, BEFORE) if name.startswith(m)), "")
            parts[mark].append(name.removeprefix(mark))
        return parts

    def load(self, contrasts: Iterable[str]) -> Case:
        parts = self._parted(contrasts)
        images = dict(self.asked.load(parts[""]).images) if self.asked and parts[""] else {}
        for mark, member in ((LAST, self.last), (BEFORE, self.earlier)):
            for name, image in (member.load(parts[mark]).images if parts[mark] else {}).items():
                images[mark + name] = replace(image, meaning=replace(image.meaning, name=mark + name))
        return Case(self.patient, images, self.values, self.visit, self.days, self.site)


def _known(earlier: Member, last: Member, years: float) -> dict[str, float | str]:
    """What is known when the visit to come is asked about: the last visit's values, nothing of the answer's."""
    return {**last.values, AHEAD: years, APART: (last.days - earlier.days) / YEAR}
