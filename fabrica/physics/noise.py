"""How measurements scatter around A(x)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..contracts import Noise
from ..rng import Rng


class Exact(Noise):
    """y = A(x): what is known is known."""

    def draw(self, mean: Tensor, rng: Rng) -> Tensor:
        return mean

    def nll(self, y: Tensor, mean: Tensor) -> Tensor:
        """0 where they agree, infinite elsewhere; a likelihood without a slope, for samplers that put y in place."""
        apart = (y - mean).abs().flatten(1).amax(1) > 0
        return torch.where(apart, torch.full_like(apart, math.inf, dtype=mean.dtype), 0.0)


class Gaussian(Noise):
    """y = A(x) + N(0, deviation^2), independent; of complex numbers both parts. `deviation`: a number, or (B,)."""

    per_row = ("deviation",)
    deviation: Tensor

    def __init__(self, deviation: float | Tensor) -> None:
        super().__init__()
        self.register_buffer("deviation", torch.as_tensor(deviation, dtype=torch.float32).reshape(-1))

    def draw(self, mean: Tensor, rng: Rng) -> Tensor:
        wide = self.deviation.reshape(-1, *[1] * (mean.ndim - 1))
        if not mean.is_complex():
            return mean + wide * rng.child("noise").normal(*mean.shape[1:]).to(mean)
        parts = rng.child("noise").normal(*mean.shape[1:], 2).to(mean.device)
        return mean + wide * torch.view_as_complex(parts)

    def nll(self, y: Tensor, mean: Tensor) -> Tensor:
        off = torch.view_as_real(y - mean) if y.is_complex() else y - mean
        squares: Tensor = off.square().flatten(1).sum(1) / (2 * self.deviation**2)
        return squares
