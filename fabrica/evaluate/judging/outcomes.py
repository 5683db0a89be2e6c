"""Answers that are a class or a number: rows per case, and what only a whole set of patients can say (AUC,
agreement).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..metrics import task
from ..result import Figure, Result, Row

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Question:
    """What was asked: the value's name, its classes (none: a number), its unit, and what training patients answer."""

    name: str
    classes: tuple[str, ...]
    unit: str
    usual: float  # index of the commonest class, or the mean number, of the training patients


@dataclass(frozen=True)
class Answered:
    """One case: the truth (index of the class, or the number) and the model's answer (chances of classes, or the
    number).
    """

    case: str
    patient: str
    truth: float
    answer: Array


def write_answers(file: Path, question: Question, found: Sequence[Answered]) -> None:
    """A table of truths and answers: case, patient, truth (index of the class, or the number), one column an answer."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["case", "patient", "truth", *(question.classes or [question.name])])
        for one in found:
            writer.writerow([one.case, one.patient, repr(one.truth), *map(repr, one.answer.tolist())])


def read_answers(file: Path) -> tuple[tuple[str, ...], list[Answered]]:
    """(names of the answers, rows) of a table that `write_answers` made."""
    with file.open(newline="") as given:
        reader = csv.reader(given)
        names = tuple(next(reader)[3:])
        return names, [Answered(c, p, float(t), np.array([float(v) for v in a])) for c, p, t, *a in reader]


def averaged(seeds: Sequence[Sequence[Answered]]) -> list[Answered]:
    """Mean answers of several models, of the cases that all of them answered."""
    by_case = [{a.case: a for a in found} for found in seeds]
    shared = [a.case for a in seeds[0] if all(a.case in own for own in by_case)]
    return [
        replace(by_case[0][c], answer=np.asarray(np.mean([own[c].answer for own in by_case], axis=0))) for c in shared
    ]


def case_rows(question: Question, found: Sequence[Answered]) -> list[Row]:
    """Per case, of the model and of whoever always says the usual."""
    rows = []
    for one in found:
        if question.classes:
            right = float(int(one.answer.argmax()) == int(one.truth))
            chance = float(np.clip(one.answer[int(one.truth)], 1e-7, 1))
            values = {
                "model": {"correct": right, "log loss": float(-np.log(chance))},
                "the commonest class": {"correct": float(question.usual == one.truth)},
            }
        else:
            values = {
                "model": {"absolute error": abs(float(one.answer[0]) - one.truth)},
                "the training mean": {"absolute error": abs(question.usual - one.truth)},
            }
        rows += [
            Row(one.case, one.patient, question.name, by, m, v, question.unit if m == "absolute error" else "")
            for by, measures in values.items()
            for m, v in measures.items()
        ]
    return rows


def set_figures(stage: str, question: Question, found: Sequence[Answered]) -> list[Figure]:
    """AUC, Brier score and calibration of each class against the rest, or agreement of numbers; units are patients."""
    truth, answers, mixed = _by_patient(found)
    n = len(truth)
    if mixed:
        text = f"not evaluated: needs one {question.name} a patient; {mixed} patients have several"
        return [Figure(stage, "model", "figures over patients", text, None, n, "")]
    if not question.classes:
        given, wanted = answers[:, 0], truth
        asked: list[tuple[str, Callable[[], Result]]] = [
            ("concordance correlation", lambda: task.concordance_correlation(given, wanted)),
            (f"bias ({question.unit or 'units'})", lambda: task.bland_altman(given, wanted)),
        ]
        return [_figure(stage, name, ask, n) for name, ask in asked]
    figures = []
    for k, name in enumerate(question.classes):
        if len(question.classes) == 2 and k == 0:
            continue  # the same figure as of the second
        scores, labels = answers[:, k], (truth == k).astype(int)
        measures: dict[str, Callable[[Array, NDArray[np.int_]], Result]] = {
            "AUC": task.auc_delong,
            "Brier score": task.brier,
            "calibration error": task.calibration,
        }
        for what, function in measures.items():
            figures.append(_figure(stage, f"{what}, {name}", partial(function, scores, labels), n))
    return figures


def paired_figures(
    stage: str, question: Question, found: Sequence[Answered], other: Sequence[Answered], than: str
) -> list[Figure]:
    """AUC of each class minus another model's on the same patients (DeLong, paired); nothing for numbers."""
    cases = {a.case for a in found} & {a.case for a in other}
    (truth, ours, mixed), (_, theirs, _) = (
        _by_patient([a for a in side if a.case in cases]) for side in (found, other)
    )
    if mixed or not question.classes:
        return []
    classes = list(enumerate(question.classes))[1 if len(question.classes) == 2 else 0 :]
    return [
        _figure(
            stage,
            f"AUC minus that of {than}, {name}",
            partial(task.auc_delong_paired, ours[:, k], theirs[:, k], (truth == k).astype(int)),
            len(truth),
        )
        for k, name in classes
    ]


def _figure(stage: str, name: str, ask: Callable[[], Result], n: int) -> Figure:
    try:
        found = ask()
    except ValueError as error:
        return Figure(stage, "model", name, f"not evaluated: {error}", None, n, "")
    return Figure(stage, "model", name, float(found), found.interval, n, found.convention)


def _by_patient(found: Sequence[Answered]) -> tuple[Array, Array, int]:
    """(truth, mean answer) of each patient, and how many patients have more than one truth."""
    patients = list(dict.fromkeys(a.patient for a in found))
    groups = [[a for a in found if a.patient == p] for p in patients]
    mixed = sum(len({a.truth for a in group}) > 1 for group in groups)
    truth = np.array([group[0].truth for group in groups])
    return truth, np.stack([np.mean([a.answer for a in group], axis=0) for group in groups]), mixed
