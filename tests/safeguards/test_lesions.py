"""The lesion test: what is put in, what counts as kept, which blobs nobody has, and its intervals."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from fabrica.rng import Rng
from fabrica.safeguards.lesions import Lesion, invented, placed, preserved, rate, wilson


def _body() -> np.ndarray:
    y, x = np.mgrid[:64, :64] - 31.5
    return np.hypot(y, x) < 25


def _lesion(diameter: float = 5.0, contrast: float = 0.2, seed: int = 0) -> Lesion:
    found = placed(_body(), diameter, 1.0, contrast, Rng([seed]))
    assert found is not None
    return found


@pytest.mark.parametrize("diameter", [3.0, 5.0, 8.0])
def test_a_lesion_has_its_size_and_lies_within_the_body(diameter: float) -> None:
    places = []
    for seed in range(20):
        lesion = _lesion(diameter, seed=seed)
        assert lesion.share.sum() == pytest.approx(np.pi * diameter**2 / 4, rel=0.12)
        assert not (lesion.share[~_body()] > 0).any()
        places.append(np.argwhere(lesion.share > 0).mean(0))
    assert np.std(places, 0).min() > 5  # anywhere
    finer = placed(_body(), diameter, 0.5, 0.2, Rng([0]))
    assert finer is not None
    assert finer.share.sum() == pytest.approx(np.pi * diameter**2, rel=0.12)


def test_without_room_there_is_none() -> None:
    assert placed(np.zeros((20, 20), bool), 3.0, 1.0, 0.2, Rng([0])) is None
    assert placed(np.ones((9, 9), bool), 40.0, 1.0, 0.2, Rng([0])) is None


@pytest.mark.parametrize("contrast", [0.2, -0.3])
def test_what_an_answer_gains_is_what_it_kept(contrast: float) -> None:
    lesion, image = _lesion(contrast=contrast), torch.rand(1, 64, 64)
    put = lesion.put_into(image)
    assert lesion.kept(image[0].numpy(), put[0].numpy()) == pytest.approx(1, abs=1e-5)
    assert lesion.kept(image[0].numpy(), image[0].numpy()) == 0
    assert lesion.kept(image[0].numpy(), (image + (put - image) / 4)[0].numpy()) == pytest.approx(0.25, abs=1e-5)
    assert preserved([1.0, 0.8, 0.6, 1.4, 0.1])
    assert not preserved([1.0, 0.8, 0.4, 1.4, 0.1])
    assert not preserved([1.7])


def test_blobs_that_nobody_has_are_counted() -> None:
    """As wide as the lesion and of its sign; noise, edges and the lesions that are there are none."""
    body, truth, rng = _body(), np.zeros((64, 64)), np.random.default_rng(0)
    how = (body, 5.0, 1.0, 0.2)
    assert invented(truth, truth + 0.05 * rng.standard_normal(truth.shape), *how) == 0
    two = sum(0.2 * placed_at(truth.shape, place) for place in ((20, 24), (40, 40)))
    assert invented(truth, two, *how) == 2
    assert invented(two, two, *how) == 0
    assert invented(truth, -two, *how) == 0
    assert invented(truth, -two, body, 5.0, 1.0, -0.2) == 2
    assert invented(truth, 0.4 * two, *how) == 0  # less than half as strong
    outside = 0.2 * placed_at(truth.shape, (4, 4))
    assert invented(truth, outside, *how) == 0


def placed_at(shape: tuple[int, ...], place: tuple[int, int], radius: float = 2.5) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.clip(radius + 0.5 - np.hypot(y - place[0], x - place[1]), 0, 1)


def test_intervals_are_those_of_the_books() -> None:
    for k, n in ((0, 20), (7, 20), (20, 20)):
        told = binomtest(k, n).proportion_ci(method="wilson")
        assert wilson(k, n) == pytest.approx((told.low, told.high), abs=1e-6)
    assert rate(0, 1.0) == pytest.approx((0.0, 3.689), abs=1e-3)  # Garwood 1936
    assert rate(5, 2.0) == pytest.approx((1.6235 / 2, 11.668 / 2), abs=1e-3)
