"""Two Gaussians by class, x ~ N(-0.3, 0.1) or N(0.3, 0.1): what families of few steps learn in seconds."""

from collections.abc import Callable

import torch

from fabrica.contracts import Condition, Family, Field, Problem, Signature
from fabrica.networks.unet import UNetShape
from fabrica.rng import Rng

from ..margin import PRECISION, SEED, near

SIGNATURE = Signature((Field("value", "number", 1),), "", (Field("class", "class", 2),))


def taught(kind: Callable[..., Family], steps: int) -> Family:
    torch.manual_seed(SEED)
    family = kind(SIGNATURE, UNetShape((32,), 1), PRECISION)
    optimiser = torch.optim.Adam(family.parameters(), 2e-3)
    labels = torch.arange(128) % 2
    for step in range(steps):
        rng = Rng(range(128)).child(step)
        target = (0.6 * labels.float() - 0.3)[:, None] + 0.1 * rng.child("target").normal(1)
        problem = Problem(tuple(map(str, range(128))), (1,), Condition({"class": labels}), target=target)
        optimiser.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        optimiser.zero_grad()
        (term,) = family.loss(problem, "model", rng, step / steps).values()
        term.mean().backward()
        optimiser.step()
    return family.eval()


def check_moments(family: Family, mean_within: float, deviation_within: float) -> None:
    labels = torch.arange(600) % 2
    problem = Problem(tuple(map(str, range(600))), (1,), Condition({"class": labels}))
    drawn = family.sample(problem, Rng(range(600)))[:, 0]
    for k, mean in ((0, -0.3), (1, 0.3)):
        own = drawn[labels == k]
        # worst of 0.259 (0.51 of the bound; fp32, 5 seeds); -0.269 (0.38 of the bound; bf16, 2 seeds)
        near("the mean of a class", float(own.mean()), mean, mean_within)
        # worst of 0.0723 (0.55 of the bound; fp32, 5 seeds); 0.0735 (0.53 of the bound; bf16, 2 seeds)
        near("the spread of a class", float(own.std()), 0.1, deviation_within)
