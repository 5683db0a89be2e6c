"""Films as cases: their moments side by side, and the few of them that are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from ..contracts import Case, Image
from ..io import Scan, UnreadableError
from .cohort import Derived, Member, origin

GIVEN = "given frames of "  # before the name of a film
EJECTED = "ejection_fraction"  # a value: percent of the largest volume
UNEVEN = 0.1  # of the usual step between two frames


def filmed(member: Member, film: str, frames: int, given: Sequence[int], new: bool) -> Member:
    """The same case with its film as one image of `frames` channels, and the `given` ones of them as another.

    `new`: its film holds the given frames alone; of a single one it may be a plain image.
    """
    return _Filmed(*origin(member), member, film, frames, tuple(given), new)


def with_films(members: Sequence[Member], films: Mapping[str, int]) -> tuple[Member, ...]:
    """The same cases with each of these films (name -> frames) as one image whose channels are its frames."""
    return tuple(_WithFilms(*origin(member), member, dict(films)) for member in members) if films else tuple(members)


@dataclass(frozen=True)
class _WithFilms(Derived):
    inner: Member
    films: Mapping[str, int]

    def contrasts(self) -> tuple[str, ...]:
        return self.inner.contrasts()

    def scans_of(self, contrasts: Iterable[str]) -> tuple[Scan, ...]:
        return self.inner.scans_of(contrasts)

    def load(self, contrasts: Iterable[str]) -> Case:
        case = self.inner.load(contrasts)
        return replace(case, images={n: self._whole(n, i) if n in self.films else i for n, i in case.images.items()})

    def _whole(self, name: str, image: Image) -> Image:
        moments = moments_of(image)
        if (found := len(moments.data)) != self.films[name]:
            raise UnreadableError(
                f"its {name} has {found} frames, expected {self.films[name]}.", f"Write: {name}@{found}",
                image.source or "",
            )  # fmt: skip
        return _named(moments, name)


@dataclass(frozen=True)
class _Filmed(Derived):
    inner: Member
    film: str
    frames: int
    given: tuple[int, ...]
    new: bool

    def contrasts(self) -> tuple[str, ...]:
        own = self.inner.contrasts()
        if self.film not in own:
            return own
        return (*(n for n in own if not self.new or n != self.film), GIVEN + self.film)

    def scans_of(self, contrasts: Iterable[str]) -> tuple[Scan, ...]:
        return self.inner.scans_of([name.removeprefix(GIVEN) for name in contrasts])

    def load(self, contrasts: Iterable[str]) -> Case:
        wanted = tuple(contrasts)
        needed = [n for n in wanted if n in self.inner.contrasts()]
        if GIVEN + self.film in wanted and self.film not in needed:
            needed.append(self.film)
        case = self.inner.load(needed)
        images = {n: i for n, i in case.images.items() if n != self.film}
        if self.film in case.images:
            images |= {n: i for n, i in self._parts(case.images[self.film]).items() if n in wanted}
        return replace(case, images=images)

    def _parts(self, image: Image) -> dict[str, Image]:
        alone = self.new and len(self.given) == 1 and "t" not in image.axes
        moments = _still(image) if alone else moments_of(image, even=not self.new or is_even(self.given))
        wanted = len(self.given) if self.new else self.frames
        if len(moments.data) != wanted:
            raise UnreadableError(
                f"its {self.film} has {len(moments.data)} frames, expected {wanted}.",
                "Give the frames that the run was given." if self.new else f"Write: frames: {len(moments.data)}",
                image.source or "",
            )
        if self.new:
            return {GIVEN + self.film: _named(moments, GIVEN + self.film, self.given)}
        times = None if moments.times is None else moments.times[list(self.given)]
        some = replace(moments, data=moments.data[list(self.given)], times=times)
        return {self.film: _named(moments, self.film), GIVEN + self.film: _named(some, GIVEN + self.film, self.given)}


def is_even(frames: Sequence[int]) -> bool:
    """Whether the frames lie equally far apart."""
    return len({b - a for a, b in pairwise(frames)}) <= 1


def _still(image: Image) -> Image:
    """One image as a film of one frame."""
    if len(image.data) != 1:
        raise UnreadableError("is an image in colour, expected one channel.", "Save it in grey.", image.source or "")
    return replace(image, data=image.data if "z" in image.axes else image.data[:, None], axes="zyx")


def moments_of(image: Image, even: bool = True) -> Image:
    """(t, z, y, x) as channels of one image; raises UnreadableError where frames are out of order, or not evenly
    spaced in time though they should be.
    """
    if "t" not in image.axes:
        raise UnreadableError("is one image, expected a film.", "Give its frames as one file.", image.source or "")
    if len(image.data) != 1:
        raise UnreadableError("is a film in colour, expected one channel.", "Save it in grey.", image.source or "")
    if image.times is not None and len(image.times) > 2:
        steps = image.times.diff()
        usual = float(steps.median())
        if float(steps.min()) <= 0:
            raise UnreadableError(
                "has frames that are out of order or doubled in time.", "Export it again.", image.source or ""
            )
        if even and float((steps - usual).abs().max()) > UNEVEN * usual:
            raise UnreadableError(
                f"its frames are {float(steps.min()):.3g} to {float(steps.max()):.3g} s apart, expected even steps.",
                "Bring them to even times first.", image.source or "",
            )  # fmt: skip
    data = image.data[0] if "z" in image.axes else image.data[0][:, None]
    return replace(image, data=data, axes="zyx")


def _named(image: Image, name: str, moments: tuple[int, ...] = ()) -> Image:
    count = len(image.data)
    return replace(image, meaning=replace(image.meaning, name=name, channels=count, frames=count, moments=moments))


def film_of(image: Image, times: torch.Tensor | None) -> Image:
    """The way back: channels as moments."""
    return replace(image, data=image.data[None], axes="tzyx", times=times)
