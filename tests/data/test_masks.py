"""Masks of k-space: as many samples as asked, a middle measured whole, and what each pattern promises."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from fabrica.data.acquisition import ACQUISITIONS
from fabrica.data.acquisition.masks import MASKS, SHOWN
from fabrica.registry import build
from fabrica.rng import Rng

SIDES, CALIBRATION = (72, 64), 12


def _mask(name: str, acceleration: float = 5.0, seed: int = 0) -> np.ndarray:
    mask = MASKS[name](SIDES, acceleration, CALIBRATION, Rng([seed]))
    assert mask.dtype == torch.bool
    return mask.numpy()


@pytest.mark.parametrize("acceleration", [3.0, 5.0])
@pytest.mark.parametrize("name", MASKS)
def test_as_many_samples_as_asked_and_the_middle_whole(name: str, acceleration: float) -> None:
    share = np.mean([_mask(name, acceleration, seed).mean() for seed in range(3)])
    assert share == pytest.approx(1 / acceleration, rel=0.2)
    y, x = (slice(n // 2 - CALIBRATION // 2 + 1, n // 2 + CALIBRATION // 2) for n in SIDES)
    assert _mask(name, acceleration)[y, x].all()


@pytest.mark.parametrize("name", MASKS)
def test_chance_comes_from_the_rng_alone(name: str) -> None:
    assert np.array_equal(_mask(name), _mask(name))
    assert any(not np.array_equal(_mask(name, seed=k), _mask(name)) for k in range(1, 5))


def test_lines_run_whole() -> None:
    for name in ("lines", "partial", "uniform"):
        mask = _mask(name)
        assert (mask == mask[:, :1]).all(), name


def test_uniform_lines_are_evenly_spaced() -> None:
    rows = np.flatnonzero(_mask("uniform", 2.5)[:, 0])
    outside = rows[np.abs(rows - SIDES[0] // 2) > CALIBRATION // 2 + 8]
    steps = set(np.diff(outside[outside < SIDES[0] // 2])) | set(np.diff(outside[outside > SIDES[0] // 2]))
    assert len(steps) == 1
    assert steps.pop() > 1


def test_partial_fourier_leaves_one_end_out() -> None:
    rows = np.flatnonzero(_mask("partial", 2.0)[:, 0])
    first = round((1 - SHOWN) * SIDES[0])
    assert rows.min() >= min(first, SIDES[0] // 2 - CALIBRATION // 2)
    assert rows.max() > 0.9 * SIDES[0]


def test_samples_of_a_disk_keep_their_distance_the_farther_out_the_more() -> None:
    """Their nearest neighbours are farther away than those of samples by chance, and farther out than in."""
    middle, apart = np.array(SIDES) / 2, {}
    for name in ("random", "disk"):
        places = np.argwhere(_mask(name, 6.0))
        nearest = cKDTree(places).query(places, k=2)[0][:, 1]
        out = np.linalg.norm((places - middle) / middle, axis=1)
        apart[name] = [nearest[(out > low) & (out < high)].min() for low, high in ((0.4, 0.7), (0.8, 1.2))]
    assert apart["disk"][1] > apart["disk"][0] > apart["random"][0]
    assert apart["random"][1] == 1


@pytest.mark.parametrize("name", MASKS)
def test_each_can_be_asked_for_in_a_recipe(name: str) -> None:
    image = torch.zeros(1, 48, 40)
    image[:, 10:38, 8:32] = 0.8
    measured = ACQUISITIONS.find("mr")(coils=2, acceleration=2.0, calibration=16, pattern=name).measure(
        image, (2.0, 2.0), Rng([0])
    )
    assert bool(torch.isfinite(torch.view_as_real(measured.value)).all())


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="pattern"):
        build("acquisition 'mr'", ACQUISITIONS.find("mr"), {"pattern": "spiral"})
