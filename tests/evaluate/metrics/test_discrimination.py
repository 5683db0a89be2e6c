"""Ranking, calibration and survival against brute force, and the level of the tests by simulation."""

import numpy as np
import pytest

from fabrica.evaluate.metrics import task


def _slow_delong(scores: list[np.ndarray], labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Placement values pair by pair (DeLong 1988, equations 4 to 6)."""
    v10, v01 = [], []
    for s in scores:
        wins = (s[labels == 1][:, None] > s[labels == 0]) + 0.5 * (s[labels == 1][:, None] == s[labels == 0])
        v10.append(wins.mean(1))
        v01.append(wins.mean(0))
    m, n = len(v10[0]), len(v01[0])
    return np.array([v.mean() for v in v10]), np.cov(v10) / m + np.cov(v01) / n


def _scores(seed: int, n: int = 60, gain: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 3 == 0).astype(int)
    base = rng.normal(0, 1, n)
    return (
        np.round(gain * labels + base + rng.normal(0, 1, n), 1),
        np.round(gain * labels + base + rng.normal(0, 1, n), 1),
        labels,
    )


def test_delong_by_brute_force_with_ties() -> None:
    a, b, labels = _scores(0)
    areas, covariance = _slow_delong([a, b], labels)
    one, pair = task.auc_delong(a, labels), task.auc_delong_paired(a, b, labels)
    assert one.value == pytest.approx(areas[0])
    assert one.standard_error == pytest.approx(covariance[0, 0] ** 0.5)
    assert pair.value == pytest.approx(areas[0] - areas[1])
    assert pair.standard_error == pytest.approx((covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]) ** 0.5)
    assert pair.interval == pytest.approx(
        (pair - 1.959964 * pair.standard_error, pair + 1.959964 * pair.standard_error)
    )
    assert pair.details["z"] == pytest.approx(pair / pair.standard_error)
    assert task.auc_delong_paired(b, a, labels).value == pytest.approx(-pair)


def test_auc_laws() -> None:
    a, _, labels = _scores(1)
    assert task.auc_delong(-a, labels).value == pytest.approx(1 - task.auc_delong(a, labels))
    assert task.auc_delong(np.exp(a), labels).value == pytest.approx(task.auc_delong(a, labels))
    perfect = task.auc_delong(labels, labels)
    assert (perfect.value, perfect.interval) == (1.0, None)
    for level in (0.8, 0.95):
        plain, logit = (task.auc_delong(a, labels, level=level, convention=c) for c in ("plain", "logit"))
        assert (plain.value, plain.p_value) == (logit.value, logit.p_value)
        low, high = logit.interval or (0, 0)
        assert 0 < low < logit.value < high < 1
        odds = [v / (1 - v) for v in (low, logit.value, high)]
        assert odds[1] / odds[0] == pytest.approx(odds[2] / odds[1])  # symmetric in log odds
        slope = logit.value * (1 - logit.value)  # first order: the plain interval
        assert np.log(odds[2] / odds[1]) * slope == pytest.approx(
            ((plain.interval or (0, 0))[1] - plain.value), rel=1e-9
        )
    turned = task.auc_delong(-a, labels, convention="logit").interval or (0, 0)
    assert turned == pytest.approx((1 - high, 1 - low))
    with pytest.raises(ValueError, match="expected plain or logit"):
        task.auc_delong(a, labels, convention="exact")  # type: ignore[arg-type]
    same = task.auc_delong_paired(a, a, labels)
    assert (same.value, same.p_value) == (0.0, 1.0)


def test_delong_keeps_its_level_and_its_coverage() -> None:
    """240 repetitions: equal readers are called different in about 5 %; the interval covers the true area, Phi(1/2)."""
    p, covered = [], []
    for seed in range(240):
        a, b, labels = _scores(seed, 120)
        p.append(task.auc_delong_paired(a, b, labels).p_value)
        low, high = task.auc_delong(a, labels).interval or (0, 0)
        covered.append(low <= 0.6915 <= high)
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.09
    assert 0.91 <= np.mean(covered) <= 0.985


def test_calibration_of_honest_and_of_boastful_probabilities() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    y = (rng.random(20_000) < p).astype(int)
    honest = task.calibration(p, y)
    assert honest.value < 0.02
    assert honest.details["slope"] == pytest.approx(1, abs=0.05)
    assert honest.details["intercept"] == pytest.approx(0, abs=0.05)
    logit = np.log(p / (1 - p))
    boastful = task.calibration(1 / (1 + np.exp(-2 * logit)), y)
    assert boastful.details["slope"] == pytest.approx(0.5, abs=0.03)
    assert boastful.value > 0.08
    assert task.brier(p, y).value == pytest.approx(1 / 6, abs=0.01)
    assert sum(c for _, _, c in honest.details["curve"]) == 20_000


def test_calibration_at_its_edges() -> None:
    assert task.brier([1, 0], [1, 0]).value == 0
    assert task.brier([0, 1], [1, 0]).value == 1
    assert task.calibration([1.0, 0.0, 1.0], [1, 0, 1]).value == 0
    assert task.calibration([0.2, 0.4], [1, 1]).details["slope"] is None
    assert task.calibration([0.2, 0.4, 0.6, 0.8], [0, 0, 1, 1]).details["slope"] is None, "separated"
    assert task.calibration([0.2, 0.4, 0.6, 0.8], [1, 1, 0, 0]).details["slope"] is None, (
        "separated, the wrong way round"
    )
    assert task.calibration([0.2, 0.4, 0.4, 0.8], [0, 0, 1, 1]).details["slope"] is None, "parted at a tie"
    assert task.calibration([0.0, 0.0, 1.0, 1.0], [0, 0, 1, 1]).details["slope"] is None, "certain"
    certain = task.calibration([0.0, 1.0, 0.0, 1.0, 0.5, 0.5], [0, 1, 1, 0, 1, 0])
    assert certain.details["slope"] == pytest.approx(0, abs=1e-6), "certain, and half of it wrong"
    with pytest.raises(ValueError, match="must lie in"):
        task.calibration([1.2], [1])
    with pytest.raises(ValueError, match="must lie in"):
        task.brier([0.2], [2])
    with pytest.raises(ValueError, match="expected as many"):
        task.brier([0.2, 0.3], [1])


def test_concordance_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    risk, time, event = np.round(rng.normal(0, 1, 50), 1), rng.integers(1, 30, 50), rng.integers(0, 2, 50)
    right = pairs = 0.0
    for i in range(50):
        for j in range(50):
            if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                pairs += 1
                right += float(risk[i] > risk[j]) + 0.5 * float(risk[i] == risk[j])
    found = task.concordance_index(risk, time, event)
    assert found.value == pytest.approx(right / pairs)
    assert found.details["pairs"] == pairs
    assert task.concordance_index(-time, time, np.ones(50)).value == 1
    assert task.concordance_index(np.zeros(50), time, event).value == 0.5
    with pytest.raises(ValueError, match="No pair"):
        task.concordance_index(risk, time, np.zeros(50))
    with pytest.raises(ValueError, match="expected as many"):
        task.concordance_index(risk, time[:3], event)


def test_labels_and_scores_are_checked() -> None:
    with pytest.raises(ValueError, match="labels must be 0 or 1"):
        task.auc_delong([0.1, 0.2, 0.3, 0.4], [0, 1, 2, 1])
    with pytest.raises(ValueError, match="at least two of each"):
        task.auc_delong([0.1, 0.2, 0.3], [0, 1, 1])
    with pytest.raises(ValueError, match="all finite"):
        task.auc_delong([0.1, np.nan, 0.3, 0.4], [0, 1, 0, 1])
