"""A consistency model (Song et al. 2023), learned without a teacher as in Geng et al. 2024: images in 1 to 4
evaluations.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ..contracts import Condition, Family, Problem, Signature
from ..networks.backbone import backbone
from ..networks.unet import UNetShape
from ..rng import Rng
from .misfit import distance
from .precondition import preconditioned, wide

HIGH, LOW = 8.0, 0.012  # noise levels, in units of the image, that a draw starts from and goes towards
# of training: the gap between the levels halves at each; with 8 the errors of many small gaps added up in 1,000 steps
STAGES = 5


class Consistency(Family):
    """f(x + sigma noise, sigma) is the image that the flow of the whole distribution leads to; f(x, 0) = x.

    f learns to say the same at sigma and at a smaller level on the same noise: first at none (a denoiser), then ever
    nearer, sigma (1 - 2^-stage n) with n = 1 + 8 / (1 + e^(sigma / sigma_data)). A draw takes `steps` evaluations: what
    the first says is noised again, less, and asked again.
    """

    def __init__(
        self, signature: Signature, network: UNetShape, precision: str, *, steps: int = 2, sigma_data: float = 0.3,
        log_mean: float = 0.3, log_deviation: float = 1.8,
    ) -> None:  # fmt: skip
        super().__init__()
        if steps < 1:
            raise ValueError(f"consistency.steps is {steps}, expected at least 1.")
        self.steps, self.sigma_data = steps, sigma_data
        self.log_mean, self.log_deviation = log_mean, log_deviation  # of sigma / sigma_data
        self.net = backbone(signature, signature.channels, network, precision)

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return {"model": self.net.parameters()}

    def _image(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        level = (sigma.clamp(min=1e-4) / self.sigma_data).log()
        return preconditioned(self.net, x, sigma, level, self.sigma_data, condition)

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        device = next(self.net.parameters()).device
        image = torch.zeros(1, device=device) if problem.target is None else problem.target
        level = self.log_mean + self.log_deviation * rng.child("level").normal().to(device)
        sigma = (self.sigma_data * level.exp()).clamp(max=HIGH)
        lower = self._nearer(sigma, progress)
        noise = rng.child("noise").normal(*problem.shape).to(device)
        with torch.no_grad():
            wanted = self._image(image + wide(lower, noise) * noise, lower, problem.condition)
            wanted = torch.where(wide(lower, noise) > 0, wanted, image.expand_as(wanted))
        found = self._image(image + wide(sigma, noise) * noise, sigma, problem.condition)
        size = (sigma**2 + self.sigma_data**2).sqrt() / (
            sigma * self.sigma_data
        )  # over it the network's answer has size 1
        return {"consistency": distance(problem, found, wanted, size) * sigma / (sigma - lower)}

    def _nearer(self, sigma: Tensor, progress: float) -> Tensor:
        """The level that sigma is compared with at this point of training."""
        gap = 0.5 ** min(int(progress * STAGES), STAGES - 1)
        spread = 1 + 8 * torch.sigmoid(-sigma / self.sigma_data)
        return sigma * (1 - gap * spread).clamp(min=0.0)

    def with_steps(self, count: int) -> Family:
        twin = copy.copy(self)
        twin.steps = count
        return twin

    @torch.no_grad()
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        device = next(self.net.parameters()).device
        x = torch.zeros(problem.shape, device=device)
        for k in range(self.steps):
            sigma = HIGH ** (1 - k / self.steps) * LOW ** (k / self.steps)
            noise = rng.child("noise", k).normal(*problem.shape).to(device)
            x = self._image(x + sigma * noise, torch.full((len(noise),), sigma, device=device), problem.condition)
        return x
