"""What every acquisition says of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from ...contracts import Measured, Measurement
from ...rng import Rng


class Acquisition(ABC):
    """A way to measure slices. Its options are a recipe's: `acquisition: {name: ct, views: 60}`."""

    name: str  # of what it measures, as cohorts call it
    unit: str  # of the images that it measures
    kind: Measured

    @abstractmethod
    def measure(self, image: Tensor, pixel_mm: tuple[float, float], rng: Rng) -> Measurement:
        """What it would have measured of a slice (1, y, x) on the network's scale, in one row.

        Its physics is told from the samples where a scanner's would be. Raises ValueError for a slice that it cannot
        measure.
        """
