"""A whole plug-in in one file: an image from some lines of its Fourier transform, y = S F x + noise, y complex.

A job, its operator, a sampler that needs gradients and a metric of tier 3, registered by entry points alone.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fabrica.contracts import (
    Batch,
    Condition,
    Denoiser,
    Job,
    Measured,
    Measurement,
    Metric,
    Noise,
    Operator,
    Problem,
    Sampler,
    Signature,
)
from fabrica.data.vocabulary import field_of
from fabrica.physics import Gaussian
from fabrica.physics.algebra import LinearOperator
from fabrica.rng import Rng
from fabrica.sampling.solvers import schedule


class Lines(LinearOperator):
    """Lines of the orthonormal Fourier transform of one channel: every `step`-th, and all of the middle."""

    def __init__(self, step: int = 3, middle: float = 0.2) -> None:
        super().__init__()
        self.step, self.middle = step, middle

    def _kept(self, y: Tensor) -> Tensor:
        rows = y.shape[-2]
        index = torch.arange(rows, device=y.device)
        near = (index - rows // 2).abs() <= self.middle * rows / 2
        return ((index % self.step == 0) | near)[:, None]

    def apply_to(self, x: Tensor) -> Tensor:
        y = torch.fft.fftshift(torch.fft.fft2(x, norm="ortho"), dim=(-2, -1))
        return y * self._kept(y)

    def adjoint(self, y: Tensor) -> Tensor:
        x = torch.fft.ifft2(torch.fft.ifftshift(y * self._kept(y), dim=(-2, -1)), norm="ortho")
        return x.real


class FourierLines(Job):
    """Fourier lines of an image -> the image. The y of a case is simulated from its own image, for training never needed."""

    metrics = ("mae", "psnr")

    def __init__(self, x: str = "T1w", *, step: int = 3, deviation: float = 0.01) -> None:
        self.x, self.step, self.deviation, self.simulates = field_of(x), step, deviation, (x,)

    def signature(self) -> Signature:
        return Signature((self.x,), "yx", measurements={"lines": Measured(Lines, Gaussian)})

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        target = batch.images[self.x.name]
        return Problem(batch.cases, tuple(target.shape[1:]), target=target)

    def question(self, batch: Batch, rng: Rng) -> Problem:
        truth = batch.images[self.x.name]
        operator, noise = Lines(self.step), Gaussian(self.deviation)
        y = noise.draw(operator(truth), rng.child("lines"))
        return Problem(batch.cases, tuple(truth.shape[1:]), measurements={"lines": Measurement(y, operator, noise)})


def pulled(prior: Denoiser, problem: Problem, rng: Rng, *, steps: int = 12, pull: float = 1.0) -> Tensor:
    """Euler steps, each pulled towards y by the gradient of -log p(y | D(x)) (diffusion posterior sampling, Chung et al. 2023)."""
    device = next(p.device for p in prior.parameters())
    levels = schedule(steps, 20.0, 0.02)
    x = levels[0] * rng.child("start").normal(*problem.shape).to(device)
    for now, after in pairwise(levels):
        x = x.detach().requires_grad_()
        clean = prior.denoise(x, torch.full((len(x),), now, device=device), Condition())
        misfit = sum((m.value - m.operator(clean)).abs().square().sum() for m in problem.measurements.values())
        (slope,) = torch.autograd.grad(misfit / 2, x)
        x = (clean + (x - clean) * (after / now) - pull * slope).detach()
    return x


def bright_volume_error(
    generated: np.ndarray, reference: np.ndarray, *, spacing_mm: tuple[float, ...], level: float = 0.8
) -> float:
    """How much more or less of the image is bright, in ml."""
    voxel = float(np.prod(spacing_mm)) / 1000
    return abs(float((generated > level).sum()) - float((reference > level).sum())) * voxel


PULLED = Sampler(pulled, Denoiser, Operator, Noise, order=0, needs_gradient=True)
BRIGHT_VOLUME_ERROR = Metric(bright_volume_error, ("generated", "reference"), "task", "lower", "ml")
