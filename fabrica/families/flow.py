"""Rectified flow (Liu et al. 2022; Lipman et al. 2023): straight lines between noise and image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ..contracts import Condition, Denoiser, Problem, Signature
from ..networks.unet import UNet, UNetShape
from ..rng import Rng
from ..sampling.solvers import midpoint
from .misfit import squared


class Flow(Denoiser):
    """Rectified flow: v = noise - image on x_t = (1 - t) image + t noise, t logit-normal (Esser et al. 2024).

    To a solver it is a denoiser: with sigma = t / (1 - t) after scaling by `sigma_data`, image = x_t - t v.
    """

    def __init__(
        self, signature: Signature, network: UNetShape, precision: str, *, sigma_data: float = 0.3,
        logit_mean: float = 0.0, logit_deviation: float = 1.2,
    ) -> None:  # fmt: skip
        super().__init__()
        self.sigma_data, self.logit_mean, self.logit_deviation = sigma_data, logit_mean, logit_deviation
        channels = signature.channels
        self.net = UNet(len(signature.axes), channels, channels, signature.condition, network, precision)

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return {"model": self.net.parameters()}

    def _velocity(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        result: Tensor = self.net(x_t, 4 * t - 2, condition)
        return result

    def denoise(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        scaled = sigma.float() / self.sigma_data
        t = scaled / (1 + scaled)
        wide = t.reshape(-1, *[1] * (x.ndim - 1))
        x_t = x.float() / self.sigma_data * (1 - wide)
        return (x_t - wide * self._velocity(x_t, t, condition)) * self.sigma_data

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        device = next(self.net.parameters()).device
        t = torch.sigmoid(self.logit_mean + self.logit_deviation * rng.child("level").normal()).to(device)
        wide = t.reshape(-1, *[1] * len(problem.shape))
        clean = (torch.zeros(1) if problem.target is None else problem.target) / self.sigma_data
        noise = rng.child("noise").normal(*problem.shape).to(device)
        x_t = (1 - wide) * clean + wide * noise
        image = (x_t - wide * self._velocity(x_t, t, problem.condition)) * self.sigma_data
        return {"velocity": squared(problem, image, (1 / (wide.clamp(min=1e-3) * self.sigma_data)) ** 2)}

    @torch.no_grad()
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        return midpoint(self, problem, rng, high=20.0)
