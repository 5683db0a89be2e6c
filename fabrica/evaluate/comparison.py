"""Several runs on the same patients: what each reached, what it cost, and which differences the patients carry."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .pixel import METRICS
from .report import Report, StageResult, render
from .result import Result
from .statistics import SMALLEST, holm, paired_test
from .summary import Row

BETTER = {
    **{name: m.better for name, m in METRICS.items()},
    "dice": "higher",
    "correct": "higher",
    "absolute error": "lower",
}


@dataclass(frozen=True)
class Contender:
    """A stage of a run: per patient its endpoint, and its cost."""

    name: str
    family: str
    scores: dict[str, float]
    train_s: float
    draw_s: float | None


@dataclass(frozen=True)
class Standing:
    """One contender beside the best: mean, difference, Holm's p; `tied` when the patients do not tell them apart."""

    contender: Contender
    mean: float
    difference: Result | None
    p_value: float | None
    tied: bool


def compare_runs(runs: Sequence[Path], metric: str, out: Path) -> tuple[Path, list[Standing], str]:
    """(page, standings from best to worst, sentence) of every stage of the runs that has the metric, over the patients that all share.

    Raises ValueError for a folder without a report, an unknown metric, fewer than two contenders, or no shared patient.
    """
    if BETTER.get(metric, "neither") == "neither":
        raise ValueError(
            f"{metric} has no better direction. Choose one of: {', '.join(n for n, b in BETTER.items() if b != 'neither')}."
        )
    report = Report.start({"compare": {"runs": [r.name for r in runs], "metric": metric}}, out.name)
    report.title = f"{len(runs)} runs compared by {metric}"
    found = [c for run in runs for c in _contenders(run, metric, report)]
    if len(found) < 2:
        raise ValueError(
            f"{len(found)} stages of these runs have {metric}, two are needed. See: report/report.json of each run"
        )
    shared = sorted(set.intersection(*(set(c.scores) for c in found)))
    if not shared:
        raise ValueError("The runs share no test patient. Use one split: split: {train: [...], test: [...], seed: 0}")
    if lost := len(set.union(*(set(c.scores) for c in found))) - len(shared):
        report.remark(f"{lost} patients were tested in some runs only and are left out.")
    standings = _standings(found, shared, metric)
    report.said = _sentence(standings, shared, metric)
    for s in standings:
        cost = f"{s.contender.train_s:.0f} s of training" + (
            f", {s.contender.draw_s:.2g} s a draw" if s.contender.draw_s else ""
        )
        apart = (
            "the best mean"
            if s.difference is None
            else f"{float(s.difference):+.4g} from the best"
            + ("" if s.p_value is None else f", p {s.p_value:.3g} (Holm)")
        )
        report.remark(f"{s.contender.name} ({s.contender.family}): {metric} {s.mean:.4g}, {apart}; {cost}.")
    return render(report, out), standings, report.said


def _contenders(run: Path, metric: str, report: Report) -> list[Contender]:
    file, table = run / "report" / "report.json", run / "report" / "cases.csv"
    if not file.is_file() or not table.is_file():
        raise ValueError(f"{run} has no report. Finish it: fabrica run {run}")
    stages = {s["name"]: s for s in json.loads(file.read_text())["stages"]}
    with table.open(newline="") as opened:
        rows = [r for r in csv.DictReader(opened) if r["by"].startswith("model")]
    found = []
    for name, stage in stages.items():
        own = [r for r in rows if r["stage"] == name]
        answer = next(
            (
                by
                for by in ("model: mean of draws", "model")
                if any(r["by"] == by and r["metric"] == metric for r in own)
            ),
            None,
        )
        scores: dict[str, list[float]] = {}
        for r in own:
            if r["by"] == answer and r["metric"] == metric and _number(r["value"]) is not None:
                scores.setdefault(r["patient"], []).append(float(r["value"]))
        if not scores:
            continue
        seconds = [float(r["value"]) for r in own if r["metric"] == "seconds a draw"]
        label = f"{run.name}/{name}"
        cases = [
            Row(
                r["case"],
                r["patient"],
                r["contrast"],
                r["by"],
                r["metric"],
                n if (n := _number(r["value"])) is not None else r["value"],
                r["unit"],
            )
            for r in own
        ]
        report.stages.append(
            StageResult(
                label, stage["job"], stage["family"], stage["plan"], stage["steps"], stage["seconds"], [], cases
            )
        )
        mean = {p: sum(v) / len(v) for p, v in scores.items()}
        found.append(
            Contender(
                label, stage["family"], mean, float(stage["seconds"]), sum(seconds) / len(seconds) if seconds else None
            )
        )
    return found


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _standings(found: Sequence[Contender], shared: Sequence[str], metric: str) -> list[Standing]:
    sign = 1 if BETTER[metric] == "higher" else -1
    mean = {c.name: sum(c.scores[p] for p in shared) / len(shared) for c in found}
    ranked = sorted(found, key=lambda c: -sign * mean[c.name])
    best = ranked[0]
    tests = {
        c.name: paired_test([c.scores[p] for p in shared], [best.scores[p] for p in shared], list(shared))
        for c in ranked[1:]
    }
    known = [name for name, t in tests.items() if t.p_value is not None]
    adjusted = (
        dict(zip(known, holm([float(tests[n].p_value or 1.0) for n in known]), strict=True))
        if len(shared) >= SMALLEST
        else {}
    )
    standings = [Standing(best, mean[best.name], None, None, True)]
    for c in ranked[1:]:
        p = adjusted.get(c.name)
        standings.append(
            Standing(c, mean[c.name], tests[c.name], None if p is None else float(p), p is None or p >= 0.05)
        )
    return standings


def _sentence(standings: Sequence[Standing], shared: Sequence[str], metric: str) -> str:
    """Which is worth its cost."""
    if len(shared) < SMALLEST:
        return f"{len(shared)} shared patients carry no ranking (at least {SMALLEST}): the table below is descriptive."
    tied = [s for s in standings if s.tied]
    cheapest = min(tied, key=lambda s: s.contender.draw_s or 0.0)
    names = ", ".join(s.contender.name for s in tied)
    if len(tied) == 1:
        return f"By {metric} {names} is better than every other here, on {len(shared)} patients."
    return f"By {metric} {names} cannot be told apart on {len(shared)} patients; of these {cheapest.contender.name} costs least a draw."
