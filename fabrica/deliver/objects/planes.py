"""Where planes lie (PS3.3 C.7.6.2, C.7.6.16), from the matrix of index (z, y, x) to LPS mm."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def directions(affine: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(mm a step along z, y and x; where a row and where a column leads, of length 1)."""
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    return steps, affine[:3, 2] / steps[2], affine[:3, 1] / steps[1]


def planes_of(hd: Any, affine: NDArray[np.float64], count: int) -> dict[str, Any]:
    """Positions, orientation and measures of the frames of an object, as highdicom takes them."""
    steps, row, column = directions(affine)
    apart = abs(float(np.cross(row, column) @ affine[:3, 0]))
    positions = [affine[:3, 3] + z * affine[:3, 0] for z in range(count)]
    return {
        "pixel_measures": hd.PixelMeasuresSequence(
            pixel_spacing=(float(steps[1]), float(steps[2])), slice_thickness=apart, spacing_between_slices=apart
        ),
        "plane_orientation": hd.PlaneOrientationSequence("PATIENT", [float(v) for v in (*row, *column)]),
        "plane_positions": [hd.PlanePositionSequence("PATIENT", [float(v) for v in p]) for p in positions],
    }
