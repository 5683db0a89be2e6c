"""Positron emission tomography: few counts, attenuated, above scatter and randoms."""

from __future__ import annotations

import torch
from scipy import ndimage
from torch import Tensor

from ...contracts import Measured, Measurement
from ...io.sinogram import COUNTS
from ...physics import Emission, Poisson
from ...physics.geometry import ParallelGeometry
from ...physics.pet import WATER_PER_MM
from ...physics.projector import simulated
from ...rng import Rng
from .acquisition import Acquisition
from .ct import square

OUTLINE = 0.01  # of the network's scale: activity above it is taken to lie in the body


class PetAcquisition(Acquisition):
    """`counts` trues in a slice that is as bright as 1 everywhere within its outline, on `views` views; `background`:
    scatter and randoms, as a share of all counts, spread evenly over the lines.

    The outline of the body is filled with water to attenuate, and reconstruction is told so, as a CT would tell it.
    Full counts are 5e6 trues a slice; the sinogram is simulated by another projector than the one that reconstructs.
    """

    name, unit, kind = COUNTS, "SUV", Measured(Emission, Poisson)

    def __init__(self, counts: float = 2.5e5, views: int = 120, background: float = 0.3) -> None:
        if counts <= 0 or views < 4 or not 0 <= background < 1:
            raise ValueError(
                f"acquisition pet has counts {counts:g}, views {views}, background {background:g}, expected counts"
                " above 0, at least 4 views, a background from 0 to below 1."
            )
        self.counts, self.views, self.background = counts, views, background

    def measure(self, image: Tensor, pixel_mm: tuple[float, float], rng: Rng) -> Measurement:
        side, geometry = square(pixel_mm), ParallelGeometry.around(image.shape[1:], self.views)
        body = torch.from_numpy(ndimage.binary_fill_holes((image[0] > OUTLINE).numpy())).float()[None]
        through = (-WATER_PER_MM * side * simulated(body, geometry)).exp()
        reached = float((simulated(body, geometry) * through).sum())
        weight = through * (self.counts / reached if reached else 1.0)
        trues = weight * simulated(image.clamp(min=0), geometry)
        behind = trues.sum() * self.background / (1 - self.background) / trues.numel()
        expected = behind.expand_as(trues).clamp(min=1e-3)
        found = torch.from_numpy(rng.child("counts").streams[0].poisson((trues + expected).double().numpy())).float()
        operator = Emission(geometry, weight[None], expected[None])
        return Measurement(found[None], operator, Poisson(expected[None]))
