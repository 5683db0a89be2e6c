"""Several runs on the same patients: what each reached, what it cost, and which differences the patients carry."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..honesty import endpoints
from ..result import Result, Row
from ..statistics import SMALLEST, holm, paired_test, per_patient
from .page import render
from .results import Cost, Report, StageResult, read_run
from .set_comparison import MEASURES


@dataclass(frozen=True)
class Contender:
    """A stage of a run: its endpoint for every case, and its cost."""

    name: str
    family: str
    contrasts: tuple[str, ...]
    scores: dict[tuple[str, str], float | None]  # (patient, case and contrast) -> value; None: failed
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
    """(page, standings from best to worst, sentence) of every stage of the runs that has the metric, over the patients
    that all share.

    Raises ValueError for a folder without a report, an unknown metric, fewer than two contenders, or no shared patient.
    """
    if not endpoints.sign_of(metric):
        known = ", ".join(n for n, better in endpoints.BETTER.items() if better != "neither" and n not in MEASURES)
        raise ValueError(
            f"{metric} has no better direction. Choose one of: {known}; of synthesis: {', '.join(MEASURES)}."
        )
    report = Report.start({"compare": {"runs": [r.name for r in runs], "metric": metric}}, out.name)
    report.title = f"{len(runs)} runs compared by {metric}"
    names = names_of(runs)
    found = [c for run, name in zip(runs, names, strict=True) for c in _contenders(run, name, metric, report)]
    if len(found) < 2:
        raise ValueError(
            f"{len(found)} stages of these runs have {metric}, two are needed. See: report/report.json of each run"
        )
    if len({c.contrasts for c in found}) > 1:
        words = "; ".join(f"{c.name}: {', '.join(c.contrasts)}" for c in found)
        raise ValueError(f"The runs answer different things ({words}). Compare runs of one job.")
    shared = sorted(set.intersection(*(set(c.scores) for c in found)))
    if not shared:
        raise ValueError("The runs share no test patient. Use one split: split: {train: [...], test: [...], seed: 0}")
    if lost := len(set.union(*(set(c.scores) for c in found))) - len(shared):
        report.remark(f"{lost} cases were tested in some runs only and are left out.")
    patients = [p for p, _ in shared]
    values = _filled(found, shared, metric, report)
    standings = _standings(found, values, patients, metric)
    report.said = _sentence(standings, sorted(set(patients)), metric)
    report.standings = [_row(s) for s in standings]
    for stage in report.stages:  # text and infinite values stay in the runs' own tables
        stage.cases = [r for r in stage.cases if isinstance(r.value, str) or math.isfinite(r.value)]
    return render(report, out), standings, report.said


def _row(s: Standing) -> dict[str, str]:
    """A line of the page's table."""
    lead = "best mean"
    if s.difference is not None:
        low_high = "" if s.difference.interval is None else " [{:.4g}, {:.4g}]".format(*s.difference.interval)
        lead = f"{float(s.difference):+.4g}{low_high}"
    return {
        "stage": s.contender.name, "family": s.contender.family, "mean": f"{s.mean:.4g}", "from the best": lead,
        "p (Holm)": "" if s.p_value is None else f"{s.p_value:.3g}", "training, s": f"{s.contender.train_s:.0f}",
        "a draw, s": "" if s.contender.draw_s is None else f"{s.contender.draw_s:.2g}",
    }  # fmt: skip


def names_of(runs: Sequence[Path]) -> list[str]:
    """What runs are called: as short as they differ."""
    parts = [r.resolve().parts for r in runs]
    if len(set(parts)) < len(parts):
        raise ValueError("One run is named twice. Name each run once.")
    length = next(n for n in range(1, max(map(len, parts)) + 1) if len({p[-n:] for p in parts}) == len(parts))
    return ["/".join(p[-length:]) for p in parts]


def _contenders(run: Path, name_of: str, metric: str, report: Report) -> list[Contender]:
    listed, every = read_run(run)
    stages, rows = {s["name"]: s for s in listed}, [r for r in every if r["by"].startswith("model")]
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
        measured = [r for r in own if r["by"] == answer and r["metric"] == metric]
        contrasts = sorted({r["contrast"] for r in measured})
        if not measured:
            continue
        if answer == "model: mean of draws":
            report.remark(f"{name_of}/{name}: the mean of its draws is compared, which is smoother than any draw.")
        scores: dict[tuple[str, str], float | None] = {}
        for r in measured:
            scores[r["patient"], f"{r['case']}, {r['contrast']}"] = endpoints.number(r["value"])
        seconds = [float(r["value"]) for r in own if r["metric"] == "seconds a draw"]
        label = f"{name_of}/{name}"
        cases = [
            Row(
                r["case"],
                r["patient"],
                r["contrast"],
                r["by"],
                r["metric"],
                n if (n := endpoints.number(r["value"])) is not None else r["value"],
                r["unit"],
            )
            for r in own
        ]
        report.stages.append(
            StageResult(
                label,
                stage["job"],
                stage["family"],
                stage["plan"],
                stage["steps"],
                stage["seconds"],
                [],
                cases,
                costs=[Cost(**c) for c in stage.get("costs", [])],
            )
        )
        cost = sum(seconds) / len(seconds) if seconds else None
        found.append(Contender(label, stage["family"], tuple(contrasts), scores, float(stage["seconds"]), cost))
    return found


def _filled(
    found: Sequence[Contender], shared: Sequence[tuple[str, str]], metric: str, report: Report
) -> list[list[float]]:
    """Failed cases at the worst value of any run, infinitely good ones at the best finite one."""
    bounds, sign = endpoints.bounds_of(metric, [c.scores[k] for c in found for k in shared]), endpoints.directed(metric)
    if bounds is None:
        raise ValueError(f"No run has a number for {metric}. Look at the runs' own reports.")
    for c in found:
        if failed := sum(c.scores[k] is None for k in shared):
            report.remark(f"{c.name}: {failed} failed cases count as the worst value, {bounds[0]:.4g}.")
    return [[endpoints.filled(c.scores[k], bounds, sign) for k in shared] for c in found]


def _standings(
    found: Sequence[Contender], values: Sequence[Sequence[float]], patients: Sequence[str], metric: str
) -> list[Standing]:
    """Ranked by their means over patients; p values of all pairs are adjusted together, as the best was chosen on the
    same patients.
    """
    sign = endpoints.directed(metric)
    means = [float(per_patient(v, patients)[0].mean()) for v in values]
    order = sorted(range(len(found)), key=lambda i: -sign * means[i])
    pairs = list(itertools.combinations(order, 2))
    tests = {(i, j): paired_test(values[j], values[i], patients) for i, j in pairs}
    enough = len(set(patients)) >= SMALLEST
    adjusted = dict(zip(pairs, holm([_chance(tests[k]) for k in pairs]), strict=True)) if enough else {}
    best = order[0]
    standings = [Standing(found[best], means[best], None, None, True)]
    for i in order[1:]:
        p = adjusted.get((best, i))
        standings.append(
            Standing(found[i], means[i], tests[best, i], None if p is None else float(p), p is None or p >= 0.05)
        )
    return standings


def _chance(test: Result) -> float:
    return 1.0 if test.p_value is None else float(test.p_value)


def _sentence(standings: Sequence[Standing], patients: Sequence[str], metric: str) -> str:
    """Which is worth its cost."""
    if len(patients) < SMALLEST:
        return (
            f"{len(patients)} shared patients carry no ranking (at least {SMALLEST}): the table below is"
            f" descriptive.{_cost(standings)}"
        )
    tied = [s for s in standings if s.tied]
    names = ", ".join(s.contender.name for s in tied)
    if len(tied) == 1:
        return f"By {metric} {names} is better than every other here, on {len(patients)} patients.{_cost(standings)}"
    cheapest = min(tied, key=lambda s: float("inf") if s.contender.draw_s is None else s.contender.draw_s)
    cost = f"; of these {cheapest.contender.name} costs least a draw" if cheapest.contender.draw_s is not None else ""
    return f"By {metric} {names} cannot be told apart on {len(patients)} patients{cost}."


def _cost(standings: Sequence[Standing]) -> str:
    """What the best mean costs beside the cheapest draw; nothing where runs did not say."""
    timed = [s for s in standings if s.contender.draw_s is not None]
    best = standings[0]
    if best.contender.draw_s is None or len(timed) < 2:
        return ""
    cheapest = min(timed, key=lambda s: s.contender.draw_s or 0.0)
    trained = f"trained for {best.contender.train_s:.0f} s"
    if cheapest is best:
        return (
            f" {best.contender.name} has the best mean and the cheapest draws ({best.contender.draw_s:.2g} s;"
            f" {trained})."
        )
    return (
        f" A draw of {best.contender.name} takes {best.contender.draw_s:.2g} s ({trained}), one of"
        f" {cheapest.contender.name} {cheapest.contender.draw_s:.2g} s ({cheapest.contender.train_s:.0f} s), with a"
        f" mean of {cheapest.mean:.4g} instead of {best.mean:.4g}."
    )
