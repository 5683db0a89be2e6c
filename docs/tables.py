"""Tables of everything registered, written from the registries themselves: `make docs` rewrites docs/reference.md."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from fabrica.computations import COMPUTATIONS
from fabrica.contracts import Reconstructor
from fabrica.data.layouts import described
from fabrica.evaluate import METRICS
from fabrica.families import FAMILIES, RUNTIME
from fabrica.jobs import JOBS
from fabrica.recipe.checks import from_plain
from fabrica.recipe.text import RecipeError
from fabrica.registry import Table, options_of
from fabrica.sampling import SAMPLERS

PAGE = Path(__file__).parent / "reference.md"
DATASETS = Path(__file__).parent / "datasets.md"


def subject(member: Any) -> Any:
    return getattr(member, "function", None) or getattr(member, "draw", None) or member


def section(table: Table[Any], runtime: tuple[str, ...]) -> list[str]:
    lines = [f"## {table.noun}", "", "| name | what it is | options |", "|---|---|---|"]
    for name in table.names():
        what = " ".join((inspect.getdoc(subject(table.find(name))) or "").split("\n\n")[0].split())
        options = ", ".join(
            f"`{'from' if o == 'source' else o}`"
            for o in options_of(subject(table.find(name)), runtime)
            if o != "return"
        )
        lines.append(f"| `{name}` | {what} | {options} |")
    return [*lines, ""]


EXAMPLES: dict[str, dict[str, Any]] = {
    "translation": {"from": ["T1w"], "x": ["FLAIR"]}, "synthesis": {"x": ["FLAIR"]},
    "segmentation": {"from": ["T1w"], "x": ["lesion"]}, "outcome": {"from": ["T1w"], "x": "age", "width": 20.0}, "counterfactual": {"x": ["T1w"], "change": {"sex": "F"}, "values": {"by": {"sex": ["F", "M"]}}}, "cine": {}, "harmonisation": {}, "survival": {"from": ["T1w"]}, "anomaly": {"x": ["T1w"], "healthy": {"disease": ["none"]}},
    "representation": {"from": ["T1w"], "width": 8}, "reconstruction": {"x": "FLAIR"},
    "enhancement": {"x": "FLAIR"}, "dose": {}, "progression": {"x": "FLAIR"}, "interpolation": {}, "registration": {},
    "foundation": {"x": ["T1w", "FLAIR"], "covariates": ["age"]},
}  # fmt: skip


EQUALISED = {"equalised": 0.5}
PLACES: dict[str, str | dict[str, float]] = {  # what a family works in, beside x as it is
    "codes of vae": "vae", "codes of vq": "vq", "equalised intensities": EQUALISED,
}  # fmt: skip
CODES = {
    f"{name} in {place}": (name, codec)
    for place, codec in PLACES.items()
    for name in FAMILIES.names()
    if "embedding" not in FAMILIES.find(name).learns[:1]
}


def recipe(family: str, job: str, axes: str) -> dict[str, Any]:
    """The shortest that asks for it; the last stage is the one meant."""
    prior, codec = CODES.get(family, (family, None))
    network = {"channels": [8, 16], "blocks": 1}
    model = {
        "job": {"name": job, **EXAMPLES[job], "axes": axes}, "train": {"steps": 1},
        "family": {"name": prior, "network": network},
        **({"pairing": "none"} if FAMILIES.find(prior).unpaired else {}),
    }  # fmt: skip
    if job in ("reconstruction", "enhancement") and not issubclass(FAMILIES.find(prior), Reconstructor):
        model["sampler"] = {"name": "posterior"}  # which uses what was measured
    if codec is EQUALISED:
        model["family"]["in"] = EQUALISED
    if codec in (None, EQUALISED):
        return {"cohorts": {"all": {"path": "x"}}, "baseline": "none", **model}
    x = EXAMPLES[job]["x"] if isinstance(EXAMPLES[job].get("x"), list) else ["FLAIR"]
    coder = {"name": "synthesis", "x": x, "axes": axes, "place": False}
    stages = {
        "codec": {"job": coder, "train": {"steps": 1}, "family": {"name": codec, "network": network}},
        "model": model,
    }
    model["family"] |= {"in": {"stage": "codec"}, "network": {**network, "patch": 1}}
    return {"cohorts": {"all": {"path": "x"}}, "baseline": "none", "stages": stages}


def cell(family: str, job: str, axes: str) -> str:
    """'' when a recipe of this family, job and grid is accepted, else the reason why it is refused."""
    try:
        from_plain(recipe(family, job, axes))
    except RecipeError as error:
        return str(error).removeprefix("recipe: ").removeprefix("stages.model.").split(". ")[0]
    return ""


def matrix() -> list[str]:
    """Families against jobs: drawn in slices and volumes, or the reason why not."""
    jobs = JOBS.names()
    lines = [
        "## Families and jobs",
        "",
        "2D and 3D unless a reason stands there.",
        "",
        f"| family | {' | '.join(jobs)} |",
        "|---" * (len(jobs) + 1) + "|",
    ]
    for family in (*FAMILIES.names(), *CODES):
        found = [dict.fromkeys(cell(family, job, axes) or "drawn" for axes in ("yx", "zyx")) for job in jobs]
        lines.append(f"| `{family}` | {' | '.join('; '.join(c) for c in found)} |")
    return [*lines, ""]


def text() -> str:
    lines = ["# Reference", "", "Everything that a recipe can name. Written by `make docs`; a test keeps it true.", ""]
    lines += (
        section(JOBS, ())
        + section(COMPUTATIONS, ())
        + section(FAMILIES, RUNTIME)
        + section(SAMPLERS, ("prior", "problem", "rng"))
        + section(METRICS, ())
        + matrix()
    )
    return "\n".join(lines)


def datasets() -> str:
    """docs/datasets.md: the public data sets whose names are known."""
    rows = described()
    lines = [
        "# Public data sets",
        "",
        f"`fabrica inspect DIR` says which of these {len(rows)} sets a folder looks like and reads patients, visits, contrasts and",
        "stated units by its names. Nothing is downloaded. What headers and tables say goes before names; a table of your own",
        "(`--write-table`) before all. Sets marked DICOM are recognised only: their headers say whose an image is.",
        "",
        "Licence and access are as a set's page said when this was written (2026); read them there before you use it.",
        "",
        "| set | shows | licence | access | page | cite |",
        "|---|---|---|---|---|---|",
    ]
    for one in rows:
        title = f"{one['title']}{' (DICOM)' if one['dicom'] else ''}"
        lines.append(
            f"| {title} | {one['shows']} | {one['licence']} | {one['access']} | {one['page']} | {one['cite']} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(text())
    DATASETS.write_text(datasets())
