"""Where the nouns meet: find, split, prepare, train, draw, measure, write. Public as `fabrica.run_recipe` and
others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..contracts import Family
from ..data.cohort import Cohort, unreadable
from ..evaluate.judging.run_checks import conclude
from ..evaluate.report.page import render
from ..evaluate.report.results import Report
from ..learning.loop import Trained
from ..machine.device import find_device
from ..machine.folders import HELD, alone
from ..machine.processes import Processes, joined
from ..machine.stores import sent
from ..recipe.values import Recipe, Stage
from .costs import Choice, chosen_by
from .evaluations import chosen
from .family import drawer
from .folder import RunFolder, common_folder
from .forecast import foretell_time, refuse_early
from .journey import follow
from .judge import judge_stage
from .judge_computed import judge_computed
from .prepare import prepare_stage
from .private import promised
from .shift import keep_reference
from .stage import PreparedStage
from .train import Watch, train_stage

Say = Callable[[str], None]


@dataclass(frozen=True)
class RunResult:
    """Where a run lies and what it found."""

    folder: Path
    report: Report

    @property
    def page(self) -> Path:
        return self.folder / "report" / "index.html"


def run_recipe(
    recipe: Recipe, folder: Path | None = None, *, only: str | None = None, say: Say = print,
    watch: Watch | None = None, runs: Path = Path("runs"), device: str = "auto",
) -> RunResult:  # fmt: skip
    """Run every stage of a checked recipe, or go on with the run in `folder`; returns where the report lies.

    `device` is auto (a CUDA card where there is one), cpu or cuda. Raises RecipeError, MemoryShortage, UnreadableError,
    LeakError, TrainingError, CheckpointError; Interrupted on Ctrl-C.
    """
    with joined() as processes:
        run = RunFolder(folder or common_folder(runs, processes), recipe)
        quiet = say if processes.first else _silent
        with _undisturbed(run) if processes.first else nullcontext():
            report = _run_stages(run, only, quiet, watch if processes.first else None, processes, find_device(device))
            if processes.first:
                render(report, run.path / "report")
        processes.wait()
    return RunResult(run.path, report)


@contextmanager
def _undisturbed(run: RunFolder) -> Iterator[None]:
    """Raises ValueError where another process of this machine is running the same folder."""
    with alone(run.path / HELD) as ours:
        if not ours:
            raise ValueError(f"{run.path} is being run by another process. Wait for it, or stop it first.")
        yield


def _silent(text: str) -> None:
    """What the processes after the first say."""


def _run_stages(
    run: RunFolder, only: str | None, say: Say, watch: Watch | None, processes: Processes, device: str
) -> Report:
    if processes.first:
        run.write_recipe()
    report = Report.start(run.recipe.plain(), run.name)
    prepared = _prepared(run, only, say, report, processes)
    if processes.first:
        run.write_environment({r.name: r.store.digest() for r in prepared})
    prepared = refuse_early(prepared, device)
    foretell_time(prepared, device, say)
    recipe_stages = run.recipe.stages
    for ready in prepared:
        trained = train_stage(ready, say, watch, device)
        if processes.first:
            if ready.stage.trained is None:
                keep_reference(ready)
                report.remarks += promised(ready)
            report.stages.append(judge_stage(ready, trained, _told(ready, trained, say, report), say, report))
            if not _used(ready.stage, recipe_stages):
                follow(run, ready.test, ready.stage, report.stages[-1], device, say)
            sent(run.path, say)  # of a run in a store: whoever goes on elsewhere begins after this stage
        processes.wait()
    if processes.first:
        report.stages += judge_computed(run, found_cohorts(run.recipe), only, device, say, report)
    conclude(report)
    return report


def _used(stage: Stage, stages: Sequence[Stage]) -> bool:
    """Whether another stage takes what it draws."""
    return any(plan.stage == stage.name for s in stages for plan in s.inputs.values())


def _prepared(run: RunFolder, only: str | None, say: Say, report: Report, processes: Processes) -> list[PreparedStage]:
    """Every stage that is asked for; a model and its baseline share what was prepared."""
    recipe = run.recipe
    data = found_cohorts(recipe)
    for name, cohort in data.items():
        report.add_cohort(name, cohort)
        if cohort.looks_like:
            say(f"{name}: {cohort.looks_like}")
        for line in unreadable(cohort):
            say(line)
    asked = [s for s in recipe.stages if only in (None, s.name)]
    if not asked and not any(only in (None, s.name) for s in recipe.computed):
        known = ", ".join([*(s.name for s in recipe.stages), *(s.name for s in recipe.computed)])
        raise ValueError(f"There is no stage {only!r}. Stages: {known}.")
    store = run.path / "store"
    found: list[PreparedStage] = []
    for stage in asked:
        twin = next((p for p in found if _same_preparation(p.stage, stage)), None)
        found.append(
            replace(twin, stage=stage) if twin else prepare_stage(run, stage, data, store, say, report, processes)
        )
    return found


def _told(ready: PreparedStage, trained: Trained, say: Say, report: Report) -> Family:
    """The family as it draws: with guidance, sampler, and as many evaluations as validation patients show to be
    enough.
    """
    choice = chosen(ready, trained.family, trained.seconds)
    if choice is not None:
        words = choice.in_words(ready.name) if isinstance(choice, Choice) else choice
        say(words)
        report.remark(words)
    return chosen_by(drawer(ready.stage, trained.family), choice)


def _same_preparation(one: Stage, other: Stage) -> bool:
    """A model and its baseline see the same patients on the same grid: prepared once."""
    parts = [(s.job, s.cohorts, s.prepare, s.inputs, s.trained) for s in (one, other)]
    return parts[0] == parts[1]


def continue_run(folder: Path, **options: Any) -> RunResult:
    """Go on with a run where it stopped; raises ValueError when the folder is not a run."""
    return run_recipe(RunFolder.open(folder).recipe, folder, **options)


def found_cohorts(recipe: Recipe) -> dict[str, Cohort]:
    """Every cohort of a recipe by its name."""
    return {name: find_cohort(recipe, name) for name in recipe.cohorts}


def find_cohort(recipe: Recipe, name: str) -> Cohort:
    """The members of a named cohort: scanned from its folder, or planned by the simulator."""
    plan = recipe.cohorts[name]
    found = plan.find()
    return replace(found, name=name)


__all__ = ["RunResult", "continue_run", "run_recipe"]
