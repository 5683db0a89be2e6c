"""Rectified flow (Liu et al. 2022; Lipman et al. 2023): straight lines between noise and image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..contracts import Condition, Denoiser, Problem, Signature, Speaker
from ..networks.backbone import backbone
from ..networks.blocks import shown
from ..networks.joint import Joint
from ..networks.unet import UNetShape
from ..rng import Rng
from ..sampling.solvers import growth, midpoint
from .misfit import squared
from .precondition import preconditioned
from .spoken import HEARING, Spoken, as_noise, listening


class Flow(Denoiser, Speaker):
    """Rectified flow: v = noise - image on x_t = (1 - t) image + t noise, t logit-normal (Esser et al. 2024).

    The loss is on the velocity; the network's output is preconditioned as in Karras et al. 2022, so that it need not
    copy noise through its stem: after scaling by `sigma_data` the image is a denoiser's answer at sigma = t / (1 - t),
    and v = (x_t - image) / t. To a solver a flow is that denoiser. Where no image is given, t grows with the grid.

    Parts of x on no grid (words, classes, numbers) are told one word after another from what is given, before the
    images are drawn: they are learned as hidden words (cross-entropy, weighed by `words`), at times with images that
    are noise alone.
    """

    def __init__(
        self, signature: Signature, network: UNetShape, precision: str, *, sigma_data: float = 0.3,
        logit_mean: float = 0.0, logit_deviation: float = 1.2, words: float = 0.2,
    ) -> None:  # fmt: skip
        super().__init__()
        self.sigma_data, self.logit_mean, self.logit_deviation = sigma_data, logit_mean, logit_deviation
        self.grows = not shown(signature.condition)  # a given image decides what large noise hides, at any size
        channels = signature.channels
        self.net = backbone(signature, channels, network, precision)
        self.parts, self.words = signature.beside, words

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return {"model": self.net.parameters()}

    def denoise(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        t = sigma.float() / (sigma.float() + self.sigma_data)
        return preconditioned(self.net, x, sigma, 4 * t - 2, self.sigma_data, condition)

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        device = next(self.net.parameters()).device
        draws = rng.child("level").normal().to(device)
        mean = self.logit_mean + self.grows * math.log(growth(problem.shape))
        t = torch.sigmoid(mean + self.logit_deviation * draws).clamp(1e-3, HEARING)
        t = t.where(~listening(problem, rng).to(device), HEARING)
        wide = t.reshape(-1, *[1] * len(problem.shape))
        sigma = t / (1 - t) * self.sigma_data
        clean = torch.zeros(1) if problem.target is None else problem.target
        noise = rng.child("noise").normal(*problem.shape).to(device)
        noisy = clean + sigma.reshape(wide.shape) * noise  # x_t / (1 - t), in the units of the image
        scale = (1 / (wide * self.sigma_data)) ** 2
        if not self.parts:
            return {"velocity": squared(problem, self.denoise(noisy, sigma, problem.condition), scale)}
        spoken = self._spoken().hidden(problem, rng)
        image = preconditioned(spoken, noisy, sigma, 4 * t - 2, self.sigma_data, problem.condition)
        return {"velocity": squared(problem, image, scale), "words": self.words * spoken.surprise(problem)}

    @torch.no_grad()
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        return midpoint(self, problem, rng)

    def _spoken(self) -> Spoken:
        if not isinstance(self.net, Joint):
            raise TypeError("This flow was asked for images alone. Name its words: job: {name: foundation, ...}")
        return Spoken(self.net)

    @torch.no_grad()
    def tell(self, problem: Problem, names: Sequence[str], rng: Rng) -> Mapping[str, Tensor]:
        return self._spoken().told(problem, names, as_noise(problem, rng, next(self.net.parameters()).device), rng)

    @torch.no_grad()
    def expected(self, problem: Problem, name: str, rng: Rng) -> Tensor:
        return self._spoken().expected(problem, as_noise(problem, rng, next(self.net.parameters()).device), name)
