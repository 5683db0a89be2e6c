"""Sites told from images: classifiers, ComBat against neuroCombat 0.2.12, effects that stay, histograms."""

import numpy as np
import pytest

from fabrica.evaluate.metrics.sites import combat, effect, fluid_share, matched, site_auc


def _features() -> tuple[np.ndarray, ...]:
    """24 images of two sites: features, site, age."""
    rng = np.random.Generator(np.random.Philox(key=11))
    site, age = np.repeat([0, 1], 12), rng.uniform(20, 80, 24)
    x = (
        rng.normal(size=(24, 5))
        + 0.03 * age[:, None] * np.array([1, 0, 1, 0, 0.5])
        + site[:, None] * np.array([1.0, 2, -1, 0.5, 0])
    )
    x[site == 1] *= np.array([1, 2, 1, 0.5, 1.0])
    return x, site, age


def test_combat_is_that_of_neurocombat() -> None:
    x, site, age = _features()
    found = combat(x, site, age[:, None])
    np.testing.assert_allclose(found[0], [1.07232771, 3.97896314, 2.02362703, 1.38231287, 0.62436507], atol=1e-6)
    np.testing.assert_allclose(found[12], [-0.59445458, 3.59133831, -0.8865666, -0.24768049, 0.45856981], atol=1e-6)
    with pytest.raises(ValueError, match="two images of each site"):
        combat(x[:13], site[:13])


def test_combat_takes_the_site_and_leaves_the_age() -> None:
    rng = np.random.default_rng(0)
    age, site = rng.uniform(20, 80, 400), np.repeat([0, 1], 200)
    x = rng.normal(size=(400, 6)) + 0.05 * age[:, None] + 3 * site[:, None]
    found = combat(x, site, age[:, None])
    patients = [f"p{k}" for k in range(400)]
    assert site_auc(x, site, patients) > 0.95
    assert site_auc(found, site, patients) < 0.6
    low, high = effect(found.mean(1), age).interval
    assert low < 0.05 < high
    assert low > 0


def test_images_of_one_patient_stay_in_one_fold() -> None:
    """Features that tell patients, not sites, tell no site."""
    rng = np.random.default_rng(1)
    own = rng.normal(size=(40, 8))
    x, site = np.concatenate([own, own]), np.repeat([0, 1], 40)
    patients = [f"p{k}" for k in range(40)] * 2
    assert site_auc(x, site, patients) < 0.6
    found = site_auc(x + 3 * site[:, None], site, patients)
    assert found > 0.99
    assert found.n == 40
    assert found.interval[0] > 0.95
    with pytest.raises(ValueError, match="two sites and 5 patients"):
        site_auc(x[:8], site[:8], patients[:8])


def test_effects_have_their_interval() -> None:
    rng = np.random.default_rng(2)
    age = rng.uniform(20, 80, 60)
    found = effect(0.2 * age + rng.normal(size=60), age)
    assert found.interval[0] < 0.2 < found.interval[1]
    assert found.value == pytest.approx(np.polyfit(age, 0.2 * age, 1)[0], abs=0.02)
    nothing = effect(rng.normal(size=60), age)
    assert nothing.interval[0] < 0 < nothing.interval[1]
    with pytest.raises(ValueError, match="four patients"):
        effect([1, 2, 3], [1, 2, 3])


def test_histograms_are_brought_onto_another_by_order() -> None:
    rng = np.random.default_rng(3)
    image, inside = rng.normal(size=(20, 20)), np.ones((20, 20), bool)
    inside[0] = False
    found = matched(image, inside, np.linspace(0, 10, 50))
    assert np.quantile(found[inside], [0, 0.5, 1]) == pytest.approx([0, 5, 10], abs=0.2)
    np.testing.assert_array_equal(found[0], image[0])
    assert (np.argsort(found[inside]) == np.argsort(image[inside])).all()


def test_fluid_is_what_is_dark_of_a_brain() -> None:
    image = np.ones((10, 10))
    image[:2] = 0.2
    assert fluid_share(image, np.ones_like(image)) == 0.2
