"""The report: pure data first, then one JSON, one CSV and one self-contained HTML page that shows it."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ...data.cohort import Cohort
from ..honesty import endpoints
from ..honesty.claim import Verdict
from ..honesty.ledger import Ledger
from ..honesty.validity import Validity
from ..metrics.pixel import METRICS
from ..result import Figure, Row
from ..sets.adherence import Adherence
from ..sets.realism import Realism
from ..statistics import SMALLEST, interval, per_patient

REAL = "the same segmentation of real images"  # answers beside the model's that are no rivals


@dataclass(frozen=True)
class Cost:
    """What draws of so many network evaluations take, and what they reach (one draw a case)."""

    evaluations: int
    seconds: float  # a draw
    cases: int
    measures: Mapping[str, float]
    own: bool = False  # as the recipe draws


@dataclass
class StageResult:
    """One stage: what was trained, how long, what it reached on each test case."""

    name: str
    job: str
    family: str
    plan: Mapping[str, Any]
    steps: int
    seconds: float
    curve: Sequence[tuple[int, float]]
    cases: list[Row] = field(default_factory=list)
    pictures: list[dict[str, Any]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)  # over all patients, where the answer is a value
    realism: Realism | None = None
    adherence: list[Adherence] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)  # the same cases with fewer evaluations of the network


@dataclass
class Report:
    """Everything that the page shows, as data."""

    run: str
    made: str
    recipe: Mapping[str, Any]
    cohorts: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    stages: list[StageResult] = field(default_factory=list)
    title: str = ""  # of the page; none = the run's name
    said: str = ""  # the sentence at its head; none = what the number of patients allows
    realism: Realism | None = None
    verdict: Verdict | None = None
    not_evaluated: list[str] = field(default_factory=list)
    abstained: list[str] = field(default_factory=list)  # answers that nobody should read, and why
    inputs: dict[str, dict[str, str]] = field(default_factory=dict)  # folder -> file -> SHA-256
    ledger: Ledger | None = None
    validity: Validity | None = None
    adherence: list[Adherence] = field(default_factory=list)
    standings: list[dict[str, str]] = field(default_factory=list)  # of compared runs, best first
    ranked_by: str = (
        "Means over the patients that all share; differences from the best and p values are paired by patient, p values"
        " adjusted over all pairs."
    )

    @staticmethod
    def start(recipe: Mapping[str, Any], run: str) -> Report:
        return Report(run, datetime.now(UTC).isoformat(timespec="seconds"), recipe)

    def add_cohort(self, name: str, cohort: Cohort) -> None:
        contrasts: dict[str, int] = {}
        for member in cohort.members:
            for contrast in member.contrasts():
                contrasts[contrast] = contrasts.get(contrast, 0) + 1
        odd = [str(Path(o.file).name) + ": " + o.fault for o in cohort.oddities if o.severity != "note"]
        self.cohorts.append(
            {
                "name": name,
                "patients": len(cohort.patients),
                "cases": len(cohort.members),
                "contrasts": contrasts,
                "oddities": odd,
            }
        )

    def remark(self, text: str) -> None:
        if text not in self.remarks:
            self.remarks.append(text)

    def summaries(self) -> list[dict[str, Any]]:
        """Per stage, contrast, answer and metric: mean over patients, quartiles over cases, interval or its absence."""
        groups = self._groups()
        ends = _ends(groups)
        return [_summary(key, rows, ends.get((key[1], key[3]))) for key, rows in groups.items()]

    def _groups(self) -> dict[tuple[str, str, str, str], list[Row]]:
        groups: dict[tuple[str, str, str, str], list[Row]] = {}
        for stage in self.stages:
            for row in stage.cases:
                groups.setdefault((stage.name, row.contrast, row.by, row.metric), []).append(row)
        return groups

    def sentence(self) -> str:
        """What one may write with this evidence, and no more."""
        if self.said:
            return self.said
        patients = {row.patient for stage in self.stages for row in stage.cases}
        if not patients:
            return "Nothing was tested, so nothing may be claimed."
        if len(patients) < SMALLEST:
            return (
                f"With {len(patients)} test patient{'s' * (len(patients) > 1)} the figures below are descriptive: no "
                f"difference between methods may be claimed (at least {SMALLEST} patients are needed for an interval)."
            )
        return (
            f"Over {len(patients)} test patients the means below hold with the intervals beside them; a difference"
            " between two methods needs a paired test on the same patients, which this report does not make."
        )

    def undiscriminating(self) -> list[str]:
        """Check 21: metrics on which a trivial answer does as well as the model, over the same cases."""
        groups = self._groups()
        ends = _ends(groups)
        known = {
            k: _counted(rows, ends.get((k[1], k[3]))).values
            for k, rows in groups.items()
            if k[3] in (*METRICS, *endpoints.SEGMENTED)
        }
        lost: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
        for (stage, contrast, by, metric), own in known.items():
            sign = endpoints.sign_of(metric)
            rivals = [
                other
                for (s, c, other, m), theirs in known.items()
                if sign
                and by.startswith("model")
                and not other.startswith(("model", REAL))
                and (s, c, m) == (stage, contrast, metric)
                and (shared := own.keys() & theirs.keys())
                and sign * _mean(theirs, shared) >= sign * _mean(own, shared)
            ]
            if rivals:
                answer = by.removeprefix("model").removeprefix(": ")
                lost.setdefault((f"{stage}{f' ({answer})' if answer else ''}", contrast, tuple(rivals)), []).append(
                    metric
                )
        return [
            f"{', '.join(metrics)}{f' of {contrast}' if contrast else ''} {'is' if len(metrics) == 1 else 'are'} NOT"
            f" DISCRIMINATIVE here: {' and '.join(rivals)} {'does' if len(rivals) == 1 else 'do'} as well as {stage}"
            for (stage, contrast, rivals), metrics in lost.items()
        ]

    def disagreement(self) -> str:
        """Check 25: what pixels and features say of two sets of images, when they say the opposite."""
        if self.realism is None or not self.realism.rivals or len(self.stages) < 2:
            return ""
        ours, theirs = (
            {s["metric"]: s["value"] for s in self.summaries() if s["stage"] == stage.name and s["by"] == "model"}
            for stage in self.stages[:2]
        )
        both = [m for m in METRICS if ours.get(m) is not None and theirs.get(m) is not None and ours[m] != theirs[m]]
        pixel = {m: endpoints.sign_of(m) * np.sign(ours[m] - theirs[m]) for m in both}
        features = {r.embedding: float(np.sign(r.competitor - r.generated)) for r in self.realism.rivals}
        if not pixel or not features or np.sign(sum(pixel.values())) * np.sign(sum(features.values())) >= 0:
            return ""
        names = (
            ("the generated images", "the competitor")
            if sum(pixel.values()) > 0
            else ("the competitor", "the generated images")
        )
        return (
            f"Pixels favour {names[0]} ({', '.join(pixel)}), features favour {names[1]} ({', '.join(features)}): no"
            " tier stands for the others."
        )


@dataclass(frozen=True)
class _Counted:
    """What goes into a mean: (case, which of its rows) -> (value, patient), and how many were filled in or left out."""

    values: dict[tuple[str, int], tuple[float, str]]
    failed: int
    lost: int


def _ends(groups: Mapping[tuple[str, str, str, str], Sequence[Row]]) -> dict[tuple[str, str], tuple[float, float]]:
    """(worst, best) finite value of any answer, by contrast and metric with a better direction."""
    known: dict[tuple[str, str], list[float]] = {}
    for (_, contrast, _, metric), rows in groups.items():
        if endpoints.sign_of(metric):
            known.setdefault((contrast, metric), []).extend(
                float(r.value) for r in rows if not isinstance(r.value, str)
            )
    found = {key: endpoints.bounds_of(key[1], values) for key, values in known.items()}
    return {key: bounds for key, bounds in found.items() if bounds is not None}


def _counted(rows: Sequence[Row], ends: tuple[float, float] | None) -> _Counted:
    """Failed cases count as the worst value of any answer, equal images as the best; an answer without a finite value
    has none.
    """
    values: dict[tuple[str, int], tuple[float, str]] = {}
    times: Counter[str] = Counter()  # seeds of an arm answer the same cases
    failed = lost = 0
    finite = any(not isinstance(r.value, str) and np.isfinite(r.value) for r in rows)
    for r in rows:
        value = r.value
        times[r.case] += 1
        if isinstance(value, str) and ends is not None and finite and value.startswith(("failed", "infinite")):
            failed += value.startswith("failed")
            value = ends[0] if value.startswith("failed") else ends[1]
        if isinstance(value, str) or not np.isfinite(value):
            lost += 1
        else:
            values[r.case, times[r.case]] = float(value), r.patient
    return _Counted(values, failed, lost)


def _reason(rows: Sequence[Row]) -> str:
    """Why an answer has no value: what all cases lack says more than what one of them failed by."""
    texts = [str(r.value) for r in rows]
    return next((text for text in texts if not text.startswith("failed")), texts[0])


def _mean(values: Mapping[tuple[str, int], tuple[float, str]], cases: Iterable[tuple[str, int]]) -> float:
    """Over patients."""
    chosen = [values[case] for case in cases]
    return float(per_patient([v for v, _ in chosen], [p for _, p in chosen])[0].mean())


def _summary(key: tuple[str, str, str, str], rows: Sequence[Row], ends: tuple[float, float] | None) -> dict[str, Any]:
    stage, contrast, by, metric = key
    plain: dict[str, Any] = {"stage": stage, "contrast": contrast, "by": by, "metric": metric, "unit": rows[0].unit}
    counted = _counted(rows, ends)
    if not counted.values:
        return {**plain, "value": None, "note": _reason(rows), "n": 0}
    values, patients = zip(*counted.values.values(), strict=True)
    found = interval(values, patients)
    low, middle, high = (float(q) for q in np.quantile(values, [0.25, 0.5, 0.75]))
    notes = [found.convention] if found.interval is None else []
    if counted.failed and ends is not None:
        notes.append(f"{counted.failed} failed, counted as the worst value, {ends[0]:.4g}")
    if counted.lost:
        notes.append(f"{counted.lost} case{'s' * (counted.lost > 1)} not evaluated")
    return {
        **plain, "value": found.value, "interval": found.interval, "n": found.n, "convention": found.convention,
        "quartiles": [low, middle, high], "note": "; ".join(notes), "lost": counted.lost, "failed": counted.failed,
    }  # fmt: skip


def read_run(run: Path) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """(stages, rows of cases.csv) of a finished run; raises ValueError when it has no report."""
    file, table = run / "report" / "report.json", run / "report" / "cases.csv"
    if not file.is_file() or not table.is_file():
        raise ValueError(f"{run} has no report. Finish it: fabrica run {run}")
    with table.open(newline="") as opened:
        return json.loads(file.read_text())["stages"], list(csv.DictReader(opened))
