"""What is asked: jobs turn batches of cases into Problems. `from` in a recipe is `source` here (a Python keyword)."""

from collections.abc import Mapping
from typing import Any

from ..contracts import Job
from ..data.store import Layout
from ..registry import Table
from .imaging import Segmentation, Synthesis, Translation

JOBS: Table[type[Job]] = Table(
    "job", {"segmentation": Segmentation, "synthesis": Synthesis, "translation": Translation}
)


def job_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's words as Python's."""
    return {("source" if name == "from" else name): value for name, value in options.items()}


def reads(job: Job) -> tuple[str, ...]:
    """Names of the images that a job's condition is made of, as the cohort knows them."""
    names = [f.name.removeprefix("given ") for f in job.signature().condition if f.kind in ("intensity", "label")]
    return tuple(names)


def layout_of(job: Job, size: tuple[int, int, int]) -> Layout:
    """What a loader must cut for a job: its contrasts, values, classes and neighbouring slices."""
    signature = job.signature()
    given, asked = reads(job), tuple(f.name for f in signature.x)
    context = {}
    for field in signature.condition:
        name = field.name.removeprefix("given ")
        if name in given and signature.axes == "yx" and field.kind == "intensity":
            context[name] = (field.channels - 1) // 2
    values = tuple(f.name for f in signature.condition if f.kind in ("number", "class") and f.name != "position")
    classes = dict(job.by) if isinstance(job, Synthesis) else {}
    return Layout(tuple(dict.fromkeys((*given, *asked))), signature.axes, size, context, values, classes)


__all__ = ["JOBS", "Segmentation", "Synthesis", "Translation", "job_options", "layout_of", "reads"]
