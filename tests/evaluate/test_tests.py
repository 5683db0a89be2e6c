"""Tests over patients: exact answers, level, power, and the family-wise corrections against their definitions."""

import numpy as np
import pytest
from scipy import stats

from fabrica.evaluate import statistics
from fabrica.evaluate.result import Result


def _names(n: int) -> list[str]:
    return [f"p{i}" for i in range(n)]


def test_a_result_is_a_float_that_cannot_be_changed() -> None:
    made = Result(0.25, 7, "by hand", interval=(0.1, 0.4), details={"x": 1})
    assert made == 0.25
    assert float(made) == made.value == 0.25
    assert 2 * made == 0.5
    assert f"{made:.2f}" == "0.25"
    assert "n=7" in repr(made)
    for name in ("value", "interval", "anything"):
        with pytest.raises(AttributeError):
            setattr(made, name, 3)
    with pytest.raises(TypeError):
        made.details["x"] = 2  # type: ignore[index]


def test_all_flips_give_the_exact_p() -> None:
    """Five patients, all better: 2 of 32 sign patterns are as extreme."""
    found = statistics.paired_test([2, 3, 4, 5, 6], [1, 1, 1, 1, 1], _names(5))
    assert found.p_value == pytest.approx(2 / 32)
    assert found.value == 3
    assert found.interval is None
    assert statistics.paired_test([1, 2], [1, 2], _names(2)).p_value == 1


def test_paired_tests_average_within_patients_first() -> None:
    a, b = np.arange(40.0), np.arange(40.0) - 1
    by_patient = statistics.paired_test(a, b, [f"p{i // 10}" for i in range(40)])
    assert by_patient.n == 4
    assert by_patient.p_value == pytest.approx(2 / 16)
    assert statistics.paired_test(a, b, _names(40)).p_value < 0.001
    assert statistics.paired_test(b, a, _names(40)).value == -by_patient.value


@pytest.mark.parametrize("n", [8, 24, 60])
def test_the_paired_test_keeps_its_level_and_finds_what_is_there(n: int) -> None:
    rng = np.random.default_rng(n)
    null = [
        statistics.paired_test(rng.exponential(1, n), rng.exponential(1, n), _names(n), seed=i).p_value
        for i in range(200)
    ]
    assert np.mean(np.array(null) < 0.05) <= 0.09
    assert statistics.paired_test(rng.normal(2, 1, n), np.zeros(n), _names(n)).p_value <= 2 / 2**8


def test_equivalence_is_not_the_absence_of_a_difference() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(0, 1, 30)
    noise = rng.normal(0, 1, 30)
    assert statistics.equivalence_test(a, a + 0.05 * noise, _names(30), margin=0.2).p_value < 0.001
    vague = statistics.equivalence_test(a, a + 3 * noise, _names(30), margin=0.2)
    assert vague.p_value > 0.05
    assert statistics.paired_test(a, a + 3 * noise, _names(30)).p_value > 0.05, (
        "no difference found, none excluded either"
    )
    assert vague.interval is not None
    inside = vague.interval[0] > -0.2 and vague.interval[1] < 0.2
    assert inside == (vague.p_value < 0.05)
    assert statistics.equivalence_test(a, a, _names(30), margin=0.2).p_value < 1e-6
    assert (
        statistics.equivalence_test(a[:2], a[:2], _names(2), margin=0.2).p_value == 0.25
    )  # two patients prove nothing
    assert statistics.equivalence_test(a + 1, a, _names(30), margin=0.2).p_value == pytest.approx(1)
    with pytest.raises(ValueError, match="margin is 0"):
        statistics.equivalence_test(a, a, _names(30), margin=0)
    with pytest.raises(ValueError, match="two patients"):
        statistics.equivalence_test([1], [1], ["a"], margin=1)


def test_equivalence_keeps_its_level_at_the_margin() -> None:
    rng = np.random.default_rng(1)
    p = [
        statistics.equivalence_test(rng.normal(0.5, 1, 40), np.zeros(40), _names(40), margin=0.5).p_value
        for _ in range(400)
    ]
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.085


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(statistics.holm([0.01, 0.04, 0.03, 0.5]), [0.04, 0.09, 0.09, 0.5])
    np.testing.assert_allclose(statistics.holm([0.6, 0.7]), [1.0, 1.0])
    with pytest.raises(ValueError, match="outside"):
        statistics.holm([1.2])


def test_max_t_holds_the_family_and_beats_holm_on_correlated_metrics() -> None:
    rng = np.random.default_rng(0)
    wins = 0
    for seed in range(100):
        shared = rng.normal(0, 1, (25, 1))
        adjusted = statistics.max_t(shared + 0.4 * rng.normal(0, 1, (25, 15)), seed=seed)
        wins += adjusted.min() < 0.05
    assert wins <= 12
    shared = rng.normal(0.55, 1, (25, 1))
    many = shared + 0.2 * rng.normal(0, 1, (25, 15))
    plain = stats.ttest_1samp(many, 0).pvalue
    assert statistics.max_t(many).max() < statistics.holm(plain).max()
    assert (statistics.max_t(many) >= plain - 0.01).all()
    with pytest.raises(ValueError, match="patients, metrics"):
        statistics.max_t([1, 2, 3])


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.3, 90), (0.5, 34), (0.8, 15)])
def test_sample_sizes_of_a_paired_t_test(effect: float, n: int) -> None:
    assert statistics.sample_size(effect) == n
    found = statistics.minimum_detectable_effect(n)
    assert found.value <= effect * 1.001
    assert statistics.minimum_detectable_effect(n - 1).value > effect * 0.999


def test_impossible_plans_are_refused() -> None:
    for call in (
        lambda: statistics.sample_size(0),
        lambda: statistics.sample_size(0.5, power=1.0),
        lambda: statistics.minimum_detectable_effect(1),
        lambda: statistics.interval([1, 2], ["a", "b"], level=95),
        lambda: statistics.paired_test([1, 2], [1], ["a", "b"]),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()
