"""What is asked: jobs turn batches of cases into Problems. `from` in a recipe is `source` here (a Python keyword)."""

from collections.abc import Mapping
from typing import Any

from ..contracts import Job
from ..data.store import Layout, class_name
from ..registry import Table
from .imaging import Segmentation, Synthesis, Translation
from .outcome import Outcome
from .representation import Representation

JOBS: Table[type[Job]] = Table(
    "job",
    {
        "outcome": Outcome,
        "representation": Representation,
        "segmentation": Segmentation,
        "synthesis": Synthesis,
        "translation": Translation,
    },
)


VALUES = ("number", "class", "embedding")  # kinds that are no images


def asks(job: Job) -> tuple[str, ...]:
    """Names of the images that a job asks for; none when it asks for a value of the case."""
    return tuple(f.name for f in job.signature().x if f.kind not in VALUES)


def grid_axes(job: Job) -> str:
    """Axes of the images of a job: those it asks for, else those it is given."""
    signature = job.signature()
    return signature.axes or signature.given_axes


def has_values(job: Job, values: Mapping[str, Any]) -> bool:
    """Whether a case says the values that a job asks for, as one of its classes where it has classes."""
    by: Mapping[str, tuple[str, ...]] = getattr(job, "by", {})
    asked = [f.name for f in job.signature().x if f.kind in ("number", "class")]
    return all(
        n in values and (class_name(values[n]) in by[n] if n in by else isinstance(values[n], int | float))
        for n in asked
    )


def job_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's words as Python's."""
    return {("source" if name == "from" else name): value for name, value in options.items()}


def reads(job: Job) -> tuple[str, ...]:
    """Names of the images that a job's condition is made of, as the cohort knows them."""
    names = [f.name.removeprefix("given ") for f in job.signature().condition if f.kind in ("intensity", "label")]
    return tuple(names)


def starts_from_images(job: Job) -> bool:
    """Whether a regression could answer: something is asked that has a truth, and images are given to start from."""
    return bool(reads(job)) and all(f.kind != "embedding" for f in job.signature().x)


def label_classes(job: Job) -> dict[str, int]:
    """Name of each label map that a job is given or asks for -> number of its classes."""
    signature = job.signature()
    return {
        f.name.removeprefix("given "): f.channels for f in (*signature.condition, *signature.x) if f.kind == "label"
    }


def layout_of(job: Job, size: tuple[int, int, int]) -> Layout:
    """What a loader must cut for a job: its contrasts, values, classes and neighbouring slices."""
    signature = job.signature()
    given, asked = reads(job), asks(job)
    context = {}
    for field in signature.condition:
        name = field.name.removeprefix("given ")
        if name in given and grid_axes(job) == "yx" and field.kind == "intensity":
            context[name] = (field.channels - 1) // 2
    fields = (*signature.x, *signature.condition)
    values = tuple(f.name for f in fields if f.kind in ("number", "class") and f.name != "position")
    classes = {name: tuple(known) for name, known in getattr(job, "by", {}).items()}
    labels = tuple(f.name.removeprefix("given ") for f in fields if f.kind == "label")
    contrasts = tuple(dict.fromkeys((*given, *asked, *job.simulates)))
    place = any(f.name == "place" for f in signature.condition)
    return Layout(
        contrasts, grid_axes(job), size, context, values, classes, labels, texts=getattr(job, "text", {}), place=place
    )


__all__ = [
    "JOBS",
    "Outcome",
    "Segmentation",
    "Synthesis",
    "Translation",
    "asks",
    "grid_axes",
    "has_values",
    "job_options",
    "label_classes",
    "layout_of",
    "reads",
    "starts_from_images",
]
