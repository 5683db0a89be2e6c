"""A trained stage judged on the patients of the test part: drawn, written, measured."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import io
from .contracts import Job
from .data.cohort import Member
from .data.prepare import GridPreparation
from .data.split import Split
from .data.store import Layout, Prepared, Store, prepare_case
from .drawing import ROWS, Shown, draw, draw_file, drawer, images_of, questions, read_draws, versions, without
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
    fields = job.signature().x
    evidence = StageEvidence(
        stage.name, fields, reads(job), job.metrics + recipe.evaluate.metrics, recipe.evaluate.mask
    )
    competitors = competitors_of(ready.store, evidence)
    draws = 1 if stage.family.name == "regression" else recipe.evaluate.draws
    result = _blank(stage, trained)
    extra = ("lesion", *((recipe.evaluate.mask,) if recipe.evaluate.mask else ()))
    pictures = Pictures()
    for asked in _together(_asked(recipe, ready, folder, draws, extra)):
        started = time.perf_counter()
        shown = [Shown(one, k) for a in asked for k, one in enumerate(a.shown)]
        drawn = iter(draw(family, job, shown, ready.layout, recipe.seed, noted, recipe.evaluate.window))
        seconds = (time.perf_counter() - started) / len(shown)
        for a in asked:
            x = torch.stack([next(drawn) for _ in a.shown])
            _write_draws(folder, stage, a.name, x, a.case, ready.preparation)
            result.cases += evaluate_case(
                evidence, a.name, a.case, x, competitors, ready.preparation, seconds, a.hidden
            )
            pictures.add(a.name, a.case, x, fields, reads(job), a.hidden)
        names = f"{asked[0].name} to {asked[-1].name}" if len(asked) > 1 else asked[0].name
        say(f"{stage.name}: {names} drawn {len(asked[0].shown)} times, {seconds:.1f} s a draw.")
    result.pictures = pictures.rows
    return result


@dataclass(frozen=True)
class _Asked:
    """One question about a case of the test part, and how the case is shown for each draw."""

    name: str
    case: Prepared
    hidden: str
    shown: list[Prepared]


def _asked(recipe: Recipe, ready: Ready, folder: Path, draws: int, extra: Sequence[str]) -> Iterator[_Asked]:
    stage = ready.stage
    for member in ready.split.parts["test"]:
        members = _with_input(recipe, stage, member, folder)
        wanted = (*ready.layout.contrasts, *extra)
        cases = [prepare_case(m, wanted, ready.reference, ready.preparation) for m in members]
        count = max(draws, len(cases)) if stage.input and stage.input.draws == "all" else draws
        for hidden in questions(ready.job, cases[0]):
            shown = [without(c, hidden) for c in cases]
            name = f"{member.name}{'-' + hidden if hidden else ''}"
            yield _Asked(name, cases[0], hidden, [shown[k % len(shown)] for k in range(count)])


def _together(asked: Iterable[_Asked]) -> Iterator[list[_Asked]]:
    """Questions about pictures come together, as many as one batch draws; volumes come alone."""
    group: list[_Asked] = []
    for one in asked:
        if group and (one.case.grid.shape[0] > 1 or sum(len(a.shown) for a in (*group, one)) > ROWS):
            yield group
            group = []
        group.append(one)
    if group:
        yield group


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
    found, test = [], ready.split.parts["test"]
    for start in range(0, len(test), ROWS):
        asked = [(m, _answers_asked(recipe, ready, m, folder)) for m in test[start : start + ROWS]]
        drawn = iter(draw(family, job, [s for _, shown in asked for s in shown], ready.layout, recipe.seed, say))
        for member, shown in asked:
            x = torch.stack([next(drawn) for _ in shown]).mean(0).double().numpy()
            found.append(Answered(member.name, member.patient, job.encoded(member.values), job.in_units(x)))
    result.cases, result.figures = case_rows(question, found), set_figures(stage.name, question, found)
    say(f"{stage.name}: {len(found)} cases answered.")
    return result


def _answers_asked(recipe: Recipe, ready: Ready, member: Member, folder: Path) -> list[Shown]:
    cases = [
        prepare_case(m, ready.layout.contrasts, ready.reference, ready.preparation)
        for m in _with_input(recipe, ready.stage, member, folder)
    ]
    count = 1 if ready.stage.family.name == "regression" else recipe.evaluate.draws
    return [Shown(cases[k % len(cases)], k) for k in range(max(count, len(cases)))]


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
