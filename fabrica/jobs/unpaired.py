"""Any job with the answers of other patients: what `pairing: none` in a recipe makes of it."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..contracts import Batch, Problem
from ..rng import Rng
from .around import Around


class Unpaired(Around):
    """The inner job's questions, each beside the answer to another; drawing asks as before.

    A row is named by both, so that whoever looks for a spoilt scan finds it.
    """

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        problem = self.inner.problem(batch, rng)
        if problem.target is None:
            return problem
        weight = (
            torch.ones_like(problem.target)
            if problem.weight is None
            else problem.weight.expand_as(problem.target).roll(1, 0)
        )
        weight = weight * _of_another(problem).to(weight).reshape(-1, *[1] * (weight.ndim - 1))
        apart = torch.zeros(len(problem.target), dtype=torch.bool, device=problem.target.device)
        others = [problem.cases[-1], *problem.cases[:-1]]
        both = tuple(f"{case} (beside {other})" for case, other in zip(problem.cases, others, strict=True))
        return replace(problem, cases=both, target=problem.target.roll(1, 0), weight=weight, paired=apart)


def _of_another(problem: Problem) -> torch.Tensor:
    """(B,): is the row before of another patient? Slices of one patient are named patient/slice."""
    patients = [case.rpartition("/")[0] or case for case in problem.cases]
    return torch.tensor([a != b for a, b in zip(patients, [patients[-1], *patients[:-1]], strict=True)])
