"""Diffusion with the preconditioning and noise distribution of Karras et al. 2022 (EDM)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ..contracts import Condition, Denoiser, Problem, Signature
from ..networks.backbone import backbone
from ..networks.blocks import shown
from ..networks.unet import UNetShape
from ..rng import Rng
from ..sampling.solvers import dpm_solver_2m, growth
from .misfit import squared
from .precondition import preconditioned


class Diffusion(Denoiser):
    """Denoising diffusion: D(x, sigma) = c_skip x + c_out F(c_in x, c_noise), table 1 of the paper, column "Ours".

    `sigma_data` is the standard deviation of prepared images (about 0.3: [0, 1] with air at 0); `log_mean` and
    `log_deviation` place the training noise where the image is decided; it grows with the grid where no image is given.
    """

    def __init__(
        self, signature: Signature, network: UNetShape, precision: str, *, sigma_data: float = 0.3,
        log_mean: float = -1.2, log_deviation: float = 1.4,
    ) -> None:  # fmt: skip
        super().__init__()
        self.sigma_data, self.log_mean, self.log_deviation = sigma_data, log_mean, log_deviation
        self.grows = not shown(signature.condition)  # a given image decides what large noise hides, at any size
        channels = signature.channels
        self.net = backbone(signature, channels, network, precision)

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return {"model": self.net.parameters()}

    def denoise(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return preconditioned(self.net, x, sigma, sigma.float().log() / 4, self.sigma_data, condition)

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        device = next(self.net.parameters()).device
        mean = self.log_mean + self.grows * math.log(growth(problem.shape))
        sigma = torch.exp(mean + self.log_deviation * rng.child("level").normal()).to(device)
        s = sigma.reshape(-1, *[1] * len(problem.shape))
        target = torch.zeros(1) if problem.target is None else problem.target
        noisy = target + s * rng.child("noise").normal(*problem.shape).to(device)
        weight = (s**2 + self.sigma_data**2) / (s * self.sigma_data) ** 2
        return {"denoising": squared(problem, self.denoise(noisy, sigma, problem.condition), weight)}

    @torch.no_grad()
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        return dpm_solver_2m(self, problem, rng)
