"""Many sites learn one model without showing one another an image: what a site does in a round, and how rounds are
brought together (FedAvg: McMahan et al. 2017; FedProx: Li et al. 2020; heads that stay at home: Elmas et al. 2022).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..contracts import Family, Job
from ..data.store import Loader, to_device
from ..rng import Rng, derive
from .gradients import Loss
from .optimiser import optimisers

OUTLYING = 5.0  # times the median change of the other sites: beyond, a site's weights are left out
JUDGED_FROM = 3  # sites, of which one can be told to lie out


class FederationError(Exception):
    """A round that cannot be brought together: what happened, and what to do next."""


@dataclass(frozen=True)
class LocalPlan:
    """What a site does in a round. `proximal`: how strongly it is held at the weights that it was given (mu of
    FedProx); `local`: beginnings of the names of weights that stay at the site.
    """

    steps: int
    round: int = 0
    rounds: int = 1
    learning_rate: float | None = None
    optimiser: Literal["auto", "muon", "adamw", "sgd"] = "auto"
    clip: float = 1.0
    proximal: float = 0.0
    local: tuple[str, ...] = ()


@dataclass(frozen=True)
class Update:
    """What a site sends: weights, how many images it learned from, and its mean loss."""

    site: str
    weights: Mapping[str, Tensor]
    count: int
    loss: float


@dataclass(frozen=True)
class Combined:
    """The weights after a round, whose were taken, and why others were not."""

    weights: Mapping[str, Tensor]
    taken: tuple[str, ...]
    refused: Mapping[str, str]


def shared_weights(family: nn.Module, local: Sequence[str] = ()) -> dict[str, Tensor]:
    """The weights that leave a site, on the CPU. Raises ValueError where nothing is left to share."""
    found = {n: t.detach().cpu() for n, t in family.state_dict().items() if not n.startswith(tuple(local) or "\0")}
    if not found:
        raise ValueError(f"--local {', '.join(local)} keeps all weights at home: nothing is learned together.")
    return found


def take_over(family: nn.Module, weights: Mapping[str, Tensor], local: Sequence[str] = ()) -> None:
    """Shared weights into a site's family, its own heads as they are; raises FederationError for another network."""
    own = shared_weights(family, local)
    if (why := _misfit(own, weights)) is not None:
        raise FederationError(f"The weights of the server do not fit this site's network: {why}. Use the same recipe.")
    family.load_state_dict({**family.state_dict(), **weights})


def local_round(family: Family, job: Job, loader: Loader, plan: LocalPlan) -> float:
    """A round of steps on a site's own images, in place; the mean loss."""
    module, device = Loss(family), next(family.parameters()).device
    before = {n: p.detach().clone() for n, p in family.named_parameters()}
    if plan.optimiser == "sgd":
        rate = plan.learning_rate or 1e-2
        made: Mapping[str, torch.optim.Optimizer] = {
            n: torch.optim.SGD(list(p), lr=rate) for n, p in family.groups().items()
        }
    else:
        made = optimisers(family, family.groups(), plan.optimiser, plan.learning_rate)
    rates = {n: o.param_groups[0]["lr"] for n, o in made.items()}
    family.train()
    total = 0.0
    for step in range(plan.steps):
        number = plan.round * plan.steps + step
        progress = number / max(1, plan.rounds * plan.steps)
        batch = to_device(loader.load(number), device)
        rng = Rng([derive(loader.seed, "federation", number, row) for row in range(len(batch.cases))])
        problem = job.problem(batch, rng.child("problem"))
        for name, optimiser in made.items():
            for group in optimiser.param_groups:
                group["lr"] = rates[name] * (1.0 if plan.optimiser == "sgd" else _cooled(progress))
            optimiser.zero_grad()
            loss = module(problem, name, rng.child(name), progress)
            loss.backward()
            for n, p in family.named_parameters():
                if plan.proximal and p.grad is not None:
                    p.grad.add_(p.detach() - before[n], alpha=plan.proximal)
            if plan.optimiser != "sgd":
                own = [p for group in optimiser.param_groups for p in group["params"]]
                torch.nn.utils.clip_grad_norm_(own, plan.clip)
            optimiser.step()
            total += float(loss.detach())
    return total / max(1, plan.steps * len(made))


def _cooled(progress: float) -> float:
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def combined(before: Mapping[str, Tensor], updates: Sequence[Update], least: int) -> Combined:
    """The mean of the sites' weights, by how many images each learned from.

    Left out, and named: weights of another network, weights that are no numbers, and those of a site that moved
    OUTLYING times as far as the median of the others, where there are JUDGED_FROM. Raises FederationError where fewer
    than `least` sites are left.
    """
    refused: dict[str, str] = {}
    good: list[Update] = []
    for one in updates:
        why = _misfit(before, one.weights) or _faulty(one)
        if why is not None:
            refused[one.site] = why
        else:
            good.append(one)
    far = {one.site: _moved(before, one.weights) for one in good}
    if len(good) >= JUDGED_FROM:
        for one in good:
            others = float(np.median([d for site, d in far.items() if site != one.site]))
            if far[one.site] > OUTLYING * max(others, 1e-12):
                refused[one.site] = f"moved {far[one.site] / max(others, 1e-12):.0f} times as far as the others"
    taken = [one for one in good if one.site not in refused]
    if len(taken) < least:
        said = "; ".join(f"{site}: {why}" for site, why in refused.items()) or "nobody else answered"
        raise FederationError(f"{len(taken)} of at least {least} sites can be used in this round ({said}).")
    total = sum(one.count for one in taken)
    weights = {}
    for name, tensor in before.items():
        if not tensor.is_floating_point():
            weights[name] = taken[0].weights[name]
            continue
        mean = sum(one.weights[name].double() * (one.count / total) for one in taken)
        weights[name] = torch.as_tensor(mean).to(tensor.dtype)
    return Combined(weights, tuple(one.site for one in taken), refused)


def _misfit(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str | None:
    if own.keys() != given.keys():
        odd = sorted(own.keys() ^ given.keys())
        return f"{len(odd)} tensors are missing or unknown, {odd[0]} among them"
    for name, tensor in own.items():
        if tensor.shape != given[name].shape:
            return f"{name} has shape {tuple(given[name].shape)}, expected {tuple(tensor.shape)}"
    return None


def _faulty(one: Update) -> str | None:
    if one.count < 1:
        return "it learned from no image"
    bad = next((n for n, t in one.weights.items() if not bool(torch.isfinite(t.float()).all())), None)
    return None if bad is None else f"{bad} holds numbers that are none"


def _moved(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    squares = torch.stack([(after[n].double() - t.double()).square().sum() for n, t in before.items()])
    return float(squares.sum().sqrt())
