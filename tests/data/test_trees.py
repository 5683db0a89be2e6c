"""Boosted trees as arrays say what scikit-learn says, with values that are not known, and after they were kept."""

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor

from fabrica.data.trees import Trees, fitted
from fabrica.data.trees_compiled import summed


def _data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4000, 6)).astype(np.float32)
    y = (np.sin(2 * x[:, 0]) + x[:, 1] * (x[:, 2] > 0)).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    x[:, 5] = np.nan  # a structure that nobody has
    return x, y


def test_answers_are_those_of_the_library() -> None:
    x, y = _data()
    ours = fitted(x, y, trees=40, leaves=31, rate=0.1, seed=3)
    theirs = HistGradientBoostingRegressor(
        max_iter=40, max_leaf_nodes=31, learning_rate=0.1, min_samples_leaf=40, l2_regularization=1.0,
        early_stopping=False, random_state=3,
    ).fit(np.where(np.arange(6) == 5, 0, x), y)  # fmt: skip
    np.testing.assert_allclose(ours.answer(x), theirs.predict(np.where(np.arange(6) == 5, 0, x)), atol=1e-5)
    known = np.isfinite(x[:, :3]).all(1)
    assert np.mean((ours.answer(x) - y)[known] ** 2) < 0.2 * y[known].var()
    again = Trees.of(ours.arrays())
    np.testing.assert_array_equal(again.answer(x), ours.answer(x))


def test_nodes_that_are_not_there_are_refused() -> None:
    x, y = _data()
    arrays = fitted(x, y, trees=3, leaves=7, rate=0.1, seed=0).arrays()
    with pytest.raises(ValueError, match="point at nodes"):
        Trees.of({**arrays, "left": arrays["left"] + 10_000})
    with pytest.raises(ValueError, match="point at nodes"):
        Trees.of({**arrays, "value": arrays["value"][:-1]})


def test_the_compiled_walk_is_the_one_that_is_written() -> None:
    x, y = _data()
    trees = fitted(x, y, trees=5, leaves=7, rate=0.1, seed=0)
    nodes = (trees.feature, trees.threshold, trees.missing_left, trees.left, trees.right, trees.value)
    plain = summed.py_func(x[:300], trees.root, nodes, float(trees.start[0]))
    np.testing.assert_allclose(plain, trees.answer(x[:300]), rtol=1e-6)
