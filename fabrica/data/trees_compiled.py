"""The walk through boosted trees, compiled: imported where the first are asked."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

ROWS = 256  # that walk through one tree before the next


@numba.njit(cache=True, parallel=True)
def summed(features: NDArray[np.float32], root: NDArray[np.int32], nodes: Any, start: float) -> Any:
    """(N,): the leaf of every tree that a row falls into, added up. A leaf is its own left and right.

    `nodes`: feature, threshold, missing_left, left, right and value of all of them.
    """
    feature, threshold, missing_left, left, right, value = nodes
    found = np.empty(len(features), np.float32)
    for block in numba.prange((len(features) + ROWS - 1) // ROWS):
        first, last = block * ROWS, min((block + 1) * ROWS, len(features))
        total = np.full(last - first, start)
        for tree in range(len(root)):  # one tree for many rows: its nodes stay near the processor
            for row in range(first, last):
                node = root[tree]
                while left[node] != node:
                    x = features[row, feature[node]]
                    go_left = missing_left[node] if np.isnan(x) else x <= threshold[node]
                    node = left[node] if go_left else right[node]
                total[row - first] += value[node]
        for row in range(first, last):
            found[row] = total[row - first]
    return found
