"""Magnetic resonance: several coils, a smooth phase, Cartesian samples of which some are left out."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ...contracts import Measured, Measurement
from ...io import K_SPACE
from ...physics import CartesianSense, Gaussian, NonCartesianSense
from ...physics.calibration import calibrated, calibrated_anywhere
from ...physics.mr import to_k_space
from ...rng import Rng
from .acquisition import Acquisition
from .masks import MASKS

Pattern = Literal["lines", "random", "uniform", "partial", "disk"]


class MrAcquisition(Acquisition):
    """`coils` smooth sensitivities, a smooth phase, `acceleration` times fewer samples around a measured middle of
    `calibration` samples, noise of `deviation` in each part (1 is the brightest tissue).

    `pattern` is what is measured (`masks`): lines or single samples by chance, every n-th line, five eighths of the
    lines, samples that keep their distance.

    `trajectory`: a grid, of which `pattern` says what is measured, or radial spokes by the golden angle, twice as
    dense along each as a grid would be; they are `acceleration` times fewer than would cover the edge of k-space.

    Coil maps, phase and gain are told from the samples alone, as they are of real ones.
    """

    name, unit, kind = K_SPACE, "a.u.", Measured(CartesianSense, Gaussian)

    def __init__(
        self,
        coils: int = 8,
        acceleration: float = 6.0,
        calibration: int = 24,
        deviation: float = 0.02,
        pattern: Pattern = "random",
        trajectory: Literal["grid", "radial"] = "grid",
    ) -> None:
        if coils < 1 or acceleration < 1 or calibration < 12 or deviation <= 0:
            raise ValueError(
                f"acquisition mr has coils {coils}, acceleration {acceleration:g}, calibration {calibration}, deviation"
                f" {deviation:g}, expected coils and acceleration from 1, calibration from 12, a deviation above 0."
            )
        self.coils, self.acceleration, self.calibration = coils, acceleration, calibration
        self.deviation, self.pattern, self.trajectory = deviation, pattern, trajectory
        self.kind = Measured(CartesianSense if trajectory == "grid" else NonCartesianSense, Gaussian)

    def measure(self, image: Tensor, pixel_mm: tuple[float, float], rng: Rng) -> Measurement:
        sides = (image.shape[1], image.shape[2])
        if self.trajectory == "radial":
            return self._by_spokes(image, sides, rng)
        mask = MASKS[self.pattern](sides, self.acceleration, self.calibration, rng.child("mask"))
        coils, phase = coil_sensitivities(self.coils, sides, rng.child("coils")), image_phase(sides, rng.child("phase"))
        clean = to_k_space(image * phase * coils, 2)
        noise = self.deviation * torch.view_as_complex(rng.child("noise").normal(self.coils, *sides, 2)[0])
        return calibrated((clean + noise) * mask, mask, deviation=self.deviation)

    def _by_spokes(self, image: Tensor, sides: tuple[int, int], rng: Rng) -> Measurement:
        spokes = max(1, round(math.pi / 2 * max(sides) / self.acceleration))
        places = radial(spokes, sides)
        coils, phase = coil_sensitivities(self.coils, sides, rng.child("coils")), image_phase(sides, rng.child("phase"))
        clean = direct(image * phase * coils, places)
        noise = self.deviation * torch.view_as_complex(rng.child("noise").normal(*clean.shape, 2)[0])
        return calibrated_anywhere(clean + noise, places, sides, deviation=self.deviation)


def radial(spokes: int, sides: tuple[int, int]) -> Tensor:
    """(spokes, samples, 2): lines through the middle of k-space, each turned on by the golden angle (Winkelmann
    2007).
    """
    angles = math.pi * torch.arange(spokes, dtype=torch.float64) * (5**0.5 - 1) / 2
    along = torch.linspace(-1, 1, 2 * max(sides), dtype=torch.float64)
    directions = torch.stack([angles.sin() * sides[0] / 2, angles.cos() * sides[1] / 2], -1)
    return (along[:, None] * directions[:, None]).float()


def direct(images: Tensor, places: Tensor) -> Tensor:
    """(coils, y, x) -> (coils, readouts, samples): the Fourier sum itself, which no gridding is part of."""
    (height, width), waves = images.shape[1:], []
    for d, n in enumerate((height, width)):
        where = places[..., d].double().flatten()[:, None] * (torch.arange(n) - n // 2) / n
        waves.append(torch.exp(-2j * math.pi * where).to(torch.complex64))
    across = torch.einsum("cyx,mx->cmy", images.to(torch.complex64), waves[1])
    found = (across * waves[0]).sum(-1) / math.sqrt(height * width)
    return found.reshape(len(images), *places.shape[:2])


def _grid(sides: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in sides], indexing="ij")
    return y, x


def coil_sensitivities(coils: int, sides: tuple[int, ...], rng: Rng) -> Tensor:
    """(coils, y, x): loops on a ring around the head, each with a phase that turns slowly; of length 1 together."""
    y, x = _grid(sides)
    turns = rng.child("turn").uniform(coils)[0]
    slopes = rng.child("slope").normal(coils, 2)[0] * 0.6
    maps = []
    for k in range(coils):
        angle = 2 * math.pi * (k + 0.3 * float(turns[k])) / coils
        away = (y - 1.3 * math.sin(angle)) ** 2 + (x - 1.3 * math.cos(angle)) ** 2
        phase = 2 * math.pi * turns[k] + slopes[k, 0] * y + slopes[k, 1] * x
        maps.append(torch.exp(-away / 1.6) * torch.exp(1j * phase))
    found = torch.stack(maps)
    whole: Tensor = found / found.abs().square().sum(0, keepdim=True).sqrt()
    return whole


def image_phase(sides: tuple[int, ...], rng: Rng) -> Tensor:
    """(y, x) of length 1: what fields and delays leave, as a polynomial of second order."""
    y, x = _grid(sides)
    c = rng.normal(6)[0]
    return torch.exp(1j * (c[0] + c[1] * y + c[2] * x + 0.5 * (c[3] * y * y + c[4] * x * y + c[5] * x * x)))
