"""Sums along parallel beams within slices, compiled: imported where the first are made."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray


def along(fields: NDArray[np.float32], down: float, across: float, row_mm: float, column_mm: float) -> Any:
    """(F, z, y, x): mm x value from the side that a beam enters to the middle of each pixel; linear between pixels.

    (down, across) is its direction within a slice, of length 1.
    """
    if abs(across) / column_mm > abs(down) / row_mm:
        turned = np.ascontiguousarray(fields.swapaxes(-1, -2))
        return _swept(turned, across, down, column_mm, row_mm).swapaxes(-1, -2)
    return _swept(np.ascontiguousarray(fields), down, across, row_mm, column_mm)


@numba.njit(cache=True)
def _swept(fields: NDArray[np.float32], down: float, across: float, row_mm: float, column_mm: float) -> Any:
    """Row by row: each takes over what the row before had where the beam came from."""
    count, slices, rows, columns = fields.shape
    found = np.zeros(fields.shape, np.float32)
    step = row_mm / abs(down)
    shift = across / abs(down) * row_mm / column_mm
    whole = math.floor(shift)
    part = np.float32(shift - whole)
    half = np.float32(0.5 * step)
    first, end, way = (0, rows, 1) if down > 0 else (rows - 1, -1, -1)
    for f in range(count):
        for z in range(slices):
            for y in range(first, end, way):
                before = y - way
                for x in range(columns):
                    total = half * fields[f, z, y, x]
                    if 0 <= before < rows:
                        near, far = x - whole, x - whole - 1
                        if 0 <= near < columns:
                            total += (1 - part) * (found[f, z, before, near] + half * fields[f, z, before, near])
                        if 0 <= far < columns:
                            total += part * (found[f, z, before, far] + half * fields[f, z, before, far])
                    found[f, z, y, x] = total
    return found
