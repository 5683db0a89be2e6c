"""Measurements by row, together, and on a corner; masks and the noises that ship."""

import pytest
import torch

from fabrica.contracts import Measurement
from fabrica.contracts.measured import joined
from fabrica.physics import NOISES, OPERATORS, Exact, Gaussian, Mask, Poisson
from fabrica.physics.mask import settled
from fabrica.rng import Rng
from fabrica.testing import check_noise, check_operator


def _mask(rows: int, side: int = 6, seed: int = 0) -> Mask:
    return Mask(torch.rand(rows, 1, side, side, generator=torch.Generator().manual_seed(seed)) > 0.5)


@pytest.mark.parametrize("rows", [1, 3])
def test_masks_keep_the_laws(rows: int) -> None:
    check_operator(_mask(rows), torch.randn(3, 1, 6, 6))
    mask, y = _mask(rows), torch.randn(3, 1, 6, 6)
    assert torch.equal(mask.crude(y), y * mask.known)


def test_noises_that_ship_keep_the_laws() -> None:
    check_noise(Gaussian(0.3), torch.rand(1, 2, 3))
    check_noise(Gaussian(torch.tensor([0.2])), torch.rand(1, 2, 3))
    check_noise(Gaussian(torch.rand(1, 2, 3) + 0.1), torch.rand(1, 2, 3))
    check_noise(Poisson(2.0), 5 + 10 * torch.rand(1, 2, 3))
    mean = torch.rand(3, 2)
    assert torch.equal(Exact().draw(mean, Rng(range(3))), mean)
    assert Exact().nll(mean, mean).tolist() == [0, 0, 0]
    assert torch.isinf(Exact().nll(mean + 1, mean)).all()


def test_complex_noise_scatters_in_both_parts() -> None:
    mean = torch.zeros(2000, 2, dtype=torch.complex64)
    y = Gaussian(0.5).draw(mean, Rng(range(2000)))
    assert float(y.real.std()) == pytest.approx(0.5, rel=0.05)
    assert float(y.imag.std()) == pytest.approx(0.5, rel=0.05)
    assert abs(float((y.real * y.imag).mean())) < 0.02
    assert float(Gaussian(0.5).nll(y, mean).mean()) == pytest.approx(
        2.0, rel=0.05
    )  # two numbers of two parts, half each


def test_rows_and_their_reunion() -> None:
    """What was taken apart and put together is what it was, whether rows have masks of their own or share one."""
    for rows in (1, 4):
        x = torch.randn(4, 1, 6, 6)
        whole = Measurement(_mask(rows)(x), _mask(rows), Gaussian(0.2))
        back = joined([whole.rows(torch.tensor([0, 1])), whole.rows(torch.tensor([2, 3]))])
        torch.testing.assert_close(back.nll(x), whole.nll(x))
        torch.testing.assert_close(back.rows(torch.tensor([3])).nll(x[3:]), whole.nll(x)[3:])
    odd = Measurement(torch.zeros(1, 1, 4, 4), _mask(1, 4), Exact())
    with pytest.raises(ValueError, match="different shapes"):
        joined([whole, odd])


def test_a_corner_is_a_small_problem_of_the_same_kind() -> None:
    whole = Measurement(torch.ones(2, 1, 6, 6), _mask(2), Exact())
    small = whole.corner((1, 3, 2))
    assert small.value.shape == (2, 1, 3, 2)
    assert torch.equal(small.operator.known, whole.operator.known[:, :, :3, :2])
    assert float(small.value.abs().max()) == 0


def test_rows_of_which_all_is_known_are_settled() -> None:
    known = torch.zeros(3, 1, 2, 2)
    known[1] = 1
    assert settled(Measurement(torch.zeros(3), Mask(known), Exact()), 3).tolist() == [False, True, False]
    assert settled(Measurement(torch.zeros(2), Mask(known), Gaussian(1.0)), 2).tolist() == [False, False]


def test_tables() -> None:
    assert OPERATORS.names() == ["emission", "line_integrals", "mask", "resolution", "sense", "sense_anywhere"]
    assert NOISES.names() == ["exact", "gaussian", "poisson"]
