"""One metric of one pair, by the evidence that it names: in physical units where there are some, else in words."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...registry import NotEvaluated
from ..metrics.structure import ssim_map
from .paired import Array


def in_words(value: Any) -> float | str:
    """A number, or the words why there is none."""
    if isinstance(value, NotEvaluated):
        return str(value)
    return "infinite: the images are equal" if value == float("inf") else float(value)


def ssim_masked(image: Array, reference: Array, mask: NDArray[np.bool_], span: float, axes: str) -> float:
    """Wang 2004 per axial slice (slices) or in 3D (volumes), averaged over the voxels of the mask."""
    x, y = image.astype(np.float64), reference.astype(np.float64)
    if axes == "zyx" and min(x.shape) >= 11:
        return float(ssim_map(x, y, span, True)[mask].mean())
    planes = [z for z in range(len(x)) if mask[z].any()]
    total = sum(float(ssim_map(x[z], y[z], span, True)[mask[z]].sum()) for z in planes)
    return total / float(mask.sum())
