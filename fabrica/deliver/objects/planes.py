"""Where the frames of a multi-frame object lie (PS3.3 C.7.6.16), as highdicom takes it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def planes_of(hd: Any, affine: NDArray[np.float64], count: int) -> dict[str, Any]:
    """Positions, orientation and measures of planes, from the matrix of index (z, y, x) to LPS mm."""
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    row, column = affine[:3, 2] / steps[2], affine[:3, 1] / steps[1]
    apart = abs(float(np.cross(row, column) @ affine[:3, 0]))
    positions = [affine[:3, 3] + z * affine[:3, 0] for z in range(count)]
    return {
        "pixel_measures": hd.PixelMeasuresSequence(
            pixel_spacing=(float(steps[1]), float(steps[2])), slice_thickness=apart, spacing_between_slices=apart
        ),
        "plane_orientation": hd.PlaneOrientationSequence("PATIENT", [float(v) for v in (*row, *column)]),
        "plane_positions": [hd.PlanePositionSequence("PATIENT", [float(v) for v in p]) for p in positions],
    }
