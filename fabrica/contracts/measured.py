"""What was measured of x and how: y = A(x) + noise."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

from torch import Tensor, nn

from ..rng import Rng


class Rowwise(nn.Module, ABC):
    """A module that says which of its buffers and parameters have one entry per row."""

    per_row: tuple[str, ...] = ()  # their first axis is B, or 1 when the rows share it

    def rows(self, index: Tensor) -> Self:
        """The same module for some rows; everything that is not per row is shared, not copied."""
        twin = copy.copy(self)
        for store in ("_buffers", "_parameters"):
            own = {n: t[index] if n in self.per_row and len(t) > 1 else t for n, t in getattr(self, store).items()}
            object.__setattr__(twin, store, own)
        parts = {name: m.rows(index) if isinstance(m, Rowwise) else m for name, m in self._modules.items()}
        object.__setattr__(twin, "_modules", parts)
        return twin


class Operator(Rowwise):
    """Forward physics y = A(x), called as operator(x); its unknowns (coils, motion) are its nn.Parameters."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...


class Noise(Rowwise):
    """How y scatters around A(x): Gaussian, Rician, Poisson with a background, a categorical answer."""

    @abstractmethod
    def draw(self, mean: Tensor, rng: Rng) -> Tensor: ...

    @abstractmethod
    def nll(self, y: Tensor, mean: Tensor) -> Tensor:
        """-log p(y | mean) up to a constant, (B,)."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A value with the physics that made it."""

    value: Tensor  # (B, ...)
    operator: Operator
    noise: Noise

    def nll(self, x: Tensor) -> Tensor:
        """-log p(y | x), (B,); its gradient is the pull of the data."""
        return self.noise.nll(self.value, self.operator(x))

    def rows(self, index: Tensor) -> Measurement:
        return Measurement(self.value[index], self.operator.rows(index), self.noise.rows(index))
