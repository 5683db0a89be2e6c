"""Which samples of k-space a scanner measures: a middle whole, and around it lines or single samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...rng import Rng

SHOWN = 0.625  # of k-space, from one end, where half of it is told by symmetry (partial Fourier)
SEARCHES = 9  # of the distance that gives so many samples
Mask = Callable[[tuple[int, int], float, int, Rng], Tensor]  # (sides, acceleration, calibration, rng) -> bool (y, x)


def lines(sides: tuple[int, int], acceleration: float, calibration: int, rng: Rng) -> Tensor:
    """Lines along x, those around the middle by chance."""
    return _chosen(torch.ones(sides[0], dtype=torch.bool), sides, acceleration, calibration, rng)


def partial(sides: tuple[int, int], acceleration: float, calibration: int, rng: Rng) -> Tensor:
    """Lines of five eighths of k-space alone: the other side of real images would say the same."""
    allowed = torch.arange(sides[0]) >= round((1 - SHOWN) * sides[0])
    return _chosen(allowed, sides, acceleration, calibration, rng)


def uniform(sides: tuple[int, int], acceleration: float, calibration: int, rng: Rng) -> Tensor:
    """Every n-th line, from a line by chance, and the middle."""
    kept = _middle(sides[0], calibration)
    outside = sides[0] / acceleration - float(kept.sum())
    step = max(1, round(float((~kept).sum()) / max(1.0, outside)))
    first = int(rng.integers(0, step)[0])
    kept |= torch.arange(sides[0]) % step == first
    return kept[:, None].expand(sides).clone()


def random(sides: tuple[int, int], acceleration: float, calibration: int, rng: Rng) -> Tensor:
    """Single samples by chance, denser near the middle."""
    kept, radius = _square(sides, calibration), _radius(sides)
    density = (1 - radius / math.sqrt(2)).clamp(min=0.05) ** 2
    wanted = max(0.0, math.prod(sides) / acceleration - float(kept.sum()))
    left = float((density * ~kept).sum())  # nothing where the middle is all there is
    density = density * (wanted / left if left else 0.0)
    return kept | (rng.uniform(*sides)[0] < density)


def disk(sides: tuple[int, int], acceleration: float, calibration: int, rng: Rng) -> Tensor:
    """Single samples that keep their distance, the larger the farther out (Poisson disk; Bridson 2007)."""
    kept, radius = _square(sides, calibration), _radius(sides).numpy()
    order = rng.uniform(*sides)[0].flatten().argsort().numpy()
    wanted, low, high = math.prod(sides) / acceleration, 0.0, float(max(sides)) / 4
    found = kept.numpy()
    for _ in range(SEARCHES):
        apart = (low + high) / 2
        found = _kept_apart(kept.numpy(), order, apart * (0.4 + radius))
        low, high = (low, apart) if found.sum() < wanted else (apart, high)
    return torch.from_numpy(found)


MASKS: Mapping[str, Mask] = {"lines": lines, "partial": partial, "uniform": uniform, "random": random, "disk": disk}


def _chosen(allowed: Tensor, sides: tuple[int, int], acceleration: float, calibration: int, rng: Rng) -> Tensor:
    height = sides[0]
    kept = _middle(height, calibration)
    free = allowed & ~kept
    share = max(0.0, (height / acceleration - float(kept.sum())) / max(1.0, float(free.sum())))
    kept = kept | (free & (rng.uniform(height)[0] < share))
    return kept[:, None].expand(sides).clone()


def _from_middle(n: int) -> Tensor:
    """0 at the middle of an axis, 1 at its end."""
    return (torch.arange(n) - n // 2).abs() / (n / 2)


def _middle(n: int, calibration: int) -> Tensor:
    return _from_middle(n) * n <= calibration


def _square(sides: tuple[int, int], calibration: int) -> Tensor:
    return _middle(sides[0], calibration)[:, None] & _middle(sides[1], calibration)[None]


def _radius(sides: tuple[int, int]) -> Tensor:
    y, x = (_from_middle(n) for n in sides)
    return (y[:, None] ** 2 + x[None] ** 2).sqrt()


def _kept_apart(whole: NDArray[np.bool_], order: NDArray[np.int64], apart: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Samples in their order, each unless one before it lies nearer than `apart` (y, x) of it; `whole` is kept."""
    width = whole.shape[1]
    found, places = whole.copy(), np.zeros_like(whole)
    for flat in order:
        y, x = divmod(int(flat), width)
        if whole[y, x]:
            continue
        r = float(apart[y, x])
        reach = int(r)
        y0, x0 = max(0, y - reach), max(0, x - reach)
        near = np.argwhere(places[y0 : y + reach + 1, x0 : x + reach + 1])
        if len(near) and float(((near - (y - y0, x - x0)) ** 2).sum(1).min()) < r * r:
            continue
        places[y, x] = found[y, x] = True
    return found
