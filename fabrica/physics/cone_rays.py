"""Rays of a cone through voxels and back, compiled: imported where the first are made."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True, parallel=True)
def summed(
    volume: NDArray[np.float32], spacing: NDArray[np.float64], turns: NDArray[np.float64], moved: NDArray[np.float64],
    sides: tuple[int, int], geometry: tuple[float, float, float], step: float,
) -> Any:  # fmt: skip
    """(views, rows, columns): mm x value of trilinear samples, `step` mm apart, along each ray.

    `sides`: rows and columns; `geometry`: mm of a pixel, from the source to the axis, and to the panel.
    """
    rows, columns = sides
    pixel, source, panel = geometry
    depth, height, width = volume.shape
    found = np.zeros((len(turns), rows, columns), np.float32)
    reach = 0.5 * math.sqrt((height * spacing[1]) ** 2 + (width * spacing[2]) ** 2) + 2 * step
    for view in numba.prange(len(turns)):
        c, s = math.cos(turns[view]), math.sin(turns[view])
        sy, sx = -source * c, source * s  # the source; at 0 it lies in front of the patient
        for row in range(rows):
            for column in range(columns):
                u, v = (column - (columns - 1) / 2) * pixel, (row - (rows - 1) / 2) * pixel
                dy, dx, dz = panel * c + u * s, -panel * s + u * c, v
                length = math.sqrt(dy * dy + dx * dx + dz * dz)
                dy, dx, dz = dy / length, dx / length, dz / length
                near = -(sy * dy + sx * dx)  # of the way to the point nearest to the axis
                total = 0.0
                for k in range(int(2 * reach / step) + 1):
                    way = near - reach + k * step
                    z = (way * dz - moved[view, 0]) / spacing[0] + (depth - 1) / 2
                    y = (sy + way * dy - moved[view, 1]) / spacing[1] + (height - 1) / 2
                    x = (sx + way * dx - moved[view, 2]) / spacing[2] + (width - 1) / 2
                    if -1 < z < depth and -1 < y < height and -1 < x < width:
                        total += _sample(volume, z, y, x)
                found[view, row, column] = total * step
    return found


@numba.njit(cache=True, inline="always")
def _sample(volume: NDArray[np.float32], z: float, y: float, x: float) -> Any:
    """Trilinear; beyond the edges there is nothing."""
    depth, height, width = volume.shape
    kz, ky, kx = math.floor(z), math.floor(y), math.floor(x)
    fz, fy, fx = z - kz, y - ky, x - kx
    total = 0.0
    for a in range(2):
        if not 0 <= kz + a < depth:
            continue
        wz = fz if a else 1 - fz
        for b in range(2):
            if not 0 <= ky + b < height:
                continue
            wy = wz * (fy if b else 1 - fy)
            for e in range(2):
                if 0 <= kx + e < width:
                    total += wy * (fx if e else 1 - fx) * volume[kz + a, ky + b, kx + e]
    return total


@numba.njit(cache=True, parallel=True)
def brought_back(
    filtered: NDArray[np.float32], turns: NDArray[np.float64], shape: NDArray[np.int64], spacing: NDArray[np.float64],
    pixel: float, source: float,
) -> Any:  # fmt: skip
    """(z, y, x): filtered views (on a panel through the axis) smeared back, weighted by (source / distance) squared."""
    depth, height, width = shape[0], shape[1], shape[2]
    views, rows, columns = filtered.shape
    found = np.zeros((depth, height, width), np.float32)
    for iz in numba.prange(depth):
        z = (iz - (depth - 1) / 2) * spacing[0]
        for view in range(views):
            c, s = math.cos(turns[view]), math.sin(turns[view])
            for iy in range(height):
                y = (iy - (height - 1) / 2) * spacing[1]
                for ix in range(width):
                    x = (ix - (width - 1) / 2) * spacing[2]
                    scale = source / (source + y * c - x * s)
                    u = (y * s + x * c) * scale / pixel + (columns - 1) / 2
                    v = z * scale / pixel + (rows - 1) / 2
                    if 0 <= u <= columns - 1 and 0 <= v <= rows - 1:
                        ku, kv = min(int(u), columns - 2), min(int(v), rows - 2)
                        fu, fv = u - ku, v - kv
                        low = (1 - fu) * filtered[view, kv, ku] + fu * filtered[view, kv, ku + 1]
                        high = (1 - fu) * filtered[view, kv + 1, ku] + fu * filtered[view, kv + 1, ku + 1]
                        found[iz, iy, ix] += scale * scale * ((1 - fv) * low + fv * high)
    return found
