"""Doses as planners judge them: the scores of OpenKBP for each case, and pooled as the challenge pools them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..metrics.dose import openkbp_scores
from ..result import Figure, Row
from ..statistics import interval

POSSIBLE = "possible_dose"
SCORE, DVH, COUNT = "dose score", "DVH score", "DVH figures counted"
Array = NDArray[np.floating[Any]]


def dose_rows(
    case: tuple[str, str, str], by: str, dose_gy: Array, truth_gy: Array, masks: Mapping[str, NDArray[np.bool_]],
    spacing_mm: Sequence[float],
) -> list[Row]:  # fmt: skip
    """Of one answer; nothing where the case does not say where dose is possible. `case`: name, patient, contrast."""
    if POSSIBLE not in masks:
        return []
    structures = {name: mask for name, mask in masks.items() if name != POSSIBLE}
    found = openkbp_scores(dose_gy, truth_gy, structures, possible_dose=masks[POSSIBLE], voxel_mm=spacing_mm)
    rows = [Row(*case, by, SCORE, float(found.value), "Gy")]
    if found.details["dvh_score"] is not None:
        rows += [
            Row(*case, by, DVH, float(found.details["dvh_score"]), "Gy"),
            Row(*case, by, COUNT, float(len(found.details["differences"])), ""),
        ]
    return rows


def pooled(stage: str, rows: Sequence[Row]) -> list[Figure]:
    """Dose score, a mean over patients; DVH score, a mean over all figures of all patients, as the challenge's code."""
    figures = []
    for by in dict.fromkeys(r.by for r in rows if r.metric == SCORE):
        own: dict[str, dict[str, float]] = {}
        for r in rows:
            if r.by == by and r.metric in (SCORE, DVH, COUNT) and not isinstance(r.value, str):
                own.setdefault(r.patient, {})[r.metric] = r.value
        scores = [found[SCORE] for found in own.values()]
        over = interval(scores, list(own))
        how = f"Gy; OpenKBP, over patients; {over.convention}"
        figures.append(Figure(stage, by, "dose score", over.value, over.interval, over.n, how))
        weights = np.array([found.get(COUNT, 0.0) for found in own.values()])
        if weights.sum():
            gaps = np.array([found.get(DVH, 0.0) for found in own.values()])
            value, count = float(gaps @ weights / weights.sum()), int(weights.sum())
            how = f"Gy; OpenKBP, pooled over {count} figures of {len(own)} patients"
            figures.append(Figure(stage, by, "DVH score", value, None, count, how))
    return figures
