"""Solvers against exact denoisers: the right distribution, and the order of convergence that they claim."""

import itertools
from collections.abc import Iterable, Mapping

import pytest
import torch
from torch import Tensor, nn

from fabrica.contracts import Condition, Denoiser, Problem
from fabrica.registry import refusal
from fabrica.rng import Rng
from fabrica.sampling import SAMPLERS
from fabrica.sampling.solvers import HIGH, growth, schedule
from fabrica.testing import check_sampler


class Exact(Denoiser):
    """E[clean | x] of a mixture of two Gaussians (means -m and m, deviation s); m = 0 is one Gaussian."""

    def __init__(self, mean: float, deviation: float, centre: float = 0.0) -> None:
        super().__init__()
        self.mean, self.deviation, self.centre = mean, deviation, centre

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return {}

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        return {}

    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        raise NotImplementedError

    def denoise(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        s = sigma.reshape(-1, *[1] * (x.ndim - 1)).double()
        total = self.deviation**2 + s**2
        side = torch.tanh((x - self.centre) * self.mean / total) * self.mean + self.centre
        return side + self.deviation**2 / total * (x - side)


def _problem(rows: int, size: int = 1) -> Problem:
    return Problem(tuple(f"c{i}" for i in range(rows)), (1, size))


FREE = [name for name in SAMPLERS.names() if SAMPLERS.find(name).operator is None]  # of measurements
DETERMINISTIC = [name for name in SAMPLERS.names() if SAMPLERS.find(name).order > 0]


def _enough(name: str) -> int:
    return 60 if SAMPLERS.find(name).order > 1 else 1200


@pytest.mark.parametrize("name", FREE)
def test_gaussian_mean_and_deviation(name: str) -> None:
    x = SAMPLERS.find(name).draw(Exact(0.0, 0.6, centre=1.5), _problem(4, 5000), Rng(range(4)), steps=_enough(name))
    assert float(x.mean()) == pytest.approx(1.5, abs=0.03)
    assert float(x.std()) == pytest.approx(0.6, rel=0.03)


@pytest.mark.parametrize("name", FREE)
def test_mixture_has_both_sides(name: str) -> None:
    x = SAMPLERS.find(name).draw(Exact(2.0, 0.25), _problem(4, 5000), Rng(range(4)), steps=_enough(name)).flatten()
    assert float((x > 0).float().mean()) == pytest.approx(0.5, abs=0.02)
    right = x[x > 0]
    assert float(right.mean()) == pytest.approx(2.0, abs=0.03)
    assert float(right.std()) == pytest.approx(0.25, rel=0.06)


class Flat(Exact):
    """Images of one grey each, N(mean, deviation^2): what is known of it adds up over all voxels."""

    def denoise(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        known = self.deviation**2 * x[0].numel() / sigma.double() ** 2
        grey = (x.flatten(1).double().mean(1) * known + self.mean) / (1 + known)
        return grey.reshape(-1, *[1] * (x.ndim - 1)).expand(x.shape)


@pytest.mark.parametrize("name", FREE)
def test_brightness_is_not_lost_at_the_start(name: str) -> None:
    """At level 20 the grey of 256 voxels is known to .08 of the deviation; a walk that starts around zero ends .16 too dark."""
    problem = Problem(tuple(f"c{i}" for i in range(200)), (1, 16, 16))
    x = SAMPLERS.find(name).draw(Flat(2.0, 0.1), problem, Rng(range(200)), steps=_enough(name), high=20.0)
    grey = x.flatten(1).mean(1)
    assert float(grey.mean()) == pytest.approx(2.0, abs=0.025)
    assert float(grey.std()) == pytest.approx(0.1, rel=0.2)


def test_levels_grow_with_the_grid() -> None:
    """Noise of level sigma * growth hides the grey of any grid as sigma hides that of 64 x 64."""
    assert growth((3, 64, 64)) == growth((1, 16, 16)) == growth((4,)) == 1
    assert growth((1, 256, 256)) == pytest.approx(4)
    assert growth((2, 64, 64, 64)) == pytest.approx(8)


@pytest.mark.parametrize("name", FREE)
def test_walks_over_large_grids_begin_higher(name: str) -> None:
    asked = []

    class Listening(Exact):
        def denoise(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
            asked.append(float(sigma[0]))
            return super().denoise(x, sigma, condition)

    for side, times in ((8, 1.0), (128, 2.0)):
        asked.clear()
        SAMPLERS.find(name).draw(Listening(1.0, 0.3), Problem(("c",), (1, side, side)), Rng([0]), steps=3)
        assert max(asked) == pytest.approx(HIGH * times)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_of_convergence(name: str) -> None:
    """Halving the step divides the error by 2^order: the fitted slope is within .3 of the claim or above it."""
    sampler, problem, prior = SAMPLERS.find(name), _problem(3, 64), Exact(1.0, 0.3)
    span = {"high": 20.0, "low": 0.05}
    truth = sampler.draw(prior, problem, Rng(range(3)), steps=4096, **span)
    steps = torch.tensor([32, 64, 128, 256])
    errors = torch.tensor(
        [float((sampler.draw(prior, problem, Rng(range(3)), steps=int(n), **span) - truth).abs().mean()) for n in steps]
    )
    logs, sizes = errors.log(), (1 / steps).log()
    slope = float(((logs - logs.mean()) * (sizes - sizes.mean())).sum() / ((sizes - sizes.mean()) ** 2).sum())
    assert slope > sampler.order - 0.3, f"{name}: order {slope:.2f}, claims {sampler.order}"
    assert slope < sampler.order + 0.7


@pytest.mark.parametrize("name", FREE)
def test_laws(name: str) -> None:
    check_sampler(SAMPLERS.find(name), Exact(1.0, 0.3), _problem(3, 8))


def test_schedule() -> None:
    levels = schedule(18, 80.0, 0.002)
    assert len(levels) == 19
    assert levels[0] == pytest.approx(80)
    assert levels[17] == pytest.approx(0.002)
    assert levels[18] == 0
    assert all(a > b for a, b in itertools.pairwise(levels))
    with pytest.raises(ValueError, match="impossible"):
        schedule(0)
    with pytest.raises(ValueError, match="impossible"):
        schedule(4, high=0.1, low=0.2)


class _Counting(Exact):
    calls = 0

    def denoise(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        type(self).calls += 1
        return super().denoise(x, sigma, condition)


@pytest.mark.parametrize("name", FREE)
def test_defaults_cost_at_most_twenty_evaluations(name: str) -> None:
    _Counting.calls = 0
    SAMPLERS.find(name).draw(_Counting(1.0, 0.3), _problem(2), Rng(range(2)))
    assert _Counting.calls <= 20


def test_a_sampler_refuses_what_it_cannot_use() -> None:
    from fabrica.families import Regression

    assert "needs a Denoiser" in (refusal(Regression, SAMPLERS.find("heun"), {}) or "")
    assert refusal(Exact, SAMPLERS.find("heun"), {}) is None
