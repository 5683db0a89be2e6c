"""Classifier-free guidance (Ho and Salimans 2022): of denoisers in a band of noise levels (Kynkaanniemi et al. 2024),
of words and of few steps in every evaluation (Chang et al. 2023; Luo et al. 2023).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..contracts import Condition, Denoiser, Family, Problem
from ..rng import Rng
from ..sampling.solvers import midpoint
from .autoregressive import Autoregressive
from .consistency import Consistency
from .shortcut import Shortcut

WITHOUT_BAND = (Autoregressive, Consistency, Shortcut)  # what their network answers enters a draw linearly


def can_be_guided(kind: type[Family]) -> bool:
    """Whether draws of such a family can be made to obey a condition more than was learned."""
    return issubclass(kind, (Denoiser, *WITHOUT_BAND))


def with_guidance(family: Family, names: Sequence[str], strength: float, low: float, high: float) -> Family:
    """The family with guidance of its draws; the band matters to denoisers alone. Raises TypeError for others."""
    if isinstance(family, Denoiser):
        return Guided(family, names, strength, low, high)
    if not isinstance(family, WITHOUT_BAND):
        raise TypeError(
            f"{type(family).__name__} cannot be guided. Write: family: {{name: flow}}, or leave guidance out"
        )
    twin = copy.copy(family)  # shares its weights
    twin._modules = {**family._modules, "net": Strengthened(family.net, names, strength)}
    return twin


class Guided(Denoiser):
    """D(x) + (strength - 1) (D(x) - D(x without `names`)): the condition is obeyed more, at the cost of variety.

    Only where low < sigma <= high, in units of x: above, guidance costs variety, below it changes nothing but the cost.
    In the band one call holds both answers; outside it a step costs what it costs without guidance. `names` are the
    conditions that training has hidden, as the answer without them has to be learned.
    """

    def __init__(
        self, prior: Denoiser, names: Sequence[str], strength: float, low: float = 0.15, high: float = 3.0
    ) -> None:
        super().__init__()
        self.prior, self.names, self.strength, self.low, self.high = prior, tuple(names), strength, low, high

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return {}

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        raise TypeError("Guided has nothing to train; train its prior.")

    def denoise(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """As the prior outside the band."""
        (inside,) = torch.nonzero((sigma > self.low) & (sigma <= self.high), as_tuple=True)
        if not len(inside):
            return self.prior.denoise(x, sigma, condition)
        rows = torch.arange(len(x), device=x.device)
        both = torch.cat([rows, inside])
        answers = self.prior.denoise(x[both], sigma[both], _joined(condition, self.names, rows, inside))
        with_condition, without = answers[: len(x)], answers[len(x) :]
        change = with_condition[inside] - without
        return with_condition.index_add(0, inside, (self.strength - 1) * change)

    @torch.no_grad()
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        return midpoint(self, problem, rng)


class Strengthened(nn.Module):
    """Called like the network that it holds: its answer + (strength - 1) times what the condition `names` change in it.

    One call of twice the rows.
    """

    def __init__(self, net: nn.Module, names: Sequence[str], strength: float) -> None:
        super().__init__()
        self.net, self.names, self.strength = net, tuple(names), strength

    def forward(self, x: Tensor, level: Tensor, condition: Condition) -> Tensor:
        rows = torch.arange(len(x), device=x.device)
        both = torch.cat([rows, rows])
        answers = cast(Tensor, self.net(x[both], level[both], _joined(condition, self.names, rows, rows)))
        with_condition, without = answers.chunk(2)
        return with_condition + (self.strength - 1) * (with_condition - without)


def _joined(condition: Condition, names: Sequence[str], rows: Tensor, inside: Tensor) -> Condition:
    """All rows as they are, then those inside the band without `names`."""
    whole = condition.rows(rows)
    bare = condition.drop(*(n for n in names if n in condition.values)).rows(inside)
    known = {*whole.present, *bare.present}
    ones = {n: torch.ones(len(rows), dtype=torch.bool, device=rows.device) for n in known}
    present = {n: torch.cat([whole.present.get(n, ones[n]), bare.present.get(n, ones[n][inside])]) for n in known}
    return Condition({n: torch.cat([v, bare.values[n]]) for n, v in whole.values.items()}, present)
