"""A trained stage judged on the patients of the test part: drawn, written, measured."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from . import io
from .contracts import Job
from .data.cohort import Member
from .data.prepare import GridPreparation
from .data.split import Split
from .data.store import Layout, Prepared, Store, prepare_case
from .drawing import draw, draw_file, drawer, images_of, questions, read_draws, versions, without
from .evaluate.outcomes import Answered, Question, case_rows, set_figures
from .evaluate.report import Report, StageResult
from .evaluate.summary import Pictures, StageEvidence, competitors_of, evaluate_case
from .jobs import asks, reads
from .jobs.outcome import Outcome
from .plan import Recipe, Stage
from .train import Trained

Say = Callable[[str], None]


@dataclass
class Ready:
    """What every stage needs before it can train."""

    stage: Stage
    job: Job
    split: Split
    reference: str
    preparation: GridPreparation
    store: Store
    layout: Layout


def judge_stage(recipe: Recipe, ready: Ready, trained: Trained, folder: Path, say: Say, report: Report) -> StageResult:
    def noted(text: str) -> None:
        say(text)
        report.remark(text)

    if isinstance(ready.job, Outcome):
        return _judge_outcome(recipe, ready, ready.job, trained, folder, say)
    if not asks(ready.job):
        report.not_evaluated.append(
            f"{ready.stage.name}: features have no truth. Use them: fabrica evaluate --embedding {folder.name}"
        )
        return _blank(ready.stage, trained)
    stage, job = ready.stage, ready.job
    family = drawer(stage, trained.family)
    fields, contrasts = job.signature().x, ready.layout.contrasts
    evidence = StageEvidence(
        stage.name, fields, reads(job), job.metrics + recipe.evaluate.metrics, recipe.evaluate.mask
    )
    competitors = competitors_of(ready.store, evidence)
    draws = 1 if stage.family.name == "regression" else recipe.evaluate.draws
    result = _blank(stage, trained)
    extra = ("lesion", *((recipe.evaluate.mask,) if recipe.evaluate.mask else ()))
    pictures = Pictures()
    for member in ready.split.parts["test"]:
        members = _with_input(recipe, stage, member, folder)
        cases = [prepare_case(m, (*contrasts, *extra), ready.reference, ready.preparation) for m in members]
        prepared = cases[0]
        count = max(draws, len(cases)) if stage.input and stage.input.draws == "all" else draws
        for hidden in questions(job, prepared):
            shown = [without(c, hidden) for c in cases]
            started = time.perf_counter()
            asked = [shown[k % len(shown)] for k in range(count)]
            x = draw(family, job, asked, ready.layout, recipe.seed, noted, recipe.evaluate.window)
            seconds = (time.perf_counter() - started) / count
            name = f"{member.name}{'-' + hidden if hidden else ''}"
            _write_draws(folder, stage, name, x, prepared, ready.preparation)
            result.cases += evaluate_case(evidence, name, prepared, x, competitors, ready.preparation, seconds, hidden)
            pictures.add(name, prepared, x, fields, reads(job), hidden)
        say(f"{stage.name}: {member.name} drawn {count} times, {seconds:.1f} s a draw.")
    result.pictures = pictures.rows
    return result


def _blank(stage: Stage, trained: Trained) -> StageResult:
    """What is known of a stage before it is judged."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(stage), default=str))
    return StageResult(
        stage.name, stage.job.name, stage.family.name, plain, trained.steps, trained.seconds, trained.curve
    )


def _judge_outcome(recipe: Recipe, ready: Ready, job: Outcome, trained: Trained, folder: Path, say: Say) -> StageResult:
    """The answer of every test case: rows per case, figures over patients."""
    stage = ready.stage
    family, result = drawer(stage, trained.family), _blank(stage, trained)
    question = Question(job.name, job.classes, job.unit, _usual(ready.store, job))
    found = []
    for member in ready.split.parts["test"]:
        cases = [
            prepare_case(m, ready.layout.contrasts, ready.reference, ready.preparation)
            for m in _with_input(recipe, stage, member, folder)
        ]
        count = 1 if stage.family.name == "regression" else recipe.evaluate.draws
        shown = [cases[k % len(cases)] for k in range(max(count, len(cases)))]
        x = draw(family, job, shown, ready.layout, recipe.seed, say).mean(0).double().numpy()
        found.append(Answered(member.name, member.patient, job.encoded(member.values), job.in_units(x)))
    result.cases, result.figures = case_rows(question, found), set_figures(stage.name, question, found)
    say(f"{stage.name}: {len(found)} cases answered.")
    return result


def _usual(store: Store, job: Outcome) -> float:
    """The commonest class or the mean number of the training cases."""
    known = [job.encoded(e.values) for e in store.entries]
    return float(max(set(known), key=known.count)) if job.classes else float(sum(known) / len(known))


def _with_input(recipe: Recipe, stage: Stage, member: Member, folder: Path) -> list[Member]:
    """The case as a stage is shown it: itself, or with what the earlier stage has drawn of it."""
    if stage.input is None:
        return [member]
    drawn = read_draws(folder, recipe.stage(stage.input.stage), member.name, reads(stage.build_job()))
    return versions(member, drawn, stage.input.draws)


def _write_draws(
    folder: Path, stage: Stage, case: str, x: Tensor, prepared: Prepared, preparation: GridPreparation
) -> None:
    fields = stage.build_job().signature().x
    for number, one in enumerate(x):
        source = f"{folder.name}/{stage.name}/{case}/{number}"
        for name, image in images_of(one, fields, prepared, preparation, source).items():
            io.write_nifti(image, draw_file(folder, stage, case, number, name))
