"""Ordered subsets: as good as many more iterations of MLEM; a prior of neighbours that is as strong as the counts ask."""

import pytest
import torch

from fabrica.contracts import Measurement
from fabrica.data.acquisition.pet import PetAcquisition
from fabrica.physics.pet import Emission
from fabrica.physics.subsets import EDGES, _slope, ordered_subsets, relative_differences
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


def test_the_slope_of_relative_differences_is_that_of_their_sum() -> None:
    x = torch.rand(2, 1, 5, 6, dtype=torch.float64) + 0.1

    def cost(x: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for d in (-2, -1):
            a, b = x.narrow(d, 0, x.shape[d] - 1), x.narrow(d, 1, x.shape[d] - 1)
            total = total + ((a - b) ** 2 / (a + b + EDGES * (a - b).abs())).sum()
        return total

    probe = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(cost(probe), probe)
    torch.testing.assert_close(_slope(x), slope)


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
