"""Samplers that use what was measured, with a prior that learned none of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ..contracts import Codec, Denoiser, Measurement, Problem, Scattered
from ..physics import Mask
from ..physics.algebra import LinearOperator
from ..physics.consistency import INNER, Data
from ..physics.variation import total_variation
from ..rng import Rng
from .solvers import HIGH, LOW, denoised, start_of_walk, walk


def repaint(
    prior: Denoiser, problem: Problem, rng: Rng, *, steps: int = 20, again: int = 5, high: float = HIGH
) -> Tensor:
    """x as its one measurement by a mask says where that is known, and a draw elsewhere (Lugmayr et al. 2022).

    At most `steps * again` evaluations.

    Every step is taken `again` times, with noise put back in between, so that the drawn part hears of the known one.
    Exact for no prior: the fewer the repetitions, the less the two parts agree.
    """
    (measured,) = problem.measurements.values()
    assert isinstance(measured.operator, Mask)  # the table of samplers says so
    values, known = measured.value, measured.operator.known
    levels = walk(problem, steps, high, LOW)
    x, clean = start_of_walk(prior, problem, rng, levels[0])
    x = x + (values.to(x) - clean) * known.to(x)
    for i, (now, after) in enumerate(pairwise(levels)):
        turns = again if after > 0 else 1
        for turn in range(turns):
            clean = denoised(prior, x, now, problem.condition)
            clean = values.to(x).where(known, clean)
            if after == 0:
                return clean.expand_as(x)
            kept, fresh = (after / now) ** 2, rng.child("step", i, turn).normal(*problem.shape).to(x)
            x = clean + (x - clean) * kept + after * (1 - kept) ** 0.5 * fresh  # the posterior walk (Ho et al. 2020)
            if turn < turns - 1:  # back to the noise level before
                x = x + (now**2 - after**2) ** 0.5 * rng.child("again", i, turn).normal(*problem.shape).to(x)
    return x


def round_trip(prior: Codec, problem: Problem, rng: Rng) -> Tensor:
    """What was measured of x itself, passed through a codec: what its codes cannot say does not come back."""
    (measured,) = problem.measurements.values()
    return prior.decode(prior.encode(measured.value), problem.condition)


SPREAD = 0.3  # deviation of prepared images, as families take it to be


def posterior(
    prior: Denoiser,
    problem: Problem,
    rng: Rng,
    *,
    steps: int = 20,
    high: float = 2.0,
    trust: float = 0.6,
    inner: int = INNER,
    start: Literal["solved", "edges"] = "solved",
) -> Tensor:
    """A draw of p(x | y) for linear physics, noise with a variance and any denoiser, without a gradient through it.

    At each level sigma, x0 is drawn from the product of two Gaussians: N(D(x), r^2) and what y says. It answers a
    system whose right side is perturbed (Papandreou and Yuille 2010). x at the next level follows as in diffusion.
    r = trust * sigma SPREAD / (sigma^2 + SPREAD^2)^0.5. With `trust` 1 and a prior N(m, SPREAD^2) this is exact for any
    number of steps, of Gaussian noise. Counts are taken for Gaussian, with the variance that they have around y.
    Denoisers tell images more sharply than so wide a prior would, hence less. The walk starts at the
    least squares answer (`start: edges`: at that of the fewest edges, total variation), at the level `high`, where the
    prior still decides what data leave open. Where physics says that there is nothing, nothing is drawn.
    """
    (measured,) = problem.measurements.values()
    data, y = Data.of(measured), measured.value
    levels = walk(problem, steps, high, LOW)
    x = _first(measured, rng, levels[0], problem, start)
    for i, (now, after) in enumerate(pairwise(levels)):
        clean = denoised(prior, x, now, problem.condition)
        width = torch.tensor(trust * now * SPREAD / (now**2 + SPREAD**2) ** 0.5, device=x.device)
        asked = rng.child("step", i)
        pushed = data.operator.adjoint(data.precision.sqrt() * _white(y, asked.child("data")))
        pushed = pushed + asked.child("prior").normal(*problem.shape).to(x) / width
        drawn = data.solved(data.pull + pushed + clean / width**2, width**-2, inner, clean)
        drawn = data.operator.feasible(drawn)
        if after == 0:
            return drawn
        kept = (after / now) ** 2
        fresh = asked.child("walk").normal(*problem.shape).to(x)
        x = drawn + (x - drawn) * kept + after * (1 - kept) ** 0.5 * fresh
    return x


def _white(y: Tensor, rng: Rng) -> Tensor:
    """Gaussian noise of variance 1 in the shape of y, in both parts of complex numbers."""
    shape = (*y.shape[1:], 2) if y.is_complex() else y.shape[1:]
    noise = rng.child("noise").normal(*shape).to(y.device)
    return torch.view_as_complex(noise) if y.is_complex() else noise


def _first(measured: Measurement, rng: Rng, sigma: float, problem: Problem, start: str) -> Tensor:
    """Noise of the first level around what the data say by themselves."""
    middle = (fewest_edges if start == "edges" else plain_answer)(measured, problem.cases)
    return middle + sigma * rng.child("start").normal(*problem.shape).to(middle.device)


def plain_answer(measured: Measurement, cases: Sequence[str]) -> Tensor:
    """(B, C, *axes): what a classical solver makes of y, the first that the physics names; least squares without one.

    Draws of one case are of one y, which is solved once.
    """
    own, back = _each_once(measured, cases)
    assert isinstance(own.operator, LinearOperator)
    found = next(iter(own.operator.solved(own.value).values()), None)
    return (Data.of(own).plain() if found is None else found)[back]


def fewest_edges(measured: Measurement, cases: Sequence[str]) -> Tensor:
    """The same by total variation."""
    own, back = _each_once(measured, cases)
    assert isinstance(own.operator, LinearOperator)
    assert isinstance(own.noise, Scattered)
    return total_variation(own.operator, own.noise, own.value)[back]


def _each_once(measured: Measurement, cases: Sequence[str]) -> tuple[Measurement, list[int]]:
    """(a row for each case, which of them each row is)."""
    names = list(dict.fromkeys(cases))
    first = torch.tensor([cases.index(name) for name in names], device=measured.value.device)
    return measured.rows(first), [names.index(name) for name in cases]
