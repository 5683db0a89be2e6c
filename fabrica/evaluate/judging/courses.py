"""Courses until an event, judged: how far off each patient's chances are, and what only a whole set can say."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..metrics import survival
from ..result import Figure, Result, Row
from ..statistics import interval

Array = NDArray[np.float64]
GRID = 100  # times that an integral is a sum over
BY = "model"
SCORE = "integrated Brier score"


@dataclass(frozen=True)
class Courses:
    """What was seen of the test cases; a patient once."""

    cases: tuple[str, ...]
    patients: tuple[str, ...]
    time: Array
    event: Array
    name: str  # of the event
    unit: str
    horizons: tuple[float, ...]

    @property
    def grid(self) -> Array:
        """Times at which chances are compared: up to the last horizon, or to where somebody was still followed."""
        still = self.time[self.time < self.time.max()]
        end = min(self.horizons[-1], float(still.max()) if len(still) else float(self.time.max()))
        return np.linspace(end / GRID, end, GRID)

    @property
    def able(self) -> str:
        """Why no figure can be told; '' where all can."""
        events = int(self.event.sum())
        if events < survival.FEWEST:
            return f"not evaluated: {events} of {len(self.time)} patients had the event, expected {survival.FEWEST}"
        return ""


@dataclass(frozen=True)
class Foretold:
    """One answer to them: a risk each (higher = earlier), and the chance of no event by any times."""

    risk: Array
    survival: Callable[[Array], Array]  # (times,) -> (n, times)

    def within(self, horizon: float) -> Array:
        """(n,): chances of the event by the horizon."""
        return np.asarray(1 - self.survival(np.array([horizon]))[:, 0])


def score_rows(seen: Courses, answers: Mapping[str, Foretold]) -> list[Row]:
    """Each patient's share of the integrated Brier score, by each answer: their mean is the score, lower is better."""
    if seen.able:
        return [Row(c, p, seen.name, BY, SCORE, seen.able) for c, p in zip(seen.cases, seen.patients, strict=True)]
    found = []
    for by, answer in answers.items():
        scores = zip(seen.cases, seen.patients, _patient_scores(seen, answer), strict=True)
        found += [Row(case, patient, seen.name, by, SCORE, float(score)) for case, patient, score in scores]
    return found


def set_figures(stage: str, seen: Courses, answers: Mapping[str, Foretold]) -> list[Figure]:
    """Concordance, areas under curves and calibration at horizons, of the model and of whatever has risks of its own.

    The last of `answers` may be what the truth would say; differences are the model's minus the other's.
    """
    n, time, event = len(seen.time), seen.time, seen.event
    if seen.able:
        return [Figure(stage, BY, "concordance", seen.able, None, n, "")]
    found = []
    for by, answer in answers.items():
        if np.ptp(answer.risk) == 0:
            continue  # whoever says the same of everybody orders nobody
        asked: dict[str, Callable[[], Result]] = {
            "concordance": partial(survival.concordance_index, answer.risk, time, event),
            "concordance, weighed for censoring": partial(survival.concordance_uno, answer.risk, time, event),
        }
        for h in seen.horizons if by == BY else ():
            within = f"within {h:g} {seen.unit}"
            asked[f"AUC {within}"] = partial(survival.auc_at, answer.within(h), h, time, event)
            asked[f"calibration error {within}"] = partial(survival.calibration_at, answer.within(h), h, time, event)
        found += [_figure(stage, by, name, ask, n) for name, ask in asked.items()]
    model = answers[BY]
    for by, answer in answers.items():
        if by != BY and np.ptp(answer.risk):
            ask = partial(survival.concordance_paired, model.risk, answer.risk, time, event)
            found.append(_figure(stage, BY, f"concordance minus that of {by}", ask, n))
    found += _scores(stage, seen, answers)
    return [*found, *_ratios(stage, seen, model), *_groups(stage, seen, model)]


def _scores(stage: str, seen: Courses, answers: Mapping[str, Foretold]) -> list[Figure]:
    """The model's integrated Brier score minus that of each other, patient by patient; below 0 it is better."""
    own = _patient_scores(seen, answers[BY])
    found = []
    for by, answer in answers.items():
        if by != BY and answer.survival is not answers[BY].survival:  # whoever has chances of his own
            told = interval(own - _patient_scores(seen, answer), seen.patients)
            name = f"{SCORE} minus that of {by}"
            found.append(Figure(stage, BY, name, float(told), told.interval, told.n, f"paired, {told.convention}"))
    return found


def _patient_scores(seen: Courses, answer: Foretold) -> Array:
    return survival.integrated_brier(answer.survival(seen.grid), seen.grid, seen.time, seen.event)


def _figure(stage: str, by: str, name: str, ask: Callable[[], Result], n: int) -> Figure:
    try:
        told = ask()
    except ValueError as error:
        return Figure(stage, by, name, f"not evaluated: {error}", None, n, "")
    return Figure(stage, by, name, float(told), told.interval, n, told.convention)


def _ratios(stage: str, seen: Courses, model: Foretold) -> list[Figure]:
    found = []
    for h in seen.horizons:
        told = survival.calibration_at(model.within(h), h, seen.time, seen.event).details["expected / observed"]
        if told is not None:
            name = f"events expected / observed within {h:g} {seen.unit}"
            found.append(Figure(stage, BY, name, told, None, len(seen.time), "mean chance over Kaplan-Meier's"))
    return found


def thirds(risk: Array) -> list[NDArray[np.int_]]:
    """Patients of low, middle and high risk, as many each."""
    return [np.asarray(own) for own in np.array_split(np.argsort(risk, kind="stable"), 3)]


def _groups(stage: str, seen: Courses, model: Foretold) -> list[Figure]:
    low, _, high = thirds(model.risk)
    p = survival.logrank(seen.time[low], seen.event[low], seen.time[high], seen.event[high])
    name, how = "p of one course in the lowest and the highest third by risk", "log-rank (Mantel 1966)"
    return [Figure(stage, BY, name, p, None, len(low) + len(high), how)]


def write_courses(file: Path, seen: Courses, model: Foretold) -> None:
    """A table: case, patient, time, event (1, or 0 where censored), risk, chance of the event within each horizon."""
    file.parent.mkdir(parents=True, exist_ok=True)
    within = [model.within(h) for h in seen.horizons]
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["case", "patient", seen.unit, seen.name, "risk", *(f"within {h:g}" for h in seen.horizons)])
        rows = zip(seen.cases, seen.patients, seen.time, seen.event, model.risk, *within, strict=True)
        for case, patient, time, event, risk, *chances in rows:
            writer.writerow(
                [case, patient, repr(float(time)), int(event), repr(float(risk)), *(repr(float(c)) for c in chances)]
            )
