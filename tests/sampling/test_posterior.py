"""The posterior sampler against the closed form: Gaussian prior, linear physics, Gaussian noise."""

import pytest
import torch

from fabrica.contracts import Measurement, Problem
from fabrica.physics import Gaussian, Mask, Poisson
from fabrica.physics.algebra import LinearOperator
from fabrica.rng import Rng
from fabrica.sampling import SAMPLERS
from fabrica.sampling.restorers import SPREAD, fewest_edges
from fabrica.testing import check_sampler

from .test_solvers import Exact

CENTRE, NOISE = 0.5, 0.1


class Mixed(LinearOperator):
    """A matrix over the three voxels of an image."""

    classical = "least squares"

    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__()
        self.matrix = matrix

    def apply_to(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.matrix.T

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return y @ self.matrix

    def corner(self, sides: tuple[int, ...]) -> "Mixed":
        return self


MATRIX = torch.tensor([[1.0, 0.5, 0.0], [0.2, -0.4, 0.3]])  # two measured, one direction left to the prior
Y = torch.tensor([0.9, 0.2])


def _drawn(rows: int = 4000, **options: object) -> torch.Tensor:
    measured = {"y": Measurement(Y.expand(rows, 1, 2), Mixed(MATRIX), Gaussian(NOISE))}
    problem = Problem(tuple(f"c{i}" for i in range(rows)), (1, 3), measurements=measured)
    prior = Exact(0.0, SPREAD, centre=CENTRE)
    return SAMPLERS.find("posterior").draw(prior, problem, Rng(range(rows)), high=20.0, trust=1.0, **options)[:, 0]


def _closed_form() -> tuple[torch.Tensor, torch.Tensor]:
    matrix = MATRIX.double()
    precision = matrix.T @ matrix / NOISE**2 + torch.eye(3).double() / SPREAD**2
    covariance = torch.linalg.inv(precision)
    return covariance @ (matrix.T @ Y.double() / NOISE**2 + CENTRE / SPREAD**2), covariance


@pytest.mark.parametrize("steps", [2, 6, 20])
def test_mean_and_covariance_are_those_of_the_posterior(steps: int) -> None:
    """For any number of steps: each is a draw of what is known exactly."""
    x = _drawn(steps=steps).double()
    mean, covariance = _closed_form()
    torch.testing.assert_close(x.mean(0), mean, atol=0.02, rtol=0.0)
    torch.testing.assert_close(torch.cov(x.T), covariance, atol=0.006, rtol=0.08)


def test_a_wrong_width_is_seen() -> None:
    """A planted fault: told more sharply than it knows, the prior pulls draws away from what was measured."""
    measured = {"y": Measurement(Y.expand(2000, 1, 2), Mixed(MATRIX), Gaussian(NOISE))}
    problem = Problem(tuple(f"c{i}" for i in range(2000)), (1, 3), measurements=measured)
    x = SAMPLERS.find("posterior").draw(
        Exact(0.0, SPREAD, CENTRE), problem, Rng(range(2000)), high=20.0, trust=0.3, steps=20
    )
    mean, _ = _closed_form()
    assert float((x[:, 0].double().mean(0) - mean).abs().max()) > 0.1


def test_where_there_can_be_nothing_nothing_is_drawn() -> None:
    class Half(Mixed):
        def feasible(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.tensor([True, True, False])

    measured = {"y": Measurement(Y.expand(4, 1, 2), Half(MATRIX), Gaussian(NOISE))}
    problem = Problem(tuple("abcd"), (1, 3), measurements=measured)
    x = SAMPLERS.find("posterior").draw(Exact(0.0, SPREAD, CENTRE), problem, Rng(range(4)))
    assert not x[..., 2].any()
    assert x[..., :2].all()


def test_rows_of_the_sampler_are_their_own() -> None:
    known = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0)) > 0.4
    values = torch.rand(3, 1, 6, 6) * known
    problem = Problem(tuple("abc"), (1, 6, 6), measurements={"y": Measurement(values, Mask(known), Gaussian(0.05))})
    check_sampler(SAMPLERS.find("posterior"), Exact(0.0, SPREAD, CENTRE), problem)


def test_each_number_may_have_its_own_noise() -> None:
    """The closed form with two deviations: what is measured better decides more."""
    deviation = torch.tensor([[[0.05, 0.4]]])
    measured = {"y": Measurement(Y.expand(4000, 1, 2), Mixed(MATRIX), Gaussian(deviation))}
    problem = Problem(tuple(f"c{i}" for i in range(4000)), (1, 3), measurements=measured)
    x = SAMPLERS.find("posterior").draw(
        Exact(0.0, SPREAD, centre=CENTRE), problem, Rng(range(4000)), high=20.0, trust=1.0, steps=6
    )
    matrix, weights = MATRIX.double(), deviation[0, 0].double() ** -2
    covariance = torch.linalg.inv(matrix.T @ (weights[:, None] * matrix) + torch.eye(3).double() / SPREAD**2)
    mean = covariance @ (matrix.T @ (weights * Y.double()) + CENTRE / SPREAD**2)
    torch.testing.assert_close(x[:, 0].double().mean(0), mean, atol=0.02, rtol=0.0)
    torch.testing.assert_close(torch.cov(x[:, 0].double().T), covariance, atol=0.006, rtol=0.08)


def test_counts_are_drawn_by_as_gaussian_numbers_of_their_variance() -> None:
    """Many counts are nearly Gaussian: the closed form with the variance that they have."""
    counts, behind = torch.tensor([900.0, 400.0]), 100.0
    matrix = 1000 * torch.tensor([[1.0, 0.2, 0.1], [0.1, 0.5, 0.2]])
    y = counts.expand(3000, 1, 1, 2)

    class Flat(Mixed):
        def apply_to(self, x: torch.Tensor) -> torch.Tensor:
            return (x @ self.matrix.T)[:, :, None]

        def adjoint(self, y: torch.Tensor) -> torch.Tensor:
            return y[:, :, 0] @ self.matrix

    noise = Poisson(behind)
    measured = {"y": Measurement(y, Flat(matrix), noise)}
    problem = Problem(tuple(f"c{i}" for i in range(3000)), (1, 3), measurements=measured)
    x = SAMPLERS.find("posterior").draw(
        Exact(0.0, SPREAD, centre=CENTRE), problem, Rng(range(3000)), high=20.0, trust=1.0, steps=6
    )
    weights = noise.precision(y)[0, 0, 0].double()
    m = matrix.double()
    covariance = torch.linalg.inv(m.T @ (weights[:, None] * m) + torch.eye(3).double() / SPREAD**2)
    mean = covariance @ (m.T @ (weights * (counts.double() - behind)) + CENTRE / SPREAD**2)
    torch.testing.assert_close(x[:, 0].double().mean(0), mean, atol=0.02, rtol=0.0)
    torch.testing.assert_close(torch.cov(x[:, 0].double().T), covariance, atol=0.006, rtol=0.1)


def test_a_walk_may_start_at_the_fewest_edges() -> None:
    """Exact priors forget where a walk began; draws of one case are of one y, which is solved once."""
    x = _drawn(rows=3000, steps=6, start="edges").double()
    mean, covariance = _closed_form()
    torch.testing.assert_close(x.mean(0), mean, atol=0.025, rtol=0.0)
    torch.testing.assert_close(torch.cov(x.T), covariance, atol=0.008, rtol=0.1)
    y = Rng([0, 0, 7]).normal(1, 2)
    measured = Measurement(y, Mixed(MATRIX), Gaussian(NOISE))
    found = fewest_edges(measured, ("a", "a", "b"))
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found, fewest_edges(measured, ("a", "c", "b")), atol=1e-5, rtol=0)
