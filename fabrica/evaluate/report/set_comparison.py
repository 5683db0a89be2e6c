"""Runs that synthesise, side by side: how far each set lies from real patients, as a multiple of how far real ones lie
apart.

The unit is the 95th percentile of distances between halves of real patients: the median of an unbiased kernel distance
is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from .page import render
from .results import Cost, Report, StageResult, read_run

MEASURES = ("kernel distance", "Fréchet distance")  # whose size beside the null says how far


@dataclass(frozen=True)
class SetStanding:
    """One stage of one run: its distances over the nulls' 95th percentiles by embedding, and its cost."""

    name: str
    family: str
    multiples: dict[str, float]
    few: bool  # fewer cases than features
    train_s: float
    draw_s: float | None
    patients: frozenset[str]

    @property
    def middle(self) -> float:
        return median(self.multiples.values())


def compare_sets(
    runs: Sequence[Path], names: Sequence[str], measure: str, out: Path
) -> tuple[Path, list[SetStanding], str]:
    """(page, nearest to real patients first, sentence) of every stage of the runs whose draws were compared with real
    patients.

    Ranked by the median over embeddings; no test tells two generators apart here, and the sentence says so. Raises
    ValueError for a run without a report, fewer than two such stages, or other test patients.
    """
    report = Report.start({"compare": {"runs": [r.name for r in runs], "metric": measure}}, out.name)
    report.title = f"{len(runs)} runs compared by {measure} over its null"
    found = [s for run, name in zip(runs, names, strict=True) for s in _standings(run, name, measure, report)]
    if len(found) < 2:
        raise ValueError(
            f"{len(found)} stages of these runs have a {measure} to real patients, two are needed. It needs "
            "evaluate: {realism: 60} and enough test patients."
        )
    if len({s.patients for s in found}) > 1:
        raise ValueError("The runs were tested on different patients. Use one split: split: {..., seed: 0}")
    found.sort(key=lambda s: s.middle)
    report.standings = [_row(s) for s in found]
    report.ranked_by = (
        f"{measure[0].upper()}{measure[1:]} to real patients over the 95th percentile between halves of real patients;"
        " less is nearer."
    )
    report.said = _sentence(found, measure)
    return render(report, out), found, report.said


def _standings(run: Path, name_of: str, measure: str, report: Report) -> list[SetStanding]:
    stages, rows = read_run(run)
    found = []
    for stage in stages:
        own = [d for d in (stage.get("realism") or {}).get("distances", ()) if d["measure"] == measure]
        multiples = {d["embedding"]: d["value"] / d["null_range"][1] for d in own if d["null_range"][1] > 0}
        if not multiples:
            continue
        cases = [r for r in rows if r["stage"] == stage["name"]]
        seconds = [float(r["value"]) for r in cases if r["metric"] == "seconds a draw"]
        label = f"{name_of}/{stage['name']}"
        costs = [Cost(**c) for c in stage.get("costs", [])]
        report.stages.append(
            StageResult(
                label, stage["job"], stage["family"], stage["plan"], stage["steps"], stage["seconds"], [], costs=costs
            )
        )
        found.append(
            SetStanding(
                label, stage["family"], multiples, any(d.get("few") for d in own), float(stage["seconds"]),
                sum(seconds) / len(seconds) if seconds else None, frozenset(r["patient"] for r in cases),
            )
        )  # fmt: skip
    return found


def _row(s: SetStanding) -> dict[str, str]:
    return {
        "stage": s.name, "family": s.family, "times the null, median": f"{s.middle:.3g}",
        **{f"by {name}": f"{value:.3g}" for name, value in s.multiples.items()},
        "training, s": f"{s.train_s:.0f}", "a draw, s": "" if s.draw_s is None else f"{s.draw_s:.2g}",
    }  # fmt: skip


def _sentence(found: Sequence[SetStanding], measure: str) -> str:
    """Who lies nearest by every embedding, what it costs, and what may not be read from it."""
    best = found[0]
    shared = set.intersection(*(set(s.multiples) for s in found))
    against = [e for e in sorted(shared) if min(found, key=lambda s: s.multiples[e]) is not best]
    where = (
        f"{best.name} lies nearest to real patients, {best.middle:.3g} times as far as 19 of 20 halves of them lie"
        " apart"
    )
    cost = (
        f" ({best.train_s:.0f} s of training" + ("" if best.draw_s is None else f", {best.draw_s:.2g} s a draw") + ")"
    )
    cheaper = [s for s in found[1:] if s.draw_s is not None and best.draw_s is not None and s.draw_s < best.draw_s / 2]
    words = f"By {measure} over its null, in the median of {len(shared)} embeddings, {where}{cost}"
    if cheaper:
        near = min(cheaper, key=lambda s: s.middle)
        words += f"; {near.name} draws in less than half the time and lies {near.middle:.3g} times as far"
    if against:
        words += f". By {' and '.join(against)} another one does: the embeddings disagree"
    if any(s.few for s in found) and measure.startswith("Fréchet"):
        words += ". Fewer cases than features: a Fréchet distance is mostly bias here"
    return f"{words}. Distances bear no test between generators: how many runs would rank so is not known."
