"""Where rays lie: parallel beams, and fans from a source that turns around the slice. Lengths are in pixels."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Geometry(ABC):
    """Slices of `shape` (y, x) pixels seen from `angles` (radians) by `detectors` bins of `width` pixels.

    At angle 0 central rays run along y; the middle of the slice falls on the middle of the detector, moved by `centre`
    bins. A ray is x cos(turn) + y sin(turn) = offset from the middle of the slice.
    """

    shape: tuple[int, int]
    angles: tuple[float, ...]
    detectors: int
    width: float = 1.0
    centre: float = 0.0

    @property
    def bins(self) -> Array:
        """Where the middle of each bin lies, in pixels from the middle of the slice."""
        places = np.arange(self.detectors, dtype=np.float64) - (self.detectors - 1) / 2 - self.centre
        return np.asarray(places * self.width, np.float64)

    def beams(self, each: int = 1) -> tuple[Array, Array]:
        """(turn, offset) of every ray, (views, bins, each): `each` spread evenly over a bin."""
        within = ((np.arange(each) + 0.5) / each - 0.5) * self.width
        return self._beams(np.array(self.angles)[:, None, None], self.bins[None, :, None] + within)

    @abstractmethod
    def _beams(self, angles: Array, places: Array) -> tuple[Array, Array]:
        """(turn, offset) of rays of these views at these places of the detector."""

    @abstractmethod
    def fitted(self, shape: tuple[int, int]) -> Self:
        """As many views of another slice, where memory and costs are counted."""

    def on(self, shape: tuple[int, int]) -> Self:
        """The same rays through a larger slice around the same middle."""
        return replace(self, shape=shape)

    def seen_from(self, angles: Sequence[float]) -> Self:
        """Some of the views."""
        return replace(self, angles=tuple(angles))


@dataclass(frozen=True)
class ParallelGeometry(Geometry):
    """Rays of a view side by side."""

    @staticmethod
    def around(shape: Sequence[int], views: int, *, degrees: float = 180.0, width: float = 1.0) -> ParallelGeometry:
        """`views` angles spread evenly over `degrees`, and as many bins as the diagonal of the slice needs."""
        angles = tuple(math.radians(degrees) * k / views for k in range(views))
        height, breadth = shape
        return ParallelGeometry((height, breadth), angles, math.ceil(math.hypot(height, breadth) / width) + 1, width)

    def _beams(self, angles: Array, places: Array) -> tuple[Array, Array]:
        turns, offsets = np.broadcast_arrays(angles, places)
        return turns.copy(), offsets.copy()

    def fitted(self, shape: tuple[int, int]) -> ParallelGeometry:
        return ParallelGeometry.around(shape, len(self.angles), width=self.width)


@dataclass(frozen=True)
class FanGeometry(Geometry):
    """Rays of a view from one point, `source` pixels from the middle of the slice; bins lie on a line through that
    middle, where a flat detector is seen as wide as the source makes it.
    """

    source: float = 1000.0

    @staticmethod
    def around(
        shape: Sequence[int], views: int, *, degrees: float = 360.0, width: float = 1.0, source: float = 1000.0
    ) -> FanGeometry:
        """Raises ValueError for a source within the slice."""
        height, breadth = shape
        reach = math.hypot(height, breadth) / 2
        if source <= reach:
            raise ValueError(
                f"The source lies {source:.0f} pixels from the middle of a slice that reaches {reach:.0f} pixels out."
                " Write its distance in mm: source_mm: 570"
            )
        widest = reach / math.sqrt(1 - (reach / source) ** 2)
        angles = tuple(math.radians(degrees) * k / views for k in range(views))
        return FanGeometry((height, breadth), angles, 2 * math.ceil(widest / width) + 1, width, source=source)

    def _beams(self, angles: Array, places: Array) -> tuple[Array, Array]:
        within = np.arctan(places / self.source)
        turns, offsets = np.broadcast_arrays(angles - within, places * np.cos(within))
        return turns.copy(), offsets.copy()

    def fitted(self, shape: tuple[int, int]) -> FanGeometry:
        return FanGeometry.around(shape, len(self.angles), width=self.width, source=self.source)

    def rebinned(self) -> ParallelGeometry:
        """Parallel beams that hold about what these hold: as many views over half a turn as lie there on average."""
        span = abs(self.angles[-1] - self.angles[0]) * len(self.angles) / max(1, len(self.angles) - 1)
        views = max(2, round(len(self.angles) * math.pi / max(span, 1e-6)))
        angles = tuple(math.pi * k / views for k in range(views))
        return ParallelGeometry(self.shape, angles, self.detectors, self.width, self.centre)
