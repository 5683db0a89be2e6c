"""Local means, variances and covariance of two images in one pass over memory: what SSIM is made of, compiled.

The four quantities x, y, x^2 + y^2 and xy are smoothed together, axis by axis, in buffers of a few rows.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]
RADIUS = 5  # of the window; a narrower one has zeros at its ends
BLOCK = 64  # rows of a plane that are smoothed together
WORTH_THREADS = 1 << 18  # voxels, below which starting threads costs more than it gains


def ssim_terms(x: Array, y: Array, gaussian: bool, c1: float, c2: float) -> tuple[Array, Array]:
    """(luminance, contrast and structure) at every position of a slice or volume; borders are reflected.

    Gaussian: 11 taps of sigma 1.5, population variances (Wang 2004). Else 7 equal taps, sample variances.
    """
    a, b = (np.ascontiguousarray(v if v.ndim == 3 else v[None], np.float64) for v in (x, y))
    reach = np.arange(RADIUS + 1)
    half = np.exp(-0.5 * (reach / 1.5) ** 2) if gaussian else (reach <= 3).astype(np.float64)
    window = half / (2 * half.sum() - half[0])  # from the middle outwards
    deep = window if x.ndim == 3 else np.ones(1)
    count = 7.0**x.ndim
    correct = 1.0 if gaussian else count / (count - 1)
    out = np.empty((2, *a.shape))
    blocks = a.shape[0] * -(-a.shape[1] // BLOCK)
    workers = min(os.cpu_count() or 1, blocks) if a.size >= WORTH_THREADS else 1
    edges = np.linspace(0, blocks, workers + 1).round().astype(int)
    parts = [((a, b), deep, window, (correct, c1, c2), int(i), int(j), out) for i, j in pairwise(edges)]
    if workers == 1:
        _blocks(*parts[0])
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda part: _blocks(*part), parts))
    return out[0].reshape(x.shape), out[1].reshape(x.shape)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def reflected(i: int, n: int) -> int:
    """Index past an edge: d c b a | a b c d | d c b a."""
    while i < 0 or i >= n:
        i = -1 - i if i < 0 else 2 * n - 1 - i
    return i


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def _blocks(pair: Any, deep: Any, window: Any, constants: Any, first: int, last: int, out: Any) -> None:
    """Blocks of rows `first` to `last` of all planes, counted through."""
    rows, columns = pair[0].shape[1:]
    a_plane = (rows + BLOCK - 1) // BLOCK
    thick = np.empty((4, min(BLOCK, rows) + 2 * RADIUS, columns))  # smoothed along z
    line = np.empty(columns + 2 * RADIUS)  # and along y
    smooth = np.empty((4, min(BLOCK, rows), columns))  # and along x
    for block in range(first, last):
        z, top = block // a_plane, block % a_plane * BLOCK
        bottom = min(top + BLOCK, rows)
        for row in range(top - RADIUS, bottom + RADIUS):
            _along_z(pair, deep, z, reflected(row, rows), thick, row - top + RADIUS)
        for k in range(4):  # one at a time, as 11 rows of all four do not stay in the nearest cache
            for r in range(bottom - top):
                _across(thick[k], r, window, line[RADIUS : RADIUS + columns])
                for j in range(RADIUS):
                    line[RADIUS - 1 - j] = line[RADIUS + reflected(-1 - j, columns)]
                    line[RADIUS + columns + j] = line[RADIUS + reflected(columns + j, columns)]
                _along(line, window, smooth[k, r])
        for r in range(bottom - top):
            _terms(smooth, r, constants, out[0, z, top + r], out[1, z, top + r])


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def _terms(smooth: Any, row: int, constants: Any, luminance: Any, structure: Any) -> None:
    correct, c1, c2 = constants
    a, b, c, d = smooth[0, row], smooth[1, row], smooth[2, row], smooth[3, row]
    for j in range(len(a)):
        u, v = a[j], b[j]
        both, product = u * u + v * v, 2 * u * v
        luminance[j] = (product + c1) / (both + c1)
        structure[j] = (correct * (2 * d[j] - product) + c2) / (correct * (c[j] - both) + c2)


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def _along_z(pair: Any, deep: Any, z: int, row: int, thick: Any, r: int) -> None:
    """The four quantities of one row, smoothed over its neighbours in other planes."""
    x, y = pair
    planes, columns = x.shape[0], x.shape[2]
    a, b, c, d = thick[0, r], thick[1, r], thick[2, r], thick[3, r]
    for j in range(columns):
        a[j] = b[j] = c[j] = d[j] = 0.0
    for t in range(1 - len(deep), len(deep)):
        w, plane = deep[abs(t)], reflected(z + t, planes)
        p, q = x[plane, row], y[plane, row]
        for j in range(columns):
            u, v = p[j], q[j]
            a[j] += w * u
            b[j] += w * v
            c[j] += w * (u * u + v * v)
            d[j] += w * (u * v)


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def _across(rows: Any, first: int, window: Any, out: Any) -> None:
    """The weighted sum of 11 rows of a quantity; written out, as a loop over taps would store every partial sum."""
    w0, w1, w2, w3, w4, w5 = window[0], window[1], window[2], window[3], window[4], window[5]
    a, b, c, d = rows[first], rows[first + 1], rows[first + 2], rows[first + 3]
    e, f, g, h = rows[first + 4], rows[first + 5], rows[first + 6], rows[first + 7]
    i, m, n = rows[first + 8], rows[first + 9], rows[first + 10]
    for j in range(len(out)):  # two loops, as a compiler gives up on vectors when it has to tell 12 rows apart
        out[j] = w5 * (a[j] + n[j]) + w4 * (b[j] + m[j]) + w3 * (c[j] + i[j])
    for j in range(len(out)):
        out[j] += w2 * (d[j] + h[j]) + w1 * (e[j] + g[j]) + w0 * f[j]


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def _along(line: Any, window: Any, out: Any) -> None:
    """The same along one padded row."""
    w0, w1, w2, w3, w4, w5 = window[0], window[1], window[2], window[3], window[4], window[5]
    for j in range(len(out)):
        far = w5 * (line[j] + line[j + 10]) + w4 * (line[j + 1] + line[j + 9]) + w3 * (line[j + 2] + line[j + 8])
        near = w2 * (line[j + 3] + line[j + 7]) + w1 * (line[j + 4] + line[j + 6]) + w0 * line[j + 5]
        out[j] = far + near
