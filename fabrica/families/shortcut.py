"""A flow that also knows large steps (Frans et al. 2025): one network draws in 1, 2, 4 or many evaluations."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..contracts import Condition, Family, Field, Problem, Signature
from ..networks.backbone import backbone
from ..networks.unet import UNetShape
from ..rng import Rng
from .misfit import squared
from .precondition import wide

FINEST = 7  # steps of 2^-7 are taken as a flow's own
STEP = Field("shortcut step", "number", 1)


class Shortcut(Family):
    """v(x_t, t, d) is the mean velocity of the next step of size d on x_t = (1 - t) image + t noise.

    Rows learn the flow itself (d = 0), but for `share` of them that learn that one step of 2d goes where two steps of d
    go. Images are divided by `sigma_data`, so that noise and image have one size. Draws take `steps` evaluations, a
    power of two.
    """

    def __init__(
        self, signature: Signature, network: UNetShape, precision: str, *, steps: int = 4, share: float = 0.25,
        sigma_data: float = 0.3,
    ) -> None:  # fmt: skip
        super().__init__()
        if steps not in [2**k for k in range(FINEST + 1)]:
            raise ValueError(f"shortcut.steps is {steps}, expected 1, 2, 4, ... up to {2**FINEST}.")
        self.steps, self.share, self.sigma_data = steps, share, sigma_data
        wider = replace(signature, condition=(*signature.condition, STEP))
        self.net = backbone(wider, signature.channels, network, precision)

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return {"model": self.net.parameters()}

    def _velocity(self, x: Tensor, t: Tensor, step: Tensor, condition: Condition) -> Tensor:
        """step (B,): log2 of the number of such steps in a whole draw; FINEST + 1 stands for a step of no size."""
        known = Condition({**condition.values, STEP.name: step / (FINEST + 1)}, condition.present)
        out: Tensor = self.net(x, 4 * t - 2, known)
        return x + out  # zero at the start of training means: the velocity is what is seen

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        device = next(self.net.parameters()).device
        image = (torch.zeros(1, device=device) if problem.target is None else problem.target) / self.sigma_data
        noise = rng.child("noise").normal(*problem.shape).to(device)
        large = (rng.child("share").uniform() < self.share).to(device)
        size = rng.child("size").integers(0, FINEST).to(device)  # the step learned is 2^-size
        places = (rng.child("place").uniform().to(device) * 2.0**size).floor() + 1
        sigmoid = torch.sigmoid(rng.child("level").normal().to(device)).clamp(1e-3, 1 - 1e-3)
        t = torch.where(large, places / 2.0**size, sigmoid)  # a step begins on the grid of its kind
        step = torch.where(large, size.float(), torch.full_like(t, FINEST + 1))
        x = (1 - wide(t, image)) * image + wide(t, image) * noise
        target = torch.where(
            wide(large.float(), image) > 0, self._two_steps(x, t, size, problem.condition), noise - image
        )
        found = self._velocity(x, t, step, problem.condition)
        return {"velocity": squared(replace(problem, target=target), found, torch.ones(1, device=device))}

    @torch.no_grad()
    def _two_steps(self, x: Tensor, t: Tensor, size: Tensor, condition: Condition) -> Tensor:
        """The mean velocity of two steps of half the size."""
        half = 0.5 * 2.0 ** (-size.float())
        finer = (size + 1).float()
        finer = torch.where(finer >= FINEST, torch.full_like(finer, FINEST + 1), finer)
        first = self._velocity(x, t, finer, condition)
        middle = x - wide(half, x) * first
        return (first + self._velocity(middle, t - half, finer, condition)) / 2

    def with_steps(self, count: int) -> Family:
        """The power of two below."""
        twin = copy.copy(self)
        twin.steps = 2 ** (count.bit_length() - 1)
        return twin

    @torch.no_grad()
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        device = next(self.net.parameters()).device
        x = rng.child("start").normal(*problem.shape).to(device)
        size = self.steps.bit_length() - 1
        kind = torch.full((len(x),), float(FINEST + 1 if size >= FINEST else size), device=device)
        for k in range(self.steps, 0, -1):
            t = torch.full((len(x),), k / self.steps, device=device)
            x = x - self._velocity(x, t, kind, problem.condition) / self.steps
        return x * self.sigma_data
