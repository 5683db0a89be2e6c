"""How measurements scatter around A(x)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..contracts import Noise, Scattered
from ..rng import Rng

FEWEST = 1.0  # counts that a variance is never told below


class Exact(Noise):
    """y = A(x): what is known is known."""

    def draw(self, mean: Tensor, rng: Rng) -> Tensor:
        return mean

    def nll(self, y: Tensor, mean: Tensor) -> Tensor:
        """0 where they agree, infinite elsewhere; a likelihood without a slope, for samplers that put y in place."""
        apart = (y - mean).abs().flatten(1).amax(1) > 0
        return torch.where(apart, torch.full_like(apart, math.inf, dtype=mean.dtype), 0.0)


class Gaussian(Scattered):
    """y = A(x) + N(0, deviation^2), independent; of complex numbers both parts. `deviation`: a number, (B,), or one for
    each number of y (B, ...).
    """

    per_row = ("deviation",)
    deviation: Tensor

    def __init__(self, deviation: float | Tensor) -> None:
        super().__init__()
        found = torch.as_tensor(deviation, dtype=torch.float32)
        self.register_buffer("deviation", found.reshape(-1) if found.ndim < 2 else found)

    def _wide(self, y: Tensor) -> Tensor:
        each: Tensor = self.deviation.reshape(-1, *[1] * (y.ndim - 1)) if self.deviation.ndim == 1 else self.deviation
        return each.to(y.device)

    def draw(self, mean: Tensor, rng: Rng) -> Tensor:
        if not mean.is_complex():
            return mean + self._wide(mean) * rng.child("noise").normal(*mean.shape[1:]).to(mean)
        parts = rng.child("noise").normal(*mean.shape[1:], 2).to(mean.device)
        return mean + self._wide(mean) * torch.view_as_complex(parts)

    def nll(self, y: Tensor, mean: Tensor) -> Tensor:
        off = (y - mean) / self._wide(y)
        squares: Tensor = (torch.view_as_real(off) if off.is_complex() else off).square().flatten(1).sum(1) / 2
        return squares

    def corner(self) -> Gaussian:
        return Gaussian(self.deviation.flatten(1).mean(1)) if self.deviation.ndim > 1 else self

    def precision(self, y: Tensor) -> Tensor:
        return self._wide(y) ** -2

    def misfit(self, y: Tensor, mean: Tensor) -> Tensor:
        squares: Tensor = (y - mean).abs().square() / self._wide(y) ** 2
        return squares / 2 if y.is_complex() else squares


class Poisson(Scattered):
    """y = Poisson(A(x) + background): counts of a detector. background (B or 1, ...) in counts, known on average.

    Variances are told from y smoothed over neighbours, never below FEWEST: a single count says little of its mean.
    """

    per_row = ("background",)
    background: Tensor

    def __init__(self, background: float | Tensor = 0.0) -> None:
        super().__init__()
        found = torch.as_tensor(background, dtype=torch.float32)
        self.register_buffer("background", found.reshape(1) if found.ndim == 0 else found)

    def _behind(self, y: Tensor) -> Tensor:
        wide = self.background.reshape(-1, *[1] * (y.ndim - 1)) if self.background.ndim == 1 else self.background
        return wide.to(y)

    def draw(self, mean: Tensor, rng: Rng) -> Tensor:
        expected = (mean + self._behind(mean)).clamp(min=0).detach().cpu().double().numpy()
        counts = [stream.poisson(row) for stream, row in zip(rng.child("counts").streams, expected, strict=True)]
        return torch.from_numpy(np.stack(counts)).to(mean)

    def nll(self, y: Tensor, mean: Tensor) -> Tensor:
        expected = (mean + self._behind(y)).clamp(min=1e-6)
        return (expected - y * expected.log()).flatten(1).sum(1)

    def corner(self) -> Poisson:
        return Poisson(self.background.flatten(1).mean(1)) if self.background.ndim > 1 else self

    def linear(self, y: Tensor) -> Tensor:
        return y - self._behind(y)

    def precision(self, y: Tensor) -> Tensor:
        around = F.avg_pool2d(F.pad(y.flatten(0, -3)[:, None], (2, 2, 2, 2), mode="replicate"), 5, 1)
        return 1 / around.reshape(y.shape).clamp(min=FEWEST)

    def misfit(self, y: Tensor, mean: Tensor) -> Tensor:
        expected = (mean + self._behind(y)).clamp(min=FEWEST)
        squares: Tensor = (y - expected).square() / expected
        return squares
