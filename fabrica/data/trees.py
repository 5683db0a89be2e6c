"""Boosted regression trees as plain arrays: fitted by scikit-learn, kept without pickle, asked by a compiled loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class Trees:
    """The sum of many trees. Nodes of all of them lie behind one another; a leaf points to itself."""

    root: NDArray[np.int32]  # (trees,)
    feature: NDArray[np.int32]  # (nodes,), and so on
    threshold: NDArray[np.float64]  # values up to it go left
    missing_left: NDArray[np.bool_]  # where a value that is not known goes
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: NDArray[np.float64]
    start: NDArray[np.float64]  # (1,): what the trees are added to

    def answer(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, F) -> (N,); not known is NaN."""
        from ..physics.rays import in_threads
        from .trees_compiled import summed

        whole = np.ascontiguousarray(features, np.float32)
        with in_threads(torch.get_num_threads()):
            found: NDArray[np.float32] = summed(
                whole, self.root,
                (self.feature, self.threshold, self.missing_left, self.left, self.right, self.value),
                float(self.start[0]),
            )  # fmt: skip
        return found

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @staticmethod
    def of(arrays: Mapping[str, NDArray[Any]]) -> Trees:
        """What `arrays` gave; raises ValueError where they do not fit together."""
        found = Trees(**{f.name: arrays[f.name] for f in fields(Trees)})
        nodes = len(found.feature)
        pointing = (found.root, found.left, found.right)
        same = all(len(a) == nodes for a in (found.threshold, found.missing_left, found.left, found.right, found.value))
        if not same or any(len(a) and not 0 <= a.min() <= a.max() < nodes for a in pointing):
            raise ValueError("Trees point at nodes that are not there.")
        return found


def fitted(
    features: NDArray[np.float32], target: NDArray[np.float32], weight: NDArray[np.float32] | None = None, *,
    trees: int, leaves: int, rate: float, seed: int,
) -> Trees:  # fmt: skip
    """Histogram gradient boosting of the squared error (Friedman 2001; Ke et al. 2017), as scikit-learn has it."""
    from sklearn.ensemble import HistGradientBoostingRegressor  # type: ignore[import-untyped]
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    model = HistGradientBoostingRegressor(
        max_iter=trees, max_leaf_nodes=leaves, learning_rate=rate, min_samples_leaf=40, l2_regularization=1.0,
        early_stopping=False, random_state=seed,
    )  # fmt: skip
    silent = np.isnan(features).all(0)  # which the library's bins cannot do; nothing splits at a constant
    with threadpool_limits(torch.get_num_threads()):
        model.fit(np.where(silent, np.float32(0), features), target, sample_weight=weight)
    own = [one.nodes for (one,) in model._predictors]
    starts = np.cumsum([0, *[len(n) for n in own[:-1]]]).astype(np.int32)
    nodes = np.concatenate(own)
    shift = np.repeat(starts, [len(n) for n in own])
    leaf = nodes["is_leaf"].astype(bool)
    itself = np.arange(len(nodes), dtype=np.int32)
    return Trees(
        starts,
        nodes["feature_idx"].astype(np.int32),
        np.where(leaf, np.inf, nodes["num_threshold"]).astype(np.float64),
        nodes["missing_go_to_left"].astype(bool),
        np.where(leaf, itself, nodes["left"] + shift).astype(np.int32),
        np.where(leaf, itself, nodes["right"] + shift).astype(np.int32),
        np.where(leaf, nodes["value"], 0.0).astype(np.float64),
        np.asarray(model._baseline_prediction, np.float64).reshape(1),
    )
