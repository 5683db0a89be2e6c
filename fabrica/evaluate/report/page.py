"""The report written: one JSON, one CSV and one self-contained HTML page."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from ...machine.device import writing
from ..sets.adherence import Adherence
from .pictures import encode, framed
from .results import Report, StageResult


def render(report: Report, folder: Path) -> Path:
    """Write index.html, report.json and cases.csv; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    summaries = report.summaries()
    stages = [{k: v for k, v in asdict(stage).items() if k != "pictures"} for stage in report.stages]
    plain = {
        "run": report.run,
        "made": report.made,
        "recipe": report.recipe,
        "cohorts": report.cohorts,
        "remarks": report.remarks,
        "sentence": report.sentence(),
        "summaries": summaries,
        "stages": stages,
        "not_evaluated": report.not_evaluated,
        "abstained": report.abstained,
        "verdict": asdict(report.verdict) if report.verdict else None,
        "inputs": report.inputs,
        "checks": [{**asdict(f), "title": f.title} for f in report.ledger.table()] if report.ledger else None,
        "validity": {**asdict(report.validity), "sentence": report.validity.sentence()} if report.validity else None,
        "adherence": [asdict(a) for a in report.adherence],
        "standings": report.standings,
        "versions": versions(),
        "realism": {**asdict(report.realism), "sentence": report.realism.sentence()} if report.realism else None,
    }
    with writing(folder / "report.json"):
        (folder / "report.json").write_text(json.dumps(plain, indent=1, allow_nan=False, default=str))
    _write_parquet(report, folder)
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["stage", "case", "patient", "contrast", "by", "metric", "value", "unit"])
        for stage in report.stages:
            for r in stage.cases:
                writer.writerow([stage.name, r.case, r.patient, r.contrast, r.by, r.metric, r.value, r.unit])
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string((Path(__file__).parent / "report.html").read_text())
    html = page.render(
        report=report,
        sentence=report.sentence(),
        tables=_tables(summaries),
        rows=_picture_rows(report.stages),
        curves=[{"name": s.name, "path": _curve(s.curve)} for s in report.stages if s.curve],
        recipe=_yaml(report.recipe),
        warnings=(
            [f for f in report.ledger.table() if f.status in ("refused", "warned", "overruled")]
            if report.ledger
            else []
        ),
        figures=[f for s in report.stages for f in s.figures],
        sets=[(f" of {s.name}", s.realism) for s in report.stages if s.realism]
        + ([(" of the set", report.realism)] if report.realism else []),
        adherence=[*report.adherence, *_by_stage(report.stages)],
        costs=[s for s in report.stages if s.costs],
    )
    path = folder / "index.html"
    with writing(path):
        path.write_text(html)
    return path


def _by_stage(stages: Sequence[StageResult]) -> list[Adherence]:
    """Named by their stage where there are several."""
    several = len(stages) > 1
    return [replace(a, measure=f"{s.name}, {a.measure}" if several else a.measure) for s in stages for a in s.adherence]


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    return {name: version(name) for name in ("fabrica", "numpy", "scipy", "scikit-image", "numba", "torch")}


def _write_parquet(report: Report, folder: Path) -> None:
    """The table of cases with typed columns, where the extra `tables` is installed."""
    if importlib.util.find_spec("pyarrow") is None:
        return
    from .parquet import write_cases

    write_cases([(stage.name, row) for stage in report.stages for row in stage.cases], folder / "cases.parquet")


def _yaml(recipe: Mapping[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(dict(recipe), sort_keys=False)
    return text


def _tables(summaries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One table per asked contrast: answers as rows, metrics as columns; competitors once."""
    tables = []
    for contrast in dict.fromkeys(s["contrast"] for s in summaries):
        everything = [s for s in summaries if s["contrast"] == contrast]
        known = {s["metric"] for s in everything if s["value"] is not None}
        own = [s for s in everything if s["metric"] in known]
        without = {s["metric"]: s["note"] for s in everything if s["metric"] not in known}
        metrics = list(dict.fromkeys(s["metric"] for s in own))
        rows: dict[str, dict[str, str]] = {}
        for s in own:
            label = f"{s['stage']}, {s['by'].removeprefix('model: ')}" if s["by"].startswith("model") else s["by"]
            label = label.removesuffix(", model")
            rows.setdefault(label, {}).setdefault(s["metric"], _cell(s))
        units = {s["metric"]: s["unit"] for s in own}
        tables.append(
            {"title": contrast or "all", "metrics": metrics, "rows": rows, "units": units, "without": without}
        )
    return tables


def _cell(s: Mapping[str, Any]) -> str:
    if s["value"] is None:
        return str(s["note"])
    text = f"{s['value']:.3g}" if abs(s["value"]) < 100 else f"{s['value']:.0f}"
    lost = f"; {s['failed']} failed" if s["failed"] else ""
    lost += f"; {s['lost']} not evaluated" if s["lost"] else ""
    if s["interval"]:
        return f"{text} [{s['interval'][0]:.3g}, {s['interval'][1]:.3g}]{lost}"
    return f"{text} ({s['quartiles'][0]:.3g} to {s['quartiles'][2]:.3g}){lost}"


def _picture_rows(stages: Sequence[StageResult]) -> list[dict[str, Any]]:
    rows = []
    for stage in stages:
        for row in stage.pictures:
            panels = [
                {**{k: v for k, v in p.items() if k not in ("pixels", "under")}, "png": encode(p)}
                for p in framed(row["panels"])
            ]
            rows.append(
                {
                    "stage": stage.name,
                    "case": row["case"],
                    "slice": row["slice"],
                    "panels": panels,
                    "drawing": row.get("drawing", ""),
                }
            )
    return rows


def _curve(curve: Sequence[tuple[int, float]], width: float = 420, height: float = 120) -> str:
    """An SVG path of the loss, smoothed, on a log scale."""
    if len(curve) < 2:
        return ""
    steps, losses = np.array([c[0] for c in curve], float), np.array([c[1] for c in curve], float)
    smooth = np.log(np.maximum(np.convolve(np.pad(losses, 4, mode="edge"), np.ones(9) / 9, "valid"), 1e-9))
    span = max(float(np.ptp(smooth)), 1e-9)
    x = (steps - steps[0]) / max(float(np.ptp(steps)), 1e-9) * width
    y = height - (smooth - smooth.min()) / span * height
    return "M" + " L".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
