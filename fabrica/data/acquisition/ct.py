"""Computed tomography: photons counted behind the patient, few views, a low dose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ...contracts import SCALES, Measured, Measurement
from ...io.sinogram import SINOGRAM
from ...physics import Gaussian, LineIntegrals
from ...physics.ct import WATER_PER_MM
from ...physics.geometry import FanGeometry, Geometry, ParallelGeometry
from ...physics.projector import simulated
from ...rng import Rng
from .acquisition import Acquisition

SCALE = SCALES["HU"]
GAIN = WATER_PER_MM * SCALE.width / 1000  # attenuation per mm of a slice whose network value is 1 ...
LEVEL = WATER_PER_MM * (1 + SCALE.offset / 1000)  # ... above that of a network value of 0, which is below air's


class CtAcquisition(Acquisition):
    """`views` views over `degrees`, `photons` a ray before the patient, electronic noise of `electronic` counts.

    `geometry`: parallel beams over half a turn, or a fan over a whole turn, from a source `source_mm` from its middle.

    Sinograms are simulated on a grid twice as fine by another projector than the one that reconstructs. Each ray has
    the variance that its own counts tell.
    """

    name, unit, kind = SINOGRAM, "HU", Measured(LineIntegrals, Gaussian)

    def __init__(
        self, views: int = 60, degrees: float | None = None, photons: float = 1e5, electronic: float = 10.0,
        geometry: Literal["parallel", "fan"] = "parallel", source_mm: float = 570.0,
    ) -> None:  # fmt: skip
        most = 180.0 if geometry == "parallel" else 360.0
        over = most if degrees is None else degrees
        if views < 4 or not 0 < over <= most or photons <= 0 or electronic < 0 or source_mm <= 0:
            raise ValueError(
                f"acquisition ct has views {views}, degrees {over:g}, photons {photons:g}, electronic {electronic:g},"
                f" source_mm {source_mm:g}, expected at least 4 views over at most {most:g} degrees, photons and the"
                " distance of the source above 0."
            )
        self.views, self.degrees, self.photons, self.electronic = views, over, photons, electronic
        self.geometry, self.source_mm = geometry, source_mm

    def measure(self, image: Tensor, pixel_mm: tuple[float, float], rng: Rng) -> Measurement:
        side = square(pixel_mm)
        geometry = self._beams(image.shape[1:], side)
        attenuation = (image * GAIN + LEVEL).clamp(min=0)
        lines = side * simulated(attenuation, geometry).double()
        counts = torch.from_numpy(rng.child("photons").streams[0].poisson((self.photons * (-lines).exp()).numpy()))
        counts = counts + self.electronic * rng.child("electronic").normal(*lines.shape)[0].double()
        return from_counts(counts, self.photons, self.electronic, geometry, side)

    def _beams(self, shape: Sequence[int], side: float) -> Geometry:
        if self.geometry == "parallel":
            return ParallelGeometry.around(shape, self.views, degrees=self.degrees)
        return FanGeometry.around(shape, self.views, degrees=self.degrees, source=self.source_mm / side)


def square(pixel_mm: tuple[float, float]) -> float:
    """The side of a pixel; raises ValueError where it is none."""
    y, x = pixel_mm
    if abs(y - x) > 1e-3 * max(y, x):
        raise ValueError(
            f"Pixels of {y:g} x {x:g} mm are no squares, which parallel beams need here. Write: prepare: {{spacing_mm:"
            f" [{min(y, x):g}, {min(y, x):g}]}}"
        )
    return y


def from_counts(counts: Tensor, photons: float, electronic: float, geometry: Geometry, pixel_mm: float) -> Measurement:
    """One row (1, 1, views, detectors): y = -log(counts / photons), shifted so that a network value of 0 gives 0.

    Rays that let nothing through count as one photon, with a variance that says how little that tells.
    """
    kept = counts.clamp(min=1.0)
    lines = -(kept / photons).log()
    deviation = (kept + electronic**2).sqrt() / kept
    return from_lines(lines.float(), deviation.float(), geometry, pixel_mm)


def from_lines(lines: Tensor, deviation: Tensor, geometry: Geometry, pixel_mm: float) -> Measurement:
    """One row of line integrals (1, views, detectors) with the deviation of each."""
    operator = LineIntegrals(geometry, GAIN * pixel_mm)
    whole = torch.ones(1, 1, *geometry.shape)
    level = operator(whole) * (LEVEL / GAIN)  # what a slice of network value 0 would give
    return Measurement(lines[None] - level, operator, Gaussian(deviation[None]))
