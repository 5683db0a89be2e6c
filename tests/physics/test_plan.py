"""Plans of even beams, and what fractions add up to, in closed form."""

import pytest
import torch

from fabrica.physics.dose import dose
from fabrica.physics.plan import accumulated, conformal, eqd2, middle_of


def _water(side: int = 30) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    affine = torch.zeros(4, 4, dtype=torch.float64)
    affine[2, 0] = affine[1, 1] = affine[0, 2] = 5.0  # z, y, x -> LPS
    affine[3, 3] = 1.0
    target = torch.zeros(side, side, side, dtype=torch.bool)
    target[12:17, 10:16, 14:19] = True
    return torch.ones(side, side, side), affine, target


def test_the_target_gets_what_is_prescribed() -> None:
    density, affine, target = _water()
    plan = conformal(density, affine, target, gantry_degrees=(0, 90, 180), margin_mm=5, prescription_gy=60)
    assert float(plan.dose[target].mean()) == pytest.approx(60, rel=1e-5)
    assert torch.allclose(dose(density, affine, plan.beams), plan.dose, atol=1e-3)
    assert middle_of(target, affine) == pytest.approx((80.0, 62.5, 70.0))
    assert len(plan.beams) == len(plan.depths) == 3
    assert float(plan.dose[~target].mean()) < 20


def test_nothing_to_aim_at_is_said() -> None:
    density, affine, target = _water()
    with pytest.raises(ValueError, match="empty"):
        conformal(density, affine, target & False, gantry_degrees=(0,), margin_mm=5, prescription_gy=60)
    with pytest.raises(ValueError, match="in the patient"):
        conformal(0 * density, affine, target, gantry_degrees=(0,), margin_mm=5, prescription_gy=60)


def test_two_gray_a_fraction_is_its_own_measure() -> None:
    total = torch.tensor([0.0, 30.0, 60.0])
    assert torch.allclose(eqd2(total, 30, 3.0)[2:], total[2:])
    assert float(eqd2(torch.tensor(60.0), 20, 3.0)) == pytest.approx(60 * 6 / 5)  # 3 Gy a fraction
    assert float(eqd2(torch.tensor(60.0), 20, 10.0)) == pytest.approx(60 * 13 / 12)
    assert float(eqd2(total, 30, 3.0)[1]) < 30  # a Gy a fraction does less
    with pytest.raises(ValueError, match="expected both above 0"):
        eqd2(total, 0, 3.0)


def test_unequal_days_do_more_than_their_sum() -> None:
    days = [torch.full((2, 2, 2), 40.0), torch.full((2, 2, 2), 80.0)]
    assert float(accumulated(days, 30).mean()) == pytest.approx(60)
    by_hand = (40 * (40 / 30 + 3) + 80 * (80 / 30 + 3)) / 2 / 5
    assert float(accumulated(days, 30, 3.0).mean()) == pytest.approx(by_hand)
    assert by_hand > 60
    with pytest.raises(ValueError, match="no day"):
        accumulated([], 30)
