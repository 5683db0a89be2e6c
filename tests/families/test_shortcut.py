"""Few steps: two Gaussians that a draw must reach in one, two and many evaluations."""

import pytest
import torch

from fabrica.contracts import Condition, Field, Problem, Signature
from fabrica.families import Shortcut
from fabrica.networks.unet import UNetShape
from fabrica.rng import Rng

SIGNATURE = Signature((Field("value", "number", 1),), "", (Field("class", "class", 2),))


@pytest.fixture(scope="module")
def trained() -> Shortcut:
    """x ~ N(-0.3, 0.1) or N(0.3, 0.1), by class."""
    torch.manual_seed(0)
    family = Shortcut(SIGNATURE, UNetShape((32,), 1), "fp32")
    optimiser = torch.optim.Adam(family.parameters(), 2e-3)
    labels = torch.arange(128) % 2
    for step in range(800):
        rng = Rng(range(128)).child(step)
        target = (0.6 * labels.float() - 0.3)[:, None] + 0.1 * rng.child("target").normal(1)
        problem = Problem(tuple(map(str, range(128))), (1,), Condition({"class": labels}), target=target)
        optimiser.param_groups[0]["lr"] = 2e-3 * (1 - step / 800)
        optimiser.zero_grad()
        family.loss(problem, "model", rng, 0.0)["velocity"].mean().backward()
        optimiser.step()
    return family.eval()


@pytest.mark.parametrize("steps", [1, 2, 4, 32])
def test_moments_in_any_number_of_steps(trained: Shortcut, steps: int) -> None:
    trained.steps = steps
    labels = torch.arange(600) % 2
    problem = Problem(tuple(map(str, range(600))), (1,), Condition({"class": labels}))
    drawn = trained.sample(problem, Rng(range(600)))[:, 0]
    for k, mean in ((0, -0.3), (1, 0.3)):
        own = drawn[labels == k]
        assert float(own.mean()) == pytest.approx(mean, abs=0.06), steps
        assert float(own.std()) == pytest.approx(0.1, abs=0.05), steps


def test_a_step_costs_an_evaluation(trained: Shortcut, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    inner = trained._velocity
    monkeypatch.setattr(trained, "_velocity", lambda *a: (calls.append(1), inner(*a))[1])
    trained.steps = 8
    trained.sample(Problem(("a",), (1,), Condition({"class": torch.zeros(1)})), Rng([0]))
    assert len(calls) == 8


def test_large_steps_learn_from_two_small_ones(trained: Shortcut) -> None:
    x, t, size = torch.randn(4, 1), torch.ones(4), torch.zeros(4, dtype=torch.long)
    condition = Condition({"class": torch.tensor([0, 1, 0, 1])})
    two = trained._two_steps(x, t, size, condition)
    one = trained._velocity(x, t, torch.zeros(4), condition)
    assert float((one - two).detach().abs().mean()) < 0.3 * float(two.abs().mean())


def test_steps_are_powers_of_two() -> None:
    with pytest.raises(ValueError, match="expected 1, 2, 4"):
        Shortcut(SIGNATURE, UNetShape((8,), 1), "fp32", steps=3)


def test_the_finest_step_is_the_flow_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    family = Shortcut(SIGNATURE, UNetShape((8,), 1), "fp32", steps=128)
    seen = set()
    inner = family._velocity
    monkeypatch.setattr(family, "_velocity", lambda x, t, step, c: (seen.add(float(step[0])), inner(x, t, step, c))[1])
    family.sample(Problem(("a",), (1,), Condition({"class": torch.zeros(1)})), Rng([0]))
    assert seen == {8.0}
