"""Intervals keep their promise on patients who were not there, patient by patient, and refuse to promise too much."""

from pathlib import Path

import numpy as np
import pytest

from fabrica.safeguards.uncertainty import (
    FLOOR,
    Intervals,
    calibrated,
    fewest,
    ratios_of,
    read_intervals,
    write_intervals,
)


def _patient(rng: np.random.Generator, voxels: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """(|truth - mean|, spread): an error that is three times the spread, and patients who are harder than others."""
    hard, spread = rng.lognormal(0, 0.6), rng.uniform(0.02, 0.1, voxels)
    return np.abs(3 * hard * spread * rng.standard_normal(voxels)), spread


def _ratios(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    return [error / (spread + FLOOR) for error, spread in (_patient(rng) for _ in range(count))]


@pytest.mark.parametrize(("patients", "level"), [(9, 0.9), (30, 0.9), (60, 0.8)])
def test_the_mean_coverage_of_new_patients_is_what_was_promised(patients: int, level: float) -> None:
    """Over 300 repetitions of calibration and test; from the level to the level plus the stated slack."""
    rng, covered, slack = np.random.default_rng(0), [], 0.0
    for _ in range(300):
        found = calibrated(_ratios(rng, patients), level, 4)
        covered += [float((r <= found.factor).mean()) for r in _ratios(rng, 4)]
        slack = found.slack
    mean, error = float(np.mean(covered)), float(np.std(covered) / np.sqrt(300))
    assert level - 2 * error < mean < level + 2 * slack + 2 * error


def test_pooled_voxels_would_promise_too_much_of_hard_patients() -> None:
    """What is calibrated here is wider than the quantile of all voxels together."""
    rng = np.random.default_rng(1)
    ratios = _ratios(rng, 20)
    assert calibrated(ratios, 0.9, 4).factor > np.quantile(np.concatenate(ratios), 0.9)


def test_known_answers() -> None:
    """Nine patients of one voxel each: nine of ten may be promised, by the largest of them."""
    ratios = [np.array([float(k)]) for k in range(1, 10)]
    assert calibrated(ratios, 0.9, 1).factor == 9
    assert calibrated(ratios, 0.8, 1).factor == 8
    assert calibrated(ratios, 0.5, 1).factor == 5
    own = Intervals(0.9, 2.0, 0.1, 9, 4)
    assert own.slack == pytest.approx(0.1)
    mean, spread = np.zeros(3), np.array([0.0, 0.4, 0.4])
    np.testing.assert_allclose(own.reach(spread), [0.2, 1.0, 1.0])
    assert own.covered(np.array([0.1, 0.9, 1.1]), mean, spread).tolist() == [True, True, False]


def test_too_few_patients_are_refused() -> None:
    assert [fewest(level) for level in (0.5, 0.8, 0.9, 0.95, 0.99)] == [1, 4, 9, 19, 99]
    with pytest.raises(ValueError, match=r"8 validation patients cannot promise 90%: it takes 9.*Write: split"):
        calibrated([np.ones(3)] * 8, 0.9, 4)
    with pytest.raises(ValueError, match="from 0.5 to below 1"):
        calibrated([np.ones(3)] * 8, 1.0, 4)


def test_only_voxels_of_the_patient_count() -> None:
    truth, mean, spread = np.array([1.0, 5.0]), np.array([0.9, 0.0]), np.array([0.08, 0.08])
    np.testing.assert_allclose(ratios_of(truth, mean, spread, np.array([True, False])), [1.0], rtol=1e-6)
    many = np.ones(100_000)
    assert len(ratios_of(many, 0 * many, 0 * many, many > 0)) <= 50_000


def test_written_and_read(tmp_path: Path) -> None:
    known = {"FLAIR": Intervals(0.9, 2.5, 0.02, 12, 4)}
    assert read_intervals(tmp_path) == {}
    write_intervals(tmp_path, known)
    assert read_intervals(tmp_path) == known
    (tmp_path / "intervals.json").write_text('{"FLAIR": {"level": 0.9}}')
    with pytest.raises(ValueError, match="is damaged"):
        read_intervals(tmp_path)
