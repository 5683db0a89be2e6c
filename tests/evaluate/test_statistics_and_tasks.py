"""Intervals that cover, over patients; overlap and lesion contrast with known answers; competitors."""

import numpy as np
import pytest

from fabrica.evaluate.judging.competitors import fit_histogram, matched
from fabrica.evaluate.metrics.task import dice, lesion_contrast
from fabrica.evaluate.statistics import interval, per_patient


def test_slices_of_a_patient_are_one_value() -> None:
    means, names = per_patient([1, 3, 10], ["a", "a", "b"])
    assert means.tolist() == [2, 10]
    assert names == ("a", "b")
    result = interval(np.repeat(np.arange(30.0), 50), [f"p{i}" for i in range(30) for _ in range(50)])
    assert result.n == 30


def test_few_patients_have_no_interval() -> None:
    result = interval([1.0, 2.0], ["a", "b"])
    assert result.interval is None
    assert "below 20" in result.convention


@pytest.mark.parametrize("count", [25, 60])
def test_coverage_on_skewed_values(count: int) -> None:
    """Nominal 95 %: at least 90 % of 200 intervals of a skewed quantity hold its mean."""
    rng = np.random.default_rng(0)
    names = [f"p{i}" for i in range(count)]
    found = [interval(rng.exponential(1.0, count), names, seed=i).interval for i in range(200)]
    held = np.mean([i is not None and i[0] <= 1.0 <= i[1] for i in found])
    assert held >= 0.90


def test_intervals_repeat_and_refuse() -> None:
    names = [f"p{i}" for i in range(22)]
    values = np.random.default_rng(1).random(22)
    assert interval(values, names) == interval(values, names)
    assert interval(np.ones(22), names).interval == (1.0, 1.0)
    with pytest.raises(ValueError, match="NaN"):
        interval([float("nan")] * 22, names)
    with pytest.raises(ValueError, match="patient name"):
        interval([1.0], ["a", "b"])


def test_dice() -> None:
    a = np.zeros((4, 4), int)
    a[:2] = 1
    b = np.zeros((4, 4), int)
    b[1:3] = 1
    assert dice(a, b) == pytest.approx(0.5)
    assert dice(a, a * 0) == 0
    assert dice(a * 0, a * 0) == 1
    with pytest.raises(ValueError, match="equal shapes"):
        dice(a, b[:2])


def test_lesion_contrast_and_what_psnr_hides() -> None:
    lesion = np.zeros((40, 40), bool)
    lesion[18:22, 18:22] = True
    image = 0.5 + 0.3 * lesion
    assert lesion_contrast(image, lesion) == pytest.approx(0.3)
    assert lesion_contrast(np.full((40, 40), 0.5), lesion) == pytest.approx(0)
    with pytest.raises(ValueError, match="needs a lesion"):
        lesion_contrast(image, lesion & False)


def test_competitors() -> None:
    rng = np.random.default_rng(2)
    image = rng.random((30, 30)).astype(np.float32)
    same = matched(image, 5 * image[image > image.mean()])
    inside = image > image.mean()
    np.testing.assert_allclose(same[inside], 5 * image[inside], rtol=0.02)
    assert not matched(image * 0, image).any()
    a, b = rng.random(20000).astype(np.float32), rng.random(20000).astype(np.float32)
    joint = fit_histogram([a, b], a * b)
    guess = joint.predict([a, b])
    assert float(np.abs(guess - a * b).mean()) < 0.02
    corner = joint.predict([np.float32([5.0]), np.float32([-5.0])])
    assert np.isfinite(corner).all()
