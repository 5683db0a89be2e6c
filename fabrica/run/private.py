"""What a private training may keep beside its weights: nothing that was measured of its patients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..contracts import SCALES, Job
from ..data.prepare import GridPreparation
from ..data.split import patient_hash
from ..learning.facts import facts_of
from ..learning.lineage import trained_before
from ..recipe.values import Stage
from .stage import PreparedStage


def public_preparation(preparation: GridPreparation, stage: Stage) -> GridPreparation:
    """The same with scales, sides and spacing that somebody knew beforehand; raises ValueError where nobody says
    them.
    """
    privacy, plan = stage.train.privacy, stage.prepare
    if privacy is None:
        return preparation
    if plan.size is None:
        raise ValueError(
            "A private training does not tell how large its patients are. Write: prepare: {size:"
            f" {list(preparation.size[1:] if preparation.axes == 'yx' else preparation.size)}}}"
        )
    if preparation.spacing_mm is not None and plan.spacing_mm is None:
        raise ValueError(
            "Patients differ in spacing, and their median would tell of them. Write: prepare: {spacing_mm: [1, 1]}"
        )
    scales = {}
    for name in preparation.scales:
        if name in preparation.classes:
            scales[name] = (0.0, 1.0)
        elif (fixed := SCALES.get(preparation.units.get(name, ""))) is not None:
            scales[name] = (fixed.offset, fixed.width)
        elif name in privacy.scales:
            scales[name] = (0.0, float(privacy.scales[name]))
        else:
            raise ValueError(
                f"On which scale {name} is drawn would be told by its patients. Write what is usual:"
                f" train: {{privacy: {{scales: {{{name}: 1000}}}}}}"
            )
    *_, y, x = plan.size
    size = (1 if preparation.axes == "yx" else int(plan.size[0]), int(y), int(x))
    return replace(preparation, scales=scales, size=size, learned_mm=preparation.spacing_mm)


def check_private_stage(ready: PreparedStage) -> None:
    """Raises ValueError where a private training would start from, or be taught beside, what is not private."""
    stage = ready.stage
    if stage.train.privacy is None:
        return
    if any(f.kind in ("token", "embedding") for f in ready.signature.values):
        raise ValueError("The words of a private training would stand in its checkpoint. Leave texts out of the job.")
    if ready.job.course is not None or type(ready.job).fitted is not Job.fitted:
        raise ValueError(
            f"The job {stage.job.name} keeps what it learned of patients beside the weights (courses, a table), which"
            " nothing makes private. Leave train.privacy out."
        )
    before = [ready.run.home(ready.run.recipe.stage(stage.codec))] if stage.codec else []
    before += [Path(stage.train.start)] if stage.train.start else []
    if any(facts is not None and facts.privacy is not None for facts in map(facts_of, before)):
        raise ValueError(
            f"{ready.name} starts from weights of a private training, whose patients nobody knows: what both spend is"
            " not added up. Leave train.start and family.in out."
        )
    own = {patient_hash(m.patient) for m in ready.split.parts["train"]}
    if own & trained_before(ready.run.recipe, stage, ready.run.path):
        raise ValueError(
            f"{ready.name} builds on weights that saw the same patients without a promise. Leave train.start and"
            " family.in out, or take weights of others."
        )


def promised(ready: PreparedStage) -> list[str]:
    """What the report says of a private training."""
    facts = ready.facts()
    if facts is None or facts.privacy is None:
        return []
    spent = facts.privacy
    return [
        f"{ready.name} was trained with ({spent['epsilon']:.3g}, {spent['delta']:g})-differential privacy per"
        f" {spent['per']}: {spent['steps']} steps at a sampling rate of {spent['rate']:.3g}, noise"
        f" {spent['noise']:.3g} times the clip ({spent['accountant']}). It holds of the"
        " checkpoint, not of the other files of this run."
    ]
