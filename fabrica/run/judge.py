"""A trained stage judged on the patients of the test part: drawn, written, measured."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import io
from ..contracts import Codec, Family, Field, Job
from ..data.cohort import Member
from ..data.prepare import GridPreparation
from ..data.split import Split
from ..data.store import Layout, Prepared, Store, prepare_case, question_batch, to_device
from ..evaluate.honesty.ledger import Ledger
from ..evaluate.judging.outcomes import Answered, Question, case_rows, set_figures, write_answers
from ..evaluate.judging.paired import Answer, Competitors, StageEvidence, competitors_of, evaluate_case
from ..evaluate.judging.run_checks import check_distances, check_drawn, check_parts
from ..evaluate.report.pictures import Pictures
from ..evaluate.report.results import Cost, Report, StageResult
from ..evaluate.result import Measured
from ..evaluate.sets.gallery import Gallery
from ..evaluate.statistics import interval
from ..families import Fsq, density_of, words_of
from ..jobs import asks, reads
from ..jobs.imaging import stack_fields
from ..jobs.outcome import Outcome
from ..learning.loop import Trained
from ..networks.tiled import tiled
from ..recipe.values import EvaluatePlan, Recipe, Stage
from ..rng import Rng
from .costs import evaluations as count_evaluations
from .costs import with_evaluations
from .draw import draw, images_of
from .family import drawer
from .folder import draw_file, read_draws, versions
from .memory import window_that_fits
from .question import ROWS, Shown, crude_answers, questions, without

Say = Callable[[str], None]
COST_PICTURES = 60  # drawn again at every other cost, and kept in memory for it
FINDINGS = ("lesion",)  # read where a case has them: what is measured inside
COUNTS = (1, 2, 4, 8)  # evaluations that quality is measured at where a recipe names none
COST_SHARE = 0.2  # of the training's time that those may take


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


def judge_stage(
    recipe: Recipe, ready: Ready, trained: Trained, drawn_by: Family, folder: Path, say: Say, report: Report
) -> StageResult:
    """What a trained stage reaches on the test part; `drawn_by` is its family with guidance, sampler and number of evaluations."""

    def noted(text: str) -> None:
        say(text)
        report.remark(text)

    ledger = report.ledger or Ledger()
    check_parts(ledger, ready.stage.name, {part: {m.patient for m in own} for part, own in ready.split.parts.items()})
    report.ledger = ledger
    if isinstance(ready.job, Outcome):
        return _judge_outcome(recipe, ready, ready.job, trained, folder, say)
    if not asks(ready.job):
        report.not_evaluated.append(
            f"{ready.stage.name}: features have no truth. Use them: fabrica evaluate --embedding {folder.name}"
        )
        return _blank(ready.stage, trained)
    stage, job, family = ready.stage, ready.job, drawn_by
    fields = job.signature().x
    evidence = StageEvidence(
        stage.name, fields, reads(job), job.metrics + recipe.evaluate.metrics, recipe.evaluate.mask
    )
    competitors = competitors_of(ready.store, evidence)
    draws = 1 if stage.family.name == "regression" else recipe.evaluate.draws
    result = _blank(stage, trained)
    gallery = Gallery(_fewer(ready, recipe.evaluate.realism), ready.preparation.spacing_mm or (1.0, 1.0, 1.0))
    kept: list[_Asked] = []
    given_back = _GivenBack(ready, trained.family, recipe.evaluate.window)
    chances = _Chances(ready, trained.family, recipe.evaluate)
    extra = (*FINDINGS, *((recipe.evaluate.mask,) if recipe.evaluate.mask else ()))
    pictures = Pictures()
    for asked in _together(_asked(recipe, ready, folder, draws, extra)):
        started = time.perf_counter()
        shown = [Shown(one, k) for a in asked for k, one in enumerate(a.shown)]
        drawn = iter(draw(family, job, shown, ready.layout, recipe.seed, noted, recipe.evaluate.window))
        seconds = (time.perf_counter() - started) / len(shown)
        for a in asked:
            x = torch.stack([next(drawn) for _ in a.shown])
            _write_draws(folder, stage, a.name, x, a.case, ready.preparation)
            answer = Answer(x, seconds, a.hidden, crude_answers(job, Shown(a.shown[0]), ready.layout, recipe.seed))
            result.cases += evaluate_case(evidence, a.name, a.case, answer, competitors, ready.preparation)
            pictures.add(a.name, a.case, x, fields, reads(job), a.hidden)
            given_back.add(a.case)
            chances.add(a, say)
            _hang(gallery, job, a, x)
            if recipe.evaluate.evaluations != () and len(kept) < _fewer(ready, COST_PICTURES):
                kept.append(replace(a, shown=a.shown[:1]))
        names = f"{asked[0].name} to {asked[-1].name}" if len(asked) > 1 else asked[0].name
        say(f"{stage.name}: {names} drawn {len(asked[0].shown)} times, {seconds:.1f} s a draw.")
    result.pictures = pictures.rows
    result.figures = given_back.figures() + chances.figures()
    _judge_set(recipe, ready, gallery, result, report)
    check_drawn(ledger, gallery.drawn, gallery.real, bool(reads(job)))
    check_distances(ledger, result.realism)
    ask = _Asking(recipe, ready, evidence, competitors, gallery, noted)
    result.costs = _costs(ask, family, kept, trained.seconds, result, report)
    return result


def _costs(
    ask: _Asking, family: Family, kept: Sequence[_Asked], trained_seconds: float, result: StageResult, report: Report
) -> list[Cost]:
    """The same cases by number of evaluations; as the recipe draws comes last, and stays. A family without steps has one row."""
    counts, plan = ask.recipe.evaluate.evaluations, ask.recipe.evaluate
    if counts == () or not kept:
        return []
    if counts is None:
        counts, most = _affordable(ask, family, kept, COST_SHARE * trained_seconds, result)
        if not most:
            report.not_evaluated.append(
                f"{ask.ready.stage.name}: quality with fewer evaluations would take more than a fifth of the training's time. "
                "Ask for it: evaluate: {evaluations: [1, 2, 4, 8]}"
            )
            return []
        kept, ask = kept[:most], replace(ask, recipe=replace(ask.recipe, evaluate=replace(plan, evaluations=counts)))
    known = {c.evaluations: c for c in (ask.cost(family, kept, n) for n in (*counts, 0)) if c is not None}
    return [known[n] for n in sorted(known)]


def _affordable(
    ask: _Asking, family: Family, kept: Sequence[_Asked], seconds: float, result: StageResult
) -> tuple[tuple[int, ...], int]:
    """(numbers of evaluations, cases) that such a time suffices for, by what draws have taken."""
    own = ask.calls(family, kept)
    draw_seconds = statistics.median(float(r.value) for r in result.cases if r.metric == "seconds a draw")
    counts = tuple(n for n in COUNTS if n < own and with_evaluations(family, n) is not None)
    a_case = draw_seconds * (sum(counts) + own) / own
    return counts, min(len(kept), int(seconds / max(a_case, 1e-9)))


class _GivenBack:
    """What a codec gives back of the test part's images, and how many of its words they use; nothing of other families."""

    def __init__(self, ready: Ready, family: Family, window: Sequence[int] | None) -> None:
        self.ready, self.codec, self.window = ready, family if isinstance(family, Codec) else None, window
        self.errors: list[float] = []
        self.patients: list[str] = []
        self.tokens: list[Tensor] = []

    @torch.inference_mode()
    def add(self, case: Prepared) -> None:
        fields, layout = self.ready.job.signature().x, self.ready.layout
        if self.codec is None or any(f.name not in case.tensors for f in fields):
            return
        batch = to_device(question_batch(case, layout), next(self.codec.parameters()).device)
        x = stack_fields(fields, batch)
        asked = self.ready.job.question(batch, Rng(range(len(batch.cases))))
        with tiled(self.codec.eval(), self.window or window_that_fits(self.codec, asked)):
            back = self.codec.decode(self.codec.encode(x), asked.condition)
            tokens = self.codec.tokens(x).flatten().cpu() if isinstance(self.codec, Fsq) else None
        self.errors.append(float((back - x).square().mean().sqrt()))
        self.patients.append(case.case.patient)
        if tokens is not None:
            self.tokens.append(tokens)

    def figures(self) -> list[Measured]:
        if not self.errors:
            return []
        name, found = self.ready.stage.name, interval(self.errors, self.patients)
        what, how = "images given back: root mean square error", f"of the model's scale; {found.convention}"
        figures = [Measured(name, "model", what, found.value, found.interval, found.n, how)]
        if isinstance(self.codec, Fsq):
            share, perplexity = self.codec.used(torch.cat(self.tokens))
            how = f"{self.codec.levels.size} words; perplexity {perplexity:.1f}"
            figures.append(Measured(name, "model", "share of the words in use", share, None, found.n, how))
        return figures


class _Chances:
    """How likely a family that knows chances finds the truth of some test cases; nothing of other families."""

    def __init__(self, ready: Ready, family: Family, plan: EvaluatePlan) -> None:
        self.ready, self.cases, self.window = ready, plan.likelihood, plan.window
        self.family = None if density_of(family) is None else family.eval()
        self.found: list[tuple[str, float]] = []
        self.how = ""

    def add(self, asked: _Asked, say: Say) -> None:
        fields, layout = self.ready.job.signature().x, self.ready.layout
        if (
            self.family is None
            or len(self.found) >= self.cases
            or any(f.name not in asked.case.tensors for f in fields)
        ):
            return
        device = next(self.family.parameters()).device
        x = stack_fields(fields, to_device(question_batch(asked.case, layout), device))
        shown = to_device(question_batch(asked.shown[0], layout), device)
        problem = self.ready.job.question(shown, Rng(range(len(shown.cases))))
        with tiled(self.family, self.window or window_that_fits(self.family, problem)):
            words = words_of(self.family, x, problem.condition, [f.channels for f in fields])
            say(f"{self.ready.stage.name}: the chances of {asked.name} take {words.count} evaluations of the network.")
            self.found.append((asked.case.case.patient, float(words.nats().mean()) / words.count))
        self.how = f"{words.count} words a case; guessing evenly: {words.guessing / words.count:.3f}"

    def figures(self) -> list[Measured]:
        if not self.found:
            return []
        found = interval([nats for _, nats in self.found], [patient for patient, _ in self.found])
        what, how = "surprise at the truth (nats a word)", f"{self.how}; {found.convention}"
        return [Measured(self.ready.stage.name, "model", what, found.value, found.interval, found.n, how)]


def _fewer(ready: Ready, pictures: int) -> int:
    """How many cases to keep where so many pictures would be: of volumes fewer."""
    single = ready.layout.axes == "yx" and ready.preparation.size[0] == 1
    return pictures if single else pictures * 2 // 5


def _pictured(job: Job) -> tuple[Field, int] | None:
    """The first image that is asked for, and its channel: what sets are compared by."""
    start = 0
    for f in job.signature().x:
        if f.kind == "intensity":
            return f, start
        start += f.channels
    return None


def _hang(gallery: Gallery, job: Job, asked: _Asked, x: Tensor) -> None:
    if (found := _pictured(job)) is None:
        return
    shown, channel = found
    truth = asked.case.tensors.get(shown.name)
    known = {n: v for n, v in asked.case.case.values.items() if n in {f.name for f in job.signature().condition}}
    drawn, patient = x[0, channel].numpy(), asked.case.case.patient
    gallery.add(asked.name, patient, drawn, None if truth is None else truth[0].numpy(), known)
    for mask in _masks(job):
        if mask in asked.shown[0].tensors:  # not where the question hides it
            gallery.add_mask(mask, patient, drawn, asked.shown[0].tensors[mask][0].numpy(), drawn=True)


def _judge_set(recipe: Recipe, ready: Ready, gallery: Gallery, result: StageResult, report: Report) -> None:
    """Tier 2 of a stage: realism, and adherence to the values that were asked for."""
    if (found := _pictured(ready.job)) is None or not gallery.most:
        return
    name = found[0].name
    given = ready.job.signature().condition
    values = [f for f in given if f.kind in ("class", "number", "embedding") and f.name != "position"]
    known = {f.name: f.channels if f.kind == "embedding" else None for f in values}
    gallery.add_training(
        (e.name, e.patient, ready.store.array(e, name)[0], {n: v for n, v in e.values.items() if n in known})
        for e in ready.store.entries if name in e.files
    )  # fmt: skip
    for mask in _masks(ready.job):
        for e in ready.store.entries:
            if name in e.files and mask in e.files:
                gallery.add_mask(
                    mask, e.patient, ready.store.array(e, name)[0], ready.store.array(e, mask)[0], drawn=False
                )
    result.realism, missing = gallery.realism(recipe.seed)
    result.adherence, more = gallery.adherence(known, recipe.seed)
    by_masks, most = gallery.mask_adherence(recipe.seed)
    result.adherence += by_masks
    report.not_evaluated += [f"{ready.stage.name}: {line}" for line in (*missing, *more, *most)]


def _masks(job: Job) -> list[str]:
    """Masks that an image is drawn around."""
    return [f.name.removeprefix("given ") for f in job.signature().condition if f.kind == "label"]


@dataclass
class _Asking:
    """What is needed to draw the same cases again at another cost."""

    recipe: Recipe
    ready: Ready
    evidence: StageEvidence
    competitors: Competitors
    gallery: Gallery
    say: Say

    def cost(self, family: Family, kept: Sequence[_Asked], evaluations: int) -> Cost | None:
        """Quality at about so many evaluations; 0: as the recipe draws. None where nothing was asked or nothing can be changed."""
        plan, job = self.recipe.evaluate, self.ready.job
        told = with_evaluations(family, evaluations) if evaluations else family
        if plan.evaluations == () or told is None or not kept:
            return None
        calls = self.calls(told, kept)
        started, shown = time.perf_counter(), [Shown(a.shown[0]) for a in kept]
        drawn = draw(told, job, shown, self.ready.layout, self.recipe.seed, self.say, plan.window)
        seconds = (time.perf_counter() - started) / len(drawn)
        return Cost(
            calls, seconds, len(kept), {**self._paired(kept, drawn), **self._as_set(kept, drawn)}, own=not evaluations
        )

    def calls(self, family: Family, kept: Sequence[_Asked]) -> int:
        """Evaluations of the network for a draw."""
        batch = question_batch(kept[0].shown[0], self.ready.layout)
        problem = self.ready.job.question(
            to_device(batch, next(family.parameters()).device), Rng(range(len(batch.cases)))
        )
        return count_evaluations(family.eval(), problem)

    def _paired(self, kept: Sequence[_Asked], drawn: Sequence[Tensor]) -> dict[str, float]:
        found: dict[str, list[float]] = {}
        for a, x in zip(kept, drawn, strict=True):
            answer = Answer(x[None], hidden=a.hidden)
            rows = evaluate_case(self.evidence, a.name, a.case, answer, self.competitors, self.ready.preparation)
            for r in rows:
                if r.by == "model" and r.metric in self.evidence.metrics and not isinstance(r.value, str):
                    found.setdefault(r.metric, []).append(r.value)
        return {metric: sum(values) / len(values) for metric, values in found.items()}

    def _as_set(self, kept: Sequence[_Asked], drawn: Sequence[Tensor]) -> dict[str, float]:
        twin = Gallery(self.gallery.most, self.gallery.spacing_mm, real=self.gallery.real)
        for a, x in zip(kept, drawn, strict=True):
            if (found := _pictured(self.ready.job)) is not None:
                twin.add(a.name, a.case.case.patient, x[found[1]].numpy(), None, {})
        return twin.distances(twin.drawn)


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
    write_answers(folder / "answers" / f"{stage.name}.csv", question, found)
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
