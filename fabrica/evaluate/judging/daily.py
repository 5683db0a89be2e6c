"""What a day of treatment does to a plan: constraint by constraint before, today and added up, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..metrics.dose import gamma_pass_rate
from ..result import Row
from .constraints import Constraint

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]
AT_PLANNING, TODAY = "at planning", "today"
AS_IT_WAS = "the plan as it was"
Light = Literal["kept", "broken", "open", "no interval"]
CUTOFF_PERCENT, STEPS = 10.0, 5
FLOOR = 0.5  # Gy or % of a volume: draws that agree closer than this are not surer for it


Factors = Mapping[tuple[str, str], float]  # (moment, constraint) -> how many spreads an interval reaches


@dataclass(frozen=True)
class Reading:
    """One constraint: its figure at planning, and at a moment by every draw; the true one where known."""

    constraint: Constraint
    moment: str
    planned: float | None
    drawn: tuple[float, ...]
    truth: float | None = None

    @property
    def mean(self) -> float:
        return float(np.mean(self.drawn))

    @property
    def spread(self) -> float:
        """How far draws lie apart, never told smaller than FLOOR."""
        return float(np.std(self.drawn)) + FLOOR

    @property
    def key(self) -> tuple[str, str]:
        return self.moment, self.constraint.text

    def interval(self, factors: Factors) -> tuple[float, float] | None:
        """The mean of draws, and as many spreads as calibration patients needed; None where nobody was one."""
        factor = factors.get(self.key)
        return None if factor is None else (self.mean - factor * self.spread, self.mean + factor * self.spread)

    def light(self, factors: Factors) -> Light:
        """Kept or broken where both ends of the interval say so, else open."""
        ends = self.interval(factors)
        if ends is None:
            return "no interval"
        said = {self.constraint.kept(end) for end in ends}
        return "open" if len(said) > 1 else "kept" if said == {True} else "broken"


def read(
    constraint: Constraint, moment: str, planned: tuple[Array, Mask] | None, drawn: Sequence[tuple[Array, Mask]],
    truth: tuple[Array, Mask] | None, spacing_mm: tuple[Sequence[float], Sequence[float]],
) -> Reading | None:  # fmt: skip
    """Of doses (z, y, x) with the structure in them; None where it is empty. spacing_mm: at planning, at the moment."""
    if (planned is not None and not planned[1].any()) or not all(inside.any() for _, inside in drawn):
        return None
    before = None if planned is None else constraint.value(*planned, spacing_mm[0])
    values = tuple(constraint.value(gray, inside, spacing_mm[1]) for gray, inside in drawn)
    true = None if truth is None or not truth[1].any() else constraint.value(*truth, spacing_mm[1])
    return Reading(constraint, moment, before, values, true)


def factors_of(by_patient: Mapping[str, Sequence[Reading]], level: float) -> dict[tuple[str, str], float]:
    """How many spreads of draws an interval reaches that holds the true figure of a new patient's days with a chance of
    `level`.

    Split conformal with the patient as the unit (Vovk 2005; Lei et al. 2018): the largest error of each patient's days
    in spreads, of which the ceil((n + 1) level)-th smallest. Figures that too few patients have get none.
    """
    worst: dict[tuple[str, str], dict[str, float]] = {}
    for patient, readings in by_patient.items():
        for one in readings:
            if one.truth is not None:
                own = worst.setdefault(one.key, {})
                own[patient] = max(own.get(patient, 0.0), abs(one.mean - one.truth) / one.spread)
    found = {}
    for key, own in worst.items():
        rank = math.ceil((len(own) + 1) * level - 1e-9)
        if rank <= len(own):
            found[key] = sorted(own.values())[rank - 1]
    return found


def reading_rows(case: tuple[str, str], readings: Sequence[Reading], factors: Factors) -> list[Row]:
    """Figures, how far off, whether the decision is the true one, whether a light was given and is right."""
    rows = []
    for one in readings:
        own, name, unit = (
            (*case, one.moment),
            f"{one.constraint.structure} {one.constraint.figure}",
            one.constraint.unit,
        )
        answers = {"model: mean of draws" if len(one.drawn) > 1 else "model": one.mean}
        if one.planned is not None:
            answers[AS_IT_WAS] = one.planned
        for by, value in answers.items():
            rows.append(Row(*own, by, name, value, unit))
            if one.truth is not None:
                right = one.constraint.kept(value) == one.constraint.kept(one.truth)
                rows.append(Row(*own, by, f"{name} off", abs(value - one.truth), unit))
                rows.append(Row(*own, by, f"{one.constraint.text}: decided as by the true dose", float(right), ""))
        rows += _light_rows(own, one, factors)
    return rows


def _light_rows(own: tuple[str, str, str], one: Reading, factors: Factors) -> list[Row]:
    ends, light = one.interval(factors), one.light(factors)
    if ends is None:
        return []
    rows = [Row(*own, "model: interval", "share of lights that are given", float(light != "open"), "")]
    if one.truth is not None:
        held = ends[0] <= one.truth <= ends[1]
        rows.append(Row(*own, "model: interval", "share of true figures inside", float(held), ""))
        if light != "open":
            right = (light == "kept") == one.constraint.kept(one.truth)
            rows.append(Row(*own, "model: interval", "share of given lights that are right", float(right), ""))
    return rows


def same_dose_rows(
    own: tuple[str, str, str], by: str, gray: Array, truth: Array, spacing_mm: Sequence[float]
) -> list[Row]:
    """Gamma and the mean difference where the true dose is a tenth of its highest or more."""
    seen = truth >= CUTOFF_PERCENT / 100 * truth.max()
    rows = [Row(*own, by, "mean dose difference", float(np.abs(gray - truth)[seen].mean()), "Gy")]
    for local in (False, True):
        rate = gamma_pass_rate(
            gray, truth, spacing_mm=spacing_mm, dose_percent=2.0, distance_mm=2.0, cutoff_percent=CUTOFF_PERCENT,
            steps=STEPS, local=local,
        )  # fmt: skip
        rows.append(Row(*own, by, f"gamma 2 %/2 mm{' local' if local else ''}", float(rate), "%"))
    return rows


_COLOURS: Mapping[Light, str] = {"kept": "#2ca02c", "broken": "#d62728", "open": "#e6a919", "no interval": "#999999"}


def table(readings: Sequence[Reading], factors: Factors) -> str:
    """HTML: a line for each constraint; before, and each moment. A light only where there is an interval."""
    texts = list(dict.fromkeys(one.constraint.text for one in readings))
    moments = list(dict.fromkeys(one.moment for one in readings))
    before = [AT_PLANNING] if any(one.planned is not None for one in readings) else []
    head = "".join(f"<th>{escape(name)}</th>" for name in ("constraint", *before, *moments))
    lines = []
    for text in texts:
        by_moment = {one.moment: one for one in readings if one.constraint.text == text}
        first = next(iter(by_moment.values()))
        cells = [f"<td>{escape(text)}</td>"]
        if first.planned is not None:
            cells.append(f"<td>{first.planned:.1f} {first.constraint.unit}</td>")
        cells += [_cell(by_moment.get(m), first.planned, factors) for m in moments]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<table class="daily"><tr>{head}</tr>{"".join(lines)}</table>'


def _cell(one: Reading | None, planned: float | None, factors: Factors) -> str:
    """`planned`: what stands in the first column; where planning has another figure in this measure, it is said."""
    if one is None:
        return "<td></td>"
    ends, light = one.interval(factors), one.light(factors)
    apart = f" ({max(ends[0], 0.0):.1f} to {ends[1]:.1f})" if ends else ""
    dot = f'<span style="color:{_COLOURS[light]}">&#9679;</span> {light}'
    other = f", {one.planned:.1f} {AT_PLANNING}" if one.planned is not None and one.planned != planned else ""
    return f"<td>{one.mean:.1f} {one.constraint.unit}{apart}{other} {dot}</td>"
