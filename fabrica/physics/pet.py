"""Positron emission tomography, a slice at a time: projections of activity, attenuated, counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from .algebra import Gridded
from .geometry import ParallelGeometry
from .projector import projector
from .subsets import ordered_subsets, relative_differences

WATER_PER_MM = 0.0096  # attenuation of water at 511 keV (NIST XCOM: 0.0960 cm^2/g)
ITERATIONS = 40  # of MLEM as a competitor
SMOOTHED = 2.5  # pixels, full width at half maximum


class Emission(Gridded):
    """y = weight P x: trues that each line of response counts, x (B, 1, y, x) of activity.

    `weight` (B or 1, 1, views, bins): counts a pixel of activity 1 gives, with the attenuation of that line.
    `background` (the same): scatter and randoms expected there, which MLEM needs to know.
    """

    per_row = ("weight", "background")
    weight: Tensor
    background: Tensor

    def __init__(self, geometry: ParallelGeometry, weight: Tensor, background: Tensor) -> None:
        super().__init__()
        self.geometry, self.sides = geometry, geometry.shape
        self.register_buffer("weight", weight)
        self.register_buffer("background", background)

    def apply_to(self, x: Tensor) -> Tensor:
        return projector(self.geometry).forward(x) * self.weight

    def adjoint(self, y: Tensor) -> Tensor:
        return projector(self.geometry).backward(y * self.weight)

    def measured(self, y: Tensor) -> Tensor:
        """Lines that can count something."""
        return self.weight > 0

    def feasible(self, x: Tensor) -> Tensor:
        """There is no negative activity."""
        return x.clamp(min=0)

    def crude(self, y: Tensor) -> Tensor:
        """Attenuation-corrected back projection: at each pixel the mean of the lines through it."""
        lines = projector(self.geometry)
        activity = (y - self.background) / self.weight.clamp(min=1e-12) * (self.weight > 0)
        return lines.backward(activity) / lines.backward(lines.forward(y.new_ones(1, 1, *self.sides)))

    def solved(self, y: Tensor) -> Mapping[str, Tensor]:
        """MLEM (Shepp and Vardi 1982) from a constant image; smoothed as clinics do, for it follows the noise."""
        whole = self.adjoint(torch.ones_like(y))
        x = torch.ones_like(whole) * (whole > 0)
        for _ in range(ITERATIONS):
            expected = self.apply_to(x) + self.background
            x = x * self.adjoint(y / expected.clamp(min=1e-9)) / whole.clamp(min=1e-9)
        width = SMOOTHED / 2.355
        smooth = gaussian_filter(x.cpu().numpy(), (0, 0, width, width), mode="nearest")
        known = self.geometry, self.weight.expand(len(y), *self.weight.shape[1:]), self.background, y
        return {
            f"MLEM, smoothed by {SMOOTHED:g} pixels": torch.from_numpy(smooth).to(x), "MLEM": x,
            "OSEM": ordered_subsets(*known), "OSEM, relative differences": relative_differences(*known),
        }  # fmt: skip

    def on_grid(self, sides: Sequence[int]) -> Emission:
        """The same lines through a larger slice around the same middle."""
        return Emission(self.geometry.on((sides[0], sides[1])), self.weight, self.background)

    def corner(self, sides: tuple[int, ...]) -> Emission:
        """A slice of those sides, with the mean weight of the lines."""
        geometry = self.geometry.fitted((sides[-2], sides[-1]))
        shape = (-1, 1, len(geometry.angles), geometry.detectors)
        weight, behind = (
            t.flatten(1).mean(1).reshape(-1, 1, 1, 1).expand(len(t), *shape[1:]) for t in (self.weight, self.background)
        )
        return Emission(geometry, weight, behind)
