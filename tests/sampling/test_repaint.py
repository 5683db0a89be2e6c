"""Drawing around what is known: the known stays, the unknown follows a conditional that is known in closed form."""

import pytest
import torch
from torch import Tensor

from fabrica.contracts import Condition, Denoiser, Measurement, Problem
from fabrica.families import Drawn
from fabrica.physics import Exact, Gaussian, Mask
from fabrica.rng import Rng
from fabrica.sampling import SAMPLERS
from fabrica.sampling.restorers import repaint
from fabrica.testing import check_sampler

RHO, KNOWN = 0.8, 1.5


class Pair(Denoiser):
    """Two correlated normal numbers: E[clean | noisy] = C (C + sigma^2)^-1 noisy."""

    def groups(self):  # type: ignore[no-untyped-def]
        return {}

    def loss(self, problem, group, rng, progress):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def sample(self, problem, rng):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def denoise(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        c = torch.tensor([[1.0, RHO], [RHO, 1.0]])
        found = c @ torch.linalg.inv(c + sigma[0] ** 2 * torch.eye(2)) @ x.flatten(2)
        return found.reshape(x.shape)


def _draw(rows: int = 400, **options: float) -> Tensor:
    known = torch.tensor([True, False]).reshape(1, 2, 1, 1)
    values = torch.tensor([KNOWN, 9.0]).reshape(1, 2, 1, 1)
    measured = {"known": Measurement(values.expand(rows, 2, 1, 1), Mask(known), Exact())}
    problem = Problem(tuple(map(str, range(rows))), (2, 1, 1), measurements=measured)
    return repaint(Pair(), problem, Rng(range(rows)), **options)


def test_the_unknown_follows_the_conditional() -> None:
    x = _draw(steps=24, again=8, high=5.0)
    assert torch.equal(x[:, 0], torch.full_like(x[:, 0], KNOWN))
    assert float(x[:, 1].mean()) == pytest.approx(RHO * KNOWN, abs=0.2)
    assert float(x[:, 1].std()) == pytest.approx((1 - RHO**2) ** 0.5, rel=0.25)


def test_more_repetitions_agree_better() -> None:
    errors = [abs(float(_draw(steps=14, again=n)[:, 1].mean()) - RHO * KNOWN) for n in (1, 6)]
    assert errors[1] < 0.6 * errors[0]


def test_same_seed_same_draw_in_any_company() -> None:
    x = _draw(rows=5, steps=6)
    assert torch.equal(x, _draw(rows=5, steps=6))
    torch.testing.assert_close(_draw(rows=2, steps=6), x[:2], rtol=1e-4, atol=1e-5)
    assert float((x[0] - x[1]).abs().max()) > 0.01


def test_it_stands_in_the_table_and_is_drawn_like_any_other() -> None:
    """Known voxels exact, the laws of samplers, refused without a measurement and by what knows no masks."""
    known = torch.tensor([True, False]).reshape(1, 2, 1, 1)
    measured = {"known": Measurement(torch.full((3, 2, 1, 1), KNOWN), Mask(known), Exact())}
    problem = Problem(("a", "b", "c"), (2, 1, 1), measurements=measured)
    check_sampler(SAMPLERS.find("repaint"), Pair(), problem)
    drawn = Drawn(Pair(), SAMPLERS.find("repaint"), {"steps": 6}).sample(problem, Rng(range(3)))
    assert torch.equal(drawn[:, 0], torch.full_like(drawn[:, 0], KNOWN))
    with pytest.raises(ValueError, match="needs a measurement by Mask, and this job has none"):
        Drawn(Pair(), SAMPLERS.find("repaint"), {}).sample(Problem(("a",), (2, 1, 1)), Rng([0]))
    with pytest.raises(ValueError, match="would ignore the measurements"):
        Drawn(Pair(), SAMPLERS.find("dpm"), {}).sample(problem, Rng(range(3)))
    noisy = {"known": Measurement(torch.full((3, 2, 1, 1), KNOWN), Mask(known), Gaussian(0.1))}
    with pytest.raises(ValueError, match="cannot use Mask with Gaussian"):
        Drawn(Pair(), SAMPLERS.find("repaint"), {}).sample(
            Problem(("a", "b", "c"), (2, 1, 1), measurements=noisy), Rng(range(3))
        )
