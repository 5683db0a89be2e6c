"""A beating heart in short-axis slices: every frame, every border and the ejection fraction are known and true.

The muscle is incompressible in the plane: a point at rest radius r0 lies at sqrt(r0^2 - R0^2 + R(t)^2) when the
cavity's radius goes from R0 to R(t), less and less so farther outside. R(t) falls smoothly in systole and rises in
early and late filling. What is seen moves with the tissue, so that frames in between are no mixtures of others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ...contracts import Case, Field, Image
from ...rng import Rng
from ..cohort import Cohort, Member
from .fields import noise

CINE, CAVITY = "cine", "ventricle"  # the film; the left ventricle's cavity at the first frame (end-diastole)
SIDE, PIXEL_MM, SLICE_MM = 96, 1.5, 8.0
FAR = 18.0  # pixels over which the motion fades outside the muscle
SYSTOLE = 0.36  # of the cycle, until the cavity is smallest
NOISE = 0.02


@dataclass(frozen=True)
class VirtualHearts:
    """What a recipe says of simulated hearts: `hearts: {patients: 40, frames: 20}`."""

    patients: int = 24
    frames: int = 20
    slices: int = 3
    seed: int = 0
    first: int = 0

    def cohort(self) -> Cohort:
        """The members, none of them simulated yet; raises ValueError for impossible settings."""
        if self.patients < 1 or self.frames < 4 or self.slices < 1 or self.first < 0:
            raise ValueError(
                f"Hearts of {self.patients} patients, {self.frames} frames, {self.slices} slices are impossible;"
                " expected at least 1, 4 and 1."
            )
        numbers = range(self.first, self.first + self.patients)
        return Cohort(tuple(self._member(number) for number in numbers))

    def _member(self, number: int) -> VirtualHeart:
        rng = Rng([self.seed]).child("heart", number)
        return VirtualHeart(f"heart{number:04d}", "", "", 0.0, rng.keys[0], self.frames, self.slices)


@dataclass(frozen=True)
class VirtualHeart(Member):
    """One simulated heart."""

    patient: str
    visit: str
    site: str
    days: float
    key: int
    frames: int
    slices: int

    @property
    def values(self) -> Mapping[str, float | str]:  # type: ignore[override]
        return {"ejection_fraction": round(100 * self._drawn()["ejected"], 2)}

    def _drawn(self) -> dict[str, float]:
        u = Rng([self.key]).child("size").uniform(8)[0].tolist()
        return {
            "ejected": 0.2 + 0.5 * u[0], "radius": 13 + 6 * u[1], "wall": 5.5 + 3 * u[2], "y": 6 * u[3] - 3,
            "x": 6 * u[4] - 3, "blood": 0.85 + 0.15 * u[5], "muscle": 0.3 + 0.12 * u[6], "cycle_s": 0.7 + 0.4 * u[7],
        }  # fmt: skip

    def contrasts(self) -> tuple[str, ...]:
        return (CINE, CAVITY)

    def load(self, contrasts: Iterable[str]) -> Case:
        wanted, found = set(contrasts), dict[str, Image]()
        if CINE in wanted:
            film = _films(self)
            times = torch.arange(self.frames).double() * (self._drawn()["cycle_s"] / self.frames)
            found[CINE] = Image(
                film[None], "tzyx", _affine(), Field(CINE), times=times, source=f"virtual/{self.patient}"
            )
        if CAVITY in wanted:
            first = torch.stack([self._inside(z, 0) for z in range(self.slices)])
            found[CAVITY] = Image(first[None], "zyx", _affine(), Field(CAVITY, "label", 2, ""))
        return Case(self.patient, found, self.values, self.visit, self.days, self.site)

    def radius(self, z: int, frame: int) -> float:
        """Of the cavity of a slice, in pixels: slices nearer the apex are smaller; all eject the same share."""
        drawn = self._drawn()
        rest = drawn["radius"] * (1 - 0.18 * z)
        return rest * math.sqrt(1 - drawn["ejected"] * contraction(frame / self.frames))

    def _inside(self, z: int, frame: int) -> Tensor:
        y, x = self._places()
        return ((y**2 + x**2).sqrt() <= self.radius(z, frame)).float()

    def _places(self) -> tuple[Tensor, Tensor]:
        drawn = self._drawn()
        axis = torch.arange(SIDE).float() - (SIDE - 1) / 2
        y, x = torch.meshgrid(axis - drawn["y"], axis - drawn["x"], indexing="ij")
        return y, x

    def film(self, z: int) -> Tensor:
        """(t, y, x): what is at each pixel at each time, with the noise of its frame."""
        drawn, rng = self._drawn(), Rng([self.key]).child("slice", z)
        texture = noise(rng.child("texture"), (SIDE * 2, SIDE * 2, 1), 1.0, 5.0)[..., 0]
        y, x = self._places()
        rest, frames = self.radius(z, 0), []
        for frame in range(self.frames):
            r = (y**2 + x**2).sqrt().clamp(min=1e-3)
            start = rest_radius(r, rest, self.radius(z, frame), drawn["wall"])
            scale = start / r
            seen = _at_rest(y * scale, x * scale, start, rest, drawn, texture)
            frames.append(seen + NOISE * rng.child("noise", frame).normal(SIDE, SIDE)[0])
        return torch.stack(frames)


@lru_cache(maxsize=256)
def _films(heart: VirtualHeart) -> Tensor:
    """(t, z, y, x): a run looks at each several times."""
    return torch.stack([heart.film(z) for z in range(heart.slices)], 1)


def contraction(phase: float) -> float:
    """From 0 at end-diastole to 1 at end-systole and back, smooth and periodic; filling is fast, then slow."""
    phase %= 1.0
    if phase <= SYSTOLE:
        return 0.5 - 0.5 * math.cos(math.pi * phase / SYSTOLE)
    left = (phase - SYSTOLE) / (1 - SYSTOLE)
    early = 0.5 + 0.5 * math.cos(math.pi * min(1.0, left / 0.45))
    late = 0.5 + 0.5 * math.cos(math.pi * min(1.0, max(0.0, (left - 0.55) / 0.45)))
    return 0.75 * early + 0.25 * late


def rest_radius(r: Tensor, rest: float, now: float, wall: float) -> Tensor:
    """Where a point at radius r was when the cavity's radius was `rest`: inside in proportion, outside of equal area.

    Solved by bisection: the motion fades outside the wall, and stays one to one.
    """
    low, high = torch.zeros_like(r), r + rest
    for _ in range(18):
        middle = (low + high) / 2
        beyond = _moved(middle, rest, now, wall) > r
        low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
    return (low + high) / 2


def _moved(start: Tensor, rest: float, now: float, wall: float) -> Tensor:
    """Where a point goes: the way forward of `rest_radius`."""
    fade = torch.exp(-((start - rest - wall).clamp(min=0) / FAR).square())
    outside = (start.square() + (now**2 - rest**2) * fade).clamp(min=1e-6).sqrt()
    return torch.where(start <= rest, start * now / rest, outside)


def _at_rest(y: Tensor, x: Tensor, r: Tensor, rest: float, drawn: Mapping[str, float], texture: Tensor) -> Tensor:
    """Brightness of the tissue that lies at (y, x) at rest: cavity, wall, right ventricle, lung and fat around."""
    wall = rest + drawn["wall"]
    grain = texture[(y.round().long() + SIDE).clamp(0, 2 * SIDE - 1), (x.round().long() + SIDE).clamp(0, 2 * SIDE - 1)]
    muscle = drawn["muscle"] + 0.05 * grain
    beside = ((x + wall + 5) / (0.8 * wall)) ** 2 + (y / (1.15 * wall)) ** 2  # the right ventricle embraces the left
    around = 0.15 + 0.04 * grain + 0.45 * torch.sigmoid(r - 38)
    image = torch.where(beside < 1, torch.as_tensor(drawn["blood"] * 0.93), around)
    edge = torch.sigmoid((wall - r) / 0.6)
    image = image + (muscle - image) * edge
    pool = torch.sigmoid((rest - r) / 0.5)
    return image + (drawn["blood"] + 0.02 * grain - image) * pool


def _affine() -> Tensor:
    affine = torch.zeros(4, 4, dtype=torch.float64)
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = SLICE_MM, PIXEL_MM, PIXEL_MM, 1.0
    return affine
