"""Computed tomography: line integrals of attenuation along parallel beams or fans, and filtered back projection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .algebra import Gridded
from .geometry import Geometry
from .projector import filtered, projector

WATER_PER_MM = 0.0192  # attenuation of water at 70 keV (NIST XCOM: 0.1929 cm^2/g)


class LineIntegrals(Gridded):
    """y = gain P x: x (B, 1, y, x), y (B, 1, views, detectors) of line integrals.

    `gain` (B or 1,): what a ray gains in a pixel where x is 1.
    """

    per_row = ("gain",)
    gain: Tensor

    def __init__(self, geometry: Geometry, gain: Tensor | float = 1.0) -> None:
        super().__init__()
        self.geometry, self.sides = geometry, geometry.shape
        self.register_buffer("gain", torch.as_tensor(gain, dtype=torch.float32).reshape(-1))

    def _wide(self) -> Tensor:
        return self.gain.reshape(-1, 1, 1, 1)

    def apply_to(self, x: Tensor) -> Tensor:
        return projector(self.geometry).forward(x) * self._wide()

    def adjoint(self, y: Tensor) -> Tensor:
        return projector(self.geometry).backward(y) * self._wide()

    def crude(self, y: Tensor) -> Tensor:
        """Back projection, at each pixel the mean of the rays through it: an image before the ramp."""
        return self.adjoint(y) / self.normal(y.new_ones(1, 1, *self.sides)).clamp(min=1e-12)

    def solved(self, y: Tensor) -> Mapping[str, Tensor]:
        return {"FBP": filtered(y, self.geometry) / self._wide()}

    def on_grid(self, sides: Sequence[int]) -> LineIntegrals:
        """The same rays through a larger slice around the same middle."""
        return LineIntegrals(self.geometry.on((sides[0], sides[1])), self.gain)

    def corner(self, sides: tuple[int, ...]) -> LineIntegrals:
        """A slice of those sides, seen from as many angles."""
        return LineIntegrals(self.geometry.fitted((sides[-2], sides[-1])), self.gain)
