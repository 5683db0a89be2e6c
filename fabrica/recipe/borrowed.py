"""A family that another run has trained: whether it is there, and answers this job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..contracts import Job
from ..jobs import JOBS, job_options
from ..networks.unet import UNetShape
from ..registry import build, unknown
from .parts import check_name, family_named
from .short_form import stages_of
from .stages import words
from .strict import AtError, dataclass_of, guard, named
from .values import Named, TrainedPlan

PRIORS = Path(__file__).parents[1] / "priors"  # runs that ship: trained on simulated patients alone


def priors() -> list[str]:
    """Names of the priors that ship."""
    return sorted(file.parent.parent.parent.name for file in PRIORS.glob("*/stages/model/checkpoint.json"))


def trained_plan(value: Mapping[str, Any], dot: str) -> TrainedPlan | None:
    """`family: {run: runs/0007, stage: prior}`, or `family: {prior: mr_brain}`, one that ships; what such a stage
    cannot have is refused.
    """
    if not isinstance(value["family"], Mapping) or not {"run", "prior"} & set(value["family"]):
        return None
    plain = {k: Path(str(v)).expanduser() if k == "run" else v for k, v in value["family"].items()}
    if "prior" in plain:
        plain = _shipped(plain, f"{dot}family")
    for key, instead in (
        ("train", "Take train out, or train on: train: {start: RUN/stages/STAGE, ...}"),
        ("prepare", "Take prepare out: it comes from the run"),
    ):
        if key in value:
            raise AtError(f"{dot}{key}", f"a family from another run is used as it is. {instead}")
    plan: TrainedPlan = dataclass_of(TrainedPlan, plain, f"{dot}family")
    return plan


def _shipped(plain: Mapping[str, Any], at: str) -> dict[str, Any]:
    if set(plain) != {"prior"}:
        raise AtError(at, f"a prior that ships is used as it is. Write: family: {{prior: {plain['prior']}}}")
    if plain["prior"] not in priors():
        raise AtError(f"{at}.prior", str(unknown("prior", str(plain["prior"]), priors())))
    return {"run": PRIORS / str(plain["prior"])}


def family_of(trained: TrainedPlan, job: Job, at: str) -> tuple[Named, UNetShape]:
    """The family of another run's stage; raises when there is none or its x, axes or condition are not this job's."""
    file = trained.run / "recipe.yaml"
    if not file.is_file():
        raise AtError(f"{at}.run", f"{trained.run} is not a run: it holds no recipe.yaml. See: ls {trained.run.parent}")
    stages = guard(f"{at}.run", lambda: stages_of(file))
    if trained.stage not in stages:
        raise AtError(f"{at}.stage", str(unknown(f"stage of {trained.run}", trained.stage, list(stages))))
    check_name(trained.stage, f"{at}.stage")
    stage = stages[trained.stage]
    if not isinstance(stage, Mapping) or not {"job", "family"} <= set(stage):
        raise AtError(f"{at}.run", f"{file} is damaged: its stage {trained.stage} has no job and family. Name another.")
    if "in" in stage["family"]:
        inner = stage["family"]["in"] if isinstance(stage["family"], Mapping) else None
        equalised = isinstance(inner, Mapping) and "equalised" in inner
        what = "its run's equalised intensities" if equalised else "another stage's codes"
        raise AtError(
            at, f"{trained.stage} of {trained.run} works in {what} and is used there: fabrica generate {trained.run}"
        )
    if "run" in stage["family"]:
        raise AtError(at, f"{trained.stage} of {trained.run} was trained in another run. Name that: {stage['family']}")
    other_job = named(stage["job"], at)
    other = guard(at, lambda: build(at, JOBS.find(other_job.name), job_options(other_job.options))).signature()
    mine = job.signature()
    for part in ("x", "axes", "condition"):
        if getattr(mine, part) != getattr(other, part):
            raise AtError(
                at,
                f"the family of {trained.run} answers another {part}: {words(getattr(other, part))}, this job has "
                f"{words(getattr(mine, part))}. Write its job: job: {dict(stage['job'])}",
            )
    return family_named(stage["family"], at)
