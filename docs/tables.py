"""Tables of everything registered, written from the registries themselves: `make docs` rewrites docs/reference.md."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from fabrica.evaluate import METRICS
from fabrica.families import FAMILIES, RUNTIME
from fabrica.jobs import JOBS
from fabrica.registry import Table, options_of
from fabrica.sampling import SAMPLERS

PAGE = Path(__file__).parent / "reference.md"


def subject(member: Any) -> Any:
    return getattr(member, "function", None) or getattr(member, "draw", None) or member


def section(table: Table[Any], runtime: tuple[str, ...]) -> list[str]:
    lines = [f"## {table.noun}", "", "| name | what it is | options |", "|---|---|---|"]
    for name in table.names():
        what = (inspect.getdoc(subject(table.find(name))) or "").splitlines()[0]
        options = ", ".join(
            f"`{'from' if o == 'source' else o}`"
            for o in options_of(subject(table.find(name)), runtime)
            if o != "return"
        )
        lines.append(f"| `{name}` | {what} | {options} |")
    return [*lines, ""]


def text() -> str:
    lines = ["# Reference", "", "Everything that a recipe can name. Written by `make docs`; a test keeps it true.", ""]
    lines += (
        section(JOBS, ())
        + section(FAMILIES, RUNTIME)
        + section(SAMPLERS, ("prior", "problem", "rng"))
        + section(METRICS, ())
    )
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(text())
