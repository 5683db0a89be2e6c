"""Emission tomography by ordered subsets of the views, with and without a prior of neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .discrepancy import Search, mean_misfit, strongest
from .geometry import ParallelGeometry
from .noise import Poisson
from .projector import Projector, projector

SUBSETS, ROUNDS = 10, 4  # 40 iterations of MLEM at the price of 4
EDGES = 2.0  # how much less large differences cost than small ones (Nuyts et al. 2002: gamma)
SEARCH, WARM = Search(1e-4, 3.0, 7), 2  # of the strength, as a part of the mean sensitivity; rounds each


@dataclass(frozen=True)
class _Part:
    """A subset of the views."""

    lines: Projector
    y: Tensor
    weight: Tensor
    background: Tensor
    sensitivity: Tensor  # (B or 1, 1, y, x)


def ordered_subsets(geometry: ParallelGeometry, weight: Tensor, background: Tensor, y: Tensor) -> Tensor:
    """OSEM from a constant image (Hudson and Larkin 1994); fewer subsets where views are few."""
    parts = _parts(geometry, weight, background, y)
    return _walked(parts, _constant(parts), torch.zeros(len(y), 1, 1, 1, device=y.device), ROUNDS)


def relative_differences(geometry: ParallelGeometry, weight: Tensor, background: Tensor, y: Tensor) -> Tensor:
    """OSEM with the relative difference prior (Nuyts et al. 2002), each step by a separable bound (De Pierro 1995),
    with the largest strength whose answer explains the counts as well as their noise would, row by row.
    """
    parts, lines = _parts(geometry, weight, background, y), projector(geometry)
    mean = torch.stack([p.sensitivity.mean((1, 2, 3), keepdim=True) for p in parts]).sum(0).expand(len(y), 1, 1, 1)
    noise, seen = Poisson(background), weight > 0

    def walk(share: Tensor, x: Tensor) -> Tensor:
        return _walked(parts, x, mean * share, WARM)

    def misfit(x: Tensor) -> Tensor:
        return mean_misfit(noise, y, lines.forward(x) * weight, seen)

    start = walk(torch.full_like(mean, SEARCH.lowest), _constant(parts))
    share, x = strongest(walk, misfit, start, SEARCH, mean)
    return _walked(parts, x, mean * share, ROUNDS)


def _parts(geometry: ParallelGeometry, weight: Tensor, background: Tensor, y: Tensor) -> list[_Part]:
    views = len(geometry.angles)
    count = next(n for n in range(min(SUBSETS, max(1, views // 4)), 0, -1) if not views % n)
    found = []
    for k in range(count):
        lines = projector(geometry.seen_from(geometry.angles[k::count]))
        own = weight[:, :, k::count]
        found.append(_Part(lines, y[:, :, k::count], own, background[:, :, k::count], lines.backward(own.contiguous())))
    return found


def _constant(parts: list[_Part]) -> Tensor:
    whole = torch.stack([p.sensitivity for p in parts]).sum(0)
    return (whole > 0).float().expand(len(parts[0].y), *whole.shape[1:])


def _walked(parts: list[_Part], x: Tensor, strength: Tensor, rounds: int) -> Tensor:
    """`strength` (B, 1, 1, 1) of the prior, in units of the sensitivity; 0 is none.

    Each step is the least of S z - c log z + slope (z - x) + bend (z - x)^2 / 2 by each voxel z, never below nothing.
    One step late (Green 1990), without the bend, swings from voxel to voxel where the prior is strong.
    """
    for _ in range(rounds):
        for part in parts:
            expected = (part.lines.forward(x) * part.weight + part.background).clamp(min=1e-9)
            counted = x * part.lines.backward(part.weight * part.y / expected)
            slope, bend = (strength / len(parts) * t for t in _slope_and_bend(x))
            x = _positive_root(bend, part.sensitivity + slope - bend * x, counted)
    return x


def _positive_root(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Of a z^2 + b z = c, none of a and c below 0; c / b where a is 0."""
    root = (b.square() + 4 * a * c).sqrt()
    return torch.where(b > 0, 2 * c / (b + root).clamp(min=1e-9), (root - b) / (2 * a).clamp(min=1e-9))


def _slope_and_bend(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of sum (a - b)^2 / (a + b + EDGES |a - b|) over the four neighbours, by each voxel: the first derivative, and
    twice the second, for both of a pair move.
    """
    slope, bend = torch.zeros_like(x), torch.zeros_like(x)
    for d in (-2, -1):
        n = x.shape[d] - 1
        first, second = x.narrow(d, 0, n), x.narrow(d, 1, n)
        gap = EDGES * (first - second).abs()
        size = (first + second + gap).clamp(min=1e-6)
        for start, a, b in ((0, first, second), (1, second, first)):
            slope.narrow(d, start, n).add_((a - b) * (gap + a + 3 * b) / size**2)
            bend.narrow(d, start, n).add_(16 * b.square() / size**3)
    return slope, bend
