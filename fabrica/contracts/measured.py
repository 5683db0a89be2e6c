"""What was measured of x and how: y = A(x) + noise."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

import torch
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

    def crude(self, y: Tensor) -> Tensor | None:
        """A first answer by the data alone (zero-filled, back-projected), to be beaten; None without one."""
        return None

    def solved(self, y: Tensor) -> Mapping[str, Tensor]:
        """What classical solvers make of y, by the names that the field has for them."""
        return {}

    def measured(self, y: Tensor) -> Tensor:
        """bool, broadcasts to y: what of it was measured; all of it, unless the physics says otherwise."""
        return torch.ones((1,) * y.ndim, dtype=torch.bool, device=y.device)

    def corner(self, sides: tuple[int, ...]) -> Self:
        """The same physics on the first voxels of its grid, where memory and costs are counted.

        Operators that are tied to a grid say how.
        """
        return self


class Noise(Rowwise):
    """How y scatters around A(x): Gaussian, Rician, Poisson with a background, a categorical answer."""

    @abstractmethod
    def draw(self, mean: Tensor, rng: Rng) -> Tensor: ...

    @abstractmethod
    def nll(self, y: Tensor, mean: Tensor) -> Tensor:
        """-log p(y | mean) up to a constant, (B,)."""

    def corner(self) -> Self:
        """The same for a y of any shape: where memory and costs are counted."""
        return self


class Scattered(Noise):
    """Noise with a variance, so that y can be weighed and a misfit told."""

    @abstractmethod
    def precision(self, y: Tensor) -> Tensor:
        """1 / variance of y, of each part where it is complex, told from y; broadcasts to it."""

    @abstractmethod
    def misfit(self, y: Tensor, mean: Tensor) -> Tensor:
        """The shape of y: squared distance in units of the variance that is expected; 1 on average."""

    def linear(self, y: Tensor) -> Tensor:
        """y without what is there when A(x) is 0 (background counts)."""
        return y


@dataclass(frozen=True, slots=True)
class Measured:
    """What kind of y a job comes with, known before any data."""

    operator: type[Operator]
    noise: type[Noise]
    shape: tuple[int, ...] | None = None  # of one y; None where it differs from case to case


@dataclass(frozen=True, slots=True)
class Measurement:
    """A value with the physics that made it."""

    value: Tensor  # (B, ...)
    operator: Operator
    noise: Noise
    affine: Tensor | None = None  # (4, 4) index (z, y, x, 1) -> LPS mm of a scanner's image; None = not stated

    def nll(self, x: Tensor) -> Tensor:
        """-log p(y | x), (B,); its gradient is the pull of the data."""
        return self.noise.nll(self.value, self.operator(x))

    def rows(self, index: Tensor) -> Measurement:
        return replace(self, value=self.value[index], operator=self.operator.rows(index), noise=self.noise.rows(index))

    def to(self, device: torch.device) -> Measurement:
        """The same there; what is there already is not copied."""
        return replace(
            self, value=self.value.to(device), operator=self.operator.to(device), noise=self.noise.to(device)
        )

    def corner(self, shape: Sequence[int]) -> Measurement:
        """Of the first voxels (C, *sides) alone, as if nothing were there: enough to count memory and costs on."""
        operator = self.operator.corner(tuple(shape[1:]))
        blank = torch.zeros(len(self.value), *shape, device=self.value.device)
        with torch.no_grad():
            return Measurement(operator(blank), operator, self.noise.corner())


def joined(measurements: Sequence[Measurement]) -> Measurement:
    """Rows of several, of one kind and shape, as one; raises ValueError where shapes or the physics that rows share
    differ.
    """
    if len({tuple(m.value.shape[1:]) for m in measurements}) > 1:
        raise ValueError("Measurements of different shapes make no batch. Write: train: {batch: 1}")
    counts = [len(m.value) for m in measurements]
    operator = _joined([m.operator for m in measurements], counts)
    noise = _joined([m.noise for m in measurements], counts)
    return Measurement(torch.cat([m.value for m in measurements]), operator, noise, measurements[0].affine)


Module = TypeVar("Module", bound=Rowwise)


def _inside(modules: Sequence[Rowwise], name: str) -> list[Any]:
    return [m._modules[name] for m in modules]


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None or one is other:
        return one is other
    return one.shape == other.shape and one.layout == other.layout == torch.strided and bool((one == other).all())


def _joined(modules: Sequence[Module], counts: Sequence[int]) -> Module:
    """One module with the rows of all; what the rows of each share is repeated for them."""
    twin = copy.copy(modules[0])
    for store in ("_buffers", "_parameters"):
        own: dict[str, Tensor | None] = {}
        for name, tensor in getattr(modules[0], store).items():
            if name not in twin.per_row:
                if any(not _same(getattr(m, store)[name], tensor) for m in modules):
                    raise ValueError(f"{type(twin).__name__} differs from case to case. Write: train: {{batch: 1}}")
                own[name] = tensor
                continue
            parts = [getattr(m, store)[name] for m in modules]
            own[name] = torch.cat(
                [p.expand(n, *p.shape[1:]) if len(p) == 1 else p for p, n in zip(parts, counts, strict=True)]
            )
        object.__setattr__(twin, store, own)
    inner = {
        name: _joined(_inside(modules, name), counts) if isinstance(part, Rowwise) else part
        for name, part in modules[0]._modules.items()
    }
    object.__setattr__(twin, "_modules", inner)
    return twin
