"""Known lesions put into what is measured: are they kept, and does a method draw some that nobody has?

A score of pixels hardly sees a lesion of three millimetres. So one is put into the image before it is measured, and
what an answer gains by it is held against what was put in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ..rng import Rng

Plane = NDArray[np.floating]
KEPT = (0.5, 1.5)  # of the true contrast: what counts as preserved
DRAWS = 0.8  # of the draws that have to preserve it
Z95 = 1.959964


@dataclass(frozen=True)
class Lesion:
    """A disk in a slice (y, x)."""

    share: Plane  # of each pixel that it covers
    contrast: float  # on the network's scale

    def put_into(self, image: Tensor) -> Tensor:
        """(1, y, x) with the lesion."""
        return image + self.contrast * image.new_tensor(self.share)

    def kept(self, before: Plane, after: Plane) -> float:
        """How much of its contrast an answer (y, x) gained when it was put in: 1 is all."""
        weight = self.share / (self.share**2).sum()
        return float((weight * (after - before)).sum() / self.contrast)


def placed(body: NDArray[np.bool_], diameter_mm: float, pixel_mm: float, contrast: float, rng: Rng) -> Lesion | None:
    """A lesion somewhere within the body (y, x), its own radius away from the edge; None where there is no room."""
    radius = diameter_mm / 2 / pixel_mm
    room = np.argwhere(ndimage.distance_transform_edt(np.pad(body, 1))[1:-1, 1:-1] > 2 * radius + 1)
    if not len(room):
        return None
    middle = room[int(rng.child("place").integers(0, len(room))[0])] + rng.child("between").uniform(2)[0].numpy() - 0.5
    y, x = np.mgrid[: body.shape[0], : body.shape[1]]
    share = np.clip(radius + 0.5 - np.hypot(y - middle[0], x - middle[1]), 0, 1)
    return Lesion(share, contrast)


def invented(
    truth: Plane, answer: Plane, body: NDArray[np.bool_], diameter_mm: float, pixel_mm: float, contrast: float
) -> int:
    """How many blobs an answer (y, x) has and the truth has not: as wide as the lesion, half as strong, of its sign."""
    width = diameter_mm / 2 / pixel_mm
    more = ndimage.gaussian_filter((answer - truth) * math.copysign(1, contrast), width / 2)
    blobs, count = ndimage.label((more > abs(contrast) / 2) & body)
    sizes = ndimage.sum_labels(np.ones_like(blobs), blobs, range(1, count + 1))
    return int(np.sum(np.asarray(sizes) >= math.pi * width**2 / 2))


def preserved(kept: Sequence[float]) -> bool:
    """Over draws: whether enough of them have between half and one and a half times the contrast."""
    return float(np.mean([KEPT[0] <= one <= KEPT[1] for one in kept])) >= DRAWS


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    share, spread = successes / n, Z95**2 / n
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def rate(count: int, units: float) -> tuple[float, float]:
    """95 % interval of a count per unit, exact (Garwood 1936)."""
    from scipy.stats import chi2

    low = float(chi2.ppf(0.025, 2 * count)) / 2 if count else 0.0
    return low / units, float(chi2.ppf(0.975, 2 * count + 2)) / 2 / units
