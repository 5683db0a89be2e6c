"""Answers that should look as if one site had made them all: does a classifier still tell, and what stays?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..data.grid import foreground
from ..evaluate.metrics.sites import combat, effect, fluid_share, matched, site_auc
from ..evaluate.result import Figure, Result
from ..evaluate.sets.embedding import Picture, embed
from .question import Asked
from .stage import PreparedStage

Array = NDArray[np.float64]
EMBEDDINGS = ("radiomics", "spectrum")
THERE, GIVEN, MATCHED, COMBAT, MODEL = (
    "that site itself",
    "as they are",
    "histogram matching",
    "ComBat on features",
    "model",
)
LEVELS = 101  # quantiles that histograms are matched by
AGE = "age"


@dataclass
class Sites:
    """Images of test patients as they are given, as the model makes them, and as the site made them."""

    ready: PreparedStage
    sides: dict[str, list[Picture]] = field(default_factory=lambda: {THERE: [], GIVEN: [], MODEL: []})
    ages: list[float | None] = field(default_factory=list)

    def add(self, asked: Asked, x: Tensor) -> None:
        """x (draws, C, z, y, x) of one case; nothing for jobs that standardise nothing, and cases without a truth."""
        if (names := self.ready.job.standardises) is None:
            return
        tensors = asked.case.tensors
        if any(name not in tensors for name in names):
            return
        given, there = (tensors[name][0] for name in names)
        mask = tensors.get("brain_mask")
        inside = (mask[0] > 0.5 if mask is not None else foreground(there)).numpy()
        spacing = tuple(asked.case.grid.spacing_mm)
        for side, image in ((GIVEN, given), (MODEL, x[0, 0]), (THERE, there)):
            self.sides[side].append(
                Picture(asked.name, asked.case.case.patient, image.double().numpy(), inside, spacing)
            )
        age = asked.case.case.values.get(AGE)
        self.ages.append(float(age) if isinstance(age, int | float) else None)

    def figures(self) -> list[Figure]:
        """Site classifiers against the site itself, by each way; and the effect of age on the share of fluid."""
        if not self.sides[THERE]:
            return []
        sides = {**self.sides, MATCHED: self._matched()}
        asked: dict[tuple[str, str], Callable[[], Result]] = {}
        for name in EMBEDDINGS:
            for by in (GIVEN, MATCHED, MODEL):
                asked[by, f"AUC of the site by {name}"] = partial(self._told, sides[by], name)
            asked[COMBAT, f"AUC of the site by {name}"] = partial(self._told, sides[GIVEN], name, combined=True)
        fluid_is_dark = self.ready.signature.asked == ("T1w",)
        if fluid_is_dark and all(age is not None for age in self.ages):
            for by, own in sides.items():
                asked[by, "fluid share per 10 years of age (%)"] = partial(self._of_age, own)
        return [self._figure(by, name, ask) for (by, name), ask in asked.items()]

    def _figure(self, by: str, name: str, ask: Callable[[], Result]) -> Figure:
        n = len(self.sides[THERE])
        try:
            told = ask()
        except ValueError as error:
            return Figure(self.ready.name, by, name, f"not evaluated: {error}", None, n, "")
        return Figure(self.ready.name, by, name, float(told), told.interval, told.n, told.convention)

    def _told(self, own: list[Picture], name: str, combined: bool = False) -> Result:
        """`combined`: after ComBat, which is told of ages where all are known."""
        there = self.sides[THERE]
        found = embed({"own": own, "there": there}, name)
        both, site = np.concatenate([found["own"], found["there"]]), np.array([1] * len(own) + [0] * len(there))
        if combined:
            known = None if any(age is None for age in self.ages) else np.array([*self.ages, *self.ages], np.float64)
            both = combat(both, site, known)
        return site_auc(both, site, [p.patient for p in (*own, *there)])

    def _of_age(self, own: list[Picture]) -> Result:
        shares = [1000 * fluid_share(p.values, p.inside) for p in own]
        return effect(shares, [float(a) for a in self.ages if a is not None])

    def _matched(self) -> list[Picture]:
        """Onto the mean quantiles of the training images of the site."""
        names = self.ready.job.standardises
        assert names is not None
        levels = []
        for e in self.ready.store.entries:
            if names[1] in e.files:
                image = self.ready.store.array(e, names[1])[0]
                levels.append(np.quantile(image[image > image.mean()], np.linspace(0, 1, LEVELS)))
        wanted = np.mean(levels, axis=0)
        return [
            Picture(p.name, p.patient, matched(p.values, p.inside, wanted), p.inside, p.spacing_mm)
            for p in self.sides[GIVEN]
        ]
