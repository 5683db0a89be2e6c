"""What was measured, as solvers and networks ask of it: how it pulls at an image, and the nearest image that agrees."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..contracts import Measurement, Scattered
from ..rng import Rng
from .algebra import LinearOperator
from .classical import conjugate_gradients

INNER = 12  # conjugate gradients of a step of consistency; they start at the guess
PLAIN = 10  # of an answer by the data alone: stopped early, it follows little of their noise


@dataclass(frozen=True)
class Data:
    """N = A^H W A and A^H W y, where W is how precisely each number of y is known."""

    operator: LinearOperator
    precision: Tensor
    pull: Tensor  # (B, C, *axes): A^H W y

    @staticmethod
    def of(measured: Measurement, kept: Tensor | None = None) -> Data:
        """`kept`: bool, broadcasts to y; what of it counts. Raises TypeError for physics that is not linear."""
        operator, noise = measured.operator, measured.noise
        if not isinstance(operator, LinearOperator) or not isinstance(noise, Scattered):
            raise TypeError(f"{type(operator).__name__} with {type(noise).__name__} is not linear with a variance.")
        return Data.told(operator, noise, measured.value, kept)

    @staticmethod
    def told(operator: LinearOperator, noise: Scattered, y: Tensor, kept: Tensor | None = None) -> Data:
        """The same of physics that is known to be linear."""
        precision = noise.precision(y)
        if kept is not None:
            precision = precision * kept
        return Data(operator, precision, operator.adjoint(precision * noise.linear(y)))

    def normal(self, x: Tensor) -> Tensor:
        return self.operator.weighed(self.precision, x)

    def noisier(self, like: Tensor, rng: Rng) -> tuple[Data, Tensor]:
        """The same with as much noise once more, and that noise; y is `like`."""
        drawn = rng.child("noise").normal(*like.shape[1:], *([2] if like.is_complex() else [])).to(like.device)
        noise = (torch.view_as_complex(drawn) if like.is_complex() else drawn) * self.precision.clamp(min=1e-30) ** -0.5
        return replace(self, pull=self.pull + self.operator.adjoint(self.precision * noise)), noise

    def plain(self, iterations: int = PLAIN) -> Tensor:
        """Least squares by so many conjugate gradients from nothing."""
        return self.operator.feasible(conjugate_gradients(self.normal, self.pull, iterations=iterations))

    def nearest(self, guess: Tensor, width: Tensor | float, iterations: int = INNER) -> Tensor:
        """argmin of |y - A x|^2 W + |x - guess|^2 / width^2: what is most likely where `guess` is off by `width`.

        Differentiable in both, without a memory of its iterations: the gradient solves the same system
        (Aggarwal et al. 2019).
        """
        wide = torch.as_tensor(width, dtype=guess.dtype, device=guess.device)
        result: Tensor = _Nearest.apply(guess, wide, self, iterations)  # type: ignore[no-untyped-call]
        return self.operator.feasible(result)

    def solved(self, right: Tensor, prior: Tensor, iterations: int, start: Tensor | None = None) -> Tensor:
        """(N + prior) x = right."""
        return conjugate_gradients(partial(self._system, prior), right, iterations=iterations, start=start)

    def _system(self, prior: Tensor, x: Tensor) -> Tensor:
        return self.normal(x) + prior * x


class _Nearest(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, guess: Tensor, width: Tensor, data: Data, iterations: int) -> Tensor:
        prior = width**-2
        x = data.solved(data.pull + prior * guess, prior, iterations, guess)
        ctx.save_for_backward(guess, width, x)
        ctx.data, ctx.iterations = data, iterations
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        guess, width, x = ctx.saved_tensors
        back = ctx.data.solved(gradient, width**-2, ctx.iterations)
        change = (back * (guess - x)).sum_to_size(width.shape) if width.ndim else (back * (guess - x)).sum()
        return back * width**-2, -2 * width**-3 * change, None, None


def some_of(measured: Measurement, share: float, rng: Rng) -> Tensor:
    """bool, broadcasts to y: so much of what was measured, by chance; each row its own.

    Samples of k-space, pixels of an image, whole views of a detector: numbers whose noise is their own.
    """
    operator, y = measured.operator, measured.value
    views = isinstance(operator, LinearOperator) and operator.details == "lines"
    sides = (1, *y.shape[2:-1], 1) if views else (1, *y.shape[2:])
    return operator.measured(y) & (rng.child("share").uniform(*sides) < share).to(y.device)
