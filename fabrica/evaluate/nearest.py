"""Nearest neighbours by counting over inner products as they are made, compiled: no matrix of distances is kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]
SAME = 1e-12  # of the squared lengths: what rounding leaves between rows that are equal
HELD = 1 << 24  # inner products at once: 128 MB


def reach(a: Array, k: int) -> Array:
    """Squared distance of each row to its k-th nearest other row."""
    out, lengths = np.empty(len(a)), _lengths(a)
    for part, product in _products(a, a):
        _smallest(product, lengths[part], lengths, k, out[part])
    return out


def within(a: Array, b: Array, reach_a: Array, reach_b: Array) -> tuple[Array, Array, Array]:
    """(balls of b that hold each row of a, whether each ball of b holds any, whether each row of b lies in a ball of a)."""
    inside, covered, recalled = np.zeros(len(a)), np.zeros(len(b)), np.zeros(len(b))
    lengths_a, lengths_b = _lengths(a), _lengths(b)
    for part, product in _products(a, b):
        _counted(product, lengths_a[part], lengths_b, reach_a[part], reach_b, inside[part], covered, recalled)
    return inside, covered, recalled


def _products(a: Array, b: Array) -> Iterator[tuple[slice, Array]]:
    """(rows of a, their inner products with b), in one buffer."""
    step = min(len(a), max(1, HELD // len(b)))
    buffer = np.empty((step, len(b)))
    for start in range(0, len(a), step):
        rows = a[start : start + step]
        yield slice(start, start + step), np.matmul(rows, b.T, out=buffer[: len(rows)])


def _lengths(a: Array) -> Array:
    return np.asarray(np.einsum("ij,ij->i", a, a))


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _smallest(product: Any, rows: Any, columns: Any, k: int, out: Any) -> None:
    """The k-th smallest squared distance of each row, its own distance of 0 not counted."""
    nearest = np.empty(k + 1)
    for i in range(len(rows)):
        nearest[:] = np.inf
        for j in range(len(columns)):
            scale = rows[i] + columns[j]
            square = scale - 2 * product[i, j]
            if square >= nearest[k]:
                continue
            if square <= SAME * scale:
                square = 0.0
            place = k
            while place > 0 and nearest[place - 1] > square:
                nearest[place] = nearest[place - 1]
                place -= 1
            nearest[place] = square
        out[i] = nearest[k]


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _counted(
    product: Any, rows: Any, columns: Any, reach_a: Any, reach_b: Any, inside: Any, covered: Any, recalled: Any
) -> None:
    for i in range(len(rows)):
        count = 0
        for j in range(len(columns)):
            scale = rows[i] + columns[j]
            square = scale - 2 * product[i, j]
            if square <= SAME * scale:
                square = 0.0
            if square <= reach_b[j]:
                count += 1
                covered[j] = 1
            if square <= reach_a[i]:
                recalled[j] = 1
        inside[i] = count
