"""Radiomic features one by one: what was changed is found, what was not is not, and patients are the units."""

import numpy as np
import pytest

from fabrica.evaluate.sets.embedding import Picture
from fabrica.evaluate.sets.featurewise import feature_differences


def _set(first: int, count: int, blur: float = 0.0, images: int = 1, gain: float = 1.0) -> list[Picture]:
    from scipy import ndimage

    found = []
    for i in range(count):
        for k in range(images):
            rng = np.random.default_rng(first + 1000 * k + i)
            values = ndimage.gaussian_filter(rng.normal(size=(24, 24)), 0.8 + blur) * gain + 5 + rng.normal() * 0.05
            found.append(Picture(f"{first + i}-{k}", f"{first + i}", values, np.ones((24, 24), bool), (1.0, 1.0)))
    return found


def test_alike_sets_have_no_discoveries() -> None:
    """Over repetitions, a discovery under the null is as rare as the rate says."""
    alarms = sum(
        any(f.p_value < 0.05 for f in feature_differences(_set(10_000 * t, 15), _set(10_000 * t + 500, 15)))
        for t in range(20)
    )
    assert alarms <= 4


def test_blur_is_found_where_it_is() -> None:
    found = {f.name: f for f in feature_differences(_set(0, 20, blur=0.5), _set(500, 20))}
    assert len(found) > 60
    contrast = next(f for n, f in found.items() if "glcm" in n and "contrast" in n)
    assert contrast.shift < -1
    assert contrast.p_value < 0.01
    assert next(iter(found.values())).ks == max(f.ks for f in found.values())
    assert all(0 <= f.ks <= 1 and f.p_value >= 0 for f in found.values())


def test_gaps_and_chances_are_those_of_scipy() -> None:
    from scipy.stats import ks_2samp

    from fabrica.evaluate.sets.featurewise import _gaps

    rng = np.random.default_rng(0)
    pooled = np.stack([rng.normal(size=17), rng.integers(0, 4, 17), np.r_[np.zeros(8), np.ones(9)]], 1)
    gaps, chances = _gaps(pooled, 8, 0)
    for k in range(3):
        known = ks_2samp(pooled[:8, k], pooled[8:, k], method="exact")
        assert gaps[k] == pytest.approx(known.statistic)
        if k != 1:  # the exact one knows no ties
            assert chances[k] == pytest.approx(known.pvalue, abs=0.035)


def test_patients_are_the_units() -> None:
    many = feature_differences(_set(0, 6, blur=0.3, images=8), _set(500, 6, images=8))
    assert min(f.p_value for f in many) > 1e-3  # six patients a side cannot give less, however many images they have
    with pytest.raises(ValueError, match="needs 5 patients on each side; there are 4 and 6"):
        feature_differences(_set(0, 4, images=9), _set(500, 6))
