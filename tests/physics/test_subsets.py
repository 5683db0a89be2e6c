"""Ordered subsets: as good as many more iterations of MLEM; a prior of neighbours that is as strong as the counts ask."""

from itertools import pairwise

import pytest
import torch

from fabrica.contracts import Measurement
from fabrica.data.acquisition.pet import PetAcquisition
from fabrica.physics.pet import Emission
from fabrica.physics.subsets import EDGES, _parts, _slope_and_bend, _walked, ordered_subsets, relative_differences
from fabrica.rng import Rng


def _measured(counts: float, rows: int = 1) -> tuple[torch.Tensor, Measurement]:
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 48)] * 2, indexing="ij")
    image = (((y**2 / 0.7 + x**2 / 0.5) < 1) * 0.3 + ((y - 0.3) ** 2 + (x + 0.2) ** 2 < 0.03) * 0.5).float()[None]
    return image, PetAcquisition(counts=counts, views=60).measure(image, (4.0, 4.0), Rng([0]))


def _known(measured: Measurement) -> tuple:
    assert isinstance(measured.operator, Emission)
    return measured.operator.geometry, measured.operator.weight, measured.operator.background, measured.value


def test_four_rounds_of_ten_subsets_are_forty_iterations() -> None:
    _, measured = _measured(1e6)
    many = measured.operator.solved(measured.value)["MLEM"]
    few = ordered_subsets(*_known(measured))
    start = measured.nll(torch.ones_like(many))
    assert float((start - measured.nll(few)) / (start - measured.nll(many))) == pytest.approx(1, abs=2e-3)
    assert float((few - many).abs().mean() / many.mean()) < 0.05


def _cost(x: torch.Tensor) -> torch.Tensor:
    total = x.new_zeros(())
    for d in (-2, -1):
        a, b = x.narrow(d, 0, x.shape[d] - 1), x.narrow(d, 1, x.shape[d] - 1)
        total = total + ((a - b) ** 2 / (a + b + EDGES * (a - b).abs())).sum()
    return total


def test_slope_and_bend_of_relative_differences_are_those_of_their_sum() -> None:
    x = torch.rand(2, 1, 5, 6, dtype=torch.float64) + 0.1
    probe = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(_cost(probe), probe)
    slope, bend = _slope_and_bend(x)
    torch.testing.assert_close(slope, expected)
    hessian = torch.autograd.functional.hessian(_cost, x).reshape(x.numel(), x.numel())
    torch.testing.assert_close(bend.flatten(), 2 * hessian.diagonal())


def test_a_strong_prior_does_not_swing() -> None:
    """With one subset each round explains counts and prior together better than the one before."""
    image = torch.rand(1, 24, 24, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.2
    measured = PetAcquisition(counts=5e4, views=7).measure(image, (4.0, 4.0), Rng([0]))
    parts = _parts(*_known(measured))
    assert len(parts) == 1
    strength = 3 * parts[0].sensitivity.mean((1, 2, 3), keepdim=True)
    x, costs = torch.ones(1, 1, 24, 24), []
    for _ in range(20):
        x = _walked(parts, x, strength, 1)
        costs.append(float(measured.nll(x) + strength * _cost(x)))
    assert all(after <= before + 1e-6 * abs(before) for before, after in pairwise(costs)), costs


@pytest.mark.parametrize("counts", [5e4, 1e6])
def test_the_prior_is_as_strong_as_the_counts_ask(counts: float) -> None:
    image, measured = _measured(counts)
    plain, smooth = ordered_subsets(*_known(measured)), relative_differences(*_known(measured))
    off = measured.noise.misfit(measured.value, measured.operator(smooth))[measured.operator.measured(measured.value)]
    assert float(off.mean()) == pytest.approx(1, abs=0.05)
    assert float((smooth - image).square().mean()) < float((plain - image).square().mean())
    assert float(smooth.min()) >= 0


def test_rows_have_a_strength_of_their_own() -> None:
    _, poor = _measured(5e4)
    _, good = _measured(1e6)
    geometry = _known(poor)[0]
    both = [torch.cat([a, b]) for a, b in zip(_known(poor)[1:], _known(good)[1:], strict=True)]
    together = relative_differences(geometry, *both)
    for row, one in enumerate((poor, good)):
        torch.testing.assert_close(together[row : row + 1], relative_differences(*_known(one)), rtol=1e-3, atol=1e-4)


def test_few_views_have_fewer_subsets() -> None:
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 32)] * 2, indexing="ij")
    image = ((y**2 + x**2) < 0.5).float()[None] * 0.4
    measured = PetAcquisition(counts=1e6, views=7).measure(image, (4.0, 4.0), Rng([0]))
    assert torch.isfinite(ordered_subsets(*_known(measured))).all()
