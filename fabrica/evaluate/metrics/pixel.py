"""Tier 1: pixel-level fidelity of paired images. Arrays of 2 or 3 spatial axes without a channel; 3D is one volume.

Libraries disagree on nearly every one of these numbers, so each function names its convention and none guesses a data
range. `synthrad2025` clips both images to [-1024, 3071] HU and looks inside the mask only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...contracts import Metric
from .hounsfield import tissue_errors, window_psnr
from .pairs import SYNTHRAD_HU, Array, check_range, images, pair
from .spectrum import modulation_transfer, noise_power_spectrum
from .structure import gmsd, haarpsi, hfen, ms_ssim, ssim_map, vif


def mae(
    generated: ArrayLike, reference: ArrayLike, *, mask: ArrayLike | None = None,
    spacing_mm: Sequence[float] | None = None, convention: str = "plain",
) -> float:  # fmt: skip
    """Mean absolute error in the unit of the images, inside the mask when one is given.

    `spacing_mm` changes nothing here or below; it is accepted so that all paired metrics are called alike.
    Raises ValueError for shapes that differ, an empty mask, voxels that are not finite, or an unknown convention.
    """
    x, y = pair(generated, reference, mask, convention, ("plain", "synthrad2025"))
    return float(np.abs(x - y).mean())


def rmse(
    generated: ArrayLike, reference: ArrayLike, *, mask: ArrayLike | None = None,
    spacing_mm: Sequence[float] | None = None, convention: str = "plain",
) -> float:  # fmt: skip
    """Root mean squared error in the unit of the images; errors as `mae`."""
    x, y = pair(generated, reference, mask, convention, ("plain", "synthrad2025"))
    return float(np.sqrt(((x - y) ** 2).mean()))


def nmse(
    generated: ArrayLike, reference: ArrayLike, *, mask: ArrayLike | None = None,
    spacing_mm: Sequence[float] | None = None, convention: str = "plain",
) -> float:  # fmt: skip
    """Squared error over squared reference, summed over the whole volume, as fastMRI defines it; errors as `mae`."""
    x, y = pair(generated, reference, mask, convention, ("plain", "fastmri", "synthrad2025"))
    power = float((y**2).sum())
    if power == 0:
        raise ValueError("nmse needs a reference that is not zero everywhere. Use mae or rmse for empty references.")
    return float(((x - y) ** 2).sum()) / power


def psnr(
    generated: ArrayLike, reference: ArrayLike, *, data_range: float, mask: ArrayLike | None = None,
    spacing_mm: Sequence[float] | None = None, convention: str = "plain",
) -> float:  # fmt: skip
    """10 log10(data_range^2 / MSE) in dB; infinite for equal images. Errors as `mae`, and for data_range <= 0."""
    check_range(data_range)
    x, y = pair(generated, reference, mask, convention, ("plain", "skimage", "monai", "fastmri", "synthrad2025"))
    error = float(((x - y) ** 2).mean())
    return float("inf") if error == 0 else float(10 * np.log10(data_range**2 / error))


def ssim(
    generated: ArrayLike, reference: ArrayLike, *, data_range: float, mask: ArrayLike | None = None,
    spacing_mm: Sequence[float] | None = None, convention: str = "wang2004",
) -> float:  # fmt: skip
    """Structural similarity, K = (0.01, 0.03), mean over the image without its border, or over the mask.

    wang2004 and monai: Gaussian window of 11 taps, sigma 1.5, population covariance. skimage: that library's default,
    a uniform window of 7 with sample covariance. fastmri: skimage's per slice along axis 0, then averaged.
    synthrad2025: clipped, shifted to be non-negative, skimage's window, inside the mask. 3D arrays have 3D windows.
    SSIM is meaningless for zero-mean data: shift it first. Windows count pixels, whatever `spacing_mm`.
    """
    check_range(data_range)
    known = ("wang2004", "monai", "skimage", "fastmri", "synthrad2025")
    x, y, inside = images(generated, reference, mask, convention, known)
    if convention == "fastmri":
        if x.ndim != 3:
            raise ValueError(f"ssim(convention='fastmri') got {x.ndim} axes, expected 3: slices along the first.")
        parts = [
            _ssim(a, b, data_range, None if inside is None else inside[i], False)
            for i, (a, b) in enumerate(zip(x, y, strict=True))
            if inside is None or inside[i].any()
        ]
        return float(np.mean(parts))
    if convention == "synthrad2025":
        x, y = x - SYNTHRAD_HU[0], y - SYNTHRAD_HU[0]
    return _ssim(x, y, data_range, inside, convention in ("wang2004", "monai"))


def _ssim(x: Array, y: Array, data_range: float, inside: NDArray[np.bool_] | None, gaussian: bool) -> float:
    border = 5 if gaussian else 3
    if min(x.shape) < 2 * border + 1:
        raise ValueError(
            f"ssim got an image of {x.shape}, expected sides of at least {2 * border + 1}. Use 2D slices, or psnr."
        )
    similar = ssim_map(x, y, data_range, gaussian)
    if inside is not None:
        return float(similar[inside].mean())
    return float(similar[(slice(border, -border),) * x.ndim].mean())


__all__ = [
    "METRICS",
    "gmsd",
    "haarpsi",
    "hfen",
    "mae",
    "modulation_transfer",
    "ms_ssim",
    "nmse",
    "noise_power_spectrum",
    "psnr",
    "rmse",
    "ssim",
    "tissue_errors",
    "vif",
    "window_psnr",
]
POINTWISE = ("mae", "rmse", "nmse", "psnr")  # what knows no neighbours: of colours all values count together
_PAIRED = ("generated", "reference")
METRICS = {
    "mae": Metric(mae, _PAIRED, "pixel", "lower", "unit of the image"),
    "rmse": Metric(rmse, _PAIRED, "pixel", "lower", "unit of the image"),
    "nmse": Metric(nmse, _PAIRED, "pixel", "lower", ""),
    "psnr": Metric(psnr, _PAIRED, "pixel", "higher", "dB"),
    "ssim": Metric(ssim, _PAIRED, "pixel", "higher", ""),
    "ms_ssim": Metric(ms_ssim, _PAIRED, "pixel", "higher", ""),
    "hfen": Metric(hfen, _PAIRED, "pixel", "lower", ""),
    "gmsd": Metric(gmsd, _PAIRED, "pixel", "lower", ""),
    "haarpsi": Metric(haarpsi, _PAIRED, "pixel", "higher", ""),
    "vif": Metric(vif, _PAIRED, "pixel", "higher", ""),
}
