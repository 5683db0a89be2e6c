"""A stage that foretells courses until an event, judged beside those who know no images."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..contracts import Course, Family, Field, Scale, class_name
from ..data.cohort import Member
from ..data.simulated_events import TRUE
from ..evaluate.judging.courses import BY, Courses, Foretold, score_rows, set_figures, write_courses
from ..evaluate.metrics.survival import Hazard, breslow, chances, kaplan_meier, proportional_hazards
from ..evaluate.report.courses import drawing
from ..evaluate.report.results import Report, StageResult
from ..machine.device import writing
from .cases import answers_of
from .question import ROWS
from .stage import PreparedStage

Array = NDArray[np.float64]
BASELINE = "baseline.json"  # of a stage that gives log-risks: its cumulated hazard
USUAL, COVARIATES, TRUTH = "Kaplan-Meier of the training part", "covariates alone", "the true risk"
Say = Callable[[str], None]


def judge_courses(ready: PreparedStage, family: Family, result: StageResult, say: Say, report: Report) -> StageResult:
    """Scores of every test patient, figures over all of them, and their drawing."""
    course = ready.job.course
    assert course is not None  # what answers with courses
    if course.proportional:
        _tell_baseline(ready, family, course, say)
    test = _once(ready.test)
    if len(test) < len(ready.test):
        report.remark(f"{ready.name}: figures are over each patient's first visit.")
    x = answers_of(ready, family, test, say)
    seen = _seen(course, test)
    model = foretold(course, x, ready.home)
    answers = {BY: model, **_rivals(course, ready.signature.values, ready.split.parts["train"], test)}
    result.cases = score_rows(seen, answers)
    if all(TRUE in m.values for m in test):
        answers[TRUTH] = Foretold(np.array([float(m.values[TRUE]) for m in test]), model.survival)
    result.figures = set_figures(ready.name, seen, answers)
    write_courses(ready.run.path / "answers" / f"{ready.name}.csv", seen, model)
    if shown := drawing(seen, model):
        result.pictures = [{"case": f"{len(test)} patients", "slice": "", "panels": [], "drawing": shown}]
    say(f"{ready.name}: {len(test)} courses foretold.")
    return result


def foretold(course: Course, x: Array, home: Path) -> Foretold:
    """x (n, K) as a stage answers -> risks and chances. Raises ValueError where its baseline is missing."""
    if not course.proportional:
        risk = -np.log(chances(x, course.until, np.array([course.until]))[:, 0].clip(1e-12))
        return Foretold(risk, lambda when: chances(x, course.until, when))
    hazard = read_baseline(home)
    return Foretold(x[:, 0], lambda when: hazard.survival(x[:, 0], when))


def _once(members: Sequence[Member]) -> list[Member]:
    """Each patient's first visit."""
    first: dict[str, Member] = {}
    for member in sorted(members, key=lambda m: m.days):
        first.setdefault(member.patient, member)
    return [m for m in members if first[m.patient] is m]


def _seen(course: Course, members: Sequence[Member]) -> Courses:
    time, event = course_of(course, members)
    return Courses(
        tuple(m.name for m in members), tuple(m.patient for m in members), time, event, course.event, course.unit,
        course.horizons,
    )  # fmt: skip


def course_of(course: Course, members: Sequence[Member]) -> tuple[Array, Array]:
    """(times, events) that cases say."""
    times = np.array([float(m.values[course.time]) for m in members])
    return times, np.array([float(course.has_event(m.values)) for m in members])


def _rivals(
    course: Course, known: Sequence[Field], training: Sequence[Member], test: Sequence[Member]
) -> dict[str, Foretold]:
    """What is foretold without any image: the usual course, and Cox's model of the covariates where there are some."""
    time, event = course_of(course, training)
    usual = kaplan_meier(time, event)
    found = {USUAL: Foretold(np.zeros(len(test)), lambda when: np.tile(usual.at(when), (len(test), 1)))}
    if known:
        own, asked = (_covariates(known, members) for members in (training, test))
        middle, width = own.mean(0), own.std(0).clip(1e-9)
        weights = proportional_hazards((own - middle) / width, time, event)
        risk, theirs = ((side - middle) / width @ weights for side in (asked, own))
        hazard = breslow(theirs, time, event)
        found[COVARIATES] = Foretold(risk, lambda when: hazard.survival(risk, when))
    return found


def _covariates(known: Sequence[Field], members: Sequence[Member]) -> Array:
    """(n, columns): numbers, 0 at their centre where a case lacks one, and a column for each class but the first."""
    columns = []
    for f in known:
        if f.kind == "number":
            scale = f.stated or Scale()
            said = [m.values.get(f.name) for m in members]
            columns.append(
                [(float(v) - scale.offset) / scale.width if isinstance(v, int | float) else 0.0 for v in said]
            )
        for one in f.classes[1:]:
            columns.append([float(f.name in m.values and class_name(m.values[f.name]) == one) for m in members])
    return np.array(columns, np.float64).T


def _tell_baseline(ready: PreparedStage, family: Family, course: Course, say: Say) -> None:
    """Kept beside the checkpoint: of validation patients, whom training did not see, else of those that trained."""
    part = "validate" if len(ready.split.parts["validate"]) >= 2 * ROWS else "train"
    members = _once(ready.split.parts[part])
    time, event = course_of(course, members)
    hazard = breslow(answers_of(ready, family, members, say)[:, 0], time, event)
    plain = {"times": hazard.times.tolist(), "cumulated": hazard.cumulated.tolist(), "patients": len(members)}
    with writing(ready.home / BASELINE):
        (ready.home / BASELINE).write_text(json.dumps(plain, allow_nan=False))
    say(f"{ready.name}: its baseline is told by {len(members)} patients of the part {part}.")


def read_baseline(home: Path) -> Hazard:
    """Raises ValueError for a stage that was not judged, or a damaged file."""
    file = home / BASELINE
    if not file.is_file():
        raise ValueError(f"{home.name} has no baseline yet: it is told when the run is judged. Type: fabrica run RUN")
    try:
        plain = json.loads(file.read_text())
        return Hazard(np.array(plain["times"], np.float64), np.array(plain["cumulated"], np.float64))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}). Delete it and judge the run again.") from error
