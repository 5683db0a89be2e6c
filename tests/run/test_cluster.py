"""Trainings on many workers, simulated: known answers without failures, Young and Daly's interval with them."""

import math

import numpy as np
import pytest

from fabrica.run.cluster import Cluster, _walked, best_interval, simulate


def test_without_failures_it_is_arithmetic() -> None:
    calm = Cluster(workers=1, speed=2.0, straggling=0.0, checkpoint_s=5.0)
    assert calm.work_s(1000.0) == pytest.approx(500.0)
    found = simulate(calm, 500.0, 200.0)
    assert (found.seconds, found.failures) == (pytest.approx(500 + 3 * 5), 0)
    assert best_interval(calm, 500.0).interval_s == 500.0
    many = Cluster(workers=100, speed=1.0, straggling=0.0, overhead=0.1)
    assert many.work_s(1000.0) == pytest.approx(11.0)


def test_the_slowest_worker_is_waited_for() -> None:
    one, many = (Cluster(workers=n, speed=1.0, straggling=0.1, overhead=0.0).step_factor() for n in (1, 1000))
    assert one == pytest.approx(1.0, abs=0.06)
    expected = math.exp(0.1 * 3.24)  # the mean of the largest of a thousand normals is 3.24
    assert many == pytest.approx(expected, rel=0.03)


def test_failures_cost_what_theory_says() -> None:
    """Daly 2006, equation 20: (M + R) (exp((tau + C) / M) - 1) for each piece, restarts that do not fail themselves."""
    cluster = Cluster(workers=8, speed=1.0, hours_between_failures=8 * 1000 / 3600, checkpoint_s=20, restart_s=50)
    assert cluster.failing_s == pytest.approx(1000.0)
    work, interval = 20_000.0, 200.0
    found = simulate(cluster, work, interval, trials=2000)
    m = cluster.failing_s
    expected = work / interval * (m + 50) * (math.exp((interval + 20) / m) - 1)
    assert found.seconds == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("workers", [1, 30, 1000])
def test_the_best_interval_is_young_and_dalys(workers: int) -> None:
    cluster = Cluster(workers=workers, speed=1.0, hours_between_failures=2000.0, checkpoint_s=10.0, restart_s=60.0)
    work = 60 * cluster.failing_s if workers > 1 else 40 * cluster.failing_s
    found = best_interval(cluster, work, trials=400 if workers == 1000 else 60)
    assert found.interval_s == pytest.approx(cluster.young_daly_s(), rel=0.1)
    for factor in (0.3, 3.0):
        assert simulate(cluster, work, found.interval_s * factor, 60).seconds > found.seconds * 0.999
    assert np.isfinite(found.seconds)


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        ({"workers": 8}, "says no workers and speed"),
        ([1], "says no workers and speed"),
        ({"workers": 8, "speed": 2, "gpus": 3}, "there is no 'gpus'"),
        ({"workers": 0, "speed": 2}, "expected 1 or more"),
        ({"workers": 2.5, "speed": 2}, "expected 1 or more"),
        ({"workers": 2, "speed": "fast"}, "speed is 'fast'"),
    ],
)
def test_clusters_that_cannot_be(plain: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Cluster.of(plain, "cluster.yaml")
    with pytest.raises(ValueError, match="cannot be simulated"):
        simulate(Cluster(1, 1.0), 0.0, 1.0)


def test_a_training_that_never_ends_is_refused_and_the_compiled_walk_is_the_plain_one() -> None:
    with pytest.raises(ValueError, match="it would not end. Use fewer workers"):
        simulate(Cluster(1000, 1.0, hours_between_failures=0.001), 1000.0, 100.0)
    pieces = np.full(50, 7.0)
    found = [walk(pieces, 1.0, 5.0, 30.0, np.random.default_rng(4)) for walk in (_walked, _walked.py_func)]
    assert found[0] == pytest.approx(found[1])
    assert found[0][1] > 0
