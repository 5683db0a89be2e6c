"""The simulated heart against what it says of itself."""

import numpy as np
import pytest
import torch

from fabrica.data.virtual import VirtualHearts
from fabrica.data.virtual.heart import _moved, contraction, rest_radius
from fabrica.evaluate.judging.films import ejection_fraction


def test_the_same_numbers_give_the_same_heart_and_others_another() -> None:
    one, again, other = (
        VirtualHearts(1, first=k, slices=1).cohort().members[0].load(["cine"]).images["cine"] for k in (3, 3, 4)
    )
    assert torch.equal(one.data, again.data)
    assert not torch.equal(one.data, other.data)
    assert one.axes == "tzyx"
    assert one.times is not None
    assert len(one.times) == 20
    with pytest.raises(ValueError, match="are impossible"):
        VirtualHearts(frames=2).cohort()


def test_the_beat_is_smooth_and_periodic() -> None:
    phases = np.linspace(0, 1, 401)
    values = np.array([contraction(float(p)) for p in phases])
    assert values.min() == pytest.approx(0, abs=1e-6)
    assert values.max() == pytest.approx(1, abs=1e-4)
    assert contraction(0.0) == pytest.approx(contraction(1.0), abs=1e-9)
    assert float(np.abs(np.diff(values)).max()) < 0.03


def test_the_motion_is_one_to_one_and_keeps_the_areas_of_the_wall() -> None:
    start = torch.linspace(0.1, 60, 400)
    moved = _moved(start, 16.0, 11.0, 7.0)
    assert float(moved.diff().min()) > 0
    torch.testing.assert_close(rest_radius(moved, 16.0, 11.0, 7.0), start, atol=2e-3, rtol=0)
    inner, outer = (float(_moved(torch.tensor(r), 16.0, 11.0, 7.0)) for r in (16.0001, 23.0))
    assert outer**2 - inner**2 == pytest.approx(23.0**2 - 16.0**2, rel=1e-3)
    assert float(moved[-1]) == pytest.approx(60, abs=0.3)  # far away nothing moves


def test_the_ejection_fraction_is_found_in_the_pictures() -> None:
    for number in range(4):
        (heart,) = VirtualHearts(1, first=number).cohort().members
        images = heart.load(["cine", "ventricle"]).images
        film, cavity = images["cine"].data[0].numpy(), images["ventricle"].data[0].numpy() > 0.5
        found = ejection_fraction(film, film[0], cavity)
        assert found == pytest.approx(float(heart.values["ejection_fraction"]), abs=2.5)
