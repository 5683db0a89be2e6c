"""Masks: spheres whose answers are known, brute force over surfaces, and every kind of emptiness."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from fabrica.evaluate.metrics import task


def _sphere(radius: float, shape: tuple[int, ...] = (40, 40, 40), at: tuple[float, ...] = (20, 20, 20)) -> np.ndarray:
    return sum((i - c) ** 2 for i, c in zip(np.indices(shape), at, strict=True)) <= radius**2


def _surface(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    inner = padded.copy()
    for axis in range(mask.ndim):
        for step in (1, -1):
            inner &= np.roll(padded, step, axis)
    return np.argwhere((padded & ~inner)[(slice(1, -1),) * mask.ndim])


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.7, 0.9)])
def test_distances_by_brute_force(spacing: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    x, y = (
        _sphere(6, (24, 26, 22), (11, 12, 10)),
        _sphere(7, (24, 26, 22), (12, 14, 11)) & (rng.random((24, 26, 22)) < 0.95),
    )
    d = cdist(_surface(x) * spacing, _surface(y) * spacing)
    there, back = d.min(1), d.min(0)
    expected = max(np.percentile(there, 95), np.percentile(back, 95))
    assert task.hausdorff95(x, y, spacing_mm=spacing) == pytest.approx(expected)
    both = np.concatenate([there, back])
    assert task.hausdorff95(x, y, spacing_mm=spacing, convention="pooled") == pytest.approx(np.percentile(both, 95))
    for tolerance in (0.0, 1.0, 2.5):
        score = task.normalised_surface_dice(x, y, spacing_mm=spacing, tolerance_mm=tolerance)
        assert score == pytest.approx((both <= tolerance).mean())
    assert task.hausdorff95(y, x, spacing_mm=spacing) == pytest.approx(expected)


def test_a_far_blob_shows_why_the_convention_matters() -> None:
    """A small false blob: pooled percentiles do not see it, the directed one does."""
    truth = _sphere(14, (60, 60, 60), (25, 25, 25))
    marked = truth | _sphere(4, (60, 60, 60), (52, 52, 52))
    assert task.hausdorff95(marked, truth, spacing_mm=(1, 1, 1)) > 10
    assert task.hausdorff95(marked, truth, spacing_mm=(1, 1, 1), convention="pooled") == 0
    assert task.dice(marked, truth) > 0.97


def test_units_and_shifts() -> None:
    a, b = _sphere(8), _sphere(8, at=(20, 20, 24))
    assert task.hausdorff95(a, b, spacing_mm=(1, 1, 2)) == pytest.approx(
        2 * task.hausdorff95(a, b, spacing_mm=(0.5, 0.5, 1))
    )
    assert task.hausdorff95(a, a, spacing_mm=(1, 1, 1)) == 0
    assert task.normalised_surface_dice(a, a, spacing_mm=(1, 1, 1), tolerance_mm=0) == 1
    grown = [task.normalised_surface_dice(a, b, spacing_mm=(1, 1, 1), tolerance_mm=t) for t in (0, 1, 2, 4, 9)]
    assert (np.diff(grown) >= 0).all()
    assert grown[-1] == 1


def test_empty_masks_count_as_worst_and_never_as_nan() -> None:
    empty, full = np.zeros((10, 20, 20), bool), _sphere(4, (10, 20, 20), (5, 10, 10))
    options = {"spacing_mm": (2.0, 1.0, 1.0)}
    diagonal = np.sqrt(3 * 20**2)
    for pair in ((empty, full), (full, empty)):
        assert task.hausdorff95(*pair, **options) == pytest.approx(diagonal)
        assert task.normalised_surface_dice(*pair, tolerance_mm=1, **options) == 0
        assert task.dice(*pair) == 0
        assert task.lesion_detection(*pair) == 0
    assert task.hausdorff95(empty, empty, **options) == 0
    assert task.normalised_surface_dice(empty, empty, tolerance_mm=1, **options) == 1
    assert task.dice(empty, empty) == 1
    assert task.lesion_detection(empty, empty) == 1


def test_lesions_are_counted_one_by_one() -> None:
    truth, marked = np.zeros((2, 30, 30), bool), np.zeros((2, 30, 30), bool)
    truth[0, 2:5, 2:5] = truth[0, 20:24, 20:24] = truth[1, 10, 10] = True
    marked[0, 2:4, 2:4] = marked[0, 20, 20] = marked[1, 28, 28] = marked[1, 0, 28] = True
    found = task.lesion_detection(marked, truth)
    assert found.details["true_positives"] == 2
    assert found.details["false_negatives"] == 1
    assert found.details["false_positives"] == 2
    assert found.value == pytest.approx(4 / 7)
    assert found.details["sensitivity"] == pytest.approx(2 / 3)
    assert found.details["precision"] == pytest.approx(0.5)
    strict = task.lesion_detection(marked, truth, smallest_overlap=0.2)
    assert strict.details["true_positives"] == 1
    corners = np.zeros((4, 4), bool)
    corners[0, 0] = corners[1, 1] = True
    assert task.lesion_detection(corners, corners).details["true_positives"] == 1, "corners connect"


def test_bad_input_is_refused() -> None:
    a = _sphere(4, (10, 20, 20), (5, 10, 10))
    with pytest.raises(ValueError, match="spacing_mm is"):
        task.hausdorff95(a, a, spacing_mm=(1, 1))
    with pytest.raises(ValueError, match="Unknown convention"):
        task.hausdorff95(a, a, spacing_mm=(1, 1, 1), convention="mean")
    with pytest.raises(ValueError, match="expected two equal shapes"):
        task.normalised_surface_dice(a, a[:5], spacing_mm=(1, 1, 1), tolerance_mm=1)
    with pytest.raises(ValueError, match="tolerance_mm is -1"):
        task.normalised_surface_dice(a, a, spacing_mm=(1, 1, 1), tolerance_mm=-1)
    with pytest.raises(ValueError, match="expected equal shapes"):
        task.lesion_detection(a, a[:5])
