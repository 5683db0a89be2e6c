"""Figures of a node for a monitoring system, as Prometheus reads them; they name nobody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ..deliver.outbox import Outbox
from .intake import STATES, Intake


def figures(intake: Intake, outbox: Outbox) -> str:
    """Counts of series by state, why they were refused, what people decided, what still waits where."""
    return "\n".join(_lines(intake, outbox)) + "\n"


def _lines(intake: Intake, outbox: Outbox) -> Iterator[str]:
    every = intake.series()
    yield from _family("fabrica_series", "gauge", "Series that arrived, by how far they are.")
    states = Counter(one.state for one in every)
    yield from (f'fabrica_series{{state="{state}"}} {states[state]}' for state in STATES)
    yield from _family("fabrica_instances", "gauge", "Images that arrived.")
    yield f"fabrica_instances {sum(one.instances for one in every)}"
    yield from _family("fabrica_refusals", "gauge", "Series that a gate or the rules refused, by the first reason.")
    reasons = Counter(_kind(one.reason) for one in every if one.state == "refused")
    yield from (f'fabrica_refusals{{reason="{reason}"}} {count}' for reason, count in sorted(reasons.items()))
    yield from _family("fabrica_verdicts", "gauge", "Prepared series, by what a person decided.")
    verdicts = Counter(one.verdict or "none" for one in outbox.series())
    yield from (f'fabrica_verdicts{{verdict="{v}"}} {verdicts[v]}' for v in ("none", "accept", "reject"))
    yield from _family("fabrica_backlog", "gauge", "Instances that are to be delivered and have not arrived.")
    backlog = Counter[str]()
    for to, count in outbox.backlog().items():
        backlog[to.partition(":")[0]] += count
    yield from (f'fabrica_backlog{{to="{kind}"}} {count}' for kind, count in sorted(backlog.items()))


def _family(name: str, kind: str, words: str) -> Iterator[str]:
    yield f"# HELP {name} {words}"
    yield f"# TYPE {name} {kind}"


def _kind(reason: str) -> str:
    """A reason without its numbers: those would make a series of figures of every patient."""
    first = reason.split(";")[0].split("(")[0].strip()
    return "".join(c for c in first if not c.isdigit() and c not in '"\\\n').strip()[:60]
