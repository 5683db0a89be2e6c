"""How strong a prior may be: as long as its answer explains y as noise alone would (Morozov 1966), row by row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from ..contracts import Scattered
from ..rng import Rng
from .consistency import Data

SETTLING = 3  # walks after which the least share follows as much of the noise as it does

State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class Search:
    """Which shares are tried, and how often their range is halved."""

    lowest: float
    highest: float
    rounds: int


def mean_misfit(noise: Scattered, y: Tensor, mean: Tensor, part: Tensor) -> Tensor:
    """(B,): how far a mean lies off y in this part of it (bool, broadcasts), as a multiple of what noise leaves."""
    off = noise.misfit(y, mean)
    return (off * part).flatten(1).sum(1) / part.expand_as(off).flatten(1).sum(1).clamp(min=1)


def explained(
    data: Data,
    noise: Scattered,
    y: Tensor,
    walk: Callable[[Data, Tensor, State], State],
    image: Callable[[State], Tensor],
    start: State,
    search: Search,
    like: Tensor,
) -> tuple[Tensor, State]:
    """`strongest` of linear physics. Where that is not quite the scan's (coil maps, a phase) an answer reaches a misfit
    of 1 only by following the noise, or never: what the least share leaves and what it follows may be left.
    """
    least, seen = torch.full_like(like, search.lowest), data.operator.measured(y)

    def misfit(state: State) -> Tensor:
        return mean_misfit(noise, y, data.operator.apply_to(image(state)), seen)

    def settled(data: Data, state: State) -> State:
        for _ in range(SETTLING):
            state = walk(data, least, state)
        return state

    start = settled(data, start)
    most = misfit(start) + followed(data, y, image(start), lambda other: image(settled(other, start)))
    return strongest(partial(walk, data), misfit, start, search, like, most.clamp(min=1))


def followed(data: Data, y: Tensor, image: Tensor, answer: Callable[[Data], Tensor]) -> Tensor:
    """(B,): the share of its noise that an answer follows, told by as much noise once more (Ye 1998).

    `image` is the answer to `data`; `answer` gives that to others.
    """
    noisier, noise = data.noisier(y, Rng([0] * len(y)))
    left = noise - data.operator.apply_to(answer(noisier) - image)
    squares = data.precision * left.abs().square() / (2 if y.is_complex() else 1)
    part = data.operator.measured(y)
    return 1 - (squares * part).flatten(1).sum(1) / part.expand_as(squares).flatten(1).sum(1).clamp(min=1)


def strongest(
    walk: Callable[[Tensor, State], State],
    misfit: Callable[[State], Tensor],
    start: State,
    search: Search,
    like: Tensor,
    most: Tensor | float = 1.0,
) -> tuple[Tensor, State]:
    """(the largest share between the two whose answer has a misfit of `most` (B,) at most, (B, 1, ...) as `like`; the
    last state).

    `walk` goes on from a state with a share of each row, `misfit` (B,) judges where it came to; shares are halved in
    their logarithm.
    """
    low, high = (torch.full_like(like, share).log() for share in (search.lowest, search.highest))
    state = start
    for _ in range(search.rounds):
        share = (low + high) / 2
        state = walk(share.exp(), state)
        rough = (misfit(state) > most).reshape(share.shape)  # too strong
        low, high = torch.where(rough, low, share), torch.where(rough, share, high)
    return low.exp(), state
