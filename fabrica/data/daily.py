"""A day of treatment as a case: the images of the day beside those that the plan was made on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..contracts import Case
from ..io import Scan
from .cohort import Derived, Member, origin
from .moving import check_one_frame, courses_of, renamed

PLANNED = "planning "  # before the name of an image that the plan was made on


def days_of(members: Sequence[Member]) -> tuple[Member, ...]:
    """Each later visit of a patient, with the images of the visit called planning, or of the first, beside its own."""
    return tuple(_Day(*origin(member), first, member) for first, later in courses_of(members) for member in later)


@dataclass(frozen=True)
class _Day(Derived):
    planning: Member
    today: Member

    def contrasts(self) -> tuple[str, ...]:
        return (*self.today.contrasts(), *(PLANNED + name for name in self.planning.contrasts()))

    def scans_of(self, contrasts: Iterable[str]) -> tuple[Scan, ...]:
        own, planned = _parted(contrasts)
        return (*self.today.scans_of(own), *self.planning.scans_of(planned))

    def load(self, contrasts: Iterable[str]) -> Case:
        own, planned = _parted(contrasts)
        today = self.today.load(own)
        first = self.planning.load(planned).images if planned else {}
        images = {**today.images, **{PLANNED + n: renamed(i, PLANNED + n) for n, i in first.items()}}
        check_one_frame(images, self.name)
        return replace(today, images=images)


def _parted(contrasts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Names of the day, and of planning without what stands before them."""
    names = list(contrasts)
    planned = [n.removeprefix(PLANNED) for n in names if n.startswith(PLANNED)]
    return [n for n in names if not n.startswith(PLANNED)], planned
