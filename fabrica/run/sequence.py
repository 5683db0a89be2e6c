"""Where the nouns meet: find, split, prepare, train, draw, measure, write. Public as `fabrica.run_recipe` and others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ..contracts import Family
from ..data import cohort as cohorts
from ..data.cohort import Cohort, unreadable
from ..evaluate.judging.run_checks import conclude
from ..evaluate.report.page import render
from ..evaluate.report.results import Report
from ..learning.loop import Progress, Trained
from ..machine.device import find_device
from ..machine.processes import Processes, joined
from ..recipe.checks import from_plain
from ..recipe.values import Recipe, Stage
from .costs import Choice, told
from .evaluations import chosen
from .family import drawer
from .folder import common_folder, write_environment, write_recipe
from .forecast import foretell_time, refuse_early
from .judge import Ready, judge_stage
from .prepare import prepare_stage
from .train import train_stage

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
    watch: Callable[[str, Progress], None] | None = None, runs: Path = Path("runs"), device: str = "auto",
) -> RunResult:  # fmt: skip
    """Run every stage of a checked recipe, or go on with the run in `folder`; returns where the report lies.

    `device` is auto (a CUDA card where there is one), cpu or cuda. Raises RecipeError, MemoryShortage, UnreadableError,
    LeakError, TrainingError, CheckpointError; Interrupted on Ctrl-C.
    """
    with joined() as processes:
        folder = folder or common_folder(runs, processes)
        quiet = say if processes.first else _silent
        with_bar = watch if processes.first else None
        report = _run_stages(recipe, folder, only, quiet, with_bar, processes, find_device(device))
        if processes.first:
            render(report, folder / "report")
        processes.wait()
    return RunResult(folder, report)


def _silent(text: str) -> None:
    """What the processes after the first say."""


def _run_stages(
    recipe: Recipe, folder: Path, only: str | None, say: Say, watch: Callable[[str, Progress], None] | None,
    processes: Processes, device: str,
) -> Report:  # fmt: skip
    if processes.first:
        write_recipe(folder, recipe)
    data = {name: find_cohort(recipe, name) for name in recipe.cohorts}
    report = Report.start(recipe.plain(), str(folder.name))
    for name, cohort in data.items():
        report.add_cohort(name, cohort)
        for line in unreadable(cohort):
            say(line)
    asked = [s for s in recipe.stages if only in (None, s.name)]
    if not asked:
        raise ValueError(f"There is no stage {only!r}. Stages: {', '.join(s.name for s in recipe.stages)}.")
    prepared: list[Ready] = []
    store = folder / "store" if processes.first else folder / "store" / f"process-{processes.rank}"
    for stage in asked:
        twin = next((p for p in prepared if _same_preparation(p.stage, stage)), None)
        prepared.append(replace(twin, stage=stage) if twin else prepare_stage(recipe, stage, data, store, say, report))
    if processes.first:
        write_environment(folder, recipe, {r.stage.name: r.store.digest() for r in prepared})
    refuse_early(recipe, prepared, folder, device)
    foretell_time(recipe, prepared, folder, device, say)
    for ready in prepared:
        trained = train_stage(recipe, ready, folder, say, watch, device)
        if processes.first:
            report.stages.append(
                judge_stage(
                    recipe, ready, trained, _told(recipe, ready, trained, folder, say, report), folder, say, report
                )
            )
        processes.wait()
    conclude(report)
    return report


def _told(recipe: Recipe, ready: Ready, trained: Trained, folder: Path, say: Say, report: Report) -> Family:
    """The family as it draws: with guidance, sampler, and as many evaluations as validation patients show to be enough."""
    choice = chosen(ready, trained.family, ready.stage.home(folder), trained.seconds, recipe.seed)
    if choice is not None:
        words = choice.in_words(ready.stage.name) if isinstance(choice, Choice) else choice
        say(words)
        report.remark(words)
    return told(drawer(ready.stage, trained.family), choice)


def _same_preparation(one: Stage, other: Stage) -> bool:
    """A model and its baseline see the same patients on the same grid: prepared once."""
    parts = [(s.job, s.cohorts, s.prepare, s.input, s.trained) for s in (one, other)]
    return parts[0] == parts[1]


def continue_run(folder: Path, **options: Any) -> RunResult:
    """Go on with a run where it stopped; raises RecipeError when the folder is not a run."""
    plain = yaml.safe_load((folder / "recipe.yaml").read_text()) if (folder / "recipe.yaml").is_file() else None
    if plain is None:
        raise ValueError(f"{folder} is not a run: it holds no recipe.yaml. Start one: fabrica run RECIPE")
    return run_recipe(from_plain(plain, str(folder / "recipe.yaml")), folder, **options)


def find_cohort(recipe: Recipe, name: str) -> Cohort:
    """The members of a named cohort: scanned from its folder, or planned by the simulator."""
    plan = recipe.cohorts[name]
    found = plan.virtual.cohort() if plan.virtual else cohorts.find(plan.path or Path(), plan.table, plan.units)
    return replace(found, name=name)


__all__ = ["RunResult", "continue_run", "generate_images", "run_recipe"]
