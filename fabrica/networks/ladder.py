"""Codes from coarse to fine, each told what the coarser ones say, so that a draw of many codes is one whole
(Sonderby et al. 2016; Vahdat and Kautz 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..rng import Rng
from .blocks import conv, mark_ends
from .codec import Residual

Normal = tuple[Tensor, Tensor]  # mean, logarithm of the variance
LOG_VARIANCES = (-12.0, 6.0)


class Ladder(nn.Module):
    """What is likely for the codes of a grid: `rungs` coarser grids of codes above it, half the sides each, down to one
    place.

    `wider` channels beside the codes are the condition, on the same grid. Finest codes are normal given the rung above;
    on each rung the posterior is told as a change of what is expected, and all begins as N(0, 1).
    """

    def __init__(self, dimensions: int, codes: int, wider: int, width: int, rungs: int) -> None:
        super().__init__()
        self.dimensions = dimensions
        first = conv(dimensions, 2 * codes, width, 1)
        self.down = nn.ModuleList(
            nn.Sequential(
                *([] if rung else [first]), Residual(dimensions, width), conv(dimensions, width, width, 2, stride=2)
            )
            for rung in range(rungs)
        )
        self.beside = nn.ModuleList(conv(dimensions, wider + 1, width, 1) for _ in range(rungs + 1))
        self.expected = nn.ModuleList(conv(dimensions, width, 2 * codes, 1) for _ in range(rungs + 1))
        self.change = nn.ModuleList(conv(dimensions, 2 * width, 2 * codes, 1) for _ in range(rungs))
        self.join = nn.ModuleList(conv(dimensions, codes, width, 1) for _ in range(rungs))
        self.up = nn.ModuleList(
            nn.Sequential(Residual(dimensions, width), Residual(dimensions, width)) for _ in range(rungs)
        )
        mark_ends(first, self.beside, self.expected, self.change, self.join)
        for head in (*self.expected, *self.change):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def told(self, codes: Normal, wider: Tensor, rng: Rng) -> list[tuple[Normal, Normal]]:
        """(what an image's codes are, what was expected of them), the coarsest first; wider (B, C, *grid)."""
        seen = [torch.cat(codes, 1)]
        for down in self.down:
            seen.append(down(_even(seen[-1])))
        pairs: list[tuple[Normal, Normal]] = []
        h: Tensor | None = None
        for rung in reversed(range(1, len(seen))):
            h = self._given(h, rung, wider, seen[rung].shape[2:])
            likely = self._expected(h, rung)
            mean, log_variance = self.change[rung - 1](torch.cat([seen[rung], h], 1)).chunk(2, 1)
            found = (likely[0] + mean, (likely[1] + log_variance).clamp(*LOG_VARIANCES))
            pairs.append((found, likely))
            h = self._joined(h, rung, found, rng)
        return [*pairs, (codes, self._expected(self._given(h, 0, wider, codes[0].shape[2:]), 0))]

    def draw(self, grid: Sequence[int], wider: Tensor, rng: Rng) -> Tensor:
        """(B, codes, *grid), finest codes."""
        sides = [tuple(grid)]
        for _ in self.down:
            sides.append(tuple(-(-n // 2) for n in sides[-1]))
        h: Tensor | None = None
        for rung in reversed(range(1, len(sides))):
            h = self._given(h, rung, wider, sides[rung])
            h = self._joined(h, rung, self._expected(h, rung), rng)
        return drawn_from(self._expected(self._given(h, 0, wider, grid), 0), rng.child("code"))

    def _given(self, h: Tensor | None, rung: int, wider: Tensor, grid: Sequence[int]) -> Tensor:
        """What the coarser rungs say, on this grid, and the condition there."""
        pool: Callable[..., Tensor] = F.adaptive_avg_pool2d if self.dimensions == 2 else F.adaptive_avg_pool3d
        ones = wider.new_ones(len(wider), 1, *wider.shape[2:])  # something to start from where there is no condition
        here: Tensor = self.beside[rung](pool(torch.cat([wider, ones], 1), list(grid)))
        if h is None:
            return here
        larger = F.interpolate(h, scale_factor=2.0, mode="nearest")
        return here + larger[(slice(None), slice(None), *(slice(n) for n in grid))]

    def _expected(self, h: Tensor, rung: int) -> Normal:
        """Mean and logarithm of the variance."""
        mean, log_variance = self.expected[rung](h).chunk(2, 1)
        return mean, log_variance.clamp(*LOG_VARIANCES)

    def _joined(self, h: Tensor, rung: int, normal: Normal, rng: Rng) -> Tensor:
        result: Tensor = self.up[rung - 1](h + self.join[rung - 1](drawn_from(normal, rng.child("rung", rung))))
        return result


def drawn_from(normal: Normal, rng: Rng) -> Tensor:
    """One draw a row, by the row's own numbers."""
    mean, log_variance = normal
    return mean + (0.5 * log_variance).exp() * rng.normal(*mean.shape[1:]).to(mean.device)


def _even(x: Tensor) -> Tensor:
    """Odd sides are one longer, the last voxel twice."""
    odd = [n % 2 for n in x.shape[2:]]
    return F.pad(x, [k for n in reversed(odd) for k in (0, n)], mode="replicate") if any(odd) else x
