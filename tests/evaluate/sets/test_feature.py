"""Distances between sets: closed forms, brute force, copies, and tests that stay silent when there is nothing to find."""

import numpy as np
import pytest
from scipy import linalg

from fabrica.evaluate.sets import feature


def _sets(n: int = 120, d: int = 8, shift: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, (n, d)), rng.normal(shift, 1, (n, d))


def _groups(n: int, images: int) -> tuple[list[str], list[str]]:
    return [f"a{i // images}" for i in range(n)], [f"b{i // images}" for i in range(n)]


def test_frechet_known_values() -> None:
    assert feature.frechet_distance([[2, 2], [1, 2], [1, 2]], [[1, 2]] * 3) == pytest.approx(4 / 9)
    rng = np.random.default_rng(0)
    far = feature.frechet_distance(rng.normal(0, 1, (100_000, 10)), rng.normal(1, 2, (100_000, 10)))
    assert far == pytest.approx(20, rel=0.01)


@pytest.mark.parametrize(("n", "m", "d"), [(40, 50, 8), (20, 30, 64), (100, 30, 48)])
def test_frechet_is_the_matrix_root_form(n: int, m: int, d: int) -> None:
    """Against scipy's square root of the covariances' product, more rows than columns and fewer."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (n, d)), rng.normal(0.2, 1.5, (m, d))
    s1, s2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    values = linalg.eigvals(s1 @ s2).real
    slow = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s1 + s2) - 2 * np.sqrt(np.maximum(values, 0)).sum()
    assert feature.frechet_distance(x, y) == pytest.approx(slow, rel=1e-6)
    assert feature.frechet_distance(y, x) == pytest.approx(feature.frechet_distance(x, y))
    assert feature.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_the_extrapolated_distance_loses_the_bias() -> None:
    """N(0, I) and N(.1, I) in 64 dimensions: .64; the plain distance of 300 rows is an order of magnitude above."""
    found = [feature.frechet_distance_infinity(*_sets(300, 64, 0.1, seed=s), seed=s) for s in range(6)]
    assert np.mean(found) == pytest.approx(0.64, abs=0.35)
    assert feature.frechet_distance(*_sets(300, 64, 0.1)) > 5
    errors = [f.standard_error for f in found]
    assert 0.4 < np.mean(errors) / np.std(found) < 4
    assert found[0] == feature.frechet_distance_infinity(*_sets(300, 64, 0.1), seed=0)
    with pytest.raises(ValueError, match="at least 20"):
        feature.frechet_distance_infinity(*_sets(19))


def test_the_kernel_distance_is_the_unbiased_statistic() -> None:
    x, y = _sets(15, 4, 0.5)
    kernel = lambda a, b: (a @ b / 4 + 1) ** 3  # noqa: E731
    n = len(x)
    inner = [sum(kernel(s[i], s[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1)) for s in (x, y)]
    slow = sum(inner) - 2 * sum(kernel(a, b) for a in x for b in y) / n**2
    assert feature.kernel_distance(x, y) == pytest.approx(slow)


def test_the_kernel_distance_is_zero_in_the_mean_within_its_error() -> None:
    found = [feature.kernel_distance(*_sets(80, 8, seed=s)) for s in range(60)]
    spread = np.std(found)
    assert abs(np.mean(found)) < 3 * spread / 60**0.5
    assert 1 < np.mean([f.standard_error for f in found]) / spread < 2, "conservative where the statistic degenerates"
    apart = [feature.kernel_distance(*_sets(80, 8, 0.5, seed=s)) for s in range(60)]
    assert np.mean([f.standard_error for f in apart]) == pytest.approx(np.std(apart), rel=0.4)
    assert feature.kernel_distance(*_sets(80, 8, 1.0)) > 10 * spread
    assert feature.kernel_distance([[0.0], [1.0]], [[0.0], [1.0]]).standard_error is None


def test_permutation_of_patients_keeps_its_level_where_rows_would_not() -> None:
    """Twelve patients of eight images a side, one source: rows of a patient are alike."""
    ps = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x, y = (np.repeat(rng.normal(0, 1, (12, 4)), 8, 0) + 0.1 * rng.normal(0, 1, (96, 4)) for _ in range(2))
        ps.append(feature.mmd_permutation_test(x, y, _groups(96, 8), permutations=100, seed=seed).p_value)
    assert 0 <= np.mean(np.array(ps) < 0.05) <= 0.15
    rows = feature.mmd_permutation_test(x, y, _groups(96, 1), permutations=100)
    assert rows.p_value < 0.05, "rows as patients are the mistake that patient-wise permutation avoids"
    assert feature.mmd_permutation_test(x, y + 2, _groups(96, 8), permutations=200).p_value < 0.02


def test_groups_must_fit_and_be_disjoint() -> None:
    x, y = _sets(20)
    with pytest.raises(ValueError, match="patients stand on both sides"):
        feature.mmd_permutation_test(x, y, (["p"] * 20, ["p"] * 20))
    with pytest.raises(ValueError, match="Got 3 and 20 patient names"):
        feature.mmd_permutation_test(x, y, (["p"] * 3, ["q"] * 20))
    with pytest.raises(ValueError, match="expected at least 5 on each side"):
        feature.classifier_two_sample_test(x, y, _groups(20, 10))


def test_the_classifier_tells_what_differs_and_nothing_else() -> None:
    x, y = _sets(100, 16, seed=1)
    same = feature.classifier_two_sample_test(x, y, _groups(100, 2), permutations=200)
    assert same.p_value > 0.05
    assert same.value == pytest.approx(0.5, abs=0.12)
    other = feature.classifier_two_sample_test(x + 0.5, y, _groups(100, 2), permutations=200)
    assert other.value > 0.75
    assert other.p_value < 0.01
    wide = feature.classifier_two_sample_test(*_sets(30, 200, 1.0), _groups(30, 1), permutations=50)
    assert wide.value > 0.8
    ps = [
        feature.classifier_two_sample_test(*_sets(40, 6, seed=s), _groups(40, 2), permutations=60, seed=s).p_value
        for s in range(60)
    ]
    assert np.mean(np.array(ps) < 0.05) <= 0.15


def test_neighbours_by_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature, "CHUNK", 7)
    x, y = _sets(30, 3, 0.7)
    k = 3
    reach = {n: np.sort(np.linalg.norm(s[:, None] - s[None], axis=-1), 1)[:, k] for n, s in (("x", x), ("y", y))}
    cross = np.linalg.norm(x[:, None] - y[None], axis=-1)
    inside = cross <= reach["y"][None]
    near, dense = feature.precision_recall(x, y, k=k), feature.density_coverage(x, y, k=k)
    assert near.value == near.details["precision"] == pytest.approx(inside.any(1).mean())
    assert near.details["recall"] == pytest.approx((cross <= reach["x"][:, None]).any(0).mean())
    assert dense.value == pytest.approx(inside.sum() / (k * len(x)))
    assert dense.details["coverage"] == pytest.approx(inside.any(0).mean())
    with pytest.raises(ValueError, match="k is 30"):
        feature.precision_recall(x, y, k=30)


def test_one_source_does_not_reach_one() -> None:
    """d = 32, k = 5, N = 200: precision .83, density 1, coverage .98: never to be read without the null."""
    x, y = _sets(200, 32)
    assert feature.precision_recall(x, y).value == pytest.approx(0.83, abs=0.05)
    assert feature.density_coverage(x, y).value == pytest.approx(1.0, abs=0.06)
    assert feature.density_coverage(x, y).details["coverage"] == pytest.approx(0.98, abs=0.03)


def test_copies_are_not_authentic() -> None:
    x, training = _sets(60, 6)
    assert feature.authenticity(training[:20], training) == 0
    half = np.concatenate([training[:20], x[:20] + 3])
    assert feature.authenticity(half, training) == pytest.approx(0.5)
    assert feature.authenticity(x, training) > 0.3


def test_vendi_counts_what_is_different() -> None:
    assert feature.vendi(np.eye(7)) == pytest.approx(7)
    assert feature.vendi(np.ones((5, 3))) == pytest.approx(1)
    assert feature.vendi(np.repeat(np.eye(3), 4, 0)) == pytest.approx(3)
    with pytest.raises(ValueError, match="row of zeros"):
        feature.vendi(np.zeros((3, 3)))


def test_bad_features_are_refused() -> None:
    x, y = _sets(10)
    with pytest.raises(ValueError, match="NaN or infinite"):
        feature.frechet_distance(x, np.full_like(y, np.nan))
    with pytest.raises(ValueError, match="Got features of"):
        feature.frechet_distance(x, y[:, :3])
