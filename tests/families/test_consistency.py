"""Consistency: two Gaussians that a draw must reach in one, two and four evaluations; what is compared with what."""

import pytest
import torch

from fabrica.contracts import Condition, Problem
from fabrica.families import Consistency
from fabrica.families.consistency import HIGH
from fabrica.families.misfit import distance
from fabrica.networks.unet import UNetShape
from fabrica.rng import Rng

from ..margin import below, learns
from .gaussians import SIGNATURE, check_moments, taught


@pytest.fixture(scope="module")
def trained() -> Consistency:
    family = taught(Consistency, 1600)
    assert isinstance(family, Consistency)
    return family


@pytest.mark.parametrize("steps", [1, 2, 4])
@learns
def test_moments_in_few_steps(trained: Consistency, steps: int) -> None:
    trained.steps = steps
    check_moments(trained, 0.08, 0.06)


@learns
def test_points_of_one_path_lead_to_one_image(trained: Consistency) -> None:
    """The same noise at neighbouring levels: the answers differ by little of what the levels differ by."""
    noise = torch.randn(64, 1, generator=torch.Generator().manual_seed(1))
    condition = Condition({"class": torch.arange(64) % 2})
    image = (0.6 * condition.values["class"].float() - 0.3)[:, None]
    answers = [trained._image(image + s * noise, torch.full((64,), s), condition) for s in (0.5, 0.6)]
    moved = float((answers[1] - answers[0]).detach().abs().mean())
    # worst of 0.157 (0.63 of the bound; fp32, 5 seeds); 0.113 (0.45 of the bound; bf16, 2 seeds)
    below(
        "how far answers of one path lie apart, of the noise between", moved / float((0.1 * noise).abs().mean()), 0.25
    )


def test_without_noise_an_image_is_itself() -> None:
    family = Consistency(SIGNATURE, UNetShape((8,), 1), "fp32")
    for parameter in family.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(5, 1)
    same = family._image(x, torch.zeros(5), Condition({"class": torch.zeros(5)}))
    assert torch.allclose(same, x, atol=1e-6)


def test_levels_come_nearer_as_training_goes_on() -> None:
    family = Consistency(SIGNATURE, UNetShape((8,), 1), "fp32")
    sigma = torch.tensor([0.02, 0.3, 2.0, HIGH])
    share = torch.stack([family._nearer(sigma, p) / sigma for p in (0.0, 0.3, 0.6, 0.99)])
    assert (share[0] == 0).all()  # a denoiser first
    assert (share.diff(dim=0) >= 0).all()
    assert (share[-1] > 0.65).all()
    assert (share < 1).all()  # never compared with itself


def test_a_step_costs_an_evaluation(trained: Consistency, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = []
    inner = trained._image
    monkeypatch.setattr(trained, "_image", lambda x, s, c: (levels.append(float(s[0])), inner(x, s, c))[1])
    trained.steps = 3
    trained.sample(Problem(("a",), (1,), Condition({"class": torch.zeros(1)})), Rng([0]))
    assert len(levels) == 3
    assert levels[0] == HIGH
    assert levels == sorted(levels, reverse=True)
    with pytest.raises(ValueError, match="expected at least 1"):
        Consistency(SIGNATURE, UNetShape((8,), 1), "fp32", steps=0)


def test_the_distance_by_its_closed_form() -> None:
    target = torch.zeros(2, 3)
    weight = torch.tensor([[1.0, 1, 0], [1, 1, 1]])
    problem = Problem(("a", "b"), (3,), target=target, weight=weight)
    off = torch.tensor([[3.0, 4, 100], [0, 0, 0]])
    found = distance(problem, off, target, torch.tensor([2.0, 1.0]), robust=0.5)
    expected = (4 * 12.5 + 0.25) ** 0.5 - 0.5  # what is not known does not count
    assert found.tolist() == pytest.approx([expected, 0.0], abs=1e-6)
