"""Agreement against published examples and definitions."""

import numpy as np
import pytest

from fabrica.evaluate.metrics import task

SHROUT_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]


def test_the_published_intraclass_correlation() -> None:
    """Shrout and Fleiss 1979, table 2: ICC(2,1) = .29, 95 % interval .02 to .76."""
    found = task.intraclass_correlation(SHROUT_FLEISS, convention="shrout-fleiss")
    assert found.value == pytest.approx(0.2898, abs=5e-5)
    assert found.interval == pytest.approx((0.019, 0.761), abs=2e-3)


def test_the_generalised_interval_of_the_intraclass_correlation() -> None:
    """It holds the published one's middle, does not move with units, and covers at least 93 of 100 where the other does not."""
    r = np.array(SHROUT_FLEISS, float)
    one = task.intraclass_correlation(r, convention="generalised")
    low, high = one.interval or (0, 0)
    assert one.value == pytest.approx(0.2898, abs=5e-5)
    assert 0 <= low < 0.06
    assert 0.7 < high < 0.85
    again = task.intraclass_correlation(3 * r + 7, convention="generalised").interval
    assert again == pytest.approx(one.interval)
    with pytest.raises(ValueError, match="expected shrout-fleiss or generalised"):
        task.intraclass_correlation(r, convention="other")  # type: ignore[arg-type]
    assert task.intraclass_correlation(np.repeat(r[:, :1], 3, 1), convention="generalised").interval == (1, 1)
    held = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        x = 2 * rng.normal(0, 1, (30, 1)) + 0.5**0.5 * rng.normal(0, 1, (1, 5)) + rng.normal(0, 1, (30, 5))
        low, high = task.intraclass_correlation(x, convention="generalised").interval or (0, 0)
        held.append(low <= 4 / 5.5 <= high)
    assert 0.92 <= np.mean(held) <= 0.985


def test_intraclass_laws() -> None:
    r = np.array(SHROUT_FLEISS, float)
    assert task.intraclass_correlation(3 * r + 7).value == pytest.approx(task.intraclass_correlation(r))
    assert task.intraclass_correlation(np.repeat(r[:, :1], 3, 1)).value == 1
    with pytest.raises(ValueError, match="All ratings are equal"):
        task.intraclass_correlation(np.ones((4, 2)))
    with pytest.raises(ValueError, match="at least 2 x 2"):
        task.intraclass_correlation([[1, 2]])


def test_concordance_sees_what_correlation_does_not() -> None:
    """y = 1.2 x + 5 is perfectly correlated and does not agree."""
    x = np.linspace(0, 20, 50)
    found = task.concordance_correlation(x, 1.2 * x + 5)
    y = 1.2 * x + 5
    expected = 2 * np.cov(x, y, ddof=0)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    assert found.value == pytest.approx(expected)
    assert found.details["pearson"] == pytest.approx(1)
    assert task.concordance_correlation(x, x).value == pytest.approx(1)
    assert task.concordance_correlation(x, -x + 20).value == pytest.approx(-1)


def test_the_interval_of_concordance_covers() -> None:
    rng = np.random.default_rng(0)
    truth = 2 * 1.0 / (1.25 + 1.25 + 0.09)
    covered = 0
    for _ in range(300):
        base = rng.normal(0, 1, 60)
        low, high = task.concordance_correlation(
            base + rng.normal(0, 0.5, 60), base + 0.3 + rng.normal(0, 0.5, 60)
        ).interval or (0, 0)
        covered += low <= truth <= high
    assert 0.91 <= covered / 300 <= 0.985


def test_bland_altman() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(100, 10, 4000)
    y = x - 2 + rng.normal(0, 3, 4000)
    found = task.bland_altman(x, y)
    assert found.value == pytest.approx(2, abs=0.15)
    assert found.interval is not None
    assert found.interval[0] < 2 < found.interval[1]
    assert found.details["limits"] == pytest.approx((2 - 1.96 * 3, 2 + 1.96 * 3), abs=0.3)
    assert found.details["lower_interval"][0] < found.details["limits"][0] < found.details["lower_interval"][1]
    assert found.p_value < 1e-6
    assert task.bland_altman(x, x).p_value == 1.0
    with pytest.raises(ValueError, match="all finite"):
        task.bland_altman([1, 2, np.nan], [1, 2, 3])
    with pytest.raises(ValueError, match="one constant"):
        task.concordance_correlation([1, 1, 1], [1, 1, 1])
