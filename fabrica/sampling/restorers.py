"""Drawing what is missing around what is known, with a prior that learned neither task (RePaint: Lugmayr et al.
2022).
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from ..contracts import Denoiser, Problem
from ..physics import Mask
from ..rng import Rng
from .solvers import HIGH, LOW, denoised, start_of_walk, walk


def repaint(
    prior: Denoiser, problem: Problem, rng: Rng, *, steps: int = 20, again: int = 5, high: float = HIGH
) -> Tensor:
    """x as its one measurement by a mask says where that is known, and a draw elsewhere; at most `steps * again`
    evaluations.

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
