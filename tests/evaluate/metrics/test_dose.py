"""Dose: gamma of plateaus, shifts and gradients; histograms and the challenge's scores by their definitions."""

import numpy as np
import pytest

from fabrica.evaluate.metrics import task

CRITERIA = {"dose_percent": 2.0, "distance_mm": 2.0, "cutoff_percent": 10.0}


def _ball(sides: int = 30) -> np.ndarray:
    at = np.indices((sides,) * 3) - sides // 2
    return 60 / (1 + np.exp((np.sqrt((at**2).sum(0)) - 9) / 1.2))


@pytest.mark.parametrize(("gain", "passes"), [(1.0, True), (1.019, True), (1.021, False), (0.979, False)])
def test_a_plateau_passes_up_to_the_dose_criterion(gain: float, passes: bool) -> None:
    flat = np.full((12, 12, 12), 50.0)
    found = task.gamma_pass_rate(gain * flat, flat, spacing_mm=(2, 2, 2), **CRITERIA)
    assert found.value == (100 if passes else 0)


@pytest.mark.parametrize(("shift_mm", "passes"), [(0.0, True), (1.8, True), (2.6, False)])
def test_a_steep_ramp_passes_up_to_the_distance_criterion(shift_mm: float, passes: bool) -> None:
    x = np.arange(40.0) * 1.0
    ramp, moved = (np.tile(np.clip(60 * (x - s) / 40, 0, None), (6, 6, 1)) for s in (0.0, shift_mm))
    steep = {"dose_percent": 0.05, "distance_mm": 2.0, "cutoff_percent": 20.0}
    inner = task.gamma_pass_rate(moved[..., 5:-5], ramp[..., 5:-5], spacing_mm=(1, 1, 1), **steep)
    assert (inner.value > 90) == passes


def test_interpolation_cutoff_and_direction_matter() -> None:
    dose = _ball()
    shifted = np.roll(dose, 1, 0)
    rates = [task.gamma_pass_rate(shifted, dose, spacing_mm=(2.5,) * 3, steps=s, **CRITERIA).value for s in (1, 3, 10)]
    assert rates[0] < rates[1] <= rates[2] < 100
    noisy = dose + np.random.default_rng(0).normal(0, 0.6, dose.shape)
    one = task.gamma_pass_rate(noisy, dose, spacing_mm=(2.5,) * 3, **CRITERIA).value
    assert one != task.gamma_pass_rate(dose, noisy, spacing_mm=(2.5,) * 3, **CRITERIA).value
    counts = [
        task.gamma_pass_rate(dose, dose, spacing_mm=(1,) * 3, dose_percent=2, distance_mm=2, cutoff_percent=c).n
        for c in (0, 10, 50)
    ]
    assert counts[0] == dose.size > counts[1] > counts[2]


def test_gamma_by_brute_force() -> None:
    """Every offset of the search grid for every point, in two dimensions."""
    rng = np.random.default_rng(0)
    from scipy import ndimage

    reference = ndimage.gaussian_filter(rng.normal(0, 1, (20, 18)), 2) * 40 + 30
    evaluated = reference * 1.02 + 0.5
    found = task.gamma_pass_rate(
        evaluated, reference, spacing_mm=(2.0, 3.0), dose_percent=3, distance_mm=3, cutoff_percent=20, steps=4
    )
    line = np.arange(-4, 5) * 0.75
    best = np.full(reference.shape, np.inf)
    for dy in line:
        for dx in line:
            if dy**2 + dx**2 > 9 + 1e-9:
                continue
            at = np.indices(reference.shape) + np.array([dy / 2, dx / 3])[:, None, None]
            dose = ndimage.map_coordinates(evaluated, at, order=1, mode="constant", cval=np.inf)
            best = np.fmin(best, (dy**2 + dx**2) / 9 + ((dose - reference) / (0.03 * reference.max())) ** 2)
    points = reference >= 0.2 * reference.max()
    assert found.value == pytest.approx(100 * (best[points] <= 1).mean())


def test_the_histogram_of_a_known_dose() -> None:
    dose = np.arange(1000.0).reshape(10, 10, 10) / 10
    mask = np.ones(dose.shape)
    found = task.dose_volume_histogram(dose, mask)
    assert found.value == pytest.approx(dose.mean())
    assert found.details["D50"] == pytest.approx(49.95)
    assert found.details["D98"] == pytest.approx(np.percentile(dose, 2))
    assert found.details["volume_percent"][0] == 100
    assert (np.diff(found.details["volume_percent"]) <= 0).all()
    assert found.details["maximum"] == pytest.approx(99.9)
    with pytest.raises(ValueError, match="expected some"):
        task.dose_volume_histogram(dose, np.zeros(dose.shape))


def test_the_challenge_scores_by_their_definitions() -> None:
    rng = np.random.default_rng(0)
    truth = 60 * rng.random((12, 12, 12))
    drawn = truth + 1.5
    possible = np.zeros(truth.shape, bool)
    possible[2:10, 2:10, 2:10] = True
    organ, target, empty = possible.copy(), np.zeros_like(possible), np.zeros_like(possible)
    target[4:7, 4:7, 4:7] = True
    structures = {"Brainstem": organ, "PTV70": target, "Larynx": empty}
    found = task.openkbp_scores(drawn, truth, structures, possible_dose=possible, voxel_mm=(3, 3, 3))
    assert found.value == pytest.approx(1.5 * truth.size / possible.sum()), "the challenge does not mask the numerator"
    assert found.details["dose_score_masked"] == pytest.approx(1.5)
    assert found.details["dvh_score"] == pytest.approx(1.5)
    assert found.details["empty"] == ("Larynx",)
    assert set(found.details["differences"]) == {
        "Brainstem D_0.1cc",
        "Brainstem mean",
        "PTV70 D99",
        "PTV70 D95",
        "PTV70 D1",
    }
    uneven = truth.copy()
    uneven[target] *= 1.1
    gaps = task.openkbp_scores(uneven, truth, {"PTV70": target}, possible_dose=possible, voxel_mm=(3, 3, 3)).details[
        "differences"
    ]
    assert gaps["PTV70 D1"] == pytest.approx(0.1 * np.percentile(truth[target], 99))
    hottest = task.openkbp_scores(uneven, truth, {"Cord": target}, possible_dose=possible, voxel_mm=(3, 3, 3)).details[
        "differences"
    ]
    assert hottest["Cord D_0.1cc"] == pytest.approx(0.1 * np.percentile(truth[target], 100 - 100 * 4 / 27))
    assert task.openkbp_scores(truth, truth, structures, possible_dose=possible, voxel_mm=(3, 3, 3)).value == 0


def test_bad_input_is_refused() -> None:
    dose = _ball(10)
    for changes, message in (
        ({"spacing_mm": (1, 1)}, "spacing_mm is"),
        ({"dose_percent": 0.0}, "gamma needs"),
        ({"distance_mm": -1.0}, "gamma needs"),
        ({"cutoff_percent": 100.0}, "gamma needs"),
    ):
        with pytest.raises(ValueError, match=message):
            task.gamma_pass_rate(dose, dose, **({"spacing_mm": (1, 1, 1)} | CRITERIA | changes))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="equal, finite shapes"):
        task.gamma_pass_rate(dose, dose[:5], spacing_mm=(1, 1, 1), **CRITERIA)
    with pytest.raises(ValueError, match="possible_dose has shape"):
        task.openkbp_scores(dose, dose, {}, possible_dose=np.zeros(dose.shape), voxel_mm=(1, 1, 1))


@pytest.mark.parametrize(
    ("percent", "mm", "local", "expected"),
    [(3, 3, False, 99.642), (2, 2, False, 92.433), (2, 2, True, 87.648), (1, 1, True, 47.697)],
)
def test_gamma_as_pymedphys_has_it(percent: float, mm: float, local: bool, expected: float) -> None:
    """pymedphys 0.41.0 on the same smooth random dose, moved and raised: global and local, 6145 points above 10 %."""
    from scipy import ndimage

    base = ndimage.gaussian_filter(np.random.default_rng(0).random((14, 20, 22)), 2.0)
    base = 60 * (base - base.min()) / (base.max() - base.min())
    other = ndimage.shift(base, (0.3, -0.4, 0.5), order=1, mode="nearest") * 1.015
    found = task.gamma_pass_rate(
        other, base, spacing_mm=(2.5,) * 3, dose_percent=percent, distance_mm=mm, cutoff_percent=10, local=local
    )
    assert found.n == 6145
    assert expected - 0.3 <= float(found) <= expected + 1.3  # our points lie on a grid, theirs on shells
