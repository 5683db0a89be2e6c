"""Draws followed through a chain of stages: how the room between them grows, and whose chance it is.

Path k is made of draw k of every stage. A stage is held still by giving all paths the chance of the first; what is
missing of the variance at the end is what that stage's chance made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..contracts import Field
from ..data.cases import Prepared
from ..data.cohort import Member
from ..data.grid import foreground
from ..evaluate.report.paths import drawing
from ..evaluate.report.results import StageResult
from ..evaluate.result import Figure
from ..io import UnreadableError
from ..recipe.values import Stage
from .answering import Answering
from .folder import RunFolder
from .judge_courses import foretold

Array = NDArray[np.float64]
Say = Callable[[str], None]
MOST = 6  # patients who are followed


def follow(run: RunFolder, members: Sequence[Member], end: Stage, result: StageResult, device: str, say: Say) -> None:
    """Figures of the chain that ends in a stage, and their drawing; nothing where no stage takes what another drew."""
    paths, chain = run.recipe.evaluate.paths, chain_of(run, end)
    if not paths or len(chain) < 2:
        return
    grown: dict[str, list[float]] = {s.name: [] for s in chain}
    caused: dict[str, list[float]] = {s.name: [] for s in chain}
    people, unit = 0, ""
    answering = Answering(run, end, device)
    for member in members[:MOST]:
        try:
            for stage in chain:  # the end comes last
                own = answering if stage is end else answering.of(stage.name)
                values, unit = _followed(own, member, paths, say)
                grown[stage.name].append(_room(values))
            whole = float(values.var(0).mean())
            for stage in chain:
                answering.hold(stage.name)
                held, _ = _followed(answering, member, paths, say)
                caused[stage.name].append(max(0.0, 1 - float(held.var(0).mean()) / whole) if whole > 0 else 0.0)
            answering.hold("")
        except UnreadableError as error:
            say(f"{end.name}: {member.name} is not followed: {error}")
            continue
        people += 1
    if not people:
        return
    how = f"{paths} paths of {people} patients"
    for stage in chain:
        name = f"room between paths at {stage.name} ({_unit_of(stage, unit if stage is end else '')})"
        result.figures.append(Figure(end.name, "model", name, float(np.mean(grown[stage.name])), None, people, how))
    for stage in chain:
        name = f"share of the variance at the end that the chance of {stage.name} makes"
        mean = float(np.mean(caused[stage.name]))
        result.figures.append(Figure(end.name, "model", name, mean, None, people, f"{how}, that stage held still"))
    shares = {s.name: float(np.mean(caused[s.name])) for s in chain}
    shown = drawing({s.name: float(np.mean(grown[s.name])) for s in chain}, shares)
    result.pictures.append({"case": "the whole journey", "slice": "", "panels": [], "drawing": shown})
    say(f"{end.name}: {people} patients followed through {', '.join(s.name for s in chain)}, {paths} paths each.")


def chain_of(run: RunFolder, end: Stage) -> list[Stage]:
    """The stages that a stage builds on, in their order, and itself."""
    found: list[Stage] = []

    def visit(stage: Stage) -> None:
        for plan in stage.inputs.values():
            visit(run.recipe.stage(plan.stage))
        if stage not in found:
            found.append(stage)

    visit(end)
    return found


def _followed(answering: Answering, member: Member, paths: int, say: Say) -> tuple[Array, str]:
    """(paths, numbers) of what a stage says of a case, and their unit."""
    case, x = answering.drawn(member, paths, say)
    return _numbers(answering, case, x)


def _numbers(answering: Answering, case: Prepared, x: Tensor) -> tuple[Array, str]:
    """Of images every voxel of the patient, of masks their volume, of a course the chance at the middle horizon."""
    course, fields = answering.job.course, answering.signature.x
    if course is not None:
        middle = course.horizons[len(course.horizons) // 2]
        told = foretold(course, x.double().numpy(), answering.run.home(answering.stage))
        return told.within(middle)[:, None], f"chance within {middle:g} {course.unit}"
    if x.ndim == 2:
        return x.double().numpy(), ""
    found, start = [], 0
    for field in fields:
        part = x[:, start : start + field.channels]
        start += field.channels
        found.append(_of_field(field, part, case))
    return np.concatenate(found, 1), ""


def _of_field(field: Field, part: Tensor, case: Prepared) -> Array:
    if field.kind == "label":
        voxel = float(np.prod(case.grid.spacing_mm)) / 1000
        return (part.argmax(1) > 0).flatten(1).sum(1).double().numpy()[:, None] * voxel
    inside = foreground(part.mean(0)[0])
    values: Array = part[:, 0][:, inside].double().numpy()
    return values


def _room(values: Array) -> float:
    """Root of the mean variance over paths."""
    return float(np.sqrt(values.var(0).mean()))


def _unit_of(stage: Stage, told: str) -> str:
    fields = stage.build_job().signature().x
    return told or ("ml" if any(f.kind == "label" for f in fields) else "of the network's scale")
