"""The report: pure data first, then one JSON, one CSV and one self-contained HTML page that shows it."""

from __future__ import annotations

import base64
import csv
import importlib.util
import io as buffers
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from ..data.cohort import Cohort
from ..machine import writing
from . import endpoints
from .adherence import Adherence
from .claim import Verdict
from .honesty import Ledger
from .outcomes import Measured
from .pixel import METRICS
from .realism import Realism
from .statistics import SMALLEST, interval, per_patient
from .summary import Row
from .validity import Validity

REAL = "the same segmentation of real images"  # answers beside the model's that are no rivals
PANEL = 176  # pixels a side in the page


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
    figures: list[Measured] = field(default_factory=list)  # over all patients, where the answer is a value
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
    inputs: dict[str, dict[str, str]] = field(default_factory=dict)  # folder -> file -> SHA-256
    ledger: Ledger | None = None
    validity: Validity | None = None
    adherence: list[Adherence] = field(default_factory=list)
    standings: list[dict[str, str]] = field(default_factory=list)  # of compared runs, best first
    ranked_by: str = (
        "Means over the patients that all share; differences from the best and p values are paired by patient, p values "
        "adjusted over all pairs."
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
            f"Over {len(patients)} test patients the means below hold with the intervals beside them; a difference between "
            "two methods needs a paired test on the same patients, which this report does not make."
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
                other for (s, c, other, m), theirs in known.items()
                if sign and by.startswith("model") and not other.startswith(("model", REAL)) and (s, c, m) == (stage, contrast, metric)
                and (shared := own.keys() & theirs.keys()) and sign * _mean(theirs, shared) >= sign * _mean(own, shared)
            ]  # fmt: skip
            if rivals:
                answer = by.removeprefix("model").removeprefix(": ")
                lost.setdefault((f"{stage}{f' ({answer})' if answer else ''}", contrast, tuple(rivals)), []).append(
                    metric
                )
        return [
            f"{', '.join(metrics)}{f' of {contrast}' if contrast else ''} {'is' if len(metrics) == 1 else 'are'} NOT DISCRIMINATIVE "
            f"here: {' and '.join(rivals)} {'does' if len(rivals) == 1 else 'do'} as well as {stage}"
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
        return f"Pixels favour {names[0]} ({', '.join(pixel)}), features favour {names[1]} ({', '.join(features)}): no tier stands for the others."


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
    """Failed cases count as the worst value of any answer, equal images as the best; an answer without a finite value has none."""
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


def render(report: Report, folder: Path) -> Path:
    """Write index.html, report.json and cases.csv; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    summaries = report.summaries()
    stages = [{k: v for k, v in asdict(stage).items() if k != "pictures"} for stage in report.stages]
    plain = {
        "run": report.run, "made": report.made, "recipe": report.recipe, "cohorts": report.cohorts, "remarks": report.remarks,
        "sentence": report.sentence(), "summaries": summaries, "stages": stages, "not_evaluated": report.not_evaluated,
        "verdict": asdict(report.verdict) if report.verdict else None,
        "inputs": report.inputs, "checks": [{**asdict(f), "title": f.title} for f in report.ledger.table()] if report.ledger else None,
        "validity": {**asdict(report.validity), "sentence": report.validity.sentence()} if report.validity else None,
        "adherence": [asdict(a) for a in report.adherence], "standings": report.standings, "versions": versions(),
        "realism": {**asdict(report.realism), "sentence": report.realism.sentence()} if report.realism else None,
    }  # fmt: skip
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
        report=report, sentence=report.sentence(), tables=_tables(summaries), rows=_picture_rows(report.stages),
        curves=[{"name": s.name, "path": _curve(s.curve)} for s in report.stages if s.curve], recipe=_yaml(report.recipe),
        warnings=[f for f in report.ledger.table() if f.status in ("refused", "warned", "overruled")] if report.ledger else [],
        figures=[f for s in report.stages for f in s.figures],
        sets=[(f" of {s.name}", s.realism) for s in report.stages if s.realism] + ([(" of the set", report.realism)] if report.realism else []),
        adherence=[*report.adherence, *_by_stage(report.stages)], costs=[s for s in report.stages if s.costs],
    )  # fmt: skip
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
            panels = [{**{k: v for k, v in p.items() if k != "pixels"}, "png": encode(p)} for p in row["panels"]]
            rows.append({"stage": stage.name, "case": row["case"], "slice": row["slice"], "panels": panels})
    return rows


def encode(panel: Mapping[str, Any]) -> str:
    """A panel as base64 PNG: window applied, patient seen from the feet (radiological), front up."""
    picture = paint(panel["pixels"], panel["low"], panel["high"], panel["colour"])
    factor = max(1, round(PANEL / max(picture.size)))
    picture = picture.resize((picture.width * factor, picture.height * factor), Picture.Resampling.NEAREST)
    buffer = buffers.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def paint(pixels: NDArray[np.floating[Any]], low: float, high: float, colour: str = "grey") -> Picture.Image:
    """(y, x) to an 8-bit picture: grey, heat (black to yellow) or diverging (blue, black, red)."""
    t = np.clip((pixels - low) / (high - low), 0, 1)
    if colour == "grey":
        return Picture.fromarray((255 * t).astype(np.uint8), "L")
    if colour == "heat":
        rgb = np.stack([np.clip(2.2 * t, 0, 1), np.clip(2.2 * t - 0.8, 0, 1), np.clip(3 * t - 2.2, 0, 1)], -1)
    else:
        d = 2 * t - 1
        rgb = np.stack([np.clip(d, 0, 1), 0.35 * np.abs(d), np.clip(-d, 0, 1)], -1)
    return Picture.fromarray((255 * rgb).astype(np.uint8), "RGB")


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
