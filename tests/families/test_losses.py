"""Every loss against a closed form, every row on its own, gradients that pull the right way."""

import math

import pytest
import torch
from torch.nn import functional as F

from fabrica.families import losses
from fabrica.families.losses import ADVERSARIAL, LOSSES

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


def test_every_loss_is_tested_here() -> None:
    adversarial = {f"{n} {side}" for n in ADVERSARIAL for side in ("critic", "generator")}
    others = {"gradient penalty", "KL", "commitment", "L1", "L2", "Charbonnier", "gradient difference", "total variation", "frequency", "structural", "edge agreement", "contrastive", "feature matching"}  # fmt: skip
    assert set(LOSSES) == adversarial | others


def test_gradient_penalty_of_a_linear_critic_is_its_weight_squared_and_has_a_graph() -> None:
    weight = torch.randn(7, requires_grad=True)
    x = torch.randn(2, 7, requires_grad=True)
    found = losses.gradient_penalty((x @ weight)[:, None], x)
    torch.testing.assert_close(found, (weight**2).sum().expand(2))
    (slope,) = torch.autograd.grad(found.sum(), weight)
    torch.testing.assert_close(slope, 4 * weight.detach())


def test_kl_against_torch() -> None:
    mean, log_variance = torch.randn(2, 6), torch.randn(2, 6)
    ours = losses.kl_normal(mean, log_variance)
    theirs = torch.distributions.kl_divergence(torch.distributions.Normal(mean, (0.5 * log_variance).exp()), torch.distributions.Normal(0.0, 1.0)).mean(1)  # fmt: skip
    torch.testing.assert_close(ours, theirs)
    assert float(losses.kl_normal(torch.zeros(1, 3), torch.zeros(1, 3))) == 0


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
    from fabrica.evaluate.pixel import ssim

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
