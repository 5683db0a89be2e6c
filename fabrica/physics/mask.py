"""What is known of x itself: voxels that were measured, and nothing of the others."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts import Measurement
from .algebra import LinearOperator
from .noise import Exact


class Mask(LinearOperator):
    """y = x where `known` (bool, (B or 1, C, *axes)), 0 elsewhere: inpainting, missing slices, a scan around a
    lesion.
    """

    per_row = ("known",)
    details = "image"
    known: Tensor

    def __init__(self, known: Tensor) -> None:
        super().__init__()
        self.register_buffer("known", known.bool())

    def apply_to(self, x: Tensor) -> Tensor:
        return x * self.known

    def adjoint(self, y: Tensor) -> Tensor:
        return y * self.known

    def measured(self, y: Tensor) -> Tensor:
        return self.known

    def corner(self, sides: tuple[int, ...]) -> Mask:
        return Mask(self.known[(slice(None), slice(None), *(slice(n) for n in sides))])

    def settled(self) -> Tensor:
        """bool (B,): rows of which every voxel is known."""
        whole: Tensor = self.known.flatten(1).all(1)
        return whole


def settled(measured: Measurement, rows: int) -> Tensor:
    """bool (B,): rows of which nothing is left to be drawn; none but of what a mask shows exactly."""
    if not isinstance(measured.operator, Mask) or not isinstance(measured.noise, Exact):
        return torch.zeros(rows, dtype=torch.bool)
    return measured.operator.settled().cpu().expand(rows)
