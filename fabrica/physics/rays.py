"""Rays through pixels, compiled: imported where a projector is first made, for the compiler takes a second to load."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray


@contextmanager
def in_threads(count: int) -> Iterator[None]:
    """Compiled loops in so many threads, and torch in as many after them as before.

    Both share one pool: a loop in two threads would leave torch with two, whose draws differ in the last bits, and
    which wait for one another where other processes have the cores.
    """
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_num_threads(count)


@numba.njit(cache=True)
def joseph(shape: tuple[int, int], turns: NDArray[np.float64], offsets: NDArray[np.float64]) -> Any:
    """(ray, pixel, length) of everything that any ray crosses; a turn and an offset a ray."""
    height, width = shape
    most = len(turns) * 2 * max(height, width)
    rows, columns = np.empty(most, np.int64), np.empty(most, np.int64)
    values, count = np.empty(most, np.float32), 0
    for ray in range(len(turns)):
        c, s = math.cos(turns[ray]), math.sin(turns[ray])
        along_y = abs(c) >= abs(s)  # the ray x c + y s = offset is steeper in y
        steps, across = (height, width) if along_y else (width, height)
        main, other = (c, s) if along_y else (s, c)
        for step in range(steps):
            place = (offsets[ray] - (step - (steps - 1) / 2) * other) / main + (across - 1) / 2
            low = math.floor(place)
            for pixel, share in ((low, 1 - (place - low)), (low + 1, place - low)):
                if 0 <= pixel < across and share > 0:
                    rows[count] = ray
                    columns[count] = step * width + pixel if along_y else pixel * width + step
                    values[count] = share / abs(main)
                    count += 1
    return rows[:count], columns[:count], values[:count]


@numba.njit(cache=True, parallel=True)
def sampled(image: NDArray[np.float64], turns: NDArray[np.float64], offsets: NDArray[np.float64], step: float) -> Any:
    """(views, bins): sums of bilinear samples along rays (views, bins, rays), averaged over the rays of a bin."""
    height, breadth = image.shape
    views, bins, rays = turns.shape
    reach = math.hypot(height, breadth) / 2
    count = int(2 * reach / step) + 1
    found = np.zeros((views, bins))
    for view in numba.prange(views):
        for b in range(bins):
            total = 0.0
            for ray in range(rays):
                c, s = math.cos(turns[view, b, ray]), math.sin(turns[view, b, ray])
                offset = offsets[view, b, ray]
                for k in range(count):
                    t = -reach + (k + 0.5) * step
                    x, y = offset * c - t * s + (breadth - 1) / 2, offset * s + t * c + (height - 1) / 2
                    i, j = math.floor(y), math.floor(x)
                    if 0 <= i < height - 1 and 0 <= j < breadth - 1:
                        u, v = y - i, x - j
                        total += (1 - u) * ((1 - v) * image[i, j] + v * image[i, j + 1]) + u * (
                            (1 - v) * image[i + 1, j] + v * image[i + 1, j + 1]
                        )
            found[view, b] = total * step / rays
    return found
