"""Stages that lean on each other: inputs, codecs, what grids all of them can work on. Refused before any data is
read.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..contracts import Codec, Signature
from ..data.prepare import MULTIPLE
from ..families import FAMILIES, Fsq, Latent, latent_signature
from ..networks.unet import UNetShape
from ..registry import build, unknown
from .strict import AtError, dataclass_of, guard
from .values import InputPlan, Named, Stage

EVERYTHING = ""  # an input of all that a stage makes and another is given


def in_order(stages: Sequence[Stage]) -> list[Stage]:
    """Every stage after the one that it takes its input from; a circle, an unknown stage and an unfit one are
    refused.
    """
    known = {s.name: s for s in stages}
    known = {name: replace(s, inputs=_checked_inputs(s, known)) for name, s in known.items()}
    stages = list(known.values())
    for stage in stages:
        if stage.codec is not None:
            _check_codec(stage, known)
        _check_alone(stage, stages)
    placed: list[Stage] = []
    while waiting := [s for s in stages if s not in placed]:
        ready = [s for s in waiting if all(known[n] in placed for n in _needs(s))]
        if not ready:
            circle = " and ".join(s.name for s in waiting)
            raise AtError(
                f"stages.{waiting[0].name}",
                f"{circle} wait for each other. Take the input out of one of them.",
            )
        placed.append(ready[0])
    return placed


def _needs(stage: Stage) -> list[str]:
    """Stages that have to be trained before."""
    return [*dict.fromkeys(plan.stage for plan in stage.inputs.values()), *([stage.codec] if stage.codec else [])]


def input_plans(value: Mapping[str, Any], dot: str) -> dict[str, InputPlan]:
    """`inputs: {CT: {stage: a}}` image by image; `input: {stage: a}`, whatever that stage makes, under EVERYTHING."""
    if "input" in value and "inputs" in value:
        raise AtError(f"{dot}input", "input and inputs are both there. Keep one: inputs: {CT: {stage: ...}}")
    if "input" in value:
        return {EVERYTHING: dataclass_of(InputPlan, value["input"], f"{dot}input")}
    several = value.get("inputs", {})
    if not isinstance(several, Mapping):
        raise AtError(f"{dot}inputs", f"inputs is {several!r}. Write: inputs: {{CT: {{stage: synthetic_ct}}}}")
    plain = {str(n): {"stage": v} if isinstance(v, str) else v for n, v in several.items()}
    return {name: dataclass_of(InputPlan, one, f"{dot}inputs.{name}") for name, one in plain.items()}


def _checked_inputs(stage: Stage, known: Mapping[str, Stage]) -> dict[str, InputPlan]:
    """Image by image; raises AtError for stages that are none, and for images that are not made or not used."""
    found: dict[str, InputPlan] = {}
    used = stage.build_job().signature().given
    for asked, plan in stage.inputs.items():
        at = f"stages.{stage.name}.{f'inputs.{asked}' if asked else 'input'}"
        if plan.stage not in known:
            raise AtError(f"{at}.stage", str(unknown("stage", plan.stage, list(known))))
        made = known[plan.stage].build_job().signature().x
        names = [f.name for f in made if f.name in used and asked in (EVERYTHING, f.name)]
        if not names:
            raise AtError(
                at,
                f"{plan.stage} makes {', '.join(f.name for f in made)}, but {stage.name} is given "
                f"{', '.join(used) or 'nothing'}. Write: job: {{name: translation, from: [{made[0].name}], x: [...]}}",
            )
        if plan.draws == "mean" and any(f.kind == "label" for f in made if f.name in names):
            raise AtError(f"{at}.draws", "labels have no mean. Write: draws: all, or draws: one")
        found |= dict.fromkeys(names, plan)
    return found


def _check_codec(stage: Stage, known: Mapping[str, Stage]) -> None:
    """The stage of codes exists, is a codec, and makes what this stage is asked for."""
    at = f"stages.{stage.name}.family.in"
    if stage.codec not in known or stage.codec == stage.name:
        raise AtError(at, str(unknown("stage", str(stage.codec), [n for n in known if n != stage.name])))
    other = known[str(stage.codec)]
    if other.codec is not None or other.equalised:
        raise AtError(
            at, f"{other.name} is no codec of its own. Train one in this recipe: family: {{name: vae, kl: 0.01}}"
        )
    if not issubclass(FAMILIES.find(other.family.name), Codec):
        raise AtError(
            at, f"{other.name} is {other.family.name}, which has no codes. Write there: family: {{name: vae, kl: 0.01}}"
        )
    mine, theirs = stage.build_job().signature(), other.build_job().signature()
    if mine.measurements:
        raise AtError(at, "measurements are of images as they are. Leave in out")
    if mine.x != theirs.x or mine.axes != theirs.axes or theirs.condition:
        raise AtError(
            at,
            f"{other.name} encodes {words(theirs.x)} given {words(theirs.condition)}, {stage.name} is asked for"
            f" {words(mine.x)}. Write there: job: {{name: synthesis, x: [{', '.join(f.name for f in mine.x)}], axes:"
            f" {mine.axes}, place: false}}",
        )
    mine_mm, theirs_mm = (list(s.prepare.spacing_mm or ()) for s in (stage, other))
    if other.trained is None and mine_mm != theirs_mm:
        raise AtError(
            at,
            f"{other.name} is prepared to voxels of {theirs_mm or 'the scans'} mm and {stage.name} to"
            f" {mine_mm or 'the scans'}: its codes would mean something else. Write the same prepare: {{spacing_mm:"
            " [...]} in both.",
        )
    step = guard(at, lambda: _sides(stage, known))
    multiple = stage.prepare.multiple
    if multiple % step and stage.prepare.size is None:
        raise AtError(
            at,
            f"Codes and network together need sides that are multiples of {step}, scans are prepared to multiples of"
            f" {multiple}. Use fewer levels or a smaller patch in one of the two.",
        )


def _sides(stage: Stage, known: Mapping[str, Stage]) -> int:
    """What sides of a grid must be multiples of for a stage that was found to be possible."""
    signature = stage.build_job().signature()
    if stage.codec is None:
        return int(unmade(stage.family, signature, stage.network).multiple)
    other = known[stage.codec]
    made = unmade(other.family, other.build_job().signature(), other.network)
    inner = latent_signature(signature, made, FAMILIES.find(stage.family.name))
    return Latent(made, unmade(stage.family, inner, stage.network), signature.condition).multiple


def unmade(family: Named, signature: Signature, network: UNetShape) -> Any:
    """The family without memory: what it cannot do is said before any data is read."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # nothing is initialised there
        return build(
            f"family {family.name!r}", FAMILIES.find(family.name), family.options,
            signature=signature, network=network, precision="fp32",
        )  # fmt: skip


def words(part: Any) -> str:
    return part if isinstance(part, str) else ", ".join(f.name for f in part) or "none"


def check_overlap(overlap: float) -> None:
    """Of windows: less than half, or a window would meet more neighbours than the next ones."""
    if isinstance(overlap, bool) or not isinstance(overlap, int | float) or not 0 <= overlap < 0.5:
        raise AtError("evaluate.overlap", f"evaluate.overlap is {overlap!r}. Write overlap: 0.25, or 0.125 for speed")


def check_window(window: Sequence[int] | None, stages: Sequence[Stage]) -> None:
    """`evaluate.window` fits every stage, before anything is trained."""
    if window is None:
        return
    axes = {len(stage.build_job().signature().grid_axes) for stage in stages}
    known = {stage.name: stage for stage in stages}
    needed = math.lcm(MULTIPLE, *(_sides(stage, known) for stage in stages if stage.trained is None))
    if axes != {len(window)} or any(side < needed or side % needed for side in window):
        raise AtError(
            "evaluate.window",
            f"evaluate.window is {list(window)}, expected a multiple of {needed} for each of {axes.pop()} axes.",
        )


def _check_alone(stage: Stage, stages: Sequence[Stage]) -> None:
    """What draws nothing by itself has a stage that draws its codes."""
    if issubclass(FAMILIES.find(stage.family.name), Fsq) and not any(s.codec == stage.name for s in stages):
        raise AtError(
            f"stages.{stage.name}.family" if len(stages) > 1 else "family",
            f"{stage.family.name} needs a stage that draws its words. Add one of the same x: family: {{name:"
            f" autoregressive, in: {{stage: {stage.name}}}}}",
        )
