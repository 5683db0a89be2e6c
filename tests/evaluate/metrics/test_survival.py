"""Courses until an event: against lifelines 0.30.3 and scikit-survival 0.28.0, whose values stand here, and by their definitions."""

import numpy as np
import pytest

from fabrica.evaluate.metrics import survival, task


def _course() -> tuple[np.ndarray, ...]:
    """60 patients, 39 events, some ties: time, event, risk, covariates."""
    rng = np.random.Generator(np.random.Philox(key=7))
    x = rng.normal(size=(60, 2))
    risk = 0.8 * x[:, 0] - 0.5 * x[:, 1]
    happens, ends = np.round(rng.exponential(5 / np.exp(risk)), 2) + 0.01, np.round(rng.uniform(1, 12, 60), 2)
    return np.minimum(happens, ends), (happens <= ends).astype(float), risk + 0.5 * rng.normal(size=60), x


TIME, EVENT, RISK, X = _course()
TIMES = np.arange(1.0, 7.0)
CHANCES = np.exp(-np.outer(np.exp(RISK), TIMES / 5))


def test_kaplan_meier_and_its_band() -> None:
    curve = survival.kaplan_meier(TIME, EVENT)
    known = {1.0: (0.7, 0.5669395112649754, 0.7991793416790721), 3.0: (0.49655172413793136, 0.3604553576043414, 0.6185961343386486),
             6.0: (0.3116415818064996, 0.17967183051239463, 0.4530011432523548)}  # fmt: skip
    for when, (share, low, high) in known.items():
        place = np.searchsorted(curve.times, when, side="right") - 1
        assert (float(curve.at(when)), curve.low[place], curve.high[place]) == pytest.approx((share, low, high))
    assert curve.at(0.0) == 1
    assert curve.before(curve.times[0]) == 1
    assert curve.at(curve.times[0]) == curve.share[0]
    assert not len(survival.kaplan_meier(TIME, np.zeros(60)).times)


def test_concordance() -> None:
    found = survival.concordance_index(RISK, TIME, EVENT)
    assert found.value == pytest.approx(0.7157287157287158)
    assert float(survival.concordance_uno(RISK, TIME, EVENT)) == pytest.approx(0.7128898764690149)
    assert float(survival.concordance_uno(RISK, TIME, EVENT, until=6)) == pytest.approx(0.7095192484865815)
    assert float(survival.concordance_uno(RISK, TIME, np.ones(60))) == pytest.approx(
        float(survival.concordance_index(RISK, TIME, np.ones(60)))
    )


def test_an_interval_of_concordance_is_as_wide_as_the_bootstrap_says() -> None:
    found, rng = survival.concordance_index(RISK, TIME, EVENT), np.random.default_rng(0)
    again = [float(survival.concordance_index(RISK[i], TIME[i], EVENT[i])) for i in rng.integers(0, 60, (300, 60))]
    assert found.standard_error == pytest.approx(np.std(again), rel=0.15)
    paired = survival.concordance_paired(RISK, X[:, 0], TIME, EVENT)
    both = [
        float(survival.concordance_paired(RISK[i], X[i, 0], TIME[i], EVENT[i])) for i in rng.integers(0, 60, (300, 60))
    ]
    assert paired.standard_error == pytest.approx(np.std(both), rel=0.2)
    assert paired.value == pytest.approx(found.value - float(survival.concordance_index(X[:, 0], TIME, EVENT)))
    assert float(survival.concordance_paired(RISK, RISK, TIME, EVENT)) == 0


def test_brier_scores() -> None:
    scores = survival.brier_scores(CHANCES, TIMES, TIME, EVENT)
    known = [
        0.17181496608822797,
        0.2093764181315984,
        0.19548935455959598,
        0.1904707757655304,
        0.18727959754234744,
        0.17830578261494429,
    ]
    np.testing.assert_allclose(scores.mean(0), known)
    whole = survival.integrated_brier(CHANCES, TIMES, TIME, EVENT)
    assert whole.shape == (60,)
    assert whole.mean() == pytest.approx(0.19153530407013167)
    perfect = (TIME[:, None] > TIMES).astype(float)
    assert survival.integrated_brier(perfect, TIMES, TIME, np.ones(60)).max() == 0
    with pytest.raises(ValueError, match="Nobody was followed until 20"):
        survival.brier_scores(np.ones((60, 1)), [20.0], TIME, EVENT)


def test_areas_under_curves_at_horizons() -> None:
    found = [float(survival.auc_at(RISK, at, TIME, EVENT)) for at in (2.0, 4.0)]
    assert found == pytest.approx([0.7485273492286115, 0.7768046219410395])
    with pytest.raises(ValueError, match="nobody"):
        survival.auc_at(RISK, 100.0, TIME, EVENT)


def test_groups_and_proportional_hazards() -> None:
    high = np.median(RISK) < RISK
    assert survival.logrank(TIME[high], EVENT[high], TIME[~high], EVENT[~high]) == pytest.approx(2.7954976536493177e-06)
    weights = survival.proportional_hazards(X, TIME, EVENT, ridge=0.0)
    np.testing.assert_allclose(weights, [0.8117393432613431, -0.5209324930866467], rtol=1e-4)
    hazard = survival.breslow(X @ weights, TIME, EVENT)
    np.testing.assert_allclose(
        -np.log(hazard.survival(np.zeros(1), [3.0, 6.0])[0]), [0.6471158209503514, 1.209291691470762], rtol=1e-4
    )
    assert hazard.survival([0.0], [0.0])[0, 0] == 1


def test_calibration_is_right_where_chances_are_and_wrong_where_they_are_not() -> None:
    rng = np.random.default_rng(1)
    risk = rng.normal(size=4000)
    happens, ends = rng.exponential(5 / np.exp(risk)), rng.uniform(2, 10, 4000)
    time, event = np.minimum(happens, ends), (happens <= ends).astype(float)
    right = 1 - np.exp(-np.exp(risk) * 3 / 5)
    found = survival.calibration_at(right, 3.0, time, event)
    assert found.value < 0.02
    assert found.details["expected / observed"] == pytest.approx(1, abs=0.05)
    assert survival.calibration_at(right**2, 3.0, time, event).value > 0.1
    own, everybody = survival.net_benefit(right, 3.0, time, event, [0.01, 0.4])
    assert own[0] == pytest.approx(everybody[0], abs=0.002)
    assert own[1] > everybody[1] + 0.05
    true = happens <= 3
    chosen = right >= 0.4
    assert own[1] == pytest.approx((true & chosen).mean() - (~true & chosen).mean() * 0.4 / 0.6, abs=0.01)


def test_chances_of_hazards() -> None:
    found = survival.chances([[0.5, 0.5], [0.0, 1.0]], 2.0, [0.5, 1.0, 2.0])
    np.testing.assert_allclose(found[0], [0.5**0.5, 0.5, 0.25])
    assert found[1, 1] == 1
    assert found[1, 2] < 1e-9
    with pytest.raises(ValueError, match="beyond 2"):
        survival.chances([[0.5, 0.5]], 2.0, [3.0])


@pytest.mark.parametrize(
    ("time", "event", "said"),
    [
        ([1, -2], [1, 0], "negative"),
        ([1, 2], [1, 2], "0 or 1"),
        ([1, np.nan], [1, 0], "finite"),
        ([1], [1, 0], "as many"),
    ],
)
def test_what_is_no_course_is_refused(time: list, event: list, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        survival.kaplan_meier(time, event)


def test_they_are_in_the_tier_of_tasks() -> None:
    assert task.concordance_uno is survival.concordance_uno
