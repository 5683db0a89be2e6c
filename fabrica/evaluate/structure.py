"""Paired metrics of structure: SSIM's map and scales, edges, wavelets, information. 2D, or volumes.

Reference values are those of the papers' definitions as piq 0.8.0 computes them (that library cannot be installed with
every PyTorch). gmsd, haarpsi and vif are defined for slices: a volume is averaged over the slices along its first axis.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from .pairs import Array, Mask, check_range, images

MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def ssim_map(x: Array, y: Array, data_range: float, gaussian: bool) -> Array:
    """SSIM at every position, borders reflected: Gaussian window (11 taps, sigma 1.5, population) or uniform (7, sample)."""
    luminance, structure = _ssim_terms(x, y, data_range, gaussian)
    luminance *= structure
    return luminance


def _ssim_terms(x: Array, y: Array, data_range: float, gaussian: bool) -> tuple[Array, Array]:
    from . import moments  # compiled: loaded when first needed

    return moments.ssim_terms(x, y, gaussian, (0.01 * data_range) ** 2, (0.03 * data_range) ** 2)


def ms_ssim(generated: ArrayLike, reference: ArrayLike, *, data_range: float, mask: ArrayLike | None = None) -> float:
    """Multi-scale SSIM (Wang 2003): five scales, luminance at the coarsest alone, exponents on the scales' means.

    2D or 3D, Gaussian window of 11 taps; negative means count as 0. Raises ValueError as `ssim`, and for a side below 161.
    """
    check_range(data_range)
    x, y, inside = images(generated, reference, mask, "plain", ("plain",))
    if min(x.shape) < 161:
        raise ValueError(f"ms_ssim got an image of {x.shape}, expected sides of at least 161. Use ssim.")
    value = 1.0
    for scale, weight in enumerate(MS_WEIGHTS):
        luminance, structure = _ssim_terms(x, y, data_range, True)
        term = luminance * structure if scale == len(MS_WEIGHTS) - 1 else structure
        value *= max(_inner_mean(term, inside), 0.0) ** weight
        x, y = _halved(x), _halved(y)
        inside = None if inside is None else _halved(inside.astype(np.float64)) >= 0.5
    return float(value)


def _inner_mean(values: Array, inside: Mask | None) -> float:
    if inside is not None:
        if not inside.any():
            raise ValueError("The mask vanishes at ms_ssim's coarsest scale. Use a larger mask, or ssim.")
        return float(values[inside].mean())
    borders = [min(5, (n - 1) // 2) for n in values.shape]  # the coarsest scale may be smaller than the window
    return float(values[tuple(slice(b, n - b) for b, n in zip(borders, values.shape, strict=True))].mean())


def _halved(a: Array) -> Array:
    """Means of blocks of 2 along every axis; an odd last plane is left out."""
    for axis in range(a.ndim):
        n = a.shape[axis] // 2 * 2
        even, odd = (a.take(range(i, n, 2), axis) for i in (0, 1))
        a = (even + odd) / 2
    return a


def hfen(generated: ArrayLike, reference: ArrayLike, *, mask: ArrayLike | None = None) -> float:
    """High-frequency error norm: |LoG(generated) - LoG(reference)| / |LoG(reference)|, sigma 1.5 (Ravishankar 2011).

    Window of 15 taps along each axis. Raises ValueError as `mae`, and for a reference without edges.
    """
    x, y, inside = images(generated, reference, mask, "plain", ("plain",))
    a, b = (
        ndimage.gaussian_laplace(v - v.mean(), 1.5, truncate=4.5) for v in (x, y)
    )  # a cut window sums to not quite 0
    if inside is not None:
        a, b = a[inside], b[inside]
    norm = float(np.linalg.norm(b))
    if norm <= 1e-12 * max(1.0, float(np.abs(y).max())):
        raise ValueError("hfen needs a reference with edges; this one is constant.")
    return float(np.linalg.norm(a - b)) / norm


def gmsd(generated: ArrayLike, reference: ArrayLike, *, data_range: float, mask: ArrayLike | None = None) -> float:
    """Gradient magnitude similarity deviation (Xue 2014): 0 for equal images, more is worse. Errors as `ssim`."""
    return _over_slices(_gmsd, generated, reference, data_range, mask, 5)


def _gmsd(x: Array, y: Array, inside: Mask | None) -> float | None:
    x, y = _halved_padded(x), _halved_padded(y)
    gx, gy = _gradient(x), _gradient(y)
    c = 170 / 255**2
    similar = (2 * gx * gy + c) / (gx**2 + gy**2 + c)
    if inside is not None:
        similar = similar[_halved_padded(inside.astype(np.float64)) >= 0.5]
    return float(similar.std()) if similar.size else None


def _gradient(a: Array) -> Array:
    """Prewitt magnitude, zeros outside."""
    found = [
        ndimage.uniform_filter1d(
            ndimage.correlate1d(a, [1, 0, -1], axis, mode="constant"), 3, 1 - axis, mode="constant"
        )
        for axis in (0, 1)
    ]
    return np.hypot(found[0], found[1])


def _halved_padded(a: Array) -> Array:
    """Means of 2 x 2 pixels; an odd side is continued by zeros, as in the reference implementation."""
    odd = max(a.shape[0] % 2, a.shape[1] % 2)
    return _halved(np.pad(a, ((0, odd), (0, odd))) if odd else a)


def haarpsi(generated: ArrayLike, reference: ArrayLike, *, data_range: float, mask: ArrayLike | None = None) -> float:
    """Haar wavelet perceptual similarity (Reisenhofer 2018), C = 30, alpha = 4.2: 1 for equal images. Errors as `ssim`."""
    return _over_slices(_haarpsi, generated, reference, data_range, mask, 16)


def _haarpsi(x: Array, y: Array, inside: Mask | None) -> float | None:
    x, y = 255 * _halved_padded(x), 255 * _halved_padded(y)
    region = np.ones(x.shape, bool) if inside is None else _halved_padded(inside.astype(np.float64)) >= 0.5
    if not region.any():
        return None
    total = weight = 0.0
    for axis in (0, 1):
        a, b = ([np.abs(_haar(v, scale, axis)) for scale in (1, 2, 3)] for v in (x, y))
        similar = sum((2 * a[i] * b[i] + 30) / (a[i] ** 2 + b[i] ** 2 + 30) for i in (0, 1)) / 2
        heavy = np.maximum(a[2], b[2])
        total += float((heavy / (1 + np.exp(-4.2 * similar)))[region].sum())
        weight += float(heavy[region].sum())
    if weight <= 0:
        return 1.0  # both without any edge
    share = total / weight
    return float((np.log(share / (1 - share)) / 4.2) ** 2)


def _haar(a: Array, scale: int, axis: int) -> Array:
    """Response of a Haar wavelet of side 2^scale, zeros outside."""
    side = 2**scale
    padded = np.pad(a, (side // 2 - 1, side // 2))
    table = np.pad(padded, ((1, 0), (1, 0))).cumsum(0).cumsum(1)

    def box(top: int, left: int, height: int, width: int) -> Array:
        rows, columns = a.shape
        corner = [
            table[top + i : top + i + rows, left + j : left + j + columns] for i in (0, height) for j in (0, width)
        ]
        part: Array = corner[3] - corner[1] - corner[2] + corner[0]
        return part

    half = side // 2
    if axis == 0:
        response = box(half, 0, half, side) - box(0, 0, half, side)
    else:
        response = box(0, half, side, half) - box(0, 0, side, half)
    scaled: Array = response / side
    return scaled


def vif(generated: ArrayLike, reference: ArrayLike, *, data_range: float, mask: ArrayLike | None = None) -> float:
    """Visual information fidelity in the pixel domain (Sheikh and Bovik 2006), four scales, noise variance 2 at range 255.

    1 for equal images, above 1 for a contrast-enhanced one. Errors as `ssim`; sides of at least 41.
    """
    return _over_slices(_vif, generated, reference, data_range, mask, 41)


def _vif(x: Array, y: Array, inside: Mask | None) -> float | None:
    x, y = 255 * x, 255 * y
    kept = np.ones(x.shape) if inside is None else inside.astype(np.float64)
    upper, lower, seen = 0.0, 0.0, 0
    for scale in range(4):
        taps = 2 ** (4 - scale) + 1
        if scale:
            x, y = (_windowed(v, taps)[::2, ::2] for v in (x, y))
            kept = kept[taps // 2 : -(taps // 2), taps // 2 : -(taps // 2)][::2, ::2]
        if min(x.shape) < taps:
            break
        mx, my = _windowed(x, taps), _windowed(y, taps)
        vx, vy = (np.maximum(_windowed(v * v, taps) - m * m, 0.0) for v, m in ((x, mx), (y, my)))
        covariance = _windowed(x * y, taps) - mx * my
        gain = covariance / (vy + 1e-8)
        rest = vx - gain * covariance
        gain, rest = np.where(vy >= 1e-8, gain, 0.0), np.where(vy >= 1e-8, rest, vx)
        vy = np.where(vy >= 1e-8, vy, 0.0)
        gain, rest = np.where(vx >= 1e-8, gain, 0.0), np.where(vx >= 1e-8, rest, 0.0)
        rest = np.where(gain >= 0, rest, vx)
        gain, rest = np.maximum(gain, 0.0), np.maximum(rest, 1e-8)
        inner = kept[taps // 2 : -(taps // 2), taps // 2 : -(taps // 2)] > 0.5
        seen += int(inner.sum())
        upper += float(np.log10(1 + gain**2 * vy / (rest + 2))[inner].sum())
        lower += float(np.log10(1 + vy / 2)[inner].sum())
    return (upper + 1e-8) / (lower + 1e-8) if seen else None


def _windowed(a: Array, taps: int) -> Array:
    """Gaussian means with sigma taps / 5, only where the window fits."""
    at = np.arange(taps) - taps // 2
    bell = np.exp(-(at**2) / (2 * (taps / 5) ** 2))
    bell /= bell.sum()
    for axis in (0, 1):
        a = ndimage.correlate1d(a, bell, axis, mode="constant")
    cut = taps // 2
    return a[cut:-cut, cut:-cut]


def _over_slices(
    measure: Callable[[Array, Array, Mask | None], float | None], generated: ArrayLike, reference: ArrayLike, data_range: float,
    mask: ArrayLike | None, smallest: int,
) -> float:  # fmt: skip
    """A 2D metric on images scaled to [0, 1]; volumes slice by slice, where the mask is wide enough for its windows."""
    check_range(data_range)
    x, y, inside = images(generated, reference, mask, "plain", ("plain",))
    if min(x.shape[-2:]) < smallest:
        raise ValueError(f"Got an image of {x.shape}, expected sides of at least {smallest}.")
    x, y = x / data_range, y / data_range
    slices = (
        [(x, y, inside)] if x.ndim == 2 else list(zip(x, y, [None] * len(x) if inside is None else inside, strict=True))
    )
    found = [value for a, b, m in slices if (value := measure(a, b, m)) is not None]
    if not found:
        raise ValueError("The mask is too small for this metric's windows. Use a larger mask, or mae.")
    return float(np.mean(found))
