"""Degenerate input of public functions: an answer, or a refusal that names the fix; never NaN, a trace or silence."""

import copy
import inspect
import itertools
import pickle

import numpy as np
import pytest

from fabrica import evaluate
from fabrica.evaluate import statistics
from fabrica.evaluate.metrics import pixel, task
from fabrica.evaluate.result import Result
from fabrica.evaluate.sets import feature

NAMES = [str(i) for i in range(24)]


def test_the_named_modules_are_there() -> None:
    assert (evaluate.feature, evaluate.pixel, evaluate.statistics, evaluate.task) == (feature, pixel, statistics, task)


@pytest.mark.parametrize("metric", pixel.METRICS)
def test_every_paired_metric_is_called_alike(metric: str) -> None:
    keywords = inspect.signature(pixel.METRICS[metric].function).parameters
    for name in ("mask", "spacing_mm"):
        assert keywords[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert keywords[name].default is None
    x, y = np.random.default_rng(0).random((2, 168, 170))
    span = {"data_range": 1.0} if "data_range" in keywords else {}
    known = pixel.METRICS[metric].function
    assert known(x, y, **span, spacing_mm=(2.0, 1.0)) == known(x, y, **span)
    with pytest.raises(ValueError, match="neither inside nor outside"):
        known(x, y, **span, mask=np.where(y > 0.5, np.nan, 1.0))


def test_an_infinite_value_is_refused_with_what_to_do() -> None:
    values = np.arange(24.0)
    values[3] = pixel.psnr(np.ones((4, 4)), np.ones((4, 4)), data_range=1.0)
    others = np.arange(24.0)[::-1]
    for run in (
        lambda: statistics.interval(values, NAMES),
        lambda: statistics.paired_test(values, others, NAMES),
        lambda: statistics.equivalence_test(values, others, NAMES, margin=1.0),
    ):
        with pytest.raises(ValueError, match="infinite, as PSNR is of equal images. Count it as the best"):
            run()


@pytest.mark.parametrize("effect", [0.05, 0.1, 0.2, 0.5, 1.0, 3.0])
def test_the_sample_size_is_the_least_that_suffices(effect: float) -> None:
    n = statistics.sample_size(effect)
    assert statistics.minimum_detectable_effect(n) <= effect
    assert n == 2 or statistics.minimum_detectable_effect(n - 1) > effect
    assert statistics.sample_size(0.1) == 787  # G*Power, paired t test, two-sided .05, power .8


def test_equal_sets_do_not_differ() -> None:
    """Rounding is not evidence: constant rows, and copies in another order."""
    groups = [f"x{i}" for i in range(20)], [f"y{i}" for i in range(20)]
    same = np.full((20, 3), 0.1)
    assert feature.mmd_permutation_test(same, same, groups, permutations=99).p_value == 1.0
    rows = np.random.default_rng(0).normal(size=(20, 3))
    found = feature.mmd_permutation_test(rows, rows[::-1], groups, permutations=99)
    assert found.p_value is not None
    assert found.p_value > 0.9


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_result_survives_copies_and_processes(protocol: int) -> None:
    made = Result(1.5, 7, "words", interval=(1.0, 2.0), p_value=0.2, standard_error=0.1, details={"a": [1, 2]})
    for other in (pickle.loads(pickle.dumps(made, protocol)), copy.copy(made), copy.deepcopy(made)):
        assert isinstance(other, Result)
        assert other == made
        for name in ("value", "n", "convention", "interval", "p_value", "standard_error"):
            assert getattr(other, name) == getattr(made, name)
        assert dict(other.details) == dict(made.details)


def test_separated_labels_have_an_exact_p_and_no_interval() -> None:
    for scores, area in (([0.1, 0.2, 0.8, 0.9], 1.0), ([0.9, 0.8, 0.2, 0.1], 0.0)):
        for convention in ("plain", "logit"):
            found = task.auc_delong(scores, [0, 0, 1, 1], convention=convention)  # type: ignore[arg-type]
            assert (found.value, found.interval) == (area, None)
            orders = list(itertools.combinations(range(4), 2))
            assert found.p_value == pytest.approx(2 / len(orders))
    many = task.auc_delong(np.arange(40.0), np.arange(40) >= 20)
    assert many.p_value is not None
    assert 0 < many.p_value < 1e-9


def test_masks_that_are_none_are_refused() -> None:
    clean = np.zeros((8, 8))
    clean[2:5, 2:5] = 1
    holed = np.where(clean > 0, np.nan, 0.0)
    for run in (
        lambda: task.dice(holed, clean),
        lambda: task.dice(clean, holed),
        lambda: task.hausdorff95(holed, clean, spacing_mm=(1, 1)),
        lambda: task.normalised_surface_dice(clean, holed, spacing_mm=(1, 1), tolerance_mm=1),
        lambda: task.lesion_detection(holed, clean),
    ):
        with pytest.raises(ValueError, match="NaN or infinity"):
            run()
    with pytest.raises(ValueError, match="255 where the other says 1. Divide the picture by 255"):
        task.dice(255 * clean, clean)
    assert task.dice(255 * clean, 255 * clean) == 1.0
    assert task.dice(2 * clean, clean) == 0.0  # another class is another class


def test_structures_of_another_grid_are_refused() -> None:
    dose = np.ones((8, 8, 8))
    for wrong in (np.ones((8, 8)), np.ones((8, 8, 7))):
        with pytest.raises(ValueError, match=r"Structure 'Heart' has shape .*expected that of the dose, \(8, 8, 8\)"):
            task.openkbp_scores(dose, dose, {"Heart": wrong}, possible_dose=dose, voxel_mm=(1, 1, 1))


def test_noise_and_sharpness_inside_a_mask() -> None:
    """White noise has its variance inside, whatever lies outside; a blurred image keeps its curve."""
    rng = np.random.default_rng(0)
    noise, inside = rng.normal(0, 2.0, (6, 96, 96)), np.zeros((6, 96, 96), bool)
    inside[:5, 20:80, 10:70] = True
    dirty = np.where(inside, noise, 500.0)
    found = pixel.noise_power_spectrum(dirty, spacing_mm=(1, 1), mask=inside)
    assert found.value == pytest.approx(4.0, rel=0.03)
    assert found.n == 5
    whole = pixel.noise_power_spectrum(noise, spacing_mm=(1, 1))
    assert pixel.noise_power_spectrum(noise, spacing_mm=(1, 1), mask=np.ones_like(inside)).value == pytest.approx(
        whole.value
    )
    same = pixel.modulation_transfer(dirty, np.where(inside, noise, -300.0), spacing_mm=(1, 1), mask=inside)
    np.testing.assert_allclose(same.details["transfer"], 1.0)
