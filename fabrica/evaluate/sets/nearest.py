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
BAND = 512  # rows whose products with all later rows are made together


def reach(a: Array, k: int) -> Array:
    """Squared distance of each row to its k-th nearest other row."""
    near, lengths = np.full((len(a), k + 1), np.inf), _lengths(a)  # a row's own distance of 0 is one of them
    step = min(BAND, max(1, HELD // len(a)))
    buffer = np.empty(min(step, len(a)) * len(a))
    for start in range(0, len(a), step):  # a pair's product is made once
        rows, others = a[start : start + step], a[start:]
        product = buffer[: len(rows) * len(others)].reshape(len(rows), len(others))
        _nearer(np.matmul(rows, others.T, out=product), lengths[start:], near[start:])
    return np.ascontiguousarray(near[:, k])


def within(a: Array, b: Array, reach_a: Array, reach_b: Array) -> tuple[Array, Array, Array]:
    """(balls of b that hold each row of a, whether each ball of b holds any, whether each row of b lies in a ball of
    a).
    """
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
def _nearer(product: Any, lengths: Any, near: Any) -> None:
    """Take squared distances of the first rows to themselves and all later ones into the sorted `near` of both."""
    last = near.shape[1] - 1
    for i in range(product.shape[0]):
        for j in range(i, product.shape[1]):
            scale = lengths[i] + lengths[j]
            square = scale - 2 * product[i, j]
            if square >= near[i, last] and square >= near[j, last]:
                continue
            if square <= SAME * scale:
                square = 0.0
            _insert(near[i], square)
            if j > i:
                _insert(near[j], square)


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _insert(sorted_squares: Any, square: float) -> None:
    """Drops the largest, which may be `square` itself."""
    place = len(sorted_squares) - 1
    if square >= sorted_squares[place]:
        return
    while place > 0 and sorted_squares[place - 1] > square:
        sorted_squares[place] = sorted_squares[place - 1]
        place -= 1
    sorted_squares[place] = square


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
