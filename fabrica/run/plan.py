"""What a recipe will cost, measured before anything is trained: CPU-seconds, memory and disk of every stage, here and
on a cluster that somebody describes.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..contracts import Family
from ..data.store import Layout
from ..evaluate.judging.paired import Answer, competitors_of, evaluate_case
from ..evaluate.report.results import Report
from ..learning.loop import Progress, fit
from ..machine.device import find_device, free_bytes, in_words
from ..recipe.values import Recipe
from ..rng import derive
from .cluster import Cluster, best_interval
from .draw import draw
from .family import build_family, drawer
from .folder import RunFolder
from .forecast import BATCH, precision_of
from .judge import FINDINGS, evidence_of
from .memory import training_need
from .prepare import prepare_stage
from .question import Shown, questions
from .sequence import found_cohorts
from .stage import PreparedStage

Say = Callable[[str], None]
WARM, TIMED = 4, 8  # steps before those that are timed, and those
KEPT = 6  # numbers a weight has in a checkpoint: itself, its average, two moments of a training, and room
COPIES = 2  # checkpoints at a time while one is written


@dataclass(frozen=True)
class StagePlan:
    """What one stage takes here."""

    name: str
    parameters: int
    steps: int
    batch: int
    preparing_s: float  # CPU-seconds, as all that follow
    training_s: float
    drawing_s: float
    judging_s: float
    training_wall_s: float
    memory_bytes: int
    disk_bytes: int
    row_bytes: int = 0  # of memory_bytes, for each row of a batch

    @property
    def cpu_s(self) -> float:
        return self.preparing_s + self.training_s + self.drawing_s + self.judging_s


def plan_recipe(recipe: Recipe, *, device: str = "auto", say: Say = print) -> list[StagePlan]:
    """Prepares every stage in a folder that is thrown away, takes a few steps, draws and judges one case.

    Raises as a run does where data, recipe or memory do not allow it.
    """
    place = Path(tempfile.mkdtemp(prefix="fabrica-plan-"))
    try:
        run = RunFolder(place, recipe)
        report, cohorts, on = Report.start(recipe.plain(), "plan"), found_cohorts(recipe), find_device(device)
        found = []
        for stage in recipe.stages:
            if stage.inputs:
                say(f"{stage.name} reads what another stage draws: planned on its cohort's own images.")
            began = time.process_time()
            ready = prepare_stage(run, stage, cohorts, place / "store", _quiet, report)
            found.append(_planned(ready, time.process_time() - began, on))
            say(in_words_of(found[-1]))
        return found
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _planned(ready: PreparedStage, preparing: float, device: str) -> StagePlan:
    stage = ready.stage
    family = build_family(stage, ready.job, precision_of(stage, device), ready.run.recipe).to(device)
    parameters = sum(p.numel() for p in family.parameters())
    need = training_need(family, stage.training_job(), ready.store, ready.layout)
    batch = stage.train.batch or need.most_rows(free_bytes(device), BATCH) or 1
    cpu, wall = (0.0, 0.0) if stage.trained else _step(ready, family, batch, device)
    steps = 0 if stage.trained else stage.train.steps or round(60 * (stage.train.minutes or 0) / max(wall, 1e-9))
    drawing, judging, voxels = _drawn(ready, family, device)
    store = sum(f.stat().st_size for f in (ready.run.path / "store").rglob("*") if f.is_file())
    draws = len(ready.test) * ready.evaluate.draws * voxels * 2  # float32 that gzip halves
    disk = store + COPIES * KEPT * 4 * parameters + draws
    return StagePlan(
        ready.name, parameters, steps, batch, preparing, cpu * steps, drawing, judging, wall * steps,
        need.total(batch), disk, need.row
    )  # fmt: skip


def _step(ready: PreparedStage, family: Family, batch: int, device: str) -> tuple[float, float]:
    """(CPU-seconds, seconds) of a step of training, as training takes it; the median of those that are timed."""
    marks: list[tuple[float, float]] = []

    def watch(progress: Progress, average: Family) -> None:
        marks.append((time.process_time(), time.perf_counter()))

    layout: Layout = replace(ready.layout, augment=ready.stage.train.augment)
    loader = ready.loader(layout, batch, derive(ready.seed, "plan"))
    short = replace(
        ready.stage.train, steps=WARM + TIMED, minutes=None, batch=batch, start=None, rank=None, privacy=None
    )
    fit(family, ready.stage.training_job(), loader, short, ready.run.path / "steps" / ready.name, {}, watch, device)
    torch.manual_seed(derive(ready.seed, "weights", ready.name) % 2**32)
    each = [[b[k] - a[k] for a, b in zip(marks[WARM - 1 :], marks[WARM:], strict=False)] for k in (0, 1)]
    cpu, wall = (sum(one) / len(one) for one in each)
    return cpu, wall


def _drawn(ready: PreparedStage, family: Family, device: str) -> tuple[float, float, int]:
    """(CPU-seconds of all draws, of all judging, voxels of a draw), by one case."""
    if not ready.test or ready.job.answer != "image":
        return 0.0, 0.0, 0
    case, plan = ready.case(ready.test[0], FINDINGS), ready.evaluate
    drawn_by = drawer(ready.stage, family).eval()
    count = 1 if family.deterministic else plan.draws
    began = time.process_time()
    (x,) = draw(drawn_by, ready.job, [Shown(case)], ready.layout, ready.seed, _quiet, plan.windows)
    drawing = (time.process_time() - began) * count
    began = time.process_time()
    evidence = evidence_of(ready)
    answer = Answer(torch.stack([x] * count))
    evaluate_case(evidence, case.name, case, answer, competitors_of(ready.store, evidence), ready.preparation)
    judging = time.process_time() - began
    asked = len(ready.test) * len(questions(ready.job, case))
    return drawing * asked, judging * asked, x.numel()


def in_words_of(plan: StagePlan) -> str:
    """One line."""
    return (
        f"{plan.name}: {plan.parameters:,} parameters, {plan.steps:,} steps of {plan.batch}; CPU-seconds: preparing"
        f" {plan.preparing_s:.0f}, training {plan.training_s:.0f}, drawing {plan.drawing_s:.0f}, judging"
        f" {plan.judging_s:.0f}; memory {in_words(plan.memory_bytes)}, disk {in_words(plan.disk_bytes)}."
    )


def totals(plans: Sequence[StagePlan]) -> str:
    """All stages, one after the other."""
    cpu, wall = sum(p.cpu_s for p in plans), sum(p.training_wall_s for p in plans)
    memory, disk = max(p.memory_bytes for p in plans), sum(p.disk_bytes for p in plans)
    return (
        f"All: {cpu:.0f} CPU-seconds, of training {wall / 60:.1f} min here; memory {in_words(memory)}, disk"
        f" {in_words(disk)}."
    )


def on_cluster(plans: Sequence[StagePlan], cluster: Cluster) -> list[str]:
    """What each stage's training takes there, with failures and stragglers, and how often it should be saved."""
    lines = []
    for plan in plans:
        share = -(-plan.batch // cluster.workers)
        each = plan.memory_bytes - (plan.batch - share) * plan.row_bytes  # weights and their companions are everywhere
        if cluster.memory_gb and each > cluster.memory_gb * 1e9:
            lines.append(
                f"{plan.name}: {share} of {plan.batch} rows a worker do not fit into {cluster.memory_gb:g} GB."
            )
            continue
        if not plan.training_wall_s:
            lines.append(f"{plan.name}: nothing is trained.")
            continue
        work = cluster.work_s(plan.training_wall_s * share * cluster.workers / plan.batch)  # no row is shared out
        found = best_interval(cluster, work)
        saved = (
            f"saved every {found.interval_s / 60:.1f} min of work, {found.failures:.2f} failures"
            if found.interval_s < work
            else "saved at its end"
        )
        lines.append(
            f"{plan.name}: {found.seconds / 3600:.2f} h on {cluster.workers} workers ({work / 3600:.2f} h of work),"
            f" {saved}."
        )
    return lines


def plain(plans: Sequence[StagePlan]) -> list[dict[str, Any]]:
    """For a file."""
    return [{**asdict(p), "cpu_s": p.cpu_s} for p in plans]


def _quiet(text: str) -> None:
    """What preparing says is said by the run."""
