"""Counterfactuals judged: does a classifier see the change, does anything else change, is it still the patient?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..contracts import Family, Field, class_name
from ..data.cases import Prepared
from ..data.changed import CHANGED, changed_value
from ..data.grid import foreground
from ..evaluate.report.pictures import Beside, Pictures
from ..evaluate.report.results import Report, StageResult
from ..evaluate.result import Figure, Row
from ..evaluate.sets.embedding import Picture
from ..evaluate.sets.reader import Reader
from .cases import each_drawn, write_draws
from .stage import PreparedStage

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Say = Callable[[str], None]
MODEL, UNCHANGED, TRUTH = "model", "unchanged", "the true counterfactual"
APART = 0.3  # of the network's scale: the largest change that pictures show


def judge_changes(ready: PreparedStage, family: Family, result: StageResult, say: Say, report: Report) -> StageResult:
    """Rows of each test patient whose value is not yet what is asked for, and figures over them."""
    assert ready.job.changes is not None  # what answers with a change
    ((name, to),) = ready.job.changes.items()
    field = next(f for f in ready.signature.values if f.name == name)
    asked = [m for m in ready.test if name in m.values and _differs(m.values[name], to)]
    if not asked:
        report.not_evaluated.append(f"{ready.name}: every test patient is already as {name} {to} says.")
    reader, pictures, seen = _reader(ready, field, to), Pictures(), list[_Changed]()
    for one in each_drawn(ready, family, asked, ready.job.judged_with, say):
        member, case, x = one.member, one.case, one.x
        write_draws(ready, case.name, case, x)
        one_case = _Changed.of(case, ready.signature.x[0].name, x[0, 0].double().numpy())
        seen.append(one_case)
        result.cases += one_case.rows(reader)
        pictures.add(case.name, case, x, ready.signature.x, ready.signature.given, "", {}, one_case.beside())
        say(f"{ready.name}: {member.name} drawn as {name} {to}.")
    result.pictures = pictures.rows
    result.figures += _identity(ready.name, seen)
    return result


def _differs(said: float | str, to: str) -> bool:
    return class_name(changed_value(said, to)) != class_name(said)


@dataclass(frozen=True)
class _Changed:
    """One image, its counterfactual, and what is known beside."""

    case: Prepared
    contrast: str
    before: Array  # (z, y, x)
    after: Array
    inside: Mask
    lesion: Mask | None
    true: Array | None

    @staticmethod
    def of(case: Prepared, contrast: str, after: Array) -> _Changed:
        before = case.tensors[contrast][0]
        inside = foreground(before).numpy()
        mask, true = case.tensors.get("lesion"), case.tensors.get(CHANGED + contrast)
        lesion = None if mask is None else (mask[0].numpy() > 0.5) & inside
        known = lesion if lesion is not None and lesion.any() else None
        return _Changed(
            case, contrast, before.double().numpy(), after, inside, known,
            None if true is None else _beside(true[0].double().numpy(), case, contrast),
        )  # fmt: skip

    def rows(self, reader: Reader | None) -> list[Row]:
        found = [self._row(MODEL, "changed by", float(np.abs(self.after - self.before)[self.inside].mean()))]
        images = {UNCHANGED: self.before, MODEL: self.after}
        if self.lesion is not None:
            off, outside = np.abs(self.after - self.before), self.inside & ~self.lesion
            spilt = float(off[outside].mean() / max(off[self.lesion].mean(), 1e-9))
            found.append(self._row(MODEL, "change outside of lesions over inside", spilt))
        if self.true is not None:
            for by, image in images.items():
                off = np.abs(image - self.true)
                found.append(self._row(by, "mae to the true counterfactual", float(off[self.inside].mean())))
                if self.lesion is not None:
                    inner = float(off[self.lesion].mean())
                    found.append(self._row(by, "mae to the true counterfactual in lesions", inner))
            images = {**images, TRUTH: self.true}
        if reader is not None:
            spacing = tuple(self.case.grid.spacing_mm)
            for by, image in images.items():
                told = reader.told(Picture(self.case.name, self.case.case.patient, image, self.inside, spacing))
                found.append(self._row(by, reader.what, told, reader.unit))
        return found

    def _row(self, by: str, metric: str, value: float, unit: str = "") -> Row:
        return Row(self.case.name, self.case.case.patient, self.contrast, by, metric, value, unit)

    def beside(self) -> Mapping[str, Beside]:
        shown = {"change": self._difference(self.after)}
        return shown if self.true is None else {**shown, "true change": self._difference(self.true)}

    def _difference(self, image: Array) -> Beside:
        return Beside(torch.from_numpy(image - self.before).float()[None], -APART, APART, "diverging")


def _reader(ready: PreparedStage, field: Field, to: str) -> Reader | None:
    """Reads the value from an image, learned of training patients; None where too few say it."""
    contrast, pictures, values = ready.signature.x[0].name, list[Picture](), list[float | str]()
    for e in ready.store.entries:
        if contrast in e.files and field.name in e.values:
            image = ready.store.array(e, contrast)[0].astype(np.float64)
            inside, spacing = foreground(torch.from_numpy(image)).numpy(), ready.preparation.spacing_mm or (1.0,) * 3
            pictures.append(Picture(e.name, e.patient, image, inside, tuple(spacing)))
            values.append(e.values[field.name])
    return Reader.of(pictures, values, field, to)


def _identity(stage: str, seen: Sequence[_Changed]) -> list[Figure]:
    """Of how many the counterfactual is most alike his own image, among those of all who were asked about."""
    if len(seen) < 2 or len({one.before.shape for one in seen}) > 1:
        return []
    before, after = (
        np.stack([_unit(image) for image in side]) for side in zip(*((s.before, s.after) for s in seen), strict=True)
    )
    right = int(((after @ before.T).argmax(1) == np.arange(len(seen))).sum())
    how = f"{right} of {len(seen)} are most alike their own image (correlation)"
    return [Figure(stage, MODEL, "still himself", right / len(seen), None, len(seen), how)]


def _beside(true: Array, case: Prepared, contrast: str) -> Array:
    """The truth on the scale of the image beside it: a tumour that is gone also leaves the percentile by which an image
    of arbitrary units is scaled.
    """
    own, other = case.traces[contrast], case.traces[CHANGED + contrast]
    return np.asarray((true * other.scale + other.offset - own.offset) / own.scale)


def _unit(image: Array) -> Array:
    flat = (image - image.mean()).ravel()
    return np.asarray(flat / max(float(np.linalg.norm(flat)), 1e-12))
