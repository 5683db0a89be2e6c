"""Days after planning for patients who have none: everything in them moved by a smooth field that is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..contracts import Case, Image
from ..io import Scan
from ..io.planning import POSSIBLE
from ..physics.warp import exponential, moved
from .cohort import Cohort, Derived, Member, origin
from .grid import grid_of, same_grid
from .moving import LEAST_MM, MOTION, as_images, check_volume, known_velocity, velocity_on

STAYS = ("dose", POSSIBLE)  # what is of the plan, and of no day
APART_DAYS = 7.0


@dataclass(frozen=True)
class SimulatedDays:
    """`count` days a week apart, each with its own motion from the planning image, up to `largest_mm` at most."""

    count: int = 2
    largest_mm: float = 8.0

    def __post_init__(self) -> None:
        if not 1 <= self.count <= 50 or not LEAST_MM <= self.largest_mm <= 60:
            raise ValueError(f"expected 1 to 50 days, and largest_mm from {LEAST_MM:g} to 60.")

    def added_to(self, cohort: Cohort) -> Cohort:
        """Every patient who has a CT and was seen once is seen again; whoever has days of his own keeps those."""
        seen: dict[str, int] = {}
        for member in cohort.members:
            seen[member.patient] = seen.get(member.patient, 0) + 1
        members: list[Member] = []
        for member in cohort.members:
            members.append(member)
            if "CT" in member.contrasts() and seen[member.patient] == 1:
                members += [self._day(member, k) for k in range(self.count)]
        return replace(cohort, members=tuple(members))

    def _day(self, member: Member, number: int) -> Member:
        patient, visit, site, days, values = origin(member)
        name = f"{visit}-day{number + 1}" if visit else f"day{number + 1}"
        return _Moved(patient, name, site, days + APART_DAYS * (number + 1), values, member, number, self.largest_mm)


@dataclass(frozen=True)
class _Moved(Derived):
    inner: Member
    number: int
    largest_mm: float

    def contrasts(self) -> tuple[str, ...]:
        return (*(n for n in self.inner.contrasts() if n not in STAYS), *MOTION)

    def scans_of(self, contrasts: Iterable[str]) -> tuple[Scan, ...]:
        return self.inner.scans_of(dict.fromkeys("CT" if name in MOTION else name for name in contrasts))

    def load(self, contrasts: Iterable[str]) -> Case:
        wanted = [name for name in contrasts if name in self.contrasts()]
        case = self.inner.load(dict.fromkeys(["CT", *(n for n in wanted if n not in MOTION)]))
        ct = case.images["CT"]
        check_volume(ct)
        velocity = known_velocity(ct, (self.patient, self.inner.visit, self.number), self.largest_mm)
        field = exponential(velocity, ct.spacing_mm)
        motion = as_images(velocity, ct)
        found = dict(motion)
        for name in (n for n in wanted if n in case.images):
            image = case.images[name]
            aligned = same_grid(grid_of(image), grid_of(ct))
            found[name] = _moved(image, field if aligned else exponential(_on(motion, image), image.spacing_mm))
        images = {name: image for name, image in found.items() if name in wanted}
        return Case(self.patient, images, self.values, self.visit, self.days, self.site)


def _on(motion: Mapping[str, Image], image: Image) -> Tensor:
    """The velocity on the grid of another image of the patient; raises UnreadableError for what is no volume."""
    check_volume(image)
    return velocity_on(motion, grid_of(image))


def _moved(image: Image, field: Tensor) -> Image:
    """What lies where a field on its grid points; a mask by where its edge goes, a map of classes by voxels."""
    classes = image.meaning.kind == "label"
    mask = classes and float(image.data.max()) <= 1
    data = moved(image.data[None].float(), field, image.spacing_mm, nearest=classes and not mask)[0]
    return replace(image, data=(data > 0.5).float() if mask else data.to(torch.float32))
