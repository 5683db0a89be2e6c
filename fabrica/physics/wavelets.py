"""Few wavelets: the image that explains what was measured with the least sum of wavelet coefficients (Lustig 2007)."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..contracts import Scattered
from .algebra import LinearOperator
from .classical import largest_eigenvalue
from .consistency import Data
from .discrepancy import Search, explained

LOW_PASS = (  # Daubechies 1988, eight taps, four vanishing moments
    0.23037781330885523, 0.7148465705525415, 0.6308807679295904, -0.02798376941698385,
    -0.18703481171888114, 0.030841381835986965, 0.032883011666982945, -0.010597401784997278,
)  # fmt: skip
LEVELS = 4
INNER = 25  # iterations a round, each beginning at the answer of the one before
SEARCH = Search(1e-5, 1.0, 9)  # of the weight, as a part of what leaves nothing
SHIFTS = ((0, 0), (3, 5), (7, 2), (1, 6), (5, 1), (2, 7), (6, 4), (4, 3))  # voxels, turn by turn: no grid shows


def few_wavelets(operator: LinearOperator, noise: Scattered, y: Tensor) -> Tensor:
    """(B, 1, y, x): argmin of |y - A x|^2 / (2 variance) + weight |W x|_1, with the largest weight that explains y as
    well as noise alone would, row by row.

    Accelerated (Beck and Teboulle 2009), over wavelets that are shifted from step to step, coarse ones left alone.
    """
    data = Data.told(operator, noise, y)
    step = 1 / largest_eigenvalue(data.normal, data.pull)
    full = data.pull.flatten(1).abs().amax(1).reshape(step.shape)

    def walk(data: Data, share: Tensor, x: Tensor) -> Tensor:
        return shrunk(data, share * full, step, x)

    blank = torch.zeros_like(data.pull)
    share, x = explained(data, noise, y, walk, lambda x: x, blank, SEARCH, full)
    return walk(data, share, x)


def shrunk(data: Data, weight: Tensor, step: Tensor, start: Tensor) -> Tensor:
    """x after some accelerated steps of min |y - A x|^2 / (2 variance) + weight |W x|_1; weight (B, 1, ...), `step` one
    over the largest eigenvalue.
    """
    x, ahead, t = start, start, 1.0
    for k in range(INNER):
        moved = ahead - step * (data.normal(ahead) - data.pull)
        shift = SHIFTS[k % len(SHIFTS)]
        new = data.operator.feasible(_thresholded(moved, step * weight, shift))
        t, before = (1 + (1 + 4 * t * t) ** 0.5) / 2, t
        ahead, x = new + (before - 1) / t * (new - x), new
    return x


def _thresholded(x: Tensor, by: Tensor, shift: tuple[int, int]) -> Tensor:
    """Details pulled towards zero (Donoho 1995); what the coarsest level holds stays."""
    coefficients = transformed(x.roll(shift, (-2, -1)))
    small = (coefficients.abs() - by).clamp(min=0) * coefficients.sign()
    coarse = tuple(n // 2 ** levels(x) for n in x.shape[-2:])
    small[..., : coarse[0], : coarse[1]] = coefficients[..., : coarse[0], : coarse[1]]
    back: Tensor = restored(small).roll((-shift[0], -shift[1]), (-2, -1))
    return back


def levels(x: Tensor) -> int:
    """How often both sides can be halved, at most LEVELS."""
    found, (high, wide) = 0, x.shape[-2:]
    while found < LEVELS and not high % 2 and not wide % 2 and min(high, wide) >= len(LOW_PASS):
        found, high, wide = found + 1, high // 2, wide // 2
    return found


def transformed(x: Tensor) -> Tensor:
    """Orthonormal, periodic: coarse in the first corner, details around it, level by level."""
    out, (high, wide) = x.clone(), x.shape[-2:]
    for _ in range(levels(x)):
        part = out[..., :high, :wide]
        out[..., :high, :wide] = _halving(high).to(x) @ part @ _halving(wide).to(x).T
        high, wide = high // 2, wide // 2
    return out


def restored(coefficients: Tensor) -> Tensor:
    """The inverse of `transformed`, which is its transpose."""
    out, count = coefficients.clone(), levels(coefficients)
    for level in reversed(range(count)):
        high, wide = (n // 2**level for n in coefficients.shape[-2:])
        part = out[..., :high, :wide]
        out[..., :high, :wide] = _halving(high).to(out).T @ part @ _halving(wide).to(out)
    return out


@lru_cache(maxsize=16)
def _halving(n: int) -> Tensor:
    """(n, n): coarse coefficients in the first half of its rows, details in the second."""
    matrix = torch.zeros(n, n, dtype=torch.float64)
    taps = len(LOW_PASS)
    for row in range(n // 2):
        for k, value in enumerate(LOW_PASS):
            matrix[row, (2 * row + k) % n] += value
            matrix[n // 2 + row, (2 * row + k) % n] += (-1) ** k * LOW_PASS[taps - 1 - k]
    return matrix
