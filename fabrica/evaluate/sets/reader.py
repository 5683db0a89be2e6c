"""A value read from images by textures and spectra: a class by logistic regression, a number by ridge regression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...contracts import Field, class_name
from .embedding import BUILT_IN, EMBEDDINGS, Embedding, Picture, bin_width, read

Array = NDArray[np.float64]
FEWEST = 5  # images of each class, or of all where the value is a number
USED = ("radiomics", "spectrum")


@dataclass(frozen=True)
class Reader:
    """Learned of images whose value is known; `what` it reads, in words."""

    what: str
    unit: str
    width: float
    model: Any  # a pipeline of scikit-learn
    chances: bool

    @staticmethod
    def of(pictures: Sequence[Picture], values: Sequence[float | str], field: Field, asked: str) -> Reader | None:
        """Of a class: how likely it is the `asked` one. None where too few images say too little."""
        from sklearn.linear_model import LogisticRegression, RidgeCV  # type: ignore[import-untyped]
        from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
        from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

        if len(pictures) < FEWEST:
            return None
        width = bin_width([pictures])
        x = _features(pictures, width)
        if not field.classes:
            model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 4, 11)))
            return Reader(f"{field.name} read", field.unit, width, model.fit(x, [float(v) for v in values]), False)
        y = np.array([class_name(v) == asked for v in values])
        if min(y.sum(), (~y).sum()) < FEWEST:
            return None
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
        return Reader(f"read as {field.name} {asked}", "chance", width, model.fit(x, y), True)

    def told(self, picture: Picture) -> float:
        """The chance, or the number."""
        x = _features([picture], self.width)
        return float(self.model.predict_proba(x)[0, 1] if self.chances else self.model.predict(x)[0])


def _features(pictures: Sequence[Picture], width: float) -> Array:
    used: dict[str, Embedding] = {name: EMBEDDINGS[name] for name in USED if name in BUILT_IN}
    found = read(pictures, used, width)
    return np.concatenate([found[name] for name in USED], 1)
