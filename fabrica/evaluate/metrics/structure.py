"""Paired metrics of structure: SSIM's map and scales, edges, wavelets, information. 2D, or volumes.

Reference values are those of the papers' definitions as piq 0.8.0 computes them (that library cannot be installed with
every PyTorch). Windows count pixels: `spacing_mm` is accepted and changes nothing. gmsd, haarpsi and vif are defined
for slices: a volume is averaged over the slices along its first axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from .pairs import Array, Mask, check_range, images

MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def ssim_map(x: Array, y: Array, data_range: float, gaussian: bool) -> Array:
    """SSIM at every position, borders reflected: Gaussian window (11 taps, sigma 1.5, population) or uniform (7,
    sample).
    """
    luminance, structure = _ssim_terms(x, y, data_range, gaussian)
    luminance *= structure
    return luminance


def _ssim_terms(x: Array, y: Array, data_range: float, gaussian: bool) -> tuple[Array, Array]:
    from . import moments  # compiled: loaded when first needed

    return moments.ssim_terms(x, y, gaussian, (0.01 * data_range) ** 2, (0.03 * data_range) ** 2)


def ms_ssim(
    generated: ArrayLike, reference: ArrayLike, *, data_range: float, mask: ArrayLike | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> float:  # fmt: skip
    """Multi-scale SSIM (Wang 2003): five scales, luminance at the coarsest alone, exponents on the scales' means.

    2D or 3D, Gaussian window of 11 taps; negative means count as 0. Raises ValueError as `ssim`, and for a side below
    161.
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


def hfen(
    generated: ArrayLike,
    reference: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> float:
    """High-frequency error norm: |LoG(generated) - LoG(reference)| / |LoG(reference)|, sigma 1.5 (Ravishankar 2011).

    Window of 15 taps along each axis. Raises ValueError as `mae`, and for a reference without edges.
    """
    x, y, inside = images(generated, reference, mask, "plain", ("plain",))
    from . import laplacian  # compiled: loaded when first needed

    edges = y - y.mean()  # a cut window sums to not quite 0
    norm = float(np.sqrt(laplacian.energy(edges, inside)))
    if norm <= 1e-12 * max(1.0, float(np.abs(y).max())):
        raise ValueError("hfen needs a reference with edges; this one is constant.")
    return float(np.sqrt(laplacian.energy(x - x.mean() - edges, inside))) / norm


def gmsd(
    generated: ArrayLike, reference: ArrayLike, *, data_range: float, mask: ArrayLike | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> float:  # fmt: skip
    """Gradient magnitude similarity deviation (Xue 2014): 0 for equal images, more is worse. Errors as `ssim`."""
    return _over_slices("gmsd", generated, reference, data_range, mask, 5)


def haarpsi(
    generated: ArrayLike, reference: ArrayLike, *, data_range: float, mask: ArrayLike | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> float:  # fmt: skip
    """Haar wavelet perceptual similarity (Reisenhofer 2018), C = 30, alpha = 4.2: 1 for equal images. Errors as
    `ssim`.
    """
    return _over_slices("haarpsi", generated, reference, data_range, mask, 16)


def vif(
    generated: ArrayLike, reference: ArrayLike, *, data_range: float, mask: ArrayLike | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> float:  # fmt: skip
    """Visual information fidelity in the pixel domain (Sheikh and Bovik 2006), four scales, noise variance 2 at range
    255.

    1 for equal images, above 1 for a contrast-enhanced one. Errors as `ssim`; sides of at least 41.
    """
    return _over_slices("vif", generated, reference, data_range, mask, 41)


def _over_slices(
    metric: str, generated: ArrayLike, reference: ArrayLike, data_range: float, mask: ArrayLike | None, smallest: int
) -> float:
    """A 2D metric on images scaled to [0, 1]; volumes slice by slice, where the mask is wide enough for its windows."""
    check_range(data_range)
    x, y, inside = images(generated, reference, mask, "plain", ("plain",))
    if min(x.shape[-2:]) < smallest:
        raise ValueError(f"Got an image of {x.shape}, expected sides of at least {smallest}.")
    from . import slicewise  # compiled: loaded when first needed

    region = np.ones(x.shape, bool) if inside is None else inside
    stacks = (v.reshape(-1, *v.shape[-2:]) for v in (x / data_range, y / data_range, np.ascontiguousarray(region)))
    found = getattr(slicewise, metric)(*stacks)
    if np.isnan(found).all():
        raise ValueError("The mask is too small for this metric's windows. Use a larger mask, or mae.")
    return float(np.nanmean(found))
