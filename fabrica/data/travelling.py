"""Patients who were scanned at several sites: an image of one site beside that of another, of the same day."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..contracts import Case
from ..io import Scan
from .cohort import Derived, Member, origin
from .moving import check_one_frame, renamed

ELSEWHERE = "another site's "  # before the name of a contrast
SAME_DAYS = 31.0  # between two scans of a travelling patient, at most: later he may look otherwise


def site_of(member: Member) -> str:
    """As a table of files or of participants says it; '' where none does."""
    return member.site or str(member.values.get("site", ""))


def travelled(members: Sequence[Member], contrast: str, to: str, new: bool = False) -> tuple[Member, ...]:
    """A case for each image of another site that the patient also has of site `to`; `new`: for each of another site.

    Raises ValueError where nobody says a site, or none is called `to`.
    """
    able = [m for m in members if contrast in m.contrasts()]
    sites = sorted({site_of(m) for m in able})
    if able and not new and to not in sites:
        known = ", ".join(s for s in sites if s) or "none"
        raise ValueError(f"No image is of the site {to!r}; sites that are said: {known}. Name it in a column: site")
    if new:
        return tuple(_Travelled(*origin(m), m, None, contrast) for m in able if site_of(m) != to)
    there: dict[str, list[Member]] = {}
    for member in able:
        if site_of(member) == to:
            there.setdefault(member.patient, []).append(member)
    found = []
    for member in (m for m in able if site_of(m) != to):
        near = min(there.get(member.patient, ()), key=lambda one: abs(one.days - member.days), default=None)
        if near is not None and abs(near.days - member.days) <= SAME_DAYS:
            found.append(_Travelled(*origin(member), member, near, contrast))
    return tuple(found)


@dataclass(frozen=True)
class _Travelled(Derived):
    inner: Member
    there: Member | None  # the same patient at the site that all are brought to
    contrast: str

    def contrasts(self) -> tuple[str, ...]:
        others = (n for n in self.inner.contrasts() if n != self.contrast)
        return (*others, ELSEWHERE + self.contrast, *((self.contrast,) if self.there else ()))

    def scans_of(self, contrasts: Iterable[str]) -> tuple[Scan, ...]:
        wanted = list(contrasts)
        own = [n.removeprefix(ELSEWHERE) for n in wanted if n != self.contrast]
        more = self.there.scans_of([self.contrast]) if self.there and self.contrast in wanted else ()
        return (*self.inner.scans_of(own), *more)

    def load(self, contrasts: Iterable[str]) -> Case:
        wanted = [n for n in contrasts if n in self.contrasts()]
        case = self.inner.load([n.removeprefix(ELSEWHERE) for n in wanted if n != self.contrast])
        images = {}
        for name in wanted:
            if name == self.contrast and self.there is not None:
                images[name] = self.there.load([name]).images[name]
            elif name.removeprefix(ELSEWHERE) in case.images:
                images[name] = renamed(case.images[name.removeprefix(ELSEWHERE)], name)
        check_one_frame({n: i for n, i in images.items() if n.removeprefix(ELSEWHERE) == self.contrast}, self.name)
        return replace(case, images=images, values=self.values)
