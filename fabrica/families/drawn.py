"""A trained prior joined with a sampler: what a recipe's `sampler:` line makes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..contracts import Denoiser, Family, Measured, Problem, Reconstructor, Sampler
from ..registry import refusal
from ..rng import Rng
from ..sampling import SAMPLERS

FEW = "dpm"  # draws of a denoiser without a sampler of its own: second order at one evaluation a step


class Drawn(Reconstructor):
    """Draws from `prior` with `sampler` and its options; nothing to train."""

    def __init__(self, prior: Family, sampler: Sampler, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.prior, self.sampler, self.options = prior, sampler, dict(options)
        self.deterministic = sampler.deterministic

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return {}

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        raise TypeError("Drawn has nothing to train; train its prior.")

    @property
    def multiple(self) -> int:
        return self.prior.multiple

    def with_steps(self, count: int) -> Family | None:
        if "steps" not in inspect.signature(self.sampler.draw).parameters:
            return None
        return Drawn(self.prior, self.sampler, {**self.options, "steps": count})

    @torch.no_grad()
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        """Raises ValueError when the sampler cannot answer this problem."""
        kinds = {name: Measured(type(m.operator), type(m.noise)) for name, m in problem.measurements.items()}
        if reason := refusal(type(self.prior), self.sampler, kinds):
            raise ValueError(reason)
        with torch.set_grad_enabled(self.sampler.needs_gradient):
            return self.sampler.draw(self.prior, problem, rng, **self.options).detach()


def with_steps(family: Family, count: int) -> Family | None:
    """The family told to draw in about `count` evaluations of its network; None when it cannot be told."""
    if (own := family.with_steps(count)) is not None or not isinstance(family, Denoiser):
        return own
    return Drawn(family, SAMPLERS.find(FEW), {"steps": count})
