"""Stages that compute without learning, as recipes write them: {compute: {name: warp, names: [PTV70]}, inputs: ...}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..computations import COMPUTATIONS
from ..registry import check_options, unknown
from .parts import check_name
from .stages import input_plans
from .strict import AtError, guard, known_keys, named
from .values import ComputedStage, Stage

_KEYS = ("compute", "inputs")


def computes(value: Any) -> bool:
    """Whether a stage of a recipe, as it is written, computes."""
    return isinstance(value, Mapping) and "compute" in value


def computed_stages(plain: Mapping[str, Any], learned: Sequence[Stage]) -> tuple[ComputedStage, ...]:
    """Checked, each after those that it builds on; raises AtError."""
    built = {name: _stage(name, value) for name, value in plain.items()}
    makes = {s.name: s.build_job().signature().x for s in learned} | {s.name: s.build().makes() for s in built.values()}
    kinds = {name: {f.name: f.kind for f in own} for name, own in makes.items()}
    for stage in built.values():
        _check_inputs(stage, kinds)
    placed: list[ComputedStage] = []
    while waiting := [s for s in built.values() if s not in placed]:
        done = {s.name for s in placed} | {s.name for s in learned}
        ready = [s for s in waiting if all(i.stage in done for i in s.inputs.values())]
        if not ready:
            circle = " and ".join(s.name for s in waiting)
            at = f"stages.{waiting[0].name}.inputs"
            raise AtError(at, f"{circle} wait for each other. Take an input out of one of them.")
        placed += ready
    return tuple(placed)


def _stage(name: str, value: Mapping[str, Any]) -> ComputedStage:
    at = f"stages.{name}"
    check_name(str(name), at)
    known_keys(value, at, _KEYS)
    computation = named(value["compute"], f"{at}.compute")
    kind = guard(f"{at}.compute.name", lambda: COMPUTATIONS.find(computation.name))
    guard(f"{at}.compute", lambda: check_options(f"compute {computation.name!r}", kind, computation.options, ()))
    made = ComputedStage(name, computation, input_plans(value, f"{at}."))
    guard(f"{at}.compute", made.build)
    return made


def _check_inputs(stage: ComputedStage, kinds: Mapping[str, Mapping[str, str]]) -> None:
    """Every input is an image that the computation reads and that its stage makes; `kinds`: stage -> image -> kind."""
    reads, at = stage.build().reads(), f"stages.{stage.name}.inputs"
    for name, plan in stage.inputs.items():
        if plan.stage not in kinds or plan.stage == stage.name:
            others = [s for s in kinds if s != stage.name]
            raise AtError(f"{at}.{name}.stage", str(unknown("stage", plan.stage, others)))
        group = stage.stands_for(name)
        if not group:
            raise AtError(f"{at}.{name}", f"{stage.name} reads {', '.join(reads)}, and no {name}. Take it out")
        if missing := [n for n in group if n not in kinds[plan.stage]]:
            what = ", ".join(kinds[plan.stage])
            raise AtError(
                f"{at}.{name}", f"{plan.stage} makes {what}, and not {', '.join(missing)}. Name another stage"
            )
        if plan.draws == "mean" and any(kinds[plan.stage][n] == "label" for n in group):
            raise AtError(f"{at}.{name}.draws", "labels have no mean. Write: draws: all, or draws: one")
