"""Metrics that are defined for slices, compiled: information, Haar wavelets, gradients. Other threads run meanwhile.

Every function takes two stacks of slices (slices, y, x) scaled to [0, 1], and where to look, and gives a value a slice:
NaN where the mask leaves nothing to look at.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]
SCALES = 4  # of visual information fidelity
EDGE = 4  # half of the widest Haar wavelet
STEEP, SOFT = 4.2, 30.0  # alpha and C of HaarPSI
GRADIENT = 170 / 255**2  # c of the gradient similarity


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def vif(x: Any, y: Any, inside: Any) -> Any:
    """Pixel-domain visual information fidelity; sides of at least 41."""
    found = np.empty(len(x))
    for z in range(len(x)):
        found[z] = _information(255 * x[z], 255 * y[z], inside[z])
    return found


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def _information(x: Any, y: Any, inside: Any) -> float:
    upper, lower, seen, start, step = 0.0, 0.0, 0, 0, 1
    for scale in range(SCALES):
        taps = 2 ** (SCALES - scale) + 1
        bell = _bell(taps)
        if scale:
            x, y = _windowed(x, bell, 2), _windowed(y, bell, 2)
            start, step = start + step * (taps // 2), 2 * step  # pixel i of this scale is pixel start + i step
        mx, my = _windowed(x, bell, 1), _windowed(y, bell, 1)
        vx, vy, both = _windowed(x * x, bell, 1), _windowed(y * y, bell, 1), _windowed(x * y, bell, 1)
        first = start + step * (taps // 2)
        a, b, count = _shared(mx, my, vx, vy, both, inside[first::step, first::step])
        upper, lower, seen = upper + a, lower + b, seen + count
    return (upper + 1e-8) / (lower + 1e-8) if seen else np.nan


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _bell(taps: int) -> Any:
    """Gaussian weights of sigma taps / 5."""
    bell = np.exp(-((np.arange(taps) - taps // 2) ** 2) / (2 * (taps / 5) ** 2))
    return bell / bell.sum()


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def _windowed(a: Any, bell: Any, stride: int) -> Any:
    """Weighted means where the window fits, of every `stride`-th pixel."""
    taps, columns = len(bell), a.shape[1]
    rows = (a.shape[0] - taps) // stride + 1
    wide = columns - taps + 1
    out = np.empty((rows, (wide - 1) // stride + 1))
    line, smooth = np.empty(columns), np.empty(wide)
    for r in range(rows):
        line[:] = 0.0
        for t in range(taps):
            row, w = a[r * stride + t], bell[t]
            for j in range(columns):
                line[j] += w * row[j]
        smooth[:] = 0.0
        for t in range(taps):
            part, w = line[t : t + wide], bell[t]
            for j in range(wide):
                smooth[j] += w * part[j]
        out[r] = smooth[::stride]
    return out


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def _shared(mx: Any, my: Any, xx: Any, yy: Any, xy: Any, inside: Any) -> Any:
    """Sums of logarithms of what both images and the reference alone tell, and of how many pixels.

    Logarithms are taken of products of many factors: one in some forty pixels.
    """
    upper, lower, count = 0.0, 0.0, 0
    product, other = 1.0, 1.0
    for i in range(mx.shape[0]):
        for j in range(mx.shape[1]):
            if not inside[i, j]:
                continue
            vx, vy = max(xx[i, j] - mx[i, j] ** 2, 0.0), max(yy[i, j] - my[i, j] ** 2, 0.0)
            covariance = xy[i, j] - mx[i, j] * my[i, j]
            gain = covariance / (vy + 1e-8)
            rest = vx - gain * covariance
            if vy < 1e-8:
                gain, rest, vy = 0.0, vx, 0.0
            if vx < 1e-8:
                gain, rest = 0.0, 0.0
            if gain < 0:
                gain, rest = 0.0, vx
            product *= 1 + gain * gain * vy / (max(rest, 1e-8) + 2)
            other *= 1 + vy / 2
            count += 1
            if product > 1e100:
                upper, product = upper + np.log10(product), 1.0
            if other > 1e100:
                lower, other = lower + np.log10(other), 1.0
    return upper + np.log10(product), lower + np.log10(other), count


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def gmsd(x: Any, y: Any, inside: Any) -> Any:
    """Deviation of the gradient magnitudes' similarity, at half the resolution."""
    found = np.empty(len(x))
    for z in range(len(x)):
        a, b, region = _gradient(_halved(x[z])), _gradient(_halved(y[z])), _region(inside[z])
        total, square, count = 0.0, 0.0, 0
        for i in range(a.shape[0]):
            for j in range(a.shape[1]):
                if region[i, j]:
                    u, v = a[i, j], b[i, j]
                    unlike = (u - v) ** 2 / (u * u + v * v + GRADIENT)  # 1 - similarity, exactly 0 for equal images
                    total, square, count = total + unlike, square + unlike * unlike, count + 1
        found[z] = np.sqrt(max(square / count - (total / count) ** 2, 0.0)) if count else np.nan
    return found


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def _gradient(a: Any) -> Any:
    """Prewitt magnitude, zeros outside."""
    rows, columns = a.shape
    out = np.empty_like(a)
    p = np.zeros((rows + 2, columns + 2))
    p[1:-1, 1:-1] = a
    for i in range(rows):
        top, here, below = p[i], p[i + 1], p[i + 2]
        for j in range(columns):
            down = top[j] + top[j + 1] + top[j + 2] - below[j] - below[j + 1] - below[j + 2]
            across = top[j] + here[j] + below[j] - top[j + 2] - here[j + 2] - below[j + 2]
            out[i, j] = np.sqrt(down * down + across * across) / 3
    return out


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _halved(a: Any) -> Any:
    """Means of 2 x 2 pixels; an odd side is continued by zeros, as in the reference implementation."""
    rows, columns = a.shape
    out = np.zeros(((rows + 1) // 2, (columns + 1) // 2))
    for i in range(rows):
        for j in range(columns):
            out[i // 2, j // 2] += a[i, j] / 4
    return out


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _region(inside: Any) -> Any:
    """Where at least half of the up to four pixels are inside."""
    rows, columns = inside.shape
    out = np.zeros(((rows + 1) // 2, (columns + 1) // 2), np.int64)
    for i in range(rows):
        for j in range(columns):
            out[i // 2, j // 2] += 1 if inside[i, j] else -1
    return out >= 0


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def haarpsi(x: Any, y: Any, inside: Any) -> Any:
    """Similarity of Haar wavelets' responses of two scales, weighed by the third, at half the resolution."""
    found = np.empty(len(x))
    for z in range(len(x)):
        a, b, region = _summed(255 * _halved(x[z])), _summed(255 * _halved(y[z])), _region(inside[z])
        total, weight = _agreement(a, b, region)
        found[z] = 1.0 if region.any() else np.nan  # 1 without any edge
        if weight > 0:
            share = total / weight
            found[z] = (np.log(share / (1 - share)) / STEEP) ** 2
    return found


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def _agreement(a: Any, b: Any, region: Any) -> Any:
    """Weighted sum of the similarities, squeezed by a logistic function, and the sum of weights."""
    rows, columns = region.shape
    similar, u, v = np.empty(columns), np.empty(columns), np.empty(columns)
    total, weight = 0.0, 0.0
    for i in range(rows):
        for axis in range(2):
            similar[:] = 0.0
            for half in (1, 2):
                _responses(a, i, half, axis, u)
                _responses(b, i, half, axis, v)
                for j in range(columns):
                    similar[j] += (2 * u[j] * v[j] + SOFT) / (u[j] * u[j] + v[j] * v[j] + SOFT)
            _responses(a, i, EDGE, axis, u)
            _responses(b, i, EDGE, axis, v)
            for j in range(columns):
                if region[i, j]:
                    heavy = max(u[j], v[j])
                    total += heavy / (1 + np.exp(-STEEP * similar[j] / 2))
                    weight += heavy
    return total, weight


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _summed(a: Any) -> Any:
    """Sums of all above and to the left, of the image with EDGE zeros around it."""
    rows, columns = a.shape
    out = np.zeros((rows + 2 * EDGE + 1, columns + 2 * EDGE + 1))
    for i in range(out.shape[0] - 1):
        line = 0.0
        for j in range(out.shape[1] - 1):
            r, c = i - EDGE, j - EDGE
            if 0 <= r < rows and 0 <= c < columns:
                line += a[r, c]
            out[i + 1, j + 1] = out[i, j + 1] + line
    return out


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def _responses(table: Any, row: int, half: int, axis: int, out: Any) -> None:
    """Absolute responses of a Haar wavelet of side 2 half at all pixels of a row, zeros outside."""
    top = row - half + 1 + EDGE
    above, here, below = table[top], table[top + half], table[top + 2 * half]
    for j in range(len(out)):
        left = j - half + 1 + EDGE
        middle, right = left + half, left + 2 * half
        whole = below[right] - below[left] - above[right] + above[left]
        if axis == 0:
            first = here[right] - here[left] - above[right] + above[left]
        else:
            first = below[middle] - below[left] - above[middle] + above[left]
        out[j] = abs(whole - 2 * first) / (2 * half)
