"""Masks against masks: overlap, surfaces in millimetres, lesions one by one. Empty masks count as worst, never as
NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ..result import Result

Mask = NDArray[np.bool_]
BETTER: Mapping[str, str] = {
    "dice": "higher",
    "surface dice": "higher",
    "hausdorff95": "lower",
    "volume error": "lower",
    "pieces found": "higher",
}
UNITS: Mapping[str, str] = {"hausdorff95": "mm", "volume error": "ml", "pieces found": "F1"}


def rows_of(generated: ArrayLike, reference: ArrayLike, *, spacing_mm: Sequence[float]) -> dict[str, tuple[float, str]]:
    """Name -> (value, unit) of two label maps: means over the labels of both. Surfaces within two voxels count as
    equal.

    Volumes are in ml (of slices: of one slice). Connected pieces of all labels together are found or missed one by one.
    Both empty: the best value of each. Raises ValueError as `dice` and `normalised_surface_dice`.
    """
    x, y = _labels(generated), _labels(reference)
    found = {"dice": (dice(x, y), "")}
    labels = [v for v in np.union1d(np.unique(x), np.unique(y)) if v > 0]
    marks = [side.astype(bool) for side in (x, y)]
    pairs = [(x == v, y == v) for v in labels] or [(marks[0], marks[1])]
    tolerance, voxel = 2 * max(spacing_mm), float(np.prod(spacing_mm)) / 1000
    surfaces = [normalised_surface_dice(a, b, spacing_mm=spacing_mm, tolerance_mm=tolerance) for a, b in pairs]
    return found | {
        "hausdorff95": (float(np.mean([hausdorff95(a, b, spacing_mm=spacing_mm) for a, b in pairs])), "mm"),
        "surface dice": (float(np.mean(surfaces)), f"within {tolerance:.3g} mm"),
        "volume error": (float(np.mean([abs(float(a.sum()) - float(b.sum())) * voxel for a, b in pairs])), "ml"),
        "pieces found": (lesion_detection(*marks).value, "F1"),
    }


def dice(generated: ArrayLike, reference: ArrayLike) -> float:
    """Dice overlap of two masks, or the mean over the labels of both; both empty = 1, one empty = 0.

    Raises ValueError for shapes that differ, labels that are not finite, and masks of which one says 255 where the
    other says 1.
    """
    x, y = _labels(generated), _labels(reference)
    if x.shape != y.shape:
        raise ValueError(f"Got label maps of {x.shape} and {y.shape}, expected equal shapes.")
    sides = [{float(v) for v in np.unique(side) if v != 0} for side in (x, y)]
    if {1.0} in sides and {255.0} in sides:
        raise ValueError("One mask says 255 where the other says 1. Divide the picture by 255, or compare mask > 0.")
    labels = sorted(sides[0] | sides[1])
    scores = [2 * float(((x == v) & (y == v)).sum()) / float((x == v).sum() + (y == v).sum()) for v in labels]
    return float(np.mean(scores)) if scores else 1.0


def hausdorff95(
    generated: ArrayLike, reference: ArrayLike, *, spacing_mm: Sequence[float], convention: str = "max_directed"
) -> float:
    """95th percentile of the distances between two surfaces, mm; both empty = 0, one empty = the image's diagonal.

    max_directed: the larger of the two directed percentiles (MONAI). pooled: the percentile of both directions'
    distances together (medpy): a small false blob far away can leave it at 0. Raises ValueError as
    `normalised_surface_dice`.
    """
    if convention not in ("max_directed", "pooled"):
        raise ValueError(f"Unknown convention {convention!r}, expected 'max_directed' or 'pooled'.")
    x, y = _masks(generated, reference, spacing_mm)
    if not x.any() or not y.any():
        diagonal = float(np.linalg.norm([n * s for n, s in zip(x.shape, spacing_mm, strict=True)]))
        return 0.0 if x.any() == y.any() else diagonal
    there, back = _surface_distances(x, y, spacing_mm)
    if convention == "pooled":
        return float(np.percentile(np.concatenate([there, back]), 95))
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def normalised_surface_dice(
    generated: ArrayLike, reference: ArrayLike, *, spacing_mm: Sequence[float], tolerance_mm: float
) -> float:
    """Share of both surfaces (boundary voxels) within `tolerance_mm` of the other (Nikolov 2021); both empty = 1, one =
    0.

    Raises ValueError for shapes that differ, a spacing that does not fit them, or a negative tolerance.
    """
    if tolerance_mm < 0:
        raise ValueError(f"tolerance_mm is {tolerance_mm}, expected 0 or more.")
    x, y = _masks(generated, reference, spacing_mm)
    if not x.any() or not y.any():
        return float(x.any() == y.any())
    distances = np.concatenate(_surface_distances(x, y, spacing_mm))
    return float((distances <= tolerance_mm).mean())


def lesion_detection(generated: ArrayLike, reference: ArrayLike, *, smallest_overlap: float = 0.0) -> Result:
    """F1 over lesions (connected through faces, edges or corners); details: sensitivity, precision and counts.

    A true lesion is found when more than `smallest_overlap` of it is marked; a mark that touches no true lesion is
    false. Both empty = 1, one empty = 0. Raises ValueError for shapes that differ or NaN.
    """
    x, y = _labels(generated).astype(bool), _labels(reference).astype(bool)
    if x.shape != y.shape:
        raise ValueError(f"Got masks of {x.shape} and {y.shape}, expected equal shapes.")
    around = np.ones((3,) * x.ndim)
    marks, count_marks = ndimage.label(x, around)
    lesions, count = ndimage.label(y, around)
    covered = np.bincount(lesions.ravel(), x.ravel(), count + 1)[1:] / np.maximum(
        np.bincount(lesions.ravel(), minlength=count + 1)[1:], 1
    )
    touched = np.bincount(marks.ravel(), y.ravel(), count_marks + 1)[1:] > 0
    found, false = int((covered > smallest_overlap).sum()), int((~touched).sum())
    missed, right = count - found, count_marks - false
    total = 2 * found + missed + false
    return Result(
        2 * found / total if total else 1.0, count, f"connected lesions, overlap above {smallest_overlap:g}",
        details={
            "sensitivity": found / count if count else float(count_marks == 0),
            "precision": right / count_marks if count_marks else float(count == 0),
            "true_positives": found, "false_negatives": missed, "false_positives": false,
        },
    )  # fmt: skip


def _labels(mask: ArrayLike) -> NDArray[np.generic]:
    values = np.asarray(mask)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("A mask holds NaN or infinity. Count it as failed; NaN is neither inside nor outside.")
    return values


def _masks(generated: ArrayLike, reference: ArrayLike, spacing_mm: Sequence[float]) -> tuple[Mask, Mask]:
    x, y = _labels(generated).astype(bool), _labels(reference).astype(bool)
    if x.shape != y.shape or x.ndim not in (2, 3):
        raise ValueError(f"Got masks of {x.shape} and {y.shape}, expected two equal shapes of 2 or 3 axes.")
    if len(spacing_mm) != x.ndim or not all(s > 0 for s in spacing_mm):
        raise ValueError(f"spacing_mm is {list(spacing_mm)}, expected {x.ndim} positive numbers, one an axis.")
    return x, y


def _surface_distances(
    x: Mask, y: Mask, spacing_mm: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """From each boundary voxel of x to the boundary of y, and back; computed in the box around both."""
    either = np.argwhere(x | y)
    box = tuple(slice(a, b + 1) for a, b in zip(either.min(0), either.max(0), strict=True))
    x, y = np.pad(x[box], 1), np.pad(y[box], 1)
    edges = [m & ~ndimage.binary_erosion(m) for m in (x, y)]
    to_x, to_y = (ndimage.distance_transform_edt(~e, sampling=spacing_mm) for e in edges)
    return to_y[edges[0]], to_x[edges[1]]
