"""A trained stage judged on the patients of the test part: drawn, written, measured."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..contracts import Family, Field, Matcher
from ..data.store import Store
from ..evaluate.honesty.ledger import Ledger
from ..evaluate.judging.constraints import Constraint
from ..evaluate.judging.outcomes import Answered, Question, case_rows, set_figures, write_answers
from ..evaluate.judging.paired import Answer, StageEvidence, competitors_of, evaluate_case
from ..evaluate.judging.planned import pooled
from ..evaluate.judging.run_checks import check_distances, check_drawn, check_parts
from ..evaluate.report.pictures import Beside, Pictures
from ..evaluate.report.results import Report, StageResult
from ..evaluate.result import Row
from ..evaluate.sets.gallery import Gallery
from ..learning.loop import Trained
from ..safeguards.agreement import shared_detail
from .cases import answers_of, write_draws
from .coverage import Coverage
from .draw import draw
from .films import judge_films, shown_moving
from .judge_anomalies import judge_anomalies
from .judge_changes import judge_changes
from .judge_courses import judge_courses
from .judge_directions import judge_directions
from .judge_features import judge_features
from .known import Chances, GivenBack
from .lesion_test import lesion_figures
from .motion import motion_rows
from .quality import COST_PICTURES, Trial, costs_of
from .question import (
    EDGES,
    ROWS,
    Asked,
    Shown,
    data_answers,
    invented,
    misfit,
    question_of,
    questions,
    residual,
    whole_answer,
    without,
)
from .sites import Sites
from .stage import PreparedStage, draws_of, pictured
from .treatment import treatment_figures
from .wording import words_obeyed

Say = Callable[[str], None]
SIMULATED = (  # check 15
    "what was measured is simulated from finished images, which lack what raw data hold: errors come out too small for "
    "every method (Shimron et al. 2022)."
)
FINDINGS = ("lesion",)  # read where a case has them: what is measured inside


def judge_stage(ready: PreparedStage, trained: Trained, drawn_by: Family, say: Say, report: Report) -> StageResult:
    """What a trained stage reaches on the test part; `drawn_by` is its family with guidance, sampler and number of
    evaluations.
    """
    ledger = report.ledger or Ledger()
    check_parts(ledger, ready.name, {part: {m.patient for m in own} for part, own in ready.split.parts.items()})
    report.ledger = ledger
    if ready.job.answer == "value":
        return _judge_values(ready, trained, drawn_by, say)
    if ready.job.answer == "course":
        return judge_courses(ready, drawn_by, _blank(ready, trained), say, report)
    if ready.job.answer == "twin":
        return judge_anomalies(ready, drawn_by, _blank(ready, trained), say, report)
    if ready.job.answer == "change":
        return judge_changes(ready, drawn_by, _blank(ready, trained), say, report)
    if ready.job.answer == "parts":
        return judge_directions(ready, drawn_by, _blank(ready, trained), say)
    if ready.job.answer == "film":
        return judge_films(ready, drawn_by, _blank(ready, trained), say)
    if ready.job.answer == "features" and isinstance(drawn_by, Matcher) and ready.layout.words:
        return judge_features(ready, drawn_by, _blank(ready, trained), say)
    if ready.job.answer == "features":
        use = f"fabrica evaluate --embedding {ready.run.name}"
        report.not_evaluated.append(f"{ready.name}: features have no truth. Use them: {use}")
        return _blank(ready, trained)
    return _judge_images(ready, trained, drawn_by, say, report)


def evidence_of(ready: PreparedStage) -> StageEvidence:
    """What a stage is measured with."""
    plan, signature, job = ready.evaluate, ready.signature, ready.job
    return StageEvidence(
        ready.name,
        signature.x,
        signature.given,
        job.metrics + plan.metrics,
        plan.mask,
        job.competitors,
        plan.dose,
        [Constraint.of(text) for text in plan.constraints],
    )


def _judge_images(ready: PreparedStage, trained: Trained, family: Family, say: Say, report: Report) -> StageResult:
    def noted(text: str) -> None:
        say(text)
        report.remark(text)

    plan, evidence, result = ready.evaluate, evidence_of(ready), _blank(ready, trained)
    if plan.dose is not None and any(f.unit == "HU" for f in ready.signature.x):
        noted(f"{ready.name}: {plan.dose.words()}")
    competitors = competitors_of(ready.store, evidence)
    gallery = Gallery(_fewer(ready, plan.realism), ready.preparation.spacing_mm or (1.0, 1.0, 1.0))
    kept: list[Asked] = []
    given_back, chances, pictures = GivenBack(ready, trained.family), Chances(ready, trained.family), Pictures()
    coverage, sites = Coverage(ready, family, noted), Sites(ready)
    extra = (*FINDINGS, *ready.job.judged_with, *((plan.mask,) if plan.mask else ()))
    for asked in _together(_asked(ready, draws_of(ready, family), extra)):
        started = time.perf_counter()
        shown = [Shown(one, k) for a in asked for k, one in enumerate(a.shown)]
        drawn = iter(draw(family, ready.job, shown, ready.layout, ready.seed, noted, plan.windows))
        seconds = (time.perf_counter() - started) / len(shown)
        for a in asked:
            x = torch.stack([next(drawn) for _ in a.shown])
            write_draws(ready, a.name, a.case, x)
            data = _by_the_data(ready, a, x)
            if ready.job.moves is not None:
                rows, beside = motion_rows(ready, a.case, x)
                data = replace(data, rows=[*data.rows, *rows], shown={**data.shown, **beside})
            if data.abstained:
                say(f"{ready.name}: {a.name}: {data.abstained}.")
                report.abstained.append(f"{ready.name}: {a.name}: {data.abstained}.")
            if ready.signature.measurements and report.ledger is not None:
                report.ledger.looked.add(15)
                if not a.case.measurements:
                    report.ledger.trigger(15, f"{ready.name}: {SIMULATED}")
            answer = Answer(x, seconds, a.hidden, data.crude)
            result.cases += evaluate_case(evidence, a.name, a.case, answer, competitors, ready.preparation)
            result.cases += data.rows
            result.cases += words_obeyed(ready, a.case, x)
            pictures.add(a.name, a.case, x, ready.signature.x, ready.signature.given, a.hidden, data.crude, data.shown)
            rows, shown_too = coverage.judged(a, x)
            result.cases += rows
            pictures.append(a.name, shown_too + shown_moving(ready, a.case, x))
            given_back.add(a.case)
            sites.add(a, x)
            chances.add(a, say)
            _hang(gallery, ready, a, x)
            if plan.evaluations != () and len(kept) < _fewer(ready, COST_PICTURES):
                kept.append(replace(a, shown=a.shown[:1]))
        names = f"{asked[0].name} to {asked[-1].name}" if len(asked) > 1 else asked[0].name
        say(f"{ready.name}: {names} drawn {len(asked[0].shown)} times, {seconds:.1f} s a draw.")
    result.pictures = pictures.rows
    result.figures = given_back.figures() + chances.figures() + coverage.figures() + sites.figures()
    result.figures += treatment_figures(ready, family, say)
    result.figures += pooled(ready.name, result.cases)
    lesions = lesion_figures(ready, family, say)
    if plan.lesions is not None and not lesions:
        report.not_evaluated.append(f"{ready.name}: lesions need test images that what is measured can be made of.")
    result.figures += lesions
    _judge_set(ready, gallery, result, report)
    trial = Trial(ready, plan, evidence, competitors, gallery, noted)
    spent = 0.0 if ready.stage.trained else trained.seconds  # by this run
    result.costs = costs_of(trial, family, kept, spent, result, report)
    return result


@dataclass(frozen=True)
class _ByTheData:
    """What measurements say of a case: answers without a model, figures, and pictures of what is left and decided."""

    crude: Mapping[str, Tensor]
    rows: Sequence[Row] = ()
    shown: Mapping[str, Beside] = field(default_factory=dict)
    abstained: str = ""


def _by_the_data(ready: PreparedStage, asked: Asked, x: Tensor) -> _ByTheData:
    """x (draws, C, z, y, x) held against what was measured of the case; plain rivals where nothing was."""
    problem = question_of(ready.job, [Shown(asked.shown[0])], ready.layout, ready.seed, torch.device("cpu"))
    rivals = {name: whole_answer(one.float(), ready.layout) for name, one in ready.job.rivals(problem).items()}
    if not ready.signature.measurements:
        return _ByTheData(rivals)
    crude = rivals | data_answers(problem, ready.layout)
    one, mean = "model: one draw" if len(x) > 1 else "model", {"model: mean of draws": x.mean(0)} if len(x) > 1 else {}
    own = (asked.name, asked.case.case.patient, ready.signature.x[0].name)
    rows = [
        Row(*own, by, f"misfit of {name}", value)
        for by, answer in ({one: x[0]} | mean | crude).items()
        for name, value in misfit(problem, answer, ready.layout).items()
    ]
    found = invented(problem, x[0], ready.layout, crude.get(EDGES))
    rows += [Row(*own, one, name, value) for name, value in found.figures.items()]
    shown = {"decided by the prior, not by data": Beside(found.decided)} if found.decided is not None else {}
    if (left := residual(problem, x.mean(0), ready.layout)) is not None:
        shown["data unexplained by the mean"] = Beside(left)
    pixel, unit = _pixel_of(asked)
    if (agreed := _agreed(ready, x, pixel)) is not None:
        rows.append(Row(*own, "model: all draws", "finest detail that they share", agreed[1], unit))
        shown[f"detail that draws share ({unit})"] = Beside(agreed[0], 0.0, 8 * pixel, "heat")
    return _ByTheData(crude, rows, shown, found.abstained)


def _pixel_of(asked: Asked) -> tuple[float, str]:
    """The side of a pixel and its unit: mm where what was measured says so."""
    case = asked.case
    raw = [m.affine is not None for m in case.measurements.values()]
    stated = all(raw) if raw else all(trace.like.calibrated for trace in case.traces.values())
    return (float(case.grid.affine[:3, 1].norm()), "mm") if stated else (1.0, "pixel")


def _agreed(ready: PreparedStage, x: Tensor, pixel: float) -> tuple[Tensor, float] | None:
    """Of slices of which there are several draws: the map (1, z, y, x) and the median of the finest shared detail."""
    if ready.layout.axes != "yx":
        return None
    slices = [shared_detail(x[:, 0, z].float(), pixel) for z in range(x.shape[2])]
    known = [one for one in slices if one is not None]
    if not known:
        return None
    blank = torch.full(x.shape[-2:], torch.nan)
    maps = torch.stack([blank if one is None else one.map for one in slices])[None]
    return maps, sum(one.median for one in known) / len(known)


def _fewer(ready: PreparedStage, pictures: int) -> int:
    """How many cases to keep where so many pictures would be: of volumes fewer."""
    return pictures if ready.pictures else pictures * 2 // 5


def _hang(gallery: Gallery, ready: PreparedStage, asked: Asked, x: Tensor) -> None:
    if (found := pictured(ready)) is None:
        return
    shown, channel = found
    truth = asked.case.tensors.get(shown.name)
    known = {n: v for n, v in asked.case.case.values.items() if n in {f.name for f in ready.signature.condition}}
    drawn, patient = x[0, channel].numpy(), asked.case.case.patient
    true = None if truth is None else truth[shown.frames // 2].numpy()  # of a film its middle
    gallery.add(asked.name, patient, drawn, true, known)
    for mask in _masks(ready):
        if mask in asked.shown[0].tensors:  # not where the question hides it
            gallery.add_mask(mask, patient, drawn, asked.shown[0].tensors[mask][0].numpy(), drawn=True)


def _judge_set(ready: PreparedStage, gallery: Gallery, result: StageResult, report: Report) -> None:
    """Tier 2 of a stage: realism, and adherence to the values that were asked for; and what draws look like beside
    truths.
    """
    if (found := pictured(ready)) is not None and gallery.most:
        _compare_sets(ready, found[0], gallery, result, report)
    ledger = report.ledger or Ledger()
    check_drawn(ledger, gallery.drawn, gallery.real, bool(ready.signature.given))
    check_distances(ledger, result.realism)


def _compare_sets(ready: PreparedStage, shown: Field, gallery: Gallery, result: StageResult, report: Report) -> None:
    name, middle = shown.name, shown.frames // 2
    known = {f.name: f.channels if f.kind == "embedding" else None for f in ready.signature.values if f.kind != "token"}
    gallery.add_training(
        (e.name, e.patient, ready.store.array(e, name)[middle], {n: v for n, v in e.values.items() if n in known})
        for e in ready.store.entries if name in e.files
    )  # fmt: skip
    for mask in _masks(ready):
        for e in ready.store.entries:
            if name in e.files and mask in e.files:
                gallery.add_mask(
                    mask, e.patient, ready.store.array(e, name)[middle], ready.store.array(e, mask)[0], drawn=False
                )
    result.realism, missing = gallery.realism(ready.seed)
    result.adherence, more = gallery.adherence(known, ready.seed)
    by_masks, most = gallery.mask_adherence(ready.seed)
    result.adherence += by_masks
    report.not_evaluated += [f"{ready.name}: {line}" for line in (*missing, *more, *most)]


def _masks(ready: PreparedStage) -> list[str]:
    """Masks that an image is drawn around."""
    return [f.name for f in ready.signature.condition if f.kind == "label"]


def _asked(ready: PreparedStage, draws: int, extra: Sequence[str]) -> Iterator[Asked]:
    stage = ready.stage
    for member in ready.test:
        cases = ready.shown(member, extra)
        every = any(plan.draws == "all" for plan in stage.inputs.values())
        count = max(draws, len(cases)) if every else draws
        for hidden in questions(ready.job, cases[0]):
            shown = [without(c, hidden) for c in cases]
            name = f"{member.name}{'-' + hidden if hidden else ''}"
            yield Asked(name, cases[0], hidden, [shown[k % len(shown)] for k in range(count)])


def _together(asked: Iterable[Asked]) -> Iterator[list[Asked]]:
    """Questions about pictures come together, as many as one batch draws; volumes come alone."""
    group: list[Asked] = []
    for one in asked:
        if group and (one.case.grid.shape[0] > 1 or sum(len(a.shown) for a in (*group, one)) > ROWS):
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _blank(ready: PreparedStage, trained: Trained) -> StageResult:
    """What is known of a stage before it is judged."""
    stage = ready.stage
    plain: dict[str, Any] = json.loads(json.dumps(asdict(stage), default=str))
    return StageResult(
        stage.name, stage.job.name, stage.family.name, plain, trained.steps, trained.seconds, trained.curve
    )


def _judge_values(ready: PreparedStage, trained: Trained, family: Family, say: Say) -> StageResult:
    """The answer of every test case: rows per case, figures over patients."""
    (field,), result = ready.signature.x, _blank(ready, trained)
    question = Question(field.name, field.classes, field.unit, _usual(ready.store, field))
    found = [
        Answered(m.name, m.patient, field.encoded(m.values[field.name]), field.in_unit(x))
        for m, x in zip(ready.test, answers_of(ready, family, ready.test, say), strict=True)
    ]
    result.cases, result.figures = case_rows(question, found), set_figures(ready.name, question, found)
    write_answers(ready.run.path / "answers" / f"{ready.name}.csv", question, found)
    say(f"{ready.name}: {len(found)} cases answered.")
    return result


def _usual(store: Store, field: Field) -> float:
    """The commonest class or the mean number of the training cases."""
    known = [field.encoded(e.values[field.name]) for e in store.entries]
    return float(max(set(known), key=known.count)) if field.classes else float(sum(known) / len(known))
