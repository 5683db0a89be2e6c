"""Total variation: a step in closed form, the adjoint of differences, and the weight that noise asks for."""

from collections.abc import Callable

import pytest
import torch

from fabrica.data.acquisition import ACQUISITIONS
from fabrica.physics import Gaussian
from fabrica.physics.algebra import LinearOperator
from fabrica.physics.consistency import Data
from fabrica.physics.discrepancy import followed
from fabrica.physics.variation import _divergence, _gradient, descended, total_variation
from fabrica.physics.wavelets import few_wavelets
from fabrica.rng import Rng


class _Same(LinearOperator):
    """What is measured is x."""

    def apply_to(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return y


@pytest.mark.parametrize("sides", [(6, 9), (4, 5, 6)])
def test_the_divergence_is_the_adjoint_of_the_gradient(sides: tuple[int, ...]) -> None:
    x, dual = Rng([0, 1]).normal(1, *sides).double(), Rng([2, 3]).normal(len(sides), 1, *sides).double()
    one, other = (_gradient(x) * dual).flatten(1).sum(1), (x * _divergence(dual)).flatten(1).sum(1)
    torch.testing.assert_close(one, other)


def test_a_step_loses_height_as_theory_says() -> None:
    """min |x - y|^2 / 2 + weight |grad x| of two levels: each moves to the other by weight / its width."""
    y = torch.zeros(2, 1, 4, 8)
    y[..., 3:] = 1.0
    weight = torch.tensor([0.3, 0.9]).reshape(2, 1, 1, 1)
    start = torch.zeros_like(y), torch.zeros_like(_gradient(y))
    x, _ = descended(lambda x: x, y, weight, torch.ones(2, 1, 1, 1), start, iterations=2000)
    for row, own in enumerate((0.3, 0.9)):
        torch.testing.assert_close(x[row, 0, :, :3], torch.full((4, 3), own / 3), atol=2e-3, rtol=0)
        torch.testing.assert_close(x[row, 0, :, 3:], torch.full((4, 5), 1 - own / 5), atol=2e-3, rtol=0)


def test_every_row_gets_the_weight_that_its_own_noise_asks_for() -> None:
    clean = torch.zeros(1, 1, 48, 48)
    clean[..., 12:36, 8:24] = 1.0
    deviation = torch.tensor([0.05, 0.4])
    noise = Gaussian(deviation)
    y = noise.draw(clean.expand(2, -1, -1, -1), Rng([0, 1]))
    x = total_variation(_Same(), noise, y)
    misfit = noise.misfit(y, x).flatten(1).mean(1)
    assert misfit.tolist() == pytest.approx([1, 1], abs=0.05)
    error, before = ((x - clean) ** 2).flatten(1).mean(1).sqrt(), deviation
    assert bool((error < 0.45 * before).all())  # of noise less than half is left
    alone = total_variation(_Same(), Gaussian(deviation[1:]), y[1:])
    torch.testing.assert_close(alone[0], x[1], atol=1e-4, rtol=0)  # no row knows its neighbours


@pytest.mark.parametrize(("name", "than", "share"), [("mr", "CG-SENSE", 0.85), ("ct", "FBP", 0.6)])
def test_a_phantom_is_better_than_by_energy_alone(name: str, than: str, share: float) -> None:
    """Ellipses of few levels, measured by a simulation that is not the operator."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    image = ((x / 0.8) ** 2 + (y / 0.9) ** 2 < 1).float() * 0.6
    image += ((x - 0.2) ** 2 + (y + 0.1) ** 2 < 0.05).float() * 0.3
    options = {"acceleration": 4.0, "calibration": 16} if name == "mr" else {"views": 30}
    measured = ACQUISITIONS.find(name)(**options).measure(image[None], (2.0, 2.0), Rng([0]))
    found = total_variation(measured.operator, measured.noise, measured.value)
    other = measured.operator.solved(measured.value)[than]
    error, theirs = (float(((v - image) ** 2).mean().sqrt()) for v in (found, other))
    assert error < share * theirs


class _FourTimes(LinearOperator):
    """Every voxel is measured four times: three of four numbers are no unknown's."""

    def apply_to(self, x: torch.Tensor) -> torch.Tensor:
        return x.expand(-1, 4, -1, -1)

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return y.sum(1, keepdim=True)


def _four_measurements(off: float) -> tuple[torch.Tensor, Gaussian, torch.Tensor]:
    """(x, noise, y): two measurements of four are higher than physics says, two as much lower; the mean is none."""
    clean = torch.zeros(1, 1, 48, 48)
    clean[..., 12:36, 8:24] = 1.0
    noise = Gaussian(torch.tensor([0.2]))
    y = noise.draw(clean.expand(1, 4, -1, -1), Rng([0]))
    return clean, noise, y + off * torch.tensor([1.0, -1.0, 1.0, -1.0]).reshape(1, 4, 1, 1)


def test_the_share_of_noise_that_is_followed_is_that_of_the_unknowns() -> None:
    _, _, y = _four_measurements(0.0)
    data = Data.told(_FourTimes(), Gaussian(torch.tensor([0.2])), y)
    mean = y.mean(1, keepdim=True)
    found = followed(data, y, mean, lambda other: other.pull / (4 * other.precision))
    assert float(found) == pytest.approx(1 / 4, abs=0.02)
    assert float(followed(data, y, mean, lambda other: mean)) == pytest.approx(0, abs=0.04)


@pytest.mark.parametrize("solver", [total_variation, few_wavelets])
def test_what_physics_does_not_explain_costs_no_strength(solver: Callable[..., torch.Tensor]) -> None:
    """A misfit of 1 is out of reach, or in reach by following noise alone; the answer is what it is without that."""
    clean, noise, y = _four_measurements(0.0)
    error = float((solver(_FourTimes(), noise, y) - clean).square().mean().sqrt())
    assert error < 0.06  # the mean of four is off by 0.1
    for off in (0.07, 0.3):  # misfits of 1.1 and 3.3
        _, _, wrong = _four_measurements(off)
        found = float((solver(_FourTimes(), noise, wrong) - clean).square().mean().sqrt())
        assert found == pytest.approx(error, rel=0.1)
