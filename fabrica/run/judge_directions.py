"""Every direction of a stage that gives any part from any others, judged on its test part."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from html import escape

import numpy as np
import torch
from numpy.typing import NDArray

from ..contracts import Batch, Family, Field
from ..data.cases import Prepared
from ..data.findings import described, facts_of
from ..evaluate.judging.outcomes import Answered, Question, case_rows, set_figures
from ..evaluate.judging.paired import Answer, Competitors, StageEvidence, competitors_of, evaluate_case
from ..evaluate.metrics.wording import wording_figures
from ..evaluate.report.pictures import Pictures
from ..evaluate.report.results import StageResult
from ..evaluate.result import Figure, Row
from .answering import Answering
from .directions import Asking, Direction, Parts, alone, chosen, comparable, readers, usual
from .draw import draw
from .question import Shown
from .stage import PreparedStage, draws_of
from .wording import obeyed_rows

Say = Callable[[str], None]
PICTURED = 1  # cases of which every direction is shown
Mask = NDArray[np.bool_]


def judge_directions(ready: PreparedStage, family: Family, result: StageResult, say: Say) -> StageResult:
    """Rows of every direction on every test case that has what it gives; single-purpose stages of the run beside it."""
    judged = _Judged(ready, family, result, say)
    for number, member in enumerate(ready.test):
        case = ready.case(member, ready.job.judged_with)
        for given, asked in ready.job.directions:
            judged.add(case, Direction(given, asked), number < PICTURED)
        say(f"{ready.name}: {case.name} asked in {len(ready.job.directions)} directions.")
    result.figures += judged.figures()
    result.pictures = judged.pictures.rows
    return result


Key = tuple[tuple[str, ...], tuple[str, ...]]


class _Judged:
    """Rows, pictures and answers over cases, with what training patients usually say and the stages to compare with."""

    def __init__(self, ready: PreparedStage, family: Family, result: StageResult, say: Say) -> None:
        self.ready, self.family, self.result, self.say = ready, family, result, say
        self.asking = Asking(family, ready.job, ready.layout, ready.seed)
        self.pictures = Pictures(most=PICTURED * len(ready.job.directions))
        device = str(next(family.parameters()).device)
        self.others = comparable(ready, device, say)
        self.evidence = {d: self._evidence(Direction(*d)) for d in ready.job.directions}
        self.competitors = {d: competitors_of(ready.store, e) for d, e in self.evidence.items()}
        self.usual = {f.name: usual(ready, f) for f in ready.signature.beside}
        self.answers: dict[tuple[str, str], list[Answered]] = {}

    def _evidence(self, direction: Direction) -> StageEvidence:
        job, signature = self.ready.job, self.ready.signature
        fields = tuple(f for f in signature.x if f.name in direction.asked)
        given = tuple(n for n in direction.given if n in signature.given)
        return StageEvidence(self.ready.name, fields, given, job.metrics, None, job.competitors)

    def add(self, case: Prepared, direction: Direction, pictured: bool) -> None:
        """One case, one direction; a case without what is given is left out of it."""
        ready, key = self.ready, (direction.given, direction.asked)
        batch = ready.rows(case)
        lacking = [n for n in direction.given if not bool(batch.present.get(n, torch.ones(1)).any())]
        if lacking:
            self.say(f"{ready.name}: {case.name} has no {', '.join(lacking)}; not asked {direction}.")
            return
        draws = draws_of(ready, self.family) if self.evidence[key].fields else 1
        parts = self.asking.answer(case, direction, draws, self.say)
        rows = list[Row]()
        if parts.images is not None:
            rows += self._image_rows(case, direction, parts)
        for f in ready.signature.beside:
            if f.name in direction.asked:
                if f.kind == "token":
                    rows += self._text_rows(case, batch, direction, parts, f)
                else:
                    rows += self._value_rows(case, direction, f)
        self.result.cases += [replace(r, contrast=f"{r.contrast or direction} from {direction.source}") for r in rows]
        if pictured:
            self._picture(case, batch, direction, parts, self.evidence[key])

    def _image_rows(self, case: Prepared, direction: Direction, parts: Parts) -> list[Row]:
        ready, key = self.ready, (direction.given, direction.asked)
        evidence, x = self.evidence[key], chosen(ready.signature.x, parts.images, direction.asked)
        rows = list[Row]()
        if evidence.given:  # of words alone another patient may come out, who is not wrong
            answer, found = Answer(x, parts.seconds), self.competitors[key]
            rows += evaluate_case(evidence, case.name, case, answer, found, ready.preparation)
            for other in alone(self.others, direction.given, {f.name for f in evidence.fields}):
                rows += self._rows_alone(case, other, evidence, found)
        return rows + self._obeyed_rows(case, direction, parts)

    def _rows_alone(self, case: Prepared, other: Answering, evidence: StageEvidence, found: Competitors) -> list[Row]:
        """The same measures of a stage that was trained for this direction alone."""
        ready, started = self.ready, time.perf_counter()
        y = torch.stack(draw(other.family, other.job, [Shown(case)], other.layout, other.seed, self.say))
        answer = Answer(y, time.perf_counter() - started)
        rows = evaluate_case(evidence, case.name, case, answer, found, ready.preparation)
        return [replace(r, by=_named(other)) for r in rows if r.by == "model"]

    def _obeyed_rows(self, case: Prepared, direction: Direction, parts: Parts) -> list[Row]:
        """Whether drawn images show what the words asked for: read from drawn masks, and by a stage that segments."""
        ready, rows = self.ready, list[Row]()
        for f in ready.signature.beside:
            label = ready.job.described.get(f.name)
            if f.kind != "token" or f.name not in direction.given or label is None or label not in case.tensors:
                continue
            own = (case.name, case.case.patient, f"facts of {f.name}")
            truth = case.tensors[label][0].numpy() > 0.5
            rows += obeyed_rows(own, case.grid.affine.numpy(), truth, self._masks_read(case, direction, parts, label))
        return rows

    def _masks_read(self, case: Prepared, direction: Direction, parts: Parts, label: str) -> dict[str, Mask]:
        """Who reads what -> masks (z, y, x)."""
        ready, found = self.ready, dict[str, Mask]()
        x = parts.images
        assert x is not None
        if label in direction.asked:
            drawn = chosen(ready.signature.x, x[:1], (label,))[0]
            found["model: mask as drawn"] = drawn.argmax(0).numpy() > 0
        for reader in readers(self.others, label):
            (source,) = reader.signature.given
            if source not in direction.asked:
                continue
            drawn = chosen(ready.signature.x, x[:1], (source,))[0]
            shown = replace(case, tensors={**case.tensors, source: drawn})
            for by, one in (
                (f"model: {source} read by {reader.stage.name}", shown),
                (f"real {source} read by {reader.stage.name}", case),
            ):
                (y,) = draw(reader.family, reader.job, [Shown(one)], reader.layout, reader.seed, self.say)
                found[by] = y.argmax(0).numpy() > 0
        return found

    def _text_rows(self, case: Prepared, batch: Batch, direction: Direction, parts: Parts, f: Field) -> list[Row]:
        words = self.ready.layout.words[f.name]
        rows = [k for k in range(len(batch.cases)) if bool(parts.shown[k]) and bool(batch.present[f.name][k])]
        if not rows:
            return []
        true = [words.text(batch.values[f.name][k]) for k in rows]
        answers = {"model": [words.text(parts.told[0][f.name][k].cpu()) for k in rows]}
        answers["the commonest sentence"] = [str(self.usual[f.name])] * len(rows)
        for other in alone(self.others, direction.given, {words.written_from}):
            (y,) = draw(other.family, other.job, [Shown(case)], other.layout, other.seed, self.say)
            affine, masks = case.grid.affine.numpy(), y.argmax(0).numpy() > 0
            answers[f"{_named(other)}, described"] = [described(masks[k], affine) for k in rows]
        own, found = (case.name, case.case.patient, f.name), list[Row]()
        for by, said in answers.items():
            figures = wording_figures(said, true, [facts_of(t) for t in said], [facts_of(t) for t in true])
            found += [Row(*own, by, name, value) for name, value in figures.items()]
        return found

    def _value_rows(self, case: Prepared, direction: Direction, f: Field) -> list[Row]:
        """The mean over slices that show something, of a number or of a class's chances."""
        value = case.case.values.get(f.name)
        if value is None or not f.says(value):
            return []
        told = self.asking.expected(case, direction, f.name)
        question = Question(f.name, f.classes, f.unit, float(self.usual[f.name]))
        one = Answered(case.name, case.case.patient, f.encoded(value), f.in_unit(told.double().numpy()))
        self.answers.setdefault((str(direction), f.name), []).append(one)
        rows = case_rows(question, [one])
        for other in alone(self.others, direction.given, {f.name}):
            (y,) = draw(other.family, other.job, [Shown(case)], other.layout, other.seed, self.say)
            theirs = replace(one, answer=other.signature.x[0].in_unit(y.reshape(-1).double().numpy()))
            rows += [replace(r, by=_named(other)) for r in case_rows(question, [theirs]) if r.by == "model"]
        return rows

    def figures(self) -> list[Figure]:
        """Over patients: agreement of numbers, AUC of classes."""
        fields, found = {f.name: f for f in self.ready.signature.beside}, list[Figure]()
        for (direction, name), answers in self.answers.items():
            f = fields[name]
            question = Question(name, f.classes, f.unit, float(self.usual[name]))
            own = set_figures(self.ready.name, question, answers)
            found += [replace(one, name=f"{one.name} ({direction})") for one in own]
        return found

    def _picture(
        self, case: Prepared, batch: Batch, direction: Direction, parts: Parts, evidence: StageEvidence
    ) -> None:
        fields = evidence.fields
        x = torch.zeros(1, 0, *case.grid.shape)
        if parts.images is not None:
            x = chosen(self.ready.signature.x, parts.images, direction.asked)
        self.pictures.add(f"{case.name}: {direction}", case, x, fields, evidence.given)
        row = self.pictures.rows[-1]
        row["drawing"] = "".join(
            f"<p>{escape(line)}</p>" for line in self._lines(batch, direction, parts, row["slice"])
        )

    def _lines(self, batch: Batch, direction: Direction, parts: Parts, z: int) -> list[str]:
        """What was said in the slice that is shown."""
        lines = []
        for f in self.ready.signature.beside:
            if f.kind != "token" or f.name not in (*direction.given, *direction.asked):
                continue
            words = self.ready.layout.words[f.name]
            lines.append(f"{f.name}, true: {words.text(batch.values[f.name][z])}")
            if f.name in direction.asked:
                lines.append(f"{f.name}, by the model: {words.text(parts.told[0][f.name][z].cpu())}")
        return lines


def _named(other: Answering) -> str:
    return f"{other.stage.name} ({other.stage.family.name} alone)"
