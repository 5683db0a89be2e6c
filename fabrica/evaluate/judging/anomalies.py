"""Anomaly maps of a whole test part: rows of each patient, and what is found by size and among the healthy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..metrics.anomaly import average_precision, found_by_size, size_names
from ..metrics.discrimination import auc_delong
from ..metrics.overlap import dice
from ..result import Figure, Row
from ..statistics import interval

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass
class Tally:
    """What one way of marking marks in all of the test part."""

    found: dict[str, list[int]] = field(default_factory=lambda: {name: [0, 0] for name in size_names()})
    healthy: dict[str, float] = field(default_factory=dict)  # patient -> share of voxels that are marked
    ill: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """A patient of the test part, and what is known of him."""

    case: str
    patient: str
    mask: str  # what the label map is called
    healthy: bool | None  # None where nobody says it
    inside: Mask
    lesion: Mask | None  # None where nobody has marked any
    spacing_mm: tuple[float, float, float]


@dataclass
class Anomalies:
    """Of a stage: by which threshold each way marks, and what came of it."""

    stage: str
    thresholds: Mapping[str, float]  # by -> value; the ways that are compared
    tallies: dict[str, Tally] = field(default_factory=dict)

    def judged(self, by: str, scores: Array, seen: Seen) -> list[Row]:
        """Rows of one patient by one way; scores (z, y, x)."""
        tally, case = self.tallies.setdefault(by, Tally()), (seen.case, seen.patient, seen.mask)
        marked = (scores > self.thresholds[by]) & seen.inside
        share = float(marked[seen.inside].mean()) if seen.inside.any() else 0.0
        if seen.healthy is not None:
            side = tally.healthy if seen.healthy else tally.ill
            side[seen.patient] = max(share, side.get(seen.patient, 0.0))  # of several visits the one that shows most
        if seen.healthy:
            return [Row(*case, by, "marked of a healthy patient", 100 * share, "%")]
        if seen.lesion is None or not (seen.lesion & seen.inside).any():
            return []
        lesion = seen.lesion & seen.inside
        for name, (own, count) in found_by_size(marked, lesion, seen.spacing_mm).items():
            tally.found[name][0] += own
            tally.found[name][1] += count
        return [
            Row(*case, by, "average precision", average_precision(scores, lesion, seen.inside), ""),
            Row(*case, by, "dice at the threshold", float(dice(marked, lesion)), ""),
            Row(*case, by, "marked outside of lesions", 100 * float(marked[seen.inside & ~lesion].mean()), "%"),
        ]

    def figures(self) -> list[Figure]:
        """False positives of the healthy, lesions found by size, patients told from healthy ones."""
        return [f for by, tally in self.tallies.items() for f in self._of(by, tally)]

    def _of(self, by: str, tally: Tally) -> list[Figure]:
        figures = []
        if tally.healthy:
            told = interval([100 * v for v in tally.healthy.values()], list(tally.healthy))
            name = "marked of healthy test patients (%)"
            figures.append(Figure(self.stage, by, name, float(told), told.interval, told.n, told.convention))
        for name, (found, count) in tally.found.items():
            if count:
                how = f"{found} of {count}, a tenth marked at least"
                figures.append(Figure(self.stage, by, f"lesions {name} found", found / count, None, count, how))
        if len(tally.healthy) > 1 and len(tally.ill) > 1:
            scores = np.array([*tally.healthy.values(), *tally.ill.values()])
            labels = np.array([0] * len(tally.healthy) + [1] * len(tally.ill))
            told = auc_delong(scores, labels)
            how = f"share of voxels marked; {told.convention}"
            figures.append(
                Figure(self.stage, by, "AUC of patients against healthy ones", float(told), told.interval, told.n, how)
            )
        return figures
