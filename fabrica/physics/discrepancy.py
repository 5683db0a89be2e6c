"""How strong a prior may be: as long as its answer explains y as noise alone would (Morozov 1966), row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from ..contracts import Scattered

State = TypeVar("State")


def mean_misfit(noise: Scattered, y: Tensor, mean: Tensor, part: Tensor) -> Tensor:
    """(B,): how far a mean lies off y in this part of it (bool, broadcasts), as a multiple of what noise leaves."""
    off = noise.misfit(y, mean)
    return (off * part).flatten(1).sum(1) / part.expand_as(off).flatten(1).sum(1).clamp(min=1)


def strongest(
    walk: Callable[[Tensor, State], State],
    misfit: Callable[[State], Tensor],
    start: State,
    shares: tuple[float, float],
    like: Tensor,
    rounds: int,
) -> tuple[Tensor, State]:
    """(the largest share between the two whose answer has a misfit of at most 1, (B, 1, ...) as `like`; the last
    state).

    `walk` goes on from a state with a share of each row, `misfit` (B,) judges where it came to; shares are halved in
    their logarithm.
    """
    low, high = (torch.full_like(like, share).log() for share in shares)
    state = start
    for _ in range(rounds):
        share = (low + high) / 2
        state = walk(share.exp(), state)
        rough = (misfit(state) > 1).reshape(share.shape)  # too strong
        low, high = torch.where(rough, low, share), torch.where(rough, share, high)
    return low.exp(), state
