"""Tier 3: what a clinic would do with the image. Here: overlap of label maps and the contrast that lesions keep."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from ..contracts import Metric


def dice(generated: ArrayLike, reference: ArrayLike) -> float:
    """Dice overlap of two masks, or the mean over the labels of the reference; both empty = 1, one empty = 0.

    Raises ValueError for shapes that differ.
    """
    x, y = np.asarray(generated), np.asarray(reference)
    if x.shape != y.shape:
        raise ValueError(f"Got label maps of {x.shape} and {y.shape}, expected equal shapes.")
    labels = [v for v in np.union1d(np.unique(x), np.unique(y)) if v != 0]
    scores = [2 * float(((x == v) & (y == v)).sum()) / float((x == v).sum() + (y == v).sum()) for v in labels]
    return float(np.mean(scores)) if scores else 1.0


def lesion_contrast(image: ArrayLike, lesion: ArrayLike, *, tissue: ArrayLike | None = None) -> float:
    """Mean inside the lesions minus mean of the shell 2 to 5 voxels around them (inside `tissue` when given).

    The contrast that a model keeps is this number for its image over the same for the truth: 1 = as in the truth,
    0 = invisible. Raises ValueError when lesion or shell is empty.
    """
    values, inside = np.asarray(image, np.float64), np.asarray(lesion).astype(bool)
    shell = ndimage.binary_dilation(inside, iterations=5) & ~ndimage.binary_dilation(inside, iterations=2)
    if tissue is not None:
        shell &= np.asarray(tissue).astype(bool)
    if not inside.any() or not shell.any():
        raise ValueError("lesion_contrast needs a lesion and tissue around it.")
    return float(values[inside].mean() - values[shell].mean())


METRICS = {"dice": Metric(dice, ("generated", "reference"), "task", "higher", "")}
