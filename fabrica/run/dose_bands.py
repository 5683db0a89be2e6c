"""Figures of a drawn dose with intervals: told on validation patients, judged on test patients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from ..contracts import SCALES
from ..data.cases import Prepared
from ..evaluate.judging.constraints import Constraint
from ..evaluate.judging.daily import Factors, Reading, factors_of, read, table
from ..evaluate.judging.planned import POSSIBLE
from ..evaluate.metrics.dose import TARGETS
from ..evaluate.result import Figure, Row
from ..evaluate.statistics import interval
from .stage import PreparedStage

Say = Callable[[str], None]
MOMENT = "dose"
OF_TARGETS, OF_ORGANS = ("D95%", "mean"), ("mean", "D0.1cc")


class DoseBands:
    """Intervals of D95 and mean of targets, mean and D0.1cc of organs, and of what the recipe's constraints ask.

    Nothing of stages that draw no dose, and nothing where the recipe asks for no coverage.
    """

    def __init__(self, ready: PreparedStage) -> None:
        self.ready, self.level = ready, ready.evaluate.coverage
        self.asked = [Constraint.of(text) for text in ready.evaluate.constraints]
        self.of_dose = self.level is not None and [f.unit for f in ready.signature.x] == ["Gy"]
        self.known: dict[str, list[Reading]] = {}
        self.factors: Factors = {}
        self.held: list[tuple[str, str, bool]] = []  # patient, figure, whether it was inside

    def add(self, case: Prepared, x: Tensor) -> None:
        """A validation patient, x (draws, 1, z, y, x) on the network's scale."""
        if self.of_dose:
            self.known.setdefault(case.case.patient, []).extend(self._readings(case, x))

    def calibrate(self, level: float, say: Say) -> None:
        """Once all of them were added."""
        if self.of_dose:
            self.factors = factors_of(self.known, level)
            say(
                f"{self.ready.name}: intervals of {level:.0%} of {len(self.factors)} figures of dose, by"
                f" {len(self.known)} validation patients."
            )

    def judged(self, case: Prepared, x: Tensor) -> tuple[list[Row], str]:
        """Of a test patient: which true figures lie inside and how wide the intervals are; and the recipe's constraints
        with their lights (HTML, '' where there are none).
        """
        if not self.factors:
            return [], ""
        readings, texts = self._readings(case, x), {c.text for c in self.asked}
        asked = [one for one in readings if one.constraint.text in texts]
        return self._rows(case, readings), table(asked, self.factors) if asked else ""

    def _rows(self, case: Prepared, readings: Sequence[Reading]) -> list[Row]:
        rows = []
        for one in readings:
            ends = one.interval(self.factors)
            if ends is None or one.truth is None:
                continue
            inside = ends[0] <= one.truth <= ends[1]
            self.held.append((case.case.patient, one.constraint.figure, inside))
            own = (case.name, case.case.patient, MOMENT, f"model: intervals of {self.level:.0%}")
            name = f"{one.constraint.structure} {one.constraint.figure}"
            rows.append(Row(*own, f"{name} inside", float(inside), ""))
            rows.append(Row(*own, f"{name} width", ends[1] - ends[0], one.constraint.unit))
        return rows

    def figures(self) -> list[Figure]:
        """How often true figures lay inside: over patients, each with the share of its structures."""
        found = []
        for figure in dict.fromkeys(name for _, name, _ in self.held):
            shares: dict[str, list[bool]] = {}
            for patient, name, inside in self.held:
                if name == figure:
                    shares.setdefault(patient, []).append(inside)
            over = interval([float(np.mean(own)) for own in shares.values()], list(shares))
            how = f"promised {self.level:.0%}; calibrated on {len(self.known)} patients; {over.convention}"
            found.append(
                Figure(self.ready.name, "model", f"coverage of {figure}", over.value, over.interval, over.n, how)
            )
        return found

    def _readings(self, case: Prepared, x: Tensor) -> list[Reading]:
        width, truth = SCALES["Gy"].width, case.tensors.get(self.ready.signature.x[0].name)
        doses = [width * one[0].double().numpy() for one in x]
        true = None if truth is None else width * truth[0].double().numpy()
        spacing = case.grid.spacing_mm
        found = []
        for name, tensor in case.tensors.items():
            if case.traces[name].like.meaning.kind != "label" or name == POSSIBLE:
                continue
            inside = tensor[0].numpy() > 0.5
            for constraint in self._constraints(name):
                known = None if true is None else (true, inside)
                one = read(constraint, MOMENT, None, [(d, inside) for d in doses], known, (spacing, spacing))
                found += [] if one is None else [one]
        return found

    def _constraints(self, structure: str) -> Sequence[Constraint]:
        """The recipe's, and figures that everybody asks for, which have no limit."""
        own = [c for c in self.asked if c.structure == structure]
        usual = OF_TARGETS if structure.upper().startswith(TARGETS) else OF_ORGANS
        free = [Constraint(f"{structure} {f}", structure, f, True, math.inf, "Gy") for f in usual]
        return [*own, *(c for c in free if c.figure not in {o.figure for o in own})]
