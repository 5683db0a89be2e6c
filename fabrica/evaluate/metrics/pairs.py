"""What every paired metric asks of its two images before it computes anything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
SYNTHRAD_HU = (-1024.0, 3071.0)


def check_range(data_range: float) -> None:
    if not np.isfinite(data_range) or data_range <= 0:
        raise ValueError(
            f"data_range is {data_range}, expected the positive span of possible values, such as 4095 for HU."
        )


def images(
    generated: ArrayLike, reference: ArrayLike, mask: ArrayLike | None, convention: str, known: Sequence[str]
) -> tuple[Array, Array, Mask | None]:
    x, y = np.asarray(generated, np.float64), np.asarray(reference, np.float64)
    if convention not in known:
        raise ValueError(f"Unknown convention {convention!r}, expected one of {', '.join(known)}.")
    if x.shape != y.shape or x.ndim not in (2, 3):
        raise ValueError(f"Got shapes {x.shape} and {y.shape}, expected two equal shapes of 2 or 3 spatial axes.")
    if not np.isfinite(x).all() or not np.isfinite(y).all():
        raise ValueError("An image holds NaN or infinity. Count it as failed; do not average over it.")
    given = None if mask is None else np.asarray(mask)
    if given is not None and given.dtype.kind == "f" and not np.isfinite(given).all():
        raise ValueError("The mask holds NaN or infinity: neither inside nor outside.")
    inside = None if given is None else given.astype(bool)
    if inside is not None and (inside.shape != x.shape or not inside.any()):
        raise ValueError(
            f"The mask has shape {inside.shape} and {inside.sum()} voxels, expected {x.shape} and at least one."
        )
    if convention == "synthrad2025":
        x, y = np.clip(x, *SYNTHRAD_HU), np.clip(y, *SYNTHRAD_HU)
    return x, y, inside


def pair(
    generated: ArrayLike, reference: ArrayLike, mask: ArrayLike | None, convention: str, known: Sequence[str]
) -> tuple[Array, Array]:
    x, y, inside = images(generated, reference, mask, convention, known)
    return (x, y) if inside is None else (x[inside], y[inside])
