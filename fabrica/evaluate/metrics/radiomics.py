"""Radiomic features of one region as the Image Biomarker Standardisation Initiative defines them (IBSI-1, Zwanenburg
2020).

Weight-free and the same everywhere: the default embedding of a set of images. Names are IBSI's, with a prefix for the
family.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import shape, texture

Array = NDArray[np.float64]
Levels = NDArray[np.int64]
MOST_LEVELS = 1024


def radiomics(
    image: ArrayLike,
    mask: ArrayLike,
    spacing_mm: Sequence[float],
    bin_width: float,
    *,
    aggregation: str = "merged",
    outline: bool = True,
) -> dict[str, float]:
    """First order (18), histogram (23), shape (25 in 3D, 9 in 2D), GLCM (25), GLRLM, GLSZM, GLDZM (16 each), NGTDM (5),
    NGLDM (17).

    image and mask are (y, x) or (z, y, x); spacing_mm in the order of the axes; bin_width in units of the image, bins
    start at the region's darkest voxel (IBSI: fixed bin size). Directions of GLCM and GLRLM are `merged` into one
    matrix or `averaged` over features. Shape comes from the mesh of the mask, and is left out without `outline`. Raises
    ValueError for an empty mask, shapes or spacings that do not match, NaN inside the mask, or a bin width that gives
    no or too many levels.
    """
    values, inside, spacing = _checked(image, mask, spacing_mm, aggregation)
    values, inside = _cropped(values, inside)
    levels = _discretised(values, inside, bin_width)
    found = {f"statistics_{k}": v for k, v in _statistics(values[inside]).items()}
    found |= {f"histogram_{k}": v for k, v in _histogram(levels[inside]).items()}
    if outline:
        found |= {f"shape_{k}": v for k, v in shape.features(values, inside, spacing).items()}
    for family, features in texture.families(levels, aggregation).items():
        found |= {f"{family}_{k}": v for k, v in features.items()}
    return found


def _checked(
    image: ArrayLike, mask: ArrayLike, spacing_mm: Sequence[float], aggregation: str
) -> tuple[Array, NDArray[np.bool_], Array]:
    values, inside = np.asarray(image, np.float64), np.asarray(mask) > 0
    spacing = np.asarray(spacing_mm, np.float64)
    if values.ndim not in (2, 3) or values.shape != inside.shape:
        raise ValueError(
            f"Got an image of {values.shape} and a mask of {inside.shape}, expected one shape of 2 or 3 axes."
        )
    if spacing.shape != (values.ndim,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise ValueError(f"spacing_mm is {list(spacing_mm)}, expected {values.ndim} positive numbers, one per axis.")
    if not inside.any():
        raise ValueError("The mask is empty. Leave the case out and count it, or give its region.")
    if not np.isfinite(values[inside]).all():
        raise ValueError("The image holds NaN or infinity inside the mask. Count the case as failed.")
    if aggregation not in ("merged", "averaged"):
        raise ValueError(f"aggregation is {aggregation!r}, expected 'merged' or 'averaged'.")
    return values, inside, spacing


def _cropped(values: Array, inside: NDArray[np.bool_]) -> tuple[Array, NDArray[np.bool_]]:
    """The bounding box of the region: nothing outside it counts."""
    box = []
    for axis in range(inside.ndim):
        others = tuple(a for a in range(inside.ndim) if a != axis)
        (used,) = np.nonzero(inside.any(axis=others))
        box.append(slice(int(used[0]), int(used[-1]) + 1))
    return values[tuple(box)], inside[tuple(box)]


def _discretised(values: Array, inside: NDArray[np.bool_], bin_width: float) -> Levels:
    """Grey levels 1, 2, ... inside, 0 outside."""
    if not np.isfinite(bin_width) or bin_width <= 0:
        raise ValueError(
            f"bin_width is {bin_width}, expected a positive number in units of the image, such as 25 for HU."
        )
    lowest = values[inside].min()
    count = int((values[inside].max() - lowest) // bin_width) + 1
    if count > MOST_LEVELS:
        raise ValueError(
            f"bin_width {bin_width} gives {count} grey levels, expected at most {MOST_LEVELS}. Widen the bins."
        )
    levels = np.zeros(values.shape, np.int64)
    levels[inside] = ((values[inside] - lowest) // bin_width).astype(np.int64) + 1
    return levels


def _statistics(x: Array) -> dict[str, float]:
    """IBSI 3.3; of a constant region skewness, kurtosis and relative measures are 0; of two voxels both count as
    robust.
    """
    mean, median = x.mean(), np.median(x)
    p10, p25, p75, p90 = np.percentile(x, [10, 25, 75, 90])
    centred = x - mean
    variance = (centred**2).mean()
    robust = x[(x >= p10) & (x <= p90)] if len(x) > 2 else x  # the percentiles of two lie between them
    found = {
        "mean": mean,
        "variance": variance,
        "skewness": _ratio((centred**3).mean(), variance**1.5),
        "excess_kurtosis": _ratio((centred**4).mean(), variance**2) - 3 * (variance > 0),
        "median": median,
        "minimum": x.min(),
        "percentile_10": p10,
        "percentile_90": p90,
        "maximum": x.max(),
        "interquartile_range": p75 - p25,
        "range": np.ptp(x),
        "mean_absolute_deviation": np.abs(centred).mean(),
        "robust_mean_absolute_deviation": np.abs(robust - robust.mean()).mean(),
        "median_absolute_deviation": np.abs(x - median).mean(),
        "coefficient_of_variation": _ratio(variance**0.5, mean),
        "quartile_coefficient_of_dispersion": _ratio(p75 - p25, p75 + p25),
        "energy": (x**2).sum(),
        "root_mean_square": (x**2).mean() ** 0.5,
    }
    return {name: float(value) for name, value in found.items()}


def _ratio(one: float, other: float) -> float:
    return float(one / other) if other else 0.0


def _histogram(levels: Levels) -> dict[str, float]:
    """IBSI 3.4: the same statistics of grey levels, and the shape of their histogram."""
    found = {k: v for k, v in _statistics(levels.astype(np.float64)).items() if k not in ("energy", "root_mean_square")}
    counts = np.bincount(levels)[1:].astype(np.float64)
    chance = counts / counts.sum()
    gradient = np.gradient(counts) if len(counts) > 1 else np.zeros(1)
    more = {
        "mode": 1 + counts.argmax(), "entropy": texture.entropy(chance), "uniformity": (chance**2).sum(),
        "maximum_gradient": gradient.max(), "maximum_gradient_level": 1 + gradient.argmax(),
        "minimum_gradient": gradient.min(), "minimum_gradient_level": 1 + gradient.argmin(),
    }  # fmt: skip
    return found | {name: float(value) for name, value in more.items()}
