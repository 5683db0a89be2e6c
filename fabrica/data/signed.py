"""How far voxels lie from a surface."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FARTHEST_MM = 60.0  # distances end there


def signed_distance(mask: NDArray[np.bool_], spacing_mm: Iterable[float]) -> NDArray[np.float32]:
    """To the nearest voxel of the other kind, below 0 inside; exact, and counted near the mask alone."""
    spacing = tuple(spacing_mm)
    found = np.full(mask.shape, FARTHEST_MM, np.float32)
    if not mask.any():
        return found
    if mask.all():
        return -found
    box = []
    for axis, step in enumerate(spacing):
        inside = np.flatnonzero(mask.any(tuple(k for k in range(mask.ndim) if k != axis)))
        room = int(np.ceil(FARTHEST_MM / step)) + 1
        box.append(slice(max(0, inside[0] - room), min(mask.shape[axis], inside[-1] + room + 1)))
    part = mask[tuple(box)]
    away = ndimage.distance_transform_edt(~part, sampling=spacing)
    within = ndimage.distance_transform_edt(part, sampling=spacing)
    found[tuple(box)] = np.clip(away - within, -FARTHEST_MM, FARTHEST_MM)
    return found
