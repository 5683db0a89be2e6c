"""Energy of the Laplacian of a Gaussian of a slice or volume in one pass over memory: what HFEN is made of, compiled.

Rows are filtered along z, then y, then x, in buffers that stay in the cache; nothing of the image's size is written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .moments import reflected

Array = NDArray[np.float64]
SIGMA, RADIUS = 1.5, 7
BLOCK = 32  # rows of a plane that are filtered together


def energy(image: Array, inside: NDArray[np.bool_] | None) -> float:
    """Sum of squares inside of LoG(image), sigma 1.5, 15 taps, borders reflected; (y, x) or (z, y, x)."""
    reach = np.arange(RADIUS + 1)
    bell = np.exp(-0.5 * (reach / SIGMA) ** 2)
    bell /= 2 * bell.sum() - bell[0]
    curve = (reach**2 / SIGMA**4 - 1 / SIGMA**2) * bell  # its second derivative
    volume = np.ascontiguousarray(image if image.ndim == 3 else image[None])
    region = np.ones(volume.shape, bool) if inside is None else np.ascontiguousarray(inside.reshape(volume.shape))
    return float(_energy(volume, region, bell, curve, image.ndim == 3))


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def _energy(volume: Any, inside: Any, bell: Any, curve: Any, deep: bool) -> float:
    planes, rows, columns = volume.shape
    buffer = min(BLOCK, rows) + 2 * RADIUS
    smooth, bent = np.empty((buffer, columns)), np.empty((buffer, columns))  # along z
    straight, turned = np.empty(columns + 2 * RADIUS), np.empty(columns + 2 * RADIUS)  # along z and y
    line = np.empty(columns)
    total = 0.0
    for z in range(planes):
        for top in range(0, rows, BLOCK):
            bottom = min(top + BLOCK, rows)
            for row in range(top - RADIUS, bottom + RADIUS):
                r = row - top + RADIUS
                if deep:
                    _along_z(volume, z, reflected(row, rows), bell, curve, smooth[r], bent[r])
                else:
                    smooth[r], bent[r] = volume[z, reflected(row, rows)], 0.0
            for row in range(top, bottom):
                _across(smooth, bent, row - top, bell, curve, straight, turned)
                _along(straight, turned, bell, curve, line)
                for j in range(columns):
                    if inside[z, row, j]:
                        total += line[j] * line[j]
    return total


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def _along_z(volume: Any, z: int, row: int, bell: Any, curve: Any, smooth: Any, bent: Any) -> None:
    middle = volume[z, row]
    for j in range(len(middle)):
        smooth[j], bent[j] = bell[0] * middle[j], curve[0] * middle[j]
    for t in range(1, RADIUS + 1):
        above, below = volume[reflected(z - t, len(volume)), row], volume[reflected(z + t, len(volume)), row]
        w, v = bell[t], curve[t]
        for j in range(len(middle)):
            both = above[j] + below[j]
            smooth[j] += w * both
            bent[j] += v * both


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def _across(smooth: Any, bent: Any, first: int, bell: Any, curve: Any, straight: Any, turned: Any) -> None:
    """`straight`: smoothed along y too, whose curvature along x is wanted; `turned`: curvature along y and z; padded
    rows.
    """
    columns = smooth.shape[1]
    a, b = straight[RADIUS : RADIUS + columns], turned[RADIUS : RADIUS + columns]
    middle, other = smooth[first + RADIUS], bent[first + RADIUS]
    for j in range(columns):
        a[j], b[j] = bell[0] * middle[j], curve[0] * middle[j] + bell[0] * other[j]
    for t in range(1, RADIUS + 1):
        p, q = smooth[first + RADIUS - t], smooth[first + RADIUS + t]
        m, n = bent[first + RADIUS - t], bent[first + RADIUS + t]
        w, v = bell[t], curve[t]
        for j in range(columns):
            both = p[j] + q[j]
            a[j] += w * both
            b[j] += v * both + w * (m[j] + n[j])
    for k in range(RADIUS):
        left, right = RADIUS + reflected(-1 - k, columns), RADIUS + reflected(columns + k, columns)
        straight[RADIUS - 1 - k], turned[RADIUS - 1 - k] = straight[left], turned[left]
        straight[RADIUS + columns + k], turned[RADIUS + columns + k] = straight[right], turned[right]


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def _along(straight: Any, turned: Any, bell: Any, curve: Any, line: Any) -> None:
    columns = len(line)
    a, b = straight[RADIUS:], turned[RADIUS:]
    for j in range(columns):
        line[j] = curve[0] * a[j] + bell[0] * b[j]
    for t in range(1, RADIUS + 1):
        p, q, m, n = straight[RADIUS - t :], straight[RADIUS + t :], turned[RADIUS - t :], turned[RADIUS + t :]
        w, v = bell[t], curve[t]
        for j in range(columns):
            line[j] += v * (p[j] + q[j]) + w * (m[j] + n[j])
