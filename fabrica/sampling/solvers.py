"""Samplers as plain functions (prior, problem, rng) -> x. State lives in local variables; arithmetic is float32 or
more.

All walk the probability-flow ODE dx/dsigma = (x - D(x, sigma)) / sigma (Karras et al. 2022, eq. 1 with s(t) = 1), whose
solution at sigma = 0 is a draw. A flow is walked the same way: its denoiser is defined at sigma = t / (1 - t). Numbers
of steps are chosen so that the default costs at most 20 network evaluations. `high` is the first level on a grid of 64
x 64 and grows with larger ones; the last, `low`, is where what is left of an error would be taken for texture.

A walk starts from noise around the first answer, not around zero: at the highest level an image's mean brightness is a
matter of many voxels and no smaller than the noise in it, and draws that start around zero come out darker than what
they learned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..contracts import Condition, Denoiser, Problem
from ..rng import Rng

HIGH, LOW = 20.0, 0.02  # the first and the last noise level of a walk whose images lie in about [0, 1]
VOXELS = 64 * 64  # of the grid that these levels, and those of training, are meant for


def schedule(steps: int, high: float = HIGH, low: float = LOW, rho: float = 7.0) -> list[float]:
    """steps + 1 noise levels from `high` to `low` and then 0 (Karras et al. 2022, eq. 5)."""
    if steps < 1 or not 0 < low < high:
        raise ValueError(
            f"A schedule of {steps} steps from {high} to {low} is impossible; expected steps >= 1, high > low > 0."
        )
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64) if steps > 1 else torch.zeros(1, dtype=torch.float64)
    levels = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return [*levels.tolist(), 0.0]


def growth(shape: Sequence[int]) -> float:
    """How many times higher noise has to be on a grid (C, *axes) than on 64 x 64 to hide as much; 1 for smaller ones.

    The mean over n voxels keeps 1 / sqrt(n) of their noise (Hoogeboom et al. 2023, section 2; Esser et al. 2024, eq.
    23).
    """
    return max(1.0, math.sqrt(math.prod(shape[1:]) / VOXELS))


def walk(problem: Problem, steps: int, high: float, low: float) -> list[float]:
    """The levels of a walk, `high` being meant for 64 x 64."""
    return schedule(steps, high * growth(problem.shape), low)


def start_of_walk(prior: Denoiser, problem: Problem, rng: Rng, sigma: float) -> tuple[Tensor, Tensor]:
    """(noise of level sigma around the prior's answer to it, that answer)."""
    device = next((p.device for p in prior.parameters()), torch.device("cpu"))
    noise = sigma * rng.child("start").normal(*problem.shape).to(device)
    clean = denoised(prior, noise, sigma, problem.condition)
    return noise + clean, clean


def denoised(prior: Denoiser, x: Tensor, sigma: float, condition: Condition) -> Tensor:
    return prior.denoise(x, torch.full((len(x),), sigma, device=x.device), condition).to(x.dtype)


def euler(
    prior: Denoiser, problem: Problem, rng: Rng, *, steps: int = 18, high: float = HIGH, low: float = LOW
) -> Tensor:
    """First order, one evaluation a step."""
    levels = walk(problem, steps, high, low)
    x, clean = start_of_walk(prior, problem, rng, levels[0])
    for number, (now, after) in enumerate(pairwise(levels)):
        if number:
            clean = denoised(prior, x, now, problem.condition)
        x = clean + (x - clean) * (after / now)
    return x


def heun(
    prior: Denoiser, problem: Problem, rng: Rng, *, steps: int = 9, high: float = HIGH, low: float = LOW
) -> Tensor:
    """Second order (Karras et al. 2022, algorithm 1), two evaluations a step, one in the last."""
    levels = walk(problem, steps, high, low)
    x, clean = start_of_walk(prior, problem, rng, levels[0])
    for number, (now, after) in enumerate(pairwise(levels)):
        if number:
            clean = denoised(prior, x, now, problem.condition)
        slope = (x - clean) / now
        ahead = x + slope * (after - now)
        if after > 0:
            other = (ahead - denoised(prior, ahead, after, problem.condition)) / after
            ahead = x + (slope + other) * ((after - now) / 2)
        x = ahead
    return x


def midpoint(
    prior: Denoiser, problem: Problem, rng: Rng, *, steps: int = 9, high: float = HIGH, low: float = LOW
) -> Tensor:
    """Second order: the slope at the geometric middle of the step (DPM-Solver-2, Lu et al. 2022)."""
    levels = walk(problem, steps, high, low)
    x, clean = start_of_walk(prior, problem, rng, levels[0])
    for number, (now, after) in enumerate(pairwise(levels)):
        if number:
            clean = denoised(prior, x, now, problem.condition)
        if after > 0:
            middle = (now * after) ** 0.5
            halfway = clean + (x - clean) * (middle / now)
            clean = denoised(prior, halfway, middle, problem.condition)
        x = clean + (x - clean) * (after / now)
    return x


def dpm_solver_2m(
    prior: Denoiser, problem: Problem, rng: Rng, *, steps: int = 15, high: float = HIGH, low: float = LOW
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022b): second order from one evaluation a step, by extrapolating the last two."""
    levels = walk(problem, steps, high, low)
    x, clean = start_of_walk(prior, problem, rng, levels[0])
    before: tuple[Tensor, float] | None = None
    for now, after in pairwise(levels):
        if before is not None:
            clean = denoised(prior, x, now, problem.condition)
        target = clean
        if before is not None and after > 0:
            ratio = _log(now, after) / _log(before[1], now)
            target = clean + (clean - before[0]) * (ratio / 2)
        x = target + (x - target) * (after / now)
        before = (clean, now)
    return x


def _log(one: float, other: float) -> float:
    """log(one / other): the step in the solver's own time."""
    return float(torch.tensor(one / other, dtype=torch.float64).log())


def ancestral(
    prior: Denoiser, problem: Problem, rng: Rng, *, steps: int = 20, high: float = HIGH, low: float = LOW
) -> Tensor:
    """The DDPM posterior walk (Ho et al. 2020) in terms of sigma: fresh noise after each step, seeded per row."""
    levels = walk(problem, steps, high, low)
    x, clean = start_of_walk(prior, problem, rng, levels[0])
    for i, (now, after) in enumerate(pairwise(levels)):
        if i:
            clean = denoised(prior, x, now, problem.condition)
        kept = (after / now) ** 2
        x = clean + (x - clean) * kept
        if after > 0:
            fresh = rng.child("step", i).normal(*problem.shape).to(x.device)
            x = x + fresh * (after * (1 - kept) ** 0.5)
    return x
