"""What is asked: jobs turn batches of cases into Problems. `from` in a recipe is `source` here (a Python keyword)."""

from collections.abc import Mapping
from typing import Any

from ..contracts import PLACE, Job
from ..data.store import Layout
from ..data.subwords import Subwords
from ..registry import Table
from .anomaly import Anomaly
from .cine import Cine
from .counterfactual import Counterfactual
from .dose import Dose
from .enhancement import Enhancement
from .foundation import Foundation
from .harmonisation import Harmonisation
from .imaging import Segmentation, Synthesis, Translation
from .interpolation import Interpolation
from .outcome import Outcome
from .progression import Progression
from .reconstruction import Reconstruction
from .registration import Registration
from .representation import Representation
from .survival import Survival

JOBS: Table[type[Job]] = Table(
    "job",
    {
        "anomaly": Anomaly,
        "cine": Cine,
        "counterfactual": Counterfactual,
        "dose": Dose,
        "enhancement": Enhancement,
        "foundation": Foundation,
        "harmonisation": Harmonisation,
        "interpolation": Interpolation,
        "outcome": Outcome,
        "progression": Progression,
        "reconstruction": Reconstruction,
        "registration": Registration,
        "representation": Representation,
        "segmentation": Segmentation,
        "survival": Survival,
        "synthesis": Synthesis,
        "translation": Translation,
    },
)


def job_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's words as Python's."""
    return {("source" if name == "from" else name): value for name, value in options.items()}


def layout_of(job: Job, size: tuple[int, int, int], words: Mapping[str, str] | None = None) -> Layout:
    """What a loader must cut for a job: its contrasts, values, classes and neighbouring slices; `words`: what was
    learned of its texts.
    """
    signature = job.signature()
    context = {}
    for field in signature.condition:
        if field.name in signature.given and signature.grid_axes == "yx" and field.kind == "intensity":
            context[field.name] = (field.channels // field.frames - 1) // 2
    fields = (*signature.x, *signature.values, *job.recorded)
    return Layout(
        tuple(dict.fromkeys((*signature.given, *signature.asked, *job.simulates, *job.weighed_by))),
        signature.grid_axes,
        size,
        context,
        tuple(f.name for f in fields if f.kind in ("number", "class")),
        {f.name: f.classes for f in fields if f.classes},
        tuple(signature.labels),
        texts={f.name: f.channels for f in signature.values if f.kind == "embedding"},
        words={
            f.name: Subwords(learned, f.length, job.described.get(f.name, ""))
            for f in signature.values
            if f.kind == "token" and (learned := (words or {}).get(f.name))
        },
        place=PLACE in signature.condition,
    )


__all__ = [
    "JOBS",
    "Anomaly",
    "Cine",
    "Counterfactual",
    "Dose",
    "Enhancement",
    "Foundation",
    "Harmonisation",
    "Interpolation",
    "Outcome",
    "Progression",
    "Reconstruction",
    "Registration",
    "Segmentation",
    "Survival",
    "Synthesis",
    "Translation",
    "job_options",
    "layout_of",
]
