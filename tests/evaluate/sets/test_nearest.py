"""Compiled neighbours against whole distance matrices, in parts of any size."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from fabrica.evaluate.sets import feature, nearest


def _sets(n: int = 37, m: int = 29, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, width)), rng.normal(0.3, 1.2, size=(m, width))


@pytest.mark.parametrize(("held", "band"), [(1, 512), (100, 512), (1 << 24, 512), (1 << 24, 8)])
@pytest.mark.parametrize("k", [1, 5, 20])
def test_against_all_distances(k: int, held: int, band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "HELD", held)
    monkeypatch.setattr(nearest, "BAND", band)
    a, b = _sets()
    near_a, near_b = (np.sort(cdist(s, s), 1)[:, k] for s in (a, b))
    np.testing.assert_allclose(nearest.reach(a, k) ** 0.5, near_a)
    between = cdist(a, b)
    inside, covered, recalled = nearest.within(a, b, nearest.reach(a, k), nearest.reach(b, k))
    np.testing.assert_array_equal(inside, (between <= near_b).sum(1))
    np.testing.assert_array_equal(covered > 0, (between <= near_b).any(0))
    np.testing.assert_array_equal(recalled > 0, (between <= near_a[:, None]).any(0))


def test_copies_are_at_distance_zero_whatever_their_length() -> None:
    a = 1e6 + np.random.default_rng(1).random((10, 4))
    twice = np.concatenate([a, a])
    np.testing.assert_array_equal(nearest.reach(twice, 1), 0.0)
    inside, _, recalled = nearest.within(a, a, nearest.reach(a, 1), nearest.reach(a, 1))
    assert (inside >= 1).all()
    assert recalled.all()


def test_the_compiled_code_does_what_the_python_code_says(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = _sets(9, 8, 3)
    compiled = nearest.reach(a, 2), nearest.within(a, b, nearest.reach(a, 2), nearest.reach(b, 2))
    for name in ("_nearer", "_insert", "_counted"):
        monkeypatch.setattr(nearest, name, getattr(nearest, name).py_func)
    np.testing.assert_array_equal(compiled[0], nearest.reach(a, 2))
    for one, other in zip(compiled[1], nearest.within(a, b, nearest.reach(a, 2), nearest.reach(b, 2)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_both_functions_tell_all_four_measures() -> None:
    a, b = _sets()
    one, other = feature.precision_recall(a, b).details, feature.density_coverage(a, b).details
    assert one == other
    assert set(one) == {"precision", "recall", "density", "coverage"}


@pytest.mark.parametrize("rank", [3, 8])
def test_frechet_distance_by_both_ways(rank: int) -> None:
    """Many rows: by covariances where they are well conditioned, by factors where they are not."""
    rng = np.random.default_rng(3)
    a, b = (rng.normal(size=(400, rank)) @ rng.normal(size=(rank, 8)) for _ in range(2))
    assert (feature._by_covariances(a, b) is None) == (rank < 8)
    spread, shared = feature._by_factors(a, b)
    wanted = float(((a.mean(0) - b.mean(0)) ** 2).sum()) + spread - 2 * shared
    assert feature.frechet_distance(a, b) == pytest.approx(wanted, rel=1e-9)
    assert feature.frechet_distance(a, a) == pytest.approx(0, abs=1e-8)
