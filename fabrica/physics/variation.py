"""Total variation: the image of the fewest edges that explains what was measured (Rudin, Osher and Fatemi 1992)."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter

import torch
from torch import Tensor

from ..contracts import Scattered
from .algebra import LinearOperator
from .classical import largest_eigenvalue
from .consistency import Data
from .discrepancy import Search, explained

INNER = 40  # iterations a round, each beginning at the answer of the one before
BALANCE = 0.5  # step of the edges' side as a part of the data's
SEARCH = Search(1e-5, 1.0, 10)  # of the weight, as a part of what leaves no edge at all


def total_variation(operator: LinearOperator, noise: Scattered, y: Tensor) -> Tensor:
    """(B, 1, *sides): argmin of |y - A x|^2 / (2 variance) + weight |grad x|, with the largest weight whose answer
    explains y as well as noise alone would leave it: a mean misfit of 1 (Morozov's discrepancy). Each row has its own.

    x is real, so that the phase that an operator holds is known to it, as it is to the samplers beside it.
    """
    data = Data.told(operator, noise, y)
    size = largest_eigenvalue(data.normal, data.pull)
    full = _largest_pull(data.pull)

    def walk(data: Data, share: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return descended(data.normal, data.pull, share * full, size, state, operator.feasible)

    blank = torch.zeros_like(data.pull), torch.zeros_like(_gradient(data.pull))
    share, state = explained(data, noise, y, walk, itemgetter(0), blank, SEARCH, full)
    return walk(data, share, state)[0]


def descended(
    normal: Callable[[Tensor], Tensor],
    pull: Tensor,
    weight: Tensor,
    size: Tensor,
    start: tuple[Tensor, Tensor],
    feasible: Callable[[Tensor], Tensor] = lambda x: x,
    iterations: int = INNER,
) -> tuple[Tensor, Tensor]:
    """x and the dual of its edges after some iterations (Condat 2013, Vu 2013) of min x N x / 2 - pull x + weight
    |grad x|.

    `size` (B, 1, ...): the largest eigenvalue of N. Every row has its own weight (B, 1, ...).
    """
    x, dual = start
    axes = x.ndim - 2
    edge_step = BALANCE * size / (4 * axes)
    step = 1 / (size / 2 + edge_step * 4 * axes)
    bound = weight[:, None]
    for _ in range(iterations):
        ahead = feasible(x - step * (normal(x) - pull + _divergence(dual)))
        dual = dual + edge_step[:, None] * _gradient(2 * ahead - x)
        length = dual.square().sum(1, keepdim=True).sqrt()  # several times as fast as the norm over a short axis
        dual = dual * (bound / length.clamp(min=1e-30)).clamp(max=1)
        x = ahead
    return x, dual


def _gradient(x: Tensor) -> Tensor:
    """(B, axes, C, *sides): differences to the next neighbour, 0 at the last."""
    parts = []
    for d in range(2, x.ndim):
        slope = torch.zeros_like(x)
        slope.narrow(d, 0, x.shape[d] - 1).copy_(x.diff(dim=d))
        parts.append(slope)
    return torch.stack(parts, 1)


def _divergence(dual: Tensor) -> Tensor:
    """The adjoint of `_gradient`."""
    found = torch.zeros_like(dual[:, 0])
    for k in range(dual.shape[1]):
        d = k + 2
        part = dual[:, k].narrow(d, 0, found.shape[d] - 1)
        found.narrow(d, 1, found.shape[d] - 1).add_(part)
        found.narrow(d, 0, found.shape[d] - 1).sub_(part)
    return found


def _largest_pull(pull: Tensor) -> Tensor:
    """(B, 1, ...): about the weight above which the answer has no edge."""
    return pull.flatten(1).abs().amax(1).reshape(-1, *[1] * (pull.ndim - 1)) * max(pull.shape[2:]) / 8
