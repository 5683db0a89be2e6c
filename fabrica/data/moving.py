"""Pairs of images of one patient between which something has moved: simulated with a known motion, or two visits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..contracts import Case, Field, Image
from ..io import Scan, UnreadableError
from ..physics.registration import registered
from ..physics.warp import exponential, moved, smooth_velocity
from ..rng import Rng, derive
from .cohort import Derived, Member, origin
from .grid import Grid, coarser, grid_of, resample

FIXED, MOVING = "fixed ", "moving "  # before the name of a contrast
START = ("motion start z", "motion start y", "motion start x")  # the same, told without learning
MOTION = ("motion z", "motion y", "motion x")  # a velocity in mm, its parts along LPS
PLANNING = "planning"  # the visit that moves, whatever its day
COARSE_MM, WIDTH_MM = 4.0, 18.0  # of the grid that velocities are drawn on; over which they are smooth
LEAST_MM = 2.0
HELD_HU = (-200.0, 300.0)  # of a CT that is registered
START_MM = 3.0  # no finer voxels are registered to start from
KEPT_VOXELS = 1_000_000


def pairs_of(members: Sequence[Member], contrast: str, pairs: int, largest_mm: float) -> tuple[Member, ...]:
    """`pairs` of each image: itself, and itself moved by a smooth field that is known, up to `largest_mm` at most."""
    return tuple(
        _Simulated(*_named(member, f"moved{k + 1}"), member, contrast, k, largest_mm)
        for member in members if contrast in member.contrasts() for k in range(pairs)
    )  # fmt: skip


def visits_of(members: Sequence[Member], contrast: str) -> tuple[Member, ...]:
    """Each later visit of a patient as the fixed image, the first (or the one called planning) as the moving one."""
    able = [member for member in members if contrast in member.contrasts()]
    return tuple(
        _Visited(*origin(member), first, member, contrast) for first, later in courses_of(able) for member in later
    )


def courses_of(members: Sequence[Member]) -> list[tuple[Member, list[Member]]]:
    """Of each patient the visit called planning, else the first; and the others in their order."""
    by_patient: dict[str, list[Member]] = {}
    for member in members:
        by_patient.setdefault(member.patient, []).append(member)
    found = []
    for visits in by_patient.values():
        first, *later = sorted(visits, key=lambda m: (m.visit.lower() != PLANNING, m.days, m.visit))
        found.append((first, later))
    return found


def _named(member: Member, visit: str) -> tuple[str, str, str, float, dict[str, float | str]]:
    patient, own, site, days, values = origin(member)
    return patient, f"{own}-{visit}" if own else visit, site, days, dict(values)


@dataclass(frozen=True)
class _Simulated(Derived):
    inner: Member
    contrast: str
    number: int
    largest_mm: float

    def contrasts(self) -> tuple[str, ...]:
        return (FIXED + self.contrast, MOVING + self.contrast, *MOTION)

    def scans_of(self, contrasts: Iterable[str]) -> tuple[Scan, ...]:
        return self.inner.scans_of([self.contrast]) if {*contrasts} & {*self.contrasts()} else ()

    def load(self, contrasts: Iterable[str]) -> Case:
        wanted = set(contrasts)
        case = self.inner.load([self.contrast])
        image = case.images[self.contrast]
        check_volume(image)
        velocity = known_velocity(image, (self.patient, self.inner.visit, self.number), self.largest_mm)
        found = {MOVING + self.contrast: renamed(image, MOVING + self.contrast)}
        field = exponential(velocity, image.spacing_mm)
        data = moved(image.data[None].float(), field, image.spacing_mm)[0]
        found[FIXED + self.contrast] = renamed(replace(image, data=data), FIXED + self.contrast)
        found |= as_images(velocity, image)
        images = {name: one for name, one in found.items() if name in wanted}
        return Case(self.patient, images, self.values, self.visit, self.days, self.site)


def known_velocity(image: Image, whose: Sequence[str | int], largest_mm: float) -> Tensor:
    """(1, 3, z, y, x) in mm along the image's axes; the same for the same words and grid."""
    chance = Rng([derive(0, "motion", *whose)])
    shape = image.data.shape[1:]
    coarse = [max(2, math.ceil(n * s / COARSE_MM)) for n, s in zip(shape, image.spacing_mm, strict=True)]
    largest = LEAST_MM + (largest_mm - LEAST_MM) * float(chance.child("size").uniform())
    velocity = smooth_velocity(chance.child("field").normal(3, *coarse), [COARSE_MM] * 3, WIDTH_MM, largest)
    return F.interpolate(velocity, shape, mode="trilinear", align_corners=True)


def as_images(velocity: Tensor, like: Image, names: Sequence[str] = MOTION) -> dict[str, Image]:
    """A velocity (1, 3, z, y, x) along the axes of an image's grid as three images along LPS."""
    world = along_patient(velocity[0], like.affine)
    return {
        name: replace(like, data=part[None], meaning=Field(name, "intensity", 1, "mm"))
        for part, name in zip(world, names, strict=True)
    }


def solved(fixed: Image, moving: Image, grid_mm: float, names: Sequence[str] = MOTION) -> dict[str, Image]:
    """The velocity that registration without learning tells, on voxels of at least `grid_mm`, as images on the grid of
    the fixed one. Raises UnreadableError for what is no volume.
    """
    for image in (fixed, moving):
        check_volume(image)
    grid = coarser(grid_of(fixed), grid_mm)
    one, other = (_held(resample(image, grid)) for image in (fixed, moving))
    like = replace(fixed, data=one[0], affine=grid.affine)
    coarse = as_images(registered(one, other, grid.spacing_mm), like, names)
    return {name: resample(image, grid_of(fixed), 0.0) for name, image in coarse.items()}


def _held(image: Image) -> Tensor:
    """(1, 1, z, y, x) to be correlated: of a CT soft tissue, to whose edges air and bone belong."""
    data = image.data[None].float()
    return data.clamp(*HELD_HU) if image.meaning.unit == "HU" else data


def started(member: Member, contrast: str) -> Member:
    """A pair of images with the velocity that registration without learning tells of it."""
    return _Started(*origin(member), member, contrast, {})


@dataclass(frozen=True)
class _Started(Derived):
    inner: Member
    contrast: str
    kept: dict[str, Image]  # what was told before, of pairs that are not large

    def contrasts(self) -> tuple[str, ...]:
        return (*self.inner.contrasts(), *START)

    def _pair(self) -> tuple[str, str]:
        return FIXED + self.contrast, MOVING + self.contrast

    def scans_of(self, contrasts: Iterable[str]) -> tuple[Scan, ...]:
        wanted = list(contrasts)
        more = self._pair() if {*START} & {*wanted} else ()
        return self.inner.scans_of(dict.fromkeys([*(n for n in wanted if n not in START), *more]))

    def load(self, contrasts: Iterable[str]) -> Case:
        wanted = tuple(contrasts)
        asked = [n for n in START if n in wanted]
        more = self._pair() if asked and not self.kept else ()
        case = self.inner.load(dict.fromkeys([*(n for n in wanted if n not in START), *more]))
        images = {n: i for n, i in case.images.items() if n in wanted}
        if asked:
            told = self.kept or self._told(case)
            images |= {name: told[name] for name in asked}
        return replace(case, images=images)

    def _told(self, case: Case) -> dict[str, Image]:
        fixed, moving = (case.images[name] for name in self._pair())
        found = solved(fixed, moving, START_MM, START)
        if fixed.data.numel() <= KEPT_VOXELS:
            self.kept.update(found)
        return found


def velocity_on(images: Mapping[str, Image], grid: Grid) -> Tensor:
    """What `as_images` made, brought to a grid: (1, 3, z, y, x) in mm along its axes; beyond them nothing moves."""
    parts = torch.cat([resample(images[name], grid, 0.0).data for name in MOTION]).float()
    return along_axes(parts, grid.affine)[None]


@dataclass(frozen=True)
class _Visited(Derived):
    first: Member
    later: Member
    contrast: str

    def contrasts(self) -> tuple[str, ...]:
        return (FIXED + self.contrast, MOVING + self.contrast)

    def scans_of(self, contrasts: Iterable[str]) -> tuple[Scan, ...]:
        wanted = set(contrasts)
        parts = ((FIXED, self.later), (MOVING, self.first))
        return tuple(s for mark, m in parts if mark + self.contrast in wanted for s in m.scans_of([self.contrast]))

    def load(self, contrasts: Iterable[str]) -> Case:
        images = {}
        for mark, member in ((FIXED, self.later), (MOVING, self.first)):
            if mark + self.contrast in contrasts:
                image = member.load([self.contrast]).images[self.contrast]
                check_volume(image)
                images[mark + self.contrast] = renamed(image, mark + self.contrast)
        check_one_frame(images, self.name)
        return Case(self.patient, images, self.values, self.visit, self.days, self.site)


def renamed(image: Image, name: str) -> Image:
    return replace(image, meaning=replace(image.meaning, name=name))


def check_one_frame(images: Mapping[str, Image], case: str) -> None:
    """Raises UnreadableError for visits whose coordinates mean different places."""
    if len({i.frame_of_reference for i in images.values() if i.frame_of_reference}) > 1:
        raise UnreadableError(
            "its visits lie in different frames of reference.",
            "Align them rigidly first, and write both in one frame.", case,
        )  # fmt: skip


def check_volume(image: Image) -> None:
    """Raises UnreadableError for anything but one volume of several slices."""
    if image.axes != "zyx" or len(image.data) != 1 or min(image.data.shape[1:]) < 4:
        raise UnreadableError(
            "is no volume of at least four slices, rows and columns.", "Register volumes.", image.source or ""
        )


def along_patient(vectors: Tensor, affine: Tensor) -> Tensor:
    """(3, *grid) along an image's axes (z, y, x of its array) -> parts along LPS z, y and x."""
    return torch.einsum("wa,a...->w...", _turn(affine), vectors)


def along_axes(vectors: Tensor, affine: Tensor) -> Tensor:
    """(3, *grid) along LPS z, y and x -> along an image's axes."""
    return torch.einsum("wa,w...->a...", _turn(affine), vectors)


def _turn(affine: Tensor) -> Tensor:
    """(3, 3): where each axis of the array points, in LPS z, y, x."""
    linear = affine[:3, :3].double()
    turn: Tensor = (linear / linear.norm(dim=0)).flip(0).float()
    return turn
