"""A prior over the codes of a trained codec (Rombach et al. 2022): draws are codes first, then images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..contracts import Codec, Condition, Family, Field, Problem, Signature
from ..networks.blocks import PLANES
from ..rng import Rng

SIZE = 0.3  # deviation of the codes as the prior sees them: that of images, which families' defaults are made for


def latent_signature(signature: Signature, codec: Codec) -> Signature:
    """What the prior is asked for: as many channels as the codec has, under the same condition."""
    return replace(signature, x=(Field("latent", "intensity", codec.latent_shape[0]),))


class Latent(Family):
    """`prior` learns and draws codes of `codec`, which is frozen; conditions on the grid are averaged to the grid of codes."""

    spread: Tensor

    def __init__(self, codec: Codec, prior: Family, condition: tuple[Field, ...]) -> None:
        super().__init__()
        self.codec, self.prior = codec.requires_grad_(False), prior
        self.planes = tuple(f.name for f in condition if f.kind in PLANES)
        self.factor = int(getattr(codec, "factor", 1))
        self.register_buffer("spread", torch.ones(()))

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return self.prior.groups()

    def _shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.codec.latent_shape[0], *(n // self.factor for n in shape[1:]))

    def _inner(self, problem: Problem, target: Tensor | None) -> Problem:
        pool = F.avg_pool2d if len(problem.shape) == 3 else F.avg_pool3d
        given = problem.condition
        values = {n: pool(v.float(), self.factor) if n in self.planes else v for n, v in given.values.items()}
        return replace(
            problem,
            shape=self._shape(problem.shape),
            condition=Condition(values, given.present),
            target=target,
            weight=None,
        )

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        if problem.target is None:
            raise ValueError(
                f"Training needs targets; {problem.cases[0]} has none. Leave such cases out of the training part."
            )
        self.codec.eval()
        with torch.no_grad():
            codes = self.codec.encode(problem.target)
            if self.training:
                self.spread.lerp_(codes.std(), 0.05)
        inner = self._inner(problem, codes * (SIZE / self.spread))
        if problem.weight is not None:  # an image that is not wholly known has no code
            whole = problem.weight.flatten(1).amin(1) > 0
            inner = replace(inner, weight=whole.to(codes).reshape(-1, *[1] * (codes.ndim - 1)))
        return self.prior.loss(inner, group, rng, progress)

    @torch.no_grad()
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        codes = self.prior.sample(self._inner(problem, None), rng)
        return self.codec.decode(codes * (self.spread / SIZE), problem.condition)
