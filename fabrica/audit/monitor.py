"""A model in use, watched: cases in the order in which they were drawn, charts of them, an alert, and what follows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from ..deliver.approvals import Approvals, Decision
from ..deliver.files import write_whole
from ..deliver.outbox import Outbox
from ..deliver.rows import holds_rows
from ..generate.tasks import DONE, REFUSED
from ..safeguards.monitoring import Chart, flags_chart, times_chart
from ..safeguards.shift import FALSE_ALARMS

METRICS, PAGE = "monitor/metrics.prom", "monitor/index.html"
TEMPLATE = Path(__file__).with_suffix(".html")
WORSE_SHIFT = 0.25  # rates that are to be noticed
REFUSALS = (0.02, 0.10)
REJECTIONS = (0.05, 0.20)
MONITOR = "fabrica monitor"


@dataclass(frozen=True)
class Case:
    """One case that was asked for: when, by which weights, how unlike training, how long it took; or why it was left
    out.
    """

    made: str
    weights: str
    shifted: bool | None
    seconds: float | None
    refused: str


@dataclass(frozen=True)
class Model:
    """One model in use: its cases and their charts."""

    weights: str
    cases: tuple[Case, ...]
    charts: tuple[Chart, ...]

    @property
    def alerts(self) -> tuple[Chart, ...]:
        return tuple(c for c in self.charts if c.alarm is not None)


@dataclass(frozen=True)
class Watched:
    """What was seen: every model by itself, and what people decided about all of them."""

    cases: tuple[Case, ...]
    models: tuple[Model, ...]
    shared: tuple[Chart, ...]

    @property
    def charts(self) -> tuple[Chart, ...]:
        return (*(c for model in self.models for c in model.charts), *self.shared)

    @property
    def alerts(self) -> tuple[Chart, ...]:
        return tuple(c for c in self.charts if c.alarm is not None)


def watch(folder: Path, store: Path | None = None, approvals: Approvals | None = None) -> Watched:
    """Everything that `generate` wrote below a folder, by model, and what people decided in a store. Where approvals
    are known, a model is charted from its last approval on. Raises ValueError where nothing was drawn, or there is no
    store.
    """
    cases = sorted(_cases(folder), key=lambda c: c.made)
    if not cases:
        raise ValueError(f"Nothing that fabrica generate wrote lies below {folder}.")
    if store is not None and not holds_rows(store):
        raise ValueError(f"{store} is no store: it holds no outbox. Name the folder of fabrica deliver --store.")
    names = list(dict.fromkeys(c.weights for c in cases))
    models = []
    for weights in names:
        last = approvals.last(weights) if approvals is not None else None
        since = last.time if last is not None and last.state == "approved" else ""
        own = tuple(c for c in cases if c.weights == weights and c.made >= since)
        models.append(Model(weights, own, _charts(own, f" of {weights[:8]}" if len(names) > 1 else "")))
    shared = []
    if store is not None:
        verdicts = [verdict == "reject" for _, verdict in Outbox(store).verdicts()]
        shared.append(flags_chart("rejections", verdicts, *REJECTIONS, "series were rejected"))
    return Watched(tuple(cases), tuple(models), tuple(shared))


def _charts(cases: Sequence[Case], whose: str) -> tuple[Chart, ...]:
    told = [c.shifted for c in cases if c.shifted is not None]
    seconds = [c.seconds for c in cases if c.seconds is not None]
    return (
        flags_chart(f"shift{whose}", told, FALSE_ALARMS, WORSE_SHIFT, "scans are unlike those of training"),
        flags_chart(f"refusals{whose}", [bool(c.refused) for c in cases], *REFUSALS, "cases were left out"),
        times_chart(f"time of a case{whose}", seconds),
    )


def _cases(folder: Path) -> list[Case]:
    found = []
    for place, refused in ((DONE, False), (REFUSED, True)):
        for path in sorted(folder.rglob(f"{place}/*.json")):
            try:
                plain = json.loads(path.read_text())
                looked: Mapping[str, Any] = plain.get("shift", {})
                known = looked.get("score") is not None
                found.append(
                    Case(
                        str(plain["made"]),
                        str(plain.get("weights", "")),
                        bool(looked["shifted"]) if known else None,
                        None if refused else float(plain["seconds"]),
                        str(plain["why"]) if refused else "",
                    )
                )
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue  # of an older version, or being written
    return found


def keep(watched: Watched, folder: Path) -> tuple[Path, Path]:
    """Figures as Prometheus reads them, and a page; they name nobody."""
    environment = jinja2.Environment(autoescape=True)
    page = environment.from_string(TEMPLATE.read_text()).render(
        charts=[_drawn(c) for c in watched.charts], cases=len(watched.cases), alerts=watched.alerts,
        first=watched.cases[0].made, last=watched.cases[-1].made,
    )  # fmt: skip
    write_whole(folder / METRICS, _figures(watched).encode())
    write_whole(folder / PAGE, page.encode())
    return folder / METRICS, folder / PAGE


def _figures(watched: Watched) -> str:
    lines = [
        "# HELP fabrica_monitor_cases Cases that were asked for.", "# TYPE fabrica_monitor_cases gauge",
        f"fabrica_monitor_cases {len(watched.cases)}",
        "# HELP fabrica_monitor_chart The figure of a chart after the last case.", "# TYPE fabrica_monitor_chart gauge",
    ]  # fmt: skip
    lines += [f'fabrica_monitor_chart{{chart="{c.name}"}} {c.last:.6g}' for c in watched.charts]
    lines += ["# HELP fabrica_monitor_limit The limit of a chart.", "# TYPE fabrica_monitor_limit gauge"]
    lines += [f'fabrica_monitor_limit{{chart="{c.name}"}} {_number(c.limit)}' for c in watched.charts]
    lines += [
        "# HELP fabrica_monitor_alert Whether a chart has passed its limit.",
        "# TYPE fabrica_monitor_alert gauge",
    ]
    lines += [f'fabrica_monitor_alert{{chart="{c.name}"}} {int(c.alarm is not None)}' for c in watched.charts]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return "+Inf" if value == float("inf") else f"{value:.6g}"


def _drawn(chart: Chart, width: int = 560, height: int = 150) -> dict[str, Any]:
    """A chart as points of a picture."""
    shown = chart.values[-400:]
    finite = [v for v in (*shown, chart.limit) if v != float("inf")] or [0.0]
    low, high = min(0.0, *finite), max(*finite, 1e-9)

    def down(value: float) -> float:
        return round(height - 10 - (height - 20) * (value - low) / (high - low), 1)

    points = " ".join(
        f"{round(10 + (width - 20) * k / max(1, len(shown) - 1), 1)},{down(v)}" for k, v in enumerate(shown)
    )
    limit = None if chart.limit == float("inf") else down(chart.limit)
    return {"name": chart.name, "words": chart.words, "points": points, "limit": limit, "alarm": chart.alarm,
            "width": width, "height": height}  # fmt: skip


def stop(watched: Watched, approvals: Approvals) -> tuple[Sequence[Decision], Decision | None]:
    """Retire every approved model whose own charts passed a limit; those decisions, and the model that is gone back
    to, None where there is none.
    """
    retired = []
    for model in watched.models:
        last = approvals.last(model.weights)
        if model.alerts and last is not None and last.state == "approved":
            reason = "; ".join(f"{c.name}: {c.words}" for c in model.alerts)
            retired.append(approvals.decide(model.weights, Path(last.run), "retired", MONITOR, reason))
    return retired, approvals.current()
