"""Classical solvers: what the data say with no more than a smoothness of energy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

DAMPING = 1e-3  # of the largest eigenvalue of A^H A: what noise is not followed below


def conjugate_gradients(
    normal: Callable[[Tensor], Tensor], right: Tensor, *, iterations: int, start: Tensor | None = None
) -> Tensor:
    """x with normal(x) = right, row by row (Hestenes and Stiefel 1952); `normal` is symmetric and positive.

    Rows that are solved stay as they are. right (B, ...) real.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))

    x = torch.zeros_like(right) if start is None else start.clone()
    residual = right - normal(x) if start is not None else right.clone()
    direction, energy = residual.clone(), dot(residual, residual)
    floor = 1e-12 * dot(right, right).clamp(min=1e-30)
    for _ in range(iterations):
        if bool((energy <= floor).all()):
            break
        moved = normal(direction)
        step = torch.where(energy > floor, energy / dot(direction, moved).clamp(min=1e-30), 0.0)
        x = x + step * direction
        residual = residual - step * moved
        before, energy = energy, dot(residual, residual)
        direction = residual + (energy / before.clamp(min=1e-30)) * direction
    return x


def largest_eigenvalue(normal: Callable[[Tensor], Tensor], like: Tensor, iterations: int = 12) -> Tensor:
    """Of a symmetric positive map, by power iterations from a constant image, (B, 1, ...)."""
    x = torch.ones_like(like)
    value = torch.ones(len(like), *[1] * (like.ndim - 1), device=like.device)
    for _ in range(iterations):
        moved = normal(x)
        value = moved.flatten(1).norm(dim=1).reshape(value.shape)
        x = moved / value.clamp(min=1e-30)
    return value
