"""Computed stages judged on the days of test patients: motion, contours, doses, and what they do to the plan."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from .. import io
from ..contracts import Image
from ..data.beams import inside_body
from ..data.cases import left_out
from ..data.cohort import Cohort, Member
from ..data.daily import PLANNED
from ..data.grid import coarser, grid_of, resample
from ..data.moving import MOTION, velocity_on
from ..data.split import PARTS, split_cohort
from ..evaluate.judging.constraints import Constraint
from ..evaluate.judging.daily import (
    AS_IT_WAS,
    TODAY,
    Factors,
    Reading,
    factors_of,
    reading_rows,
    same_dose_rows,
)
from ..evaluate.metrics.overlap import rows_of
from ..evaluate.report.results import Report, StageResult
from ..evaluate.result import Row
from ..io import UnreadableError
from ..physics.warp import exponential, folded
from ..recipe.values import ComputedStage, Recipe
from .computing import Chain, Say
from .daily import Calibrated, gray_of, mask_of, planned_dose, readings_of, write_factors
from .daily_pictures import DailyPictures
from .folder import RunFolder
from .prepare import split_stage

GRID_MM = 3.0  # on which doses and motions are compared
STILL = "no motion"
CONTOURS_AS_THEY_WERE = "contours as they were"


@dataclass
class _Judged:
    """What judging a run's days collects."""

    chain: Chain
    constraints: Sequence[Constraint]
    draws: int
    results: dict[str, StageResult]
    pictures: DailyPictures = field(default_factory=DailyPictures)


def judge_computed(
    run: RunFolder, data: Mapping[str, Cohort], only: str | None, device: str, say: Say, report: Report
) -> list[StageResult]:
    """Every computed stage, or the one named, on the days of test patients. Writes what they make beside the draws of
    learned stages. Of all of them together what became of the plan, calibrated on the days of validation patients where
    the recipe asks for coverage.
    """
    stages = [s for s in run.recipe.computed if only in (None, s.name)]
    if not stages:
        return []
    parts, members = _parts(run.recipe, data)
    chain = Chain(run, members, device, _silent, own=True)
    _say_what(stages, say, report)
    plan = run.recipe.evaluate
    judged = _Judged(
        chain, [Constraint.of(text) for text in plan.constraints if only is None], plan.draws,
        {s.name: _blank(s) for s in stages},
    )  # fmt: skip
    factors = _calibrated(judged, [d for d in chain.days if parts.get(d.patient) == "validate"], say, report)
    days = [d for d in chain.days if parts.get(d.patient) == "test"]
    if not days:
        raise ValueError(
            "No test patient was seen on another day than that of the plan. Name visits by folders: PATIENT/planning/"
            " and PATIENT/today/DATE/, or write: cohorts: {all: {..., days: {count: 2}}}"
        )
    for day in days:
        try:
            _judge_day(judged, stages, day, factors, say)
        except UnreadableError as error:
            say(left_out(day, error))
            report.remark(left_out(day, error))
    last = list(judged.results.values())[-1]
    last.pictures = judged.pictures.rows
    return list(judged.results.values())


def _silent(text: str) -> None:
    """What learned stages say of each case was said when they were judged."""


def _blank(stage: ComputedStage) -> StageResult:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(stage), default=str))
    return StageResult(stage.name, f"compute {stage.computation.name}", "none", plain, 0, 0.0, ())


def _parts(recipe: Recipe, data: Mapping[str, Cohort]) -> tuple[dict[str, str], list[Member]]:
    """Patient -> part, as in the learned stages that are built on, or as the recipe says where there are none; and all
    members. Whoever trained one of them only trains.
    """
    members = [m for cohort in data.values() for m in cohort.members]
    needed = {plan.stage for stage in recipe.computed for plan in stage.inputs.values()}
    learned = [s for s in recipe.stages if s.name in needed]
    splits = [split_stage(recipe, stage, data) for stage in learned]
    if not learned:
        splits = [split_cohort(Cohort(tuple(members)), recipe.split, recipe.split.get("seed", recipe.seed))]
    part_of: dict[str, str] = {}
    for split in splits:
        for part in reversed(PARTS):
            for m in split.parts[part]:
                part_of[m.patient] = "train" if "train" in (part, part_of.get(m.patient, part)) else part
    return part_of, members


def _say_what(stages: Sequence[ComputedStage], say: Say, report: Report) -> None:
    for stage in stages:
        if words := stage.build().words():
            say(f"{stage.name}: {words}")
            report.remark(f"{stage.name}: {words}")


def _calibrated(judged: _Judged, days: Sequence[Member], say: Say, report: Report) -> dict[tuple[str, str], float]:
    """How far intervals reach, told on validation patients; nothing where the recipe asks for none."""
    level = judged.chain.run.recipe.evaluate.coverage
    if level is None or not judged.constraints:
        return {}
    by_patient: dict[str, list[Reading]] = {}
    for day in days:
        try:
            by_patient.setdefault(day.patient, []).extend(
                readings_of(judged.chain, day, judged.constraints, judged.draws)
            )
        except UnreadableError as error:
            say(left_out(day, error))
    found = factors_of(by_patient, level)
    write_factors(judged.chain.run.path, Calibrated(level, judged.draws, len(by_patient), found))
    text = (
        f"intervals of constraints were told on {len(by_patient)} validation patients, to hold {level:.0%} of new"
        f" patients' figures; {len(found)} of {len({r.key for own in by_patient.values() for r in own})} have one."
    )
    say(text)
    report.remark(text)
    return found


def _judge_day(judged: _Judged, stages: Sequence[ComputedStage], day: Member, factors: Factors, say: Say) -> None:
    chain = judged.chain
    for stage in stages:
        drawn = chain.draws(stage.name, day, judged.draws)
        for number, images in enumerate(drawn):
            for name, image in images.items():
                io.write_nifti(
                    image, chain.run.path / "stages" / stage.name / "draws" / day.name / f"{number}-{name}.nii.gz"
                )
        judged.results[stage.name].cases += _rows(judged, stage, day, drawn)
    readings = readings_of(chain, day, judged.constraints, judged.draws)
    judged.results[stages[-1].name].cases += reading_rows((day.name, day.patient), readings, factors)
    judged.pictures.add(chain, day, judged.draws, readings, factors)
    say(f"{day.name}: {', '.join(s.name for s in stages)} computed.")


def _rows(judged: _Judged, stage: ComputedStage, day: Member, drawn: Sequence[Mapping[str, Image]]) -> list[Row]:
    chain = judged.chain
    truth, kind = chain.truth(stage.name, day), chain.computations[stage.name].answer
    if kind == "motion":
        return _motion_rows(chain, day, drawn, truth)
    if not truth:
        return []
    if kind == "contours":
        return _contour_rows(chain, day, drawn, truth)
    return _dose_rows(judged, stage, day, drawn, truth)


def _motion_rows(
    chain: Chain, day: Member, drawn: Sequence[Mapping[str, Image]], truth: Mapping[str, Image]
) -> list[Row]:
    grid = coarser(grid_of(drawn[0][MOTION[0]]), GRID_MM)
    spacing = grid.spacing_mm
    own, rows = (day.name, day.patient, "motion"), []
    fields = [exponential(velocity_on(images, grid), spacing) for images in drawn]
    rows.append(Row(*own, "model", "folded voxels", float(np.mean([100 * folded(f, spacing) for f in fields])), "%"))
    if len(truth) == len(MOTION) and (body := _body(chain, day)) is not None:
        inside = resample(body, grid, 0.0).data[0] > 0.5
        true = exponential(velocity_on(truth, grid), spacing)
        for by, found in (("model", fields), (STILL, [torch.zeros_like(true)])):
            off = float(np.mean([float((f - true).norm(dim=1)[0][inside].mean()) for f in found]))
            rows.append(Row(*own, by, "target registration error", off, "mm"))
    return rows


def _body(chain: Chain, day: Member) -> Image | None:
    """Where the patient is on a CT of the day, or else of planning."""
    found = chain.images(day, ["CT", PLANNED + "CT"])
    ct = found.get("CT", found.get(PLANNED + "CT"))
    if ct is None:
        return None
    return replace(ct, data=torch.from_numpy(inside_body(ct.data[0].numpy()).astype(np.float32))[None])


def _contour_rows(
    chain: Chain, day: Member, drawn: Sequence[Mapping[str, Image]], truth: Mapping[str, Image]
) -> list[Row]:
    rows = []
    for name, true in truth.items():
        if name not in drawn[0]:
            continue
        before = resample(chain.images(day, [PLANNED + name])[PLANNED + name], grid_of(true), 0.0)
        for by, found in (("model", [images[name] for images in drawn]), (CONTOURS_AS_THEY_WERE, [before])):
            sums: dict[str, list[float]] = {}
            units: dict[str, str] = {}
            for one in found:
                for metric, (value, unit) in rows_of(mask_of(one), mask_of(true), spacing_mm=true.spacing_mm).items():
                    sums.setdefault(metric, []).append(value)
                    units[metric] = unit
            rows += [
                Row(day.name, day.patient, name, by, metric, float(np.mean(own)), units[metric])
                for metric, own in sums.items()
            ]
    return rows


def _dose_rows(
    judged: _Judged,
    stage: ComputedStage,
    day: Member,
    drawn: Sequence[Mapping[str, Image]],
    truth: Mapping[str, Image],
) -> list[Row]:
    computation = judged.chain.computations[stage.name]
    name = computation.makes()[0].name
    grid = coarser(grid_of(truth[name]), GRID_MM)
    spacing = grid.spacing_mm
    true = gray_of(resample(truth[name], grid, 0.0))
    mean = torch.stack([images[name].data for images in drawn]).mean(0)
    by = "model: mean of draws" if len(drawn) > 1 else "model"
    answers = {by: gray_of(resample(replace(drawn[0][name], data=mean), grid, 0.0))}
    before = planned_dose(judged.chain, day, judged.draws)
    if before is not None:
        answers[AS_IT_WAS] = gray_of(resample(computation.measured(before), grid, 0.0))
    own = (day.name, day.patient, name if computation.looks_back else TODAY)
    return [row for by, gray in answers.items() for row in same_dose_rows(own, by, gray, true, spacing)]
