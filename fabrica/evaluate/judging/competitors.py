"""Trivial answers that a model has to beat, or its metric shows nothing: copies, means, histograms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
BINS = 24


def matched(image: Array, histogram: Array) -> Array:
    """The input with its quantiles replaced by those of training targets (foreground values, sorted or not)."""
    inside = image > image.mean()
    out = np.zeros_like(image)
    if not inside.any() or not len(histogram):
        return out
    ranks = np.linspace(0, 1, 256)
    source, wanted = np.quantile(image[inside], ranks), np.quantile(histogram, ranks)
    out[inside] = np.interp(image[inside], source, wanted)
    return out


@dataclass(frozen=True)
class JointHistogram:
    """E[target | inputs] as a table over binned intensities: the best pointwise guess, without any anatomy."""

    edges: tuple[Array, ...]  # per input
    table: Array  # mean target per bin

    def predict(self, inputs: Sequence[Array]) -> Array:
        index = tuple(np.clip(np.searchsorted(e, x) - 1, 0, BINS - 1) for e, x in zip(self.edges, inputs, strict=True))
        guess: Array = self.table[index]
        return guess


def fit_histogram(inputs: Sequence[Array], target: Array) -> JointHistogram:
    """From flat training voxels; at most two inputs are used, empty bins take the mean of their nearest filled one."""
    inputs = list(inputs)[:2]
    edges = tuple(
        np.linspace(float(x.min()), float(np.quantile(x, 0.999)) + 1e-6, BINS + 1).astype(np.float32) for x in inputs
    )
    index = tuple(np.clip(np.searchsorted(e, x) - 1, 0, BINS - 1) for e, x in zip(edges, inputs, strict=True))
    shape = (BINS,) * len(inputs)
    flat = np.ravel_multi_index(index, shape)
    count = np.bincount(flat, minlength=BINS ** len(inputs)).reshape(shape)
    total = np.bincount(flat, weights=target, minlength=BINS ** len(inputs)).reshape(shape)
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(count == 0, return_distances=False, return_indices=True)
    mean = total / np.maximum(count, 1)
    return JointHistogram(edges, mean[tuple(nearest)].astype(np.float32))
