"""Every loss against a closed form, every row on its own, gradients that pull the right way."""

import math

import pytest
import torch
from torch.nn import functional as F

from fabrica.contracts import Condition, Field, Problem
from fabrica.families import FAMILIES, losses
from fabrica.families.losses import ADVERSARIAL, LOSSES, PAIRED
from fabrica.families.misfit import added_terms
from fabrica.recipe.checks import from_plain
from fabrica.recipe.text import RecipeError
from fabrica.rng import Rng

torch.manual_seed(0)
REAL, FAKE = torch.randn(3, 5), torch.randn(3, 5)
CLOSED = {
    "relativistic": (torch.log1p((FAKE - REAL).exp()).mean(1), torch.log1p((REAL - FAKE).exp()).mean(1)),
    "hinge": ((1 - REAL).clamp(min=0).mean(1) + (1 + FAKE).clamp(min=0).mean(1), -FAKE.mean(1)),
    "least squares": (((REAL - 1) ** 2 + FAKE**2).mean(1), ((FAKE - 1) ** 2).mean(1)),
    "non-saturating": (-(torch.sigmoid(REAL).log() + (1 - torch.sigmoid(FAKE)).log()).mean(1), -torch.sigmoid(FAKE).log().mean(1)),
    "wasserstein": ((FAKE - REAL).mean(1), -FAKE.mean(1)),
}  # fmt: skip


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_forms(name: str) -> None:
    critic, generator = ADVERSARIAL[name]
    torch.testing.assert_close(critic(REAL, FAKE), CLOSED[name][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(generator(REAL, FAKE), CLOSED[name][1], rtol=1e-5, atol=1e-5)
    fake = FAKE.clone().requires_grad_()
    (up,) = torch.autograd.grad(critic(REAL, fake).sum(), fake)
    (down,) = torch.autograd.grad(generator(REAL, fake).sum(), fake)
    assert (up >= 0).all() or name == "least squares"
    assert (down <= 0).all() or name == "least squares"


def _penalty() -> torch.Tensor:
    x = torch.zeros(1, 2, requires_grad=True)
    return losses.gradient_penalty((x * torch.tensor([1.0, 2.0])).sum(1, keepdim=True), x)


DARK, STEP = torch.zeros(1, 1, 4, 4), torch.tensor([0.0, 0, 2, 2]).expand(1, 1, 4, 4)  # one edge, of height 2
LATER = torch.tensor([0.0, 0, 0, 2]).expand(1, 1, 4, 4)  # the same edge, a column on
C1, C2 = 1e-4, 9e-4  # of SSIM
VALUES = {  # loss -> what it gives, what it has to be
    **{f"{n} critic": (lambda n=n: ADVERSARIAL[n][0](REAL, FAKE)[0], CLOSED[n][0][0]) for n in CLOSED},
    **{f"{n} generator": (lambda n=n: ADVERSARIAL[n][1](REAL, FAKE)[0], CLOSED[n][1][0]) for n in CLOSED},
    "gradient penalty": (_penalty, 5.0),
    "KL": (lambda: losses.kl_normal(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2)), 2.5),
    "commitment": (lambda: losses.commitment(DARK, STEP), 2.0),
    "L1": (lambda: losses.absolute(DARK, STEP), 1.0),
    "L2": (lambda: losses.squared_error(DARK, STEP), 2.0),
    "Charbonnier": (lambda: losses.charbonnier(DARK, STEP, 1.0), (math.sqrt(5) - 1) / 2),
    "gradient difference": (lambda: losses.gradient_difference(DARK, STEP), 2 / 3),
    "total variation": (lambda: losses.total_variation(STEP), 2 / 3),
    "frequency": (lambda: losses.frequency(DARK, DARK + 1), 1 / 3),  # all in one of 12 half-plane coefficients
    "structural": (lambda: losses.structural(STEP, 2 - STEP), 4 / (2 + C2)),  # means 1, variances 1, covariance -1
    "edge agreement": (lambda: losses.edge_agreement(STEP, LATER), 4 / 3),  # correlation -1/3: a quarter each, apart
    "contrastive": (lambda: losses.contrastive(torch.eye(4), torch.eye(4))[0], math.log1p(3 * math.exp(-10))),
    "feature matching": (lambda: losses.feature_matching([DARK], [STEP]), 1.0),
    "histogram": (lambda: losses.histogram(DARK, STEP, DARK == 0), 1.0),  # 0 0 0 0 beside 0 0 2 2 in every row
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_closed_form(name: str) -> None:
    found, wanted = VALUES[name]
    assert float(found().detach()) == pytest.approx(float(wanted), rel=1e-3, abs=1e-5)


def test_gradient_penalty_of_a_linear_critic_is_its_weight_squared_and_has_a_graph() -> None:
    weight = torch.randn(7, requires_grad=True)
    x = torch.randn(2, 7, requires_grad=True)
    found = losses.gradient_penalty((x @ weight)[:, None], x)
    torch.testing.assert_close(found, (weight**2).sum().expand(2))
    (slope,) = torch.autograd.grad(found.sum(), weight)
    torch.testing.assert_close(slope, 4 * weight.detach())


def test_gradient_penalty_of_patches_is_the_mean_over_them() -> None:
    """Each patch sees its own voxels: a critic of many patches is bound as tightly as one of few."""
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0])
    x = torch.randn(3, 4, requires_grad=True)
    found = losses.gradient_penalty(x * weight, x)
    torch.testing.assert_close(found, (weight**2).mean().expand(3))
    twice = torch.cat([x, torch.randn(3, 4)], 1).detach().requires_grad_()
    torch.testing.assert_close(losses.gradient_penalty(twice * weight.repeat(2), twice), found.detach())


def test_kl_against_torch() -> None:
    mean, log_variance = torch.randn(2, 6), torch.randn(2, 6)
    ours = losses.kl_normal(mean, log_variance)
    theirs = torch.distributions.kl_divergence(torch.distributions.Normal(mean, (0.5 * log_variance).exp()), torch.distributions.Normal(0.0, 1.0)).mean(1)  # fmt: skip
    torch.testing.assert_close(ours, theirs)
    assert float(losses.kl_normal(torch.zeros(1, 3), torch.zeros(1, 3))) == 0
    expected, other = torch.randn(2, 6), torch.randn(2, 6)
    found, likely = (
        torch.distributions.Normal(m, (0.5 * v).exp()) for m, v in ((mean, log_variance), (expected, other))
    )
    between = torch.distributions.kl_divergence(found, likely).mean(1)
    torch.testing.assert_close(losses.kl_normal(mean, log_variance, expected, other), between)


def test_distances_by_hand() -> None:
    x, y = torch.zeros(1, 1, 2, 3), torch.tensor([[[[3.0, 0, 0], [0, 4, 0]]]])
    assert float(losses.absolute(x, y)) == pytest.approx(7 / 6)
    assert float(losses.squared_error(x, y)) == pytest.approx(25 / 6)
    assert float(losses.charbonnier(x, y, 1.0)) == pytest.approx((math.sqrt(10) + math.sqrt(17) - 2) / 6)
    rows = (3 + 4 + 0) / 3  # |differences| along y: 3, 4, 0
    columns = (3 + 0 + 4 + 4) / 4  # along x: 3, 0; 4, 4
    assert float(losses.gradient_difference(x, y)) == pytest.approx(rows + columns)
    assert float(losses.total_variation(y)) == pytest.approx(rows + columns)
    fixed = torch.randn(2, 4, requires_grad=True)
    losses.commitment(torch.zeros(2, 4, requires_grad=True), fixed).sum().backward()
    assert fixed.grad is None


@pytest.mark.parametrize("axes", [2, 3])
def test_frequency_and_structure(axes: int) -> None:
    x, y = torch.rand(2, 1, *[12] * axes), torch.rand(2, 1, *[12] * axes)
    wave = torch.zeros_like(x)
    wave[..., 0] = 1.0
    assert float(losses.frequency(x, x + 1)[0]) == pytest.approx(12 ** (axes / 2) / (12 ** (axes - 1) * 7), rel=1e-4)
    assert (losses.frequency(x, y) > 0).all()
    assert losses.structural(x, x).abs().max() < 1e-5
    assert (losses.structural(x, y) > 0.3).all()
    assert losses.edge_agreement(x, 3 - 2 * x).abs().max() < 1e-4  # inverted contrast, same edges
    assert (losses.edge_agreement(x, y) > 0.5).all()


def test_structural_against_the_metric() -> None:
    from fabrica.evaluate.metrics.pixel import ssim

    x, y = torch.rand(1, 1, 20, 20).double(), torch.rand(1, 1, 20, 20).double()
    count = 49 / 48
    close = float(ssim(y[0, 0].numpy(), x[0, 0].numpy(), data_range=1.0, convention="skimage"))
    assert 1 - float(losses.structural(x, y)) == pytest.approx(close, abs=0.02 * count)


def test_contrastive_and_features() -> None:
    x = torch.eye(4)
    wanted = -math.log(math.exp(10) / (math.exp(10) + 3))
    torch.testing.assert_close(losses.contrastive(x, x), torch.full((4,), wanted), rtol=1e-3, atol=1e-5)
    assert (losses.contrastive(x, x.roll(1, 0)) > 5).all()
    seen = [torch.zeros(2, 3, 4), torch.zeros(2, 1, 2)]
    torch.testing.assert_close(
        losses.feature_matching(seen, [s + k for k, s in enumerate(seen, 1)]), torch.full((2,), 1.5)
    )


def test_shape_and_structure_by_hand() -> None:
    volumes = [x[:, :, None].expand(1, 1, 4, 4, 4) for x in (DARK, STEP, LATER)]
    for dark, step, later in ((DARK, STEP, LATER), volumes):
        nothing = C1 * C2 / ((1 + C1) * (1 + C2))  # mean and variance 1 beside 0
        assert float(losses.structural(dark, step)) == pytest.approx(1 - nothing, abs=1e-6)
        assert float(losses.structural(step, step)) == pytest.approx(0, abs=1e-6)
        assert float(losses.structural(step, 2 - step)) == pytest.approx(4 / (2 + C2), abs=1e-4)
        assert float(losses.edge_agreement(step, 3 - 2 * step)) == pytest.approx(0, abs=1e-4)  # dark for bright
        assert float(losses.edge_agreement(step, later)) == pytest.approx(4 / 3, abs=1e-3)
        assert float(losses.edge_agreement(dark, step)) == pytest.approx(1, abs=1e-3)  # no shape at all


@pytest.mark.parametrize(
    "name", ["L1", "L2", "Charbonnier", "gradient difference", "frequency", "structural", "edge agreement"]
)
@pytest.mark.parametrize("axes", [2, 3])
def test_rows_do_not_mix(name: str, axes: int) -> None:
    x, y = torch.rand(3, 2, *[8] * axes), torch.rand(3, 2, *[8] * axes)
    together = LOSSES[name](x, y)
    assert together.shape == (3,)
    torch.testing.assert_close(LOSSES[name](x[1:2], y[1:2]), together[1:2])
    assert torch.isfinite(LOSSES[name](torch.zeros_like(x), F.relu(y))).all()


@pytest.mark.parametrize("axes", ["yx", "zyx"])
@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.parametrize("family", ["regression", "gan"])
def test_every_paired_loss_is_reached_from_a_recipe(family: str, name: str, axes: str) -> None:
    """The weighted term is the table's own, of what is known alone; its gradient reaches the network."""
    plain = {
        "cohorts": {"all": {"path": "x"}}, "job": {"name": "translation", "from": ["T1w"], "x": ["FLAIR"], "axes": axes},
        "family": {"name": family, "losses": {name: 0.5}, "network": {"channels": [8, 16], "blocks": 1}},
        "baseline": "none", "train": {"steps": 1},
    }  # fmt: skip
    stage = from_plain(plain).stages[0]
    made = FAMILIES.find(family)(stage.build_job().signature(), stage.network, "fp32", **stage.family.options)
    for parameter in made.parameters():  # a network begins at zero, which varies nowhere
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    grid, rng = (16,) * len(axes), Rng([0, 1])
    known = torch.zeros(2, 1, *grid)
    known[..., :8] = 1
    given = {"T1w": rng.child("t1").uniform(1, *grid), "position": torch.zeros(2)}
    wanted = rng.child("flair").uniform(1, *grid)
    problem = Problem(("a", "b"), (1, *grid), Condition(given), target=wanted, weight=known)
    terms = made.loss(problem, "model", rng, 0.0)
    output = made._output(problem, torch.device("cpu")) if family == "regression" else made._output(problem, rng)  # type: ignore[operator]
    torch.testing.assert_close(terms[name], 0.5 * PAIRED[name](output * known, wanted * known))
    terms[name].sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters())


@pytest.mark.parametrize(
    ("family", "job", "words"),
    [
        ({"name": "regression", "losses": {"structure": 1.0}}, {}, "Unknown loss 'structure'. Did you mean 'structural'"),
        ({"name": "regression", "losses": {"structural": -1.0}}, {}, "expected 0 or more"),
        ({"name": "regression", "losses": {"structural": 1.0}}, {"name": "outcome", "from": ["T1w"], "x": "age", "width": 20.0}, "asks for numbers"),
        ({"name": "gan", "losses": {"structural": 1.0}}, {"name": "synthesis", "x": ["T1w"]}, "compare pairs, and this job has none"),
        ({"name": "gan", "adversarial": "earth mover"}, {}, "'wasserstein'"),
    ],
)  # fmt: skip
def test_losses_that_cannot_be_are_refused(family: dict, job: dict, words: str) -> None:
    plain = {
        "cohorts": {"all": {"path": "x"}}, "job": job or {"name": "translation", "from": ["T1w"], "x": ["FLAIR"]},
        "family": {**family, "network": {"channels": [8, 16], "blocks": 1}}, "baseline": "none", "train": {"steps": 1},
    }  # fmt: skip
    with pytest.raises(RecipeError, match=words):
        from_plain(plain)
    good = from_plain(
        {**plain, "job": {"name": "synthesis", "x": ["T1w"]}, "family": {"name": "gan", "adversarial": "wasserstein"}}
    )
    assert good.stages[0].family.options == {"adversarial": "wasserstein"}


def test_histograms_by_hand() -> None:
    """Where values lie in a region does not matter, how far their order lies apart does."""
    x = torch.tensor([[[[1.0, 2.0], [3.0, 9.0]]], [[[5.0, 5.0], [5.0, 5.0]]]])
    inside = torch.tensor([[[[True, True], [True, False]]], [[[False, False], [False, False]]]])
    turned = torch.tensor([[[[3.0, 1.0], [2.0, 0.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    assert losses.histogram(x, turned, inside).tolist() == [0, 0]
    assert losses.histogram(x + 1, turned, inside).tolist() == pytest.approx([1, 0])
    wide = torch.tensor([[[[0.0, 2.0], [4.0, 9.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    assert losses.histogram(wide, x, inside).tolist() == pytest.approx([2 / 3, 0])
    leaf = x.clone().requires_grad_()
    losses.histogram(leaf, turned + 2, inside).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad[0, 0].tolist() == [[pytest.approx(-1 / 3)] * 2, [pytest.approx(-1 / 3), 0.0]]
    assert not leaf.grad[1].any()


def test_histograms_are_of_what_is_added_to_the_ground() -> None:
    regions = {"a": torch.ones(2, 1, 2, 2, dtype=torch.bool), "b": torch.zeros(2, 1, 2, 2, dtype=torch.bool)}
    regions["b"][0, 0, 0, 0] = True
    ground = torch.tensor([[[[10.0, 0.0], [0.0, 0.0]]]]).expand(2, 1, 2, 2)
    target = torch.zeros(2, 1, 2, 2)
    problem = Problem(("a", "b"), (1, 2, 2), target=target, regions=regions, ground=ground)
    moved = torch.tensor([[[[0.0, 8.0], [0.0, 0.0]]]]).expand(2, 1, 2, 2)  # in order: 0 0 8 10 beside 0 0 0 10
    fields = (Field("dose", "intensity", 1, "Gy"),)
    found = added_terms(problem, moved, fields, {"histogram": 0.5})["histogram"]
    assert found.tolist() == pytest.approx([0.5 * (2 + 0) / 2, 0.5 * 2])
    some = problem.rows(torch.tensor([1]))
    assert added_terms(some, moved[1:], fields, {"histogram": 1.0})["histogram"].tolist() == pytest.approx([2])
    with pytest.raises(ValueError, match="this job has none"):
        added_terms(Problem(("a", "b"), (1, 2, 2), target=target), moved, fields, {"histogram": 1.0})


def test_a_job_without_structures_is_refused_histograms() -> None:
    plain = {
        "cohorts": {"all": {"path": "x"}}, "job": {"name": "translation", "from": ["T1w"], "x": ["T2w"]},
        "family": {"name": "regression", "losses": {"histogram": 1.0}}, "train": {"steps": 1},
    }  # fmt: skip
    with pytest.raises(RecipeError, match="histogram compares values in structures, and translation has none"):
        from_plain(plain)
    from_plain({**plain, "job": {"name": "dose"}})
