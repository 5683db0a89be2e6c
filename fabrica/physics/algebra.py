"""The algebra of operators: linear maps, adjoints, products and sums of steps. Imports the contracts only."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor

from ..contracts import Operator
from .classical import DAMPING, conjugate_gradients, largest_eigenvalue

ITERATIONS = 30  # of conjugate gradients as a competitor


class LinearOperator(Operator):
    """A linear map without unknowns. Its gradient is its adjoint, so code outside torch may do the work."""

    classical = ""  # what its field calls the least squares answer; none where nobody asks for it
    details: Literal["spectrum", "image", "lines"] = (
        "lines"  # how y holds them: frequencies, pixels, rows of a detector
    )

    @property
    def radius(self) -> Tensor | None:
        """How far each number of y lies from the middle of the frequencies, 1 at the end of an axis; broadcasts to y.

        None where `details` says it.
        """
        return None

    @abstractmethod
    def apply_to(self, x: Tensor) -> Tensor:
        """A x; x (B, C, *axes)."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Re<A x, y> = Re<x, adjoint(y)>, in the dtype of x."""

    def normal(self, x: Tensor) -> Tensor:
        """A^H A x; whoever can do it faster than one after the other says how."""
        return self.adjoint(self.apply_to(x))

    def weighed(self, precision: Tensor, x: Tensor) -> Tensor:
        """A^H precision A x; where a row has one precision, by the operator's own way to A^H A."""
        if precision[:1].numel() == 1:
            return precision.reshape(-1, *[1] * (x.ndim - 1)) * self.normal(x)
        return self.adjoint(precision * self.apply_to(x))

    def crude(self, y: Tensor) -> Tensor | None:
        return self.adjoint(y)

    def feasible(self, x: Tensor) -> Tensor:
        """x without what the physics excludes: voxels in which there is nothing, negative activity."""
        return x

    def solved(self, y: Tensor) -> Mapping[str, Tensor]:
        """The least squares answer, damped, by conjugate gradients; nothing where a solver has no name here."""
        if not self.classical:
            return {}
        right = self.adjoint(y)
        damping = DAMPING * largest_eigenvalue(self.normal, right)
        x = conjugate_gradients(lambda x: self.normal(x) + damping * x, right, iterations=ITERATIONS)
        return {self.classical: x}

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _Differentiable.apply(x, self)  # type: ignore[no-untyped-call]
        return result

    @property
    def H(self) -> LinearOperator:  # noqa: N802 (the field's symbol for the adjoint)
        """The adjoint as an operator, differentiable too (unrolled networks)."""
        return Adjoint(self)

    def __matmul__(self, inner: LinearOperator) -> LinearOperator:
        """(A @ B)(x) = A(B(x)), still linear; use `Chain` when either is not."""
        return LinearChain(self, inner)


class Gridded(LinearOperator):
    """Physics of a scanner that has a grid of its own."""

    sides: tuple[int, ...]  # of the grid of x

    @abstractmethod
    def on_grid(self, sides: Sequence[int]) -> Self:
        """The same physics for an x on a grid around the scanner's."""


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: LinearOperator) -> Tensor:
        ctx.operator = operator
        return operator.apply_to(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.operator.H(gradient), None


class Adjoint(LinearOperator):
    """A^H as an operator of its own."""

    def __init__(self, of: LinearOperator) -> None:
        super().__init__()
        self.of = of

    def apply_to(self, x: Tensor) -> Tensor:
        return self.of.adjoint(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.of.apply_to(y)


class LinearChain(LinearOperator):
    """outer(inner(x)), both linear."""

    def __init__(self, outer: LinearOperator, inner: LinearOperator) -> None:
        super().__init__()
        self.outer, self.inner = outer, inner

    def apply_to(self, x: Tensor) -> Tensor:
        return self.outer.apply_to(self.inner.apply_to(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))


class Chain(Operator):
    """outer(inner(x)) where either is nonlinear or has unknowns, e.g. physics after a decoder."""

    def __init__(self, outer: Operator, inner: Operator) -> None:
        super().__init__()
        self.outer, self.inner = outer, inner

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.outer(self.inner(x))
        return result
