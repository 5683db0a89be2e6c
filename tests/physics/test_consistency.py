"""The nearest image that agrees with the data: closed form, gradients, parts of what was measured."""

import pytest
import torch

from fabrica.contracts import Measurement
from fabrica.physics import Exact, Gaussian, LineIntegrals, Mask
from fabrica.physics.consistency import Data, some_of
from fabrica.physics.geometry import ParallelGeometry
from fabrica.rng import Rng

from ..sampling.test_posterior import MATRIX, Mixed

NOISE = torch.tensor([[[0.05, 0.4]]])


def _data(dtype: torch.dtype = torch.float32) -> Data:
    y = torch.tensor([0.9, 0.2], dtype=dtype).expand(2, 1, 2)
    return Data.of(Measurement(y, Mixed(MATRIX.to(dtype)), Gaussian(NOISE)))


def test_the_nearest_image_is_that_of_the_closed_form() -> None:
    guess, width = torch.rand(2, 1, 3), 0.3
    found = _data().nearest(guess, width)
    weight = torch.diag(NOISE[0, 0].double() ** -2)
    matrix = MATRIX.double()
    system = matrix.T @ weight @ matrix + torch.eye(3).double() / width**2
    right = matrix.T @ weight @ torch.tensor([0.9, 0.2]).double() + guess.double() / width**2
    torch.testing.assert_close(
        found.double(), torch.linalg.solve(system, right[..., None])[..., 0], rtol=1e-4, atol=1e-5
    )


def test_gradients_are_those_of_the_answer() -> None:
    """Of the guess and of how much it is believed, by finite differences."""
    data, guess = _data(torch.float64), torch.rand(2, 1, 3, dtype=torch.float64, requires_grad=True)
    for width in (torch.tensor(0.3, dtype=torch.float64), torch.tensor([[[0.3]], [[0.5]]], dtype=torch.float64)):
        assert torch.autograd.gradcheck(lambda g, w: data.nearest(g, w), (guess, width.requires_grad_()))


def test_a_part_of_the_data_counts_as_if_it_were_all() -> None:
    known = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0)) > 0.3
    y = torch.rand(2, 1, 6, 6)
    whole = Measurement(y, Mask(torch.ones(1, 1, 6, 6)), Gaussian(0.1))
    part, fewer = Data.of(whole, known), Data.of(Measurement(y * known, Mask(known), Gaussian(0.1)))
    guess = torch.rand(2, 1, 6, 6)
    torch.testing.assert_close(part.nearest(guess, 0.2), fewer.nearest(guess, 0.2))
    torch.testing.assert_close(part.plain(), fewer.plain())
    torch.testing.assert_close(part.plain(), y * known)


def test_parts_are_drawn_by_sample_or_by_view_and_by_row() -> None:
    mask = Measurement(torch.zeros(3, 1, 40, 40), Mask(torch.rand(3, 1, 40, 40) > 0.5), Gaussian(0.1))
    some = some_of(mask, 0.25, Rng(range(3)))
    assert not (some & ~mask.operator.measured(mask.value)).any()
    assert float(some.sum() / mask.operator.measured(mask.value).sum()) == pytest.approx(0.25, abs=0.05)
    torch.testing.assert_close(some[1:2], some_of(mask.rows(torch.tensor([1])), 0.25, Rng([1])))
    geometry = ParallelGeometry.around((8, 8), 50)
    beams = Measurement(torch.zeros(2, 1, 50, geometry.detectors), LineIntegrals(geometry), Gaussian(0.1))
    assert some_of(beams, 0.5, Rng([0, 1])).shape == (2, 1, 50, 1)


def test_what_has_no_variance_is_refused() -> None:
    with pytest.raises(TypeError, match="not linear with a variance"):
        Data.of(Measurement(torch.zeros(1, 1, 4, 4), Mask(torch.ones(1, 1, 4, 4)), Exact()))
