"""Bridges: the walk starts at the image that is given, or at what the data say, not at noise."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..contracts import Condition, Field, Problem, Reconstructor, Signature
from ..networks.backbone import backbone
from ..networks.unet import UNetShape
from ..physics.consistency import Data
from ..rng import Rng
from ..sampling.restorers import plain_answer
from .misfit import squared
from .precondition import wide
from .unrolled import the_one

START = "what the data say"  # the plane that shows it, where a job has raw data


class Bridge(Reconstructor):
    """A Brownian bridge from x to the image where the walk starts (Liu et al. 2023; Li et al. 2023).

    x_t = (1 - t) x + t start + noise (t (1 - t))^1/2 N(0, 1). The network answers with x, preconditioned by the
    variances of x_t (Zhou et al. 2024), and is shown the start besides. A draw goes from t = 1 to 0 in `steps`, the
    shorter the nearer to x: its first step puts in the noise, the others keep it (Zheng et al. 2025).

    `start` names the given image; unless told, the first that has the channels of x. Where a job has raw data, the walk
    starts at their classical answer, and every step ends at the nearest image that agrees with them (Chung et al.
    2023). `alike` is how much x and its start correlate, `sigma_data` the deviation of prepared images.
    """

    learns = ("intensity",)

    def __init__(
        self, signature: Signature, network: UNetShape, precision: str, *, start: str | None = None, steps: int = 5,
        noise: float = 0.3, alike: float = 0.7, sigma_data: float = 0.3,
    ) -> None:  # fmt: skip
        super().__init__()
        if steps < 1 or noise < 0 or not 0 <= alike < 1 or sigma_data <= 0:
            raise ValueError(
                f"bridge has steps {steps}, noise {noise:g}, alike {alike:g}, sigma_data {sigma_data:g}, expected a"
                " step at least, a noise from 0, alike from 0 to below 1, sigma_data above 0."
            )
        self.steps, self.noise, self.alike, self.sigma_data = steps, noise, alike, sigma_data
        self.measured = bool(signature.measurements)
        self.start = START if self.measured else _start(signature, start)
        shown = (Field(START, channels=signature.channels),) if self.measured else ()
        wider = replace(signature, condition=(*signature.condition, *shown))
        self.net = backbone(wider, signature.channels, network, precision)

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return {"model": self.net.parameters()}

    def with_steps(self, count: int) -> Bridge:
        twin = copy.copy(self)
        twin.steps = count
        return twin

    def _posed(self, problem: Problem) -> Problem:
        """With the start of the walk among the conditions."""
        if not self.measured:
            return problem
        values = {**problem.condition.values, START: plain_answer(the_one(problem), problem.cases)}
        return replace(problem, condition=Condition(values, problem.condition.present))

    def _start_of(self, problem: Problem, device: torch.device) -> Tensor:
        """(B, C, *axes); nothing where it is not known."""
        values, present = problem.condition.values, problem.condition.present
        if self.start not in values:
            return torch.zeros(len(problem.cases), *problem.shape, device=device)
        start = values[self.start]
        return start if self.start not in present else start * wide(present[self.start].to(start), start)

    def _variances(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(of x_t, between x and x_t)."""
        own, both = self.sigma_data**2, self.alike * self.sigma_data**2
        between = (1 - t) * own + t * both
        return (1 - t) ** 2 * own + 2 * t * (1 - t) * both + t**2 * own + self.noise**2 * t * (1 - t), between

    def _left(self, t: Tensor) -> Tensor:
        """How far x lies from what a line through x_t would tell."""
        total, between = self._variances(t)
        return (self.sigma_data**2 - between**2 / total).clamp(min=1e-4 * self.sigma_data**2).sqrt()

    def _clean(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """E[x | x_t, start]; t (B,)."""
        total, between = (wide(v, x) for v in self._variances(t))
        inner: Tensor = self.net((x / total.sqrt()).float(), 4 * t - 2, condition)
        return x * (between / total) + inner * wide(self._left(t), x)

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        device = next(self.net.parameters()).device
        problem = self._posed(problem)
        t = rng.child("level").uniform().to(device).clamp(1e-3, 1.0)
        at = wide(t, torch.empty(1, *problem.shape))
        clean = torch.zeros(1, device=device) if problem.target is None else problem.target
        fresh = rng.child("noise").normal(*problem.shape).to(device)
        x = (1 - at) * clean + at * self._start_of(problem, device) + self.noise * (at * (1 - at)).sqrt() * fresh
        return {"bridge": squared(problem, self._clean(x, t, problem.condition), wide(self._left(t), x) ** -2)}

    @torch.no_grad()
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        device = next(self.net.parameters()).device
        problem = self._posed(problem)
        data = Data.of(the_one(problem)) if self.measured else None
        x = start = self._start_of(problem, device)
        fresh = rng.child("noise").normal(*problem.shape).to(device)
        for now, after in pairwise([(1 - k / self.steps) ** 2 for k in range(self.steps + 1)]):
            t = torch.full((len(x),), now, device=device)
            clean = self._clean(x, t, problem.condition)
            if data is not None:
                clean = data.nearest(clean, wide(self._left(t), clean))
            if now < 1 and self.noise:
                fresh = (x - (1 - now) * clean - now * start) / (self.noise * (now * (1 - now)) ** 0.5)
            x = (1 - after) * clean + after * start + self.noise * (after * (1 - after)) ** 0.5 * fresh
        return x


def _start(signature: Signature, told: str | None) -> str:
    """The given image where walks start; raises ValueError where there is none."""
    able = [f.name for f in signature.condition if f.kind == "intensity" and f.channels == signature.channels]
    if told is not None and told not in able:
        raise ValueError(f"bridge.start is {told}, expected a given image with the channels of x: {able or 'none'}.")
    if not able:
        raise ValueError(
            f"Bridge needs a given image with the {signature.channels} channels of x to start from. Write: family:"
            " {name: flow}"
        )
    return told or able[0]
