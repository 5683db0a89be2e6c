"""The walk through boosted trees, compiled: imported where the first are asked."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True, parallel=True)
def summed(
    features: NDArray[np.float32], root: NDArray[np.int32], feature: NDArray[np.int32],
    threshold: NDArray[np.float64], missing_left: NDArray[np.bool_], left: NDArray[np.int32],
    right: NDArray[np.int32], value: NDArray[np.float64], start: float,
) -> Any:  # fmt: skip
    """(N,): the leaf of every tree that a row falls into, added up. A leaf is its own left and right."""
    found = np.empty(len(features), np.float32)
    for row in numba.prange(len(features)):
        total = start
        for tree in range(len(root)):
            node = root[tree]
            while left[node] != node:
                x = features[row, feature[node]]
                go_left = missing_left[node] if np.isnan(x) else x <= threshold[node]
                node = left[node] if go_left else right[node]
            total += value[node]
        found[row] = total
    return found
