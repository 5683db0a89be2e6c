"""The loss of a batch, and gradients in which no patient counts for more than a bound, hidden in noise."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..contracts import Family, Job, Problem
from ..data.store import Loader, to_device
from ..recipe.values import PrivacyPlan
from ..rng import Rng, derive
from .accounting import Spent, noise_for

ROWS = 4  # slices of a patient that a step looks at: they are one group, clipped together


class TrainingError(Exception):
    """Training that cannot go on: what happened, on which cases, and what to do next."""


class Loss(nn.Module):
    """The loss as a module's forward: what several processes must call so that gradients are averaged."""

    def __init__(self, family: Family) -> None:
        super().__init__()
        self.family = family

    def forward(self, problem: Problem, group: str, rng: Rng, progress: float) -> Tensor:
        terms = self.family.loss(problem, group, rng, progress)
        wrong = {name: term.detach() for name, term in terms.items() if not bool(torch.isfinite(term).all())}
        if wrong:
            rows = [term.isfinite() for term in wrong.values() if term.shape == (len(problem.cases),)]
            bad = [case for k, case in enumerate(problem.cases) if not all(bool(row[k]) for row in rows)]
            whom = ", ".join(bad) or f"one of {', '.join(problem.cases)}"  # a term of the batch as a whole names nobody
            raise TrainingError(
                f"The loss term {next(iter(wrong))!r} is not finite for {whom}. Look at these scans, or lower"
                " train.learning_rate."
            )
        return torch.stack([term.mean() for term in terms.values()]).sum()


class PrivateGradients:
    """Gradients of differentially private descent (Abadi et al. 2016), a patient or an image at a time.

    Every step takes each of them with the same chance (a Poisson sample), clips what each adds, sums, and adds Gaussian
    noise. A patient's gradient is computed alone, so that any layer may be in the network. Samples and noise come from
    the system's entropy, not from the seed that a checkpoint tells: a resumed training draws others.
    """

    def __init__(self, plan: PrivacyPlan, loader: Loader, steps: int) -> None:
        self.plan, self.loader, self.groups = plan, loader, groups_of(loader, plan.per)
        self.rate = min(1.0, loader.batch / len(self.groups))
        self.spent: Spent = noise_for(plan.epsilon, self.rate, steps, plan.delta)
        self._chance = np.random.Generator(np.random.Philox(key=secrets.randbits(128)))

    def into(self, module: nn.Module, job: Job, group: str, step: int, progress: float) -> float:
        """Sets `grad` of every parameter that learns; the mean loss of those who were sampled."""
        parameters = [p for p in module.parameters() if p.requires_grad]
        sums = [torch.zeros_like(p) for p in parameters]
        taken = np.flatnonzero(self._chance.random(len(self.groups)) < self.rate)
        losses = 0.0
        for k in taken.tolist():
            loss = self._loss(module, job, group, step, progress, k)
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            norm = torch.stack([g.norm() for g in found if g is not None]).norm()
            if not bool(torch.isfinite(norm)):
                raise TrainingError("A gradient of one patient is not finite. Lower train.learning_rate.")
            share = float((self.plan.clip / norm.clamp(min=1e-12)).clamp(max=1.0))
            for total, g in zip(sums, found, strict=True):
                if g is not None:
                    total.add_(g, alpha=share)
            losses += float(loss.detach())
        deviation, usual = self.spent.noise * self.plan.clip, self.rate * len(self.groups)
        for p, total in zip(parameters, sums, strict=True):
            p.grad = (total + deviation * self._noise(p)) / usual
        return losses / max(1, len(taken))

    def _noise(self, like: Tensor) -> Tensor:
        drawn = self._chance.standard_normal(like.numel())
        return torch.from_numpy(drawn).to(like.device, like.dtype).reshape(like.shape)

    def _loss(self, module: nn.Module, job: Job, group: str, step: int, progress: float, k: int) -> Tensor:
        places = self.groups[k]
        entry, z = self.loader.places[places[0]]
        number = derive(self.loader.seed, "private", step, entry.patient, entry.name, z) % 2**62  # of nobody else
        order = np.random.Generator(np.random.Philox(key=number))
        rows = [places[i] for i in order.permutation(len(places))[:ROWS]]
        device = next(module.parameters()).device
        batch = to_device(self.loader.rows(rows, number), device)
        rng = Rng([derive(self.loader.seed, "train", number, row) for row in range(len(rows))])
        loss: Tensor = module(job.problem(batch, rng.child("problem")), group, rng.child(group), progress)
        return loss


def groups_of(loader: Loader, per: str) -> list[list[int]]:
    """Places of a loader by whom they are of: what is taken or left together."""
    found: dict[str, list[int]] = {}
    for place, (entry, z) in enumerate(loader.places):
        found.setdefault(entry.patient if per == "patient" else f"{entry.name}/{z}", []).append(place)
    return list(found.values())


def check_private(family: Family, groups: Sequence[str], processes: int = 1) -> None:
    """Raises ValueError for families that keep averages of patients beside weights, or whose networks are rivals."""
    if processes > 1:
        raise ValueError("A private training is of one process: each would draw samples of its own. Leave torchrun.")
    if len(groups) != 1:
        raise ValueError(
            f"A private training moves one group of weights; {type(family).__name__.lower()} moves {', '.join(groups)}."
            " Write: family: {name: flow}"
        )
    own = {name for name, _ in family.named_parameters(remove_duplicate=False)}
    kept = [name for name in family.state_dict() if name not in own]
    if kept:
        raise ValueError(
            f"{kept[0]} is measured of the images that are shown, which nothing makes private. Write: family: {{name:"
            " flow}}"
        )
