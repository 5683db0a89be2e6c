"""From drawn and true images to numbers per case, for a model and for its trivial competitors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ...contracts import ARBITRARY, Field, Image, Scale
from ...data.cases import COVERED, Prepared
from ...data.prepare import GridPreparation
from ...data.store import Store
from ...registry import NotEvaluated, measure
from .. import METRICS
from ..metrics import hounsfield, overlap, task
from ..result import Row
from .competitors import JointHistogram, fit_histogram, matched
from .constraints import Constraint, constraint_rows
from .dose_check import DoseCheck, dose_check_rows
from .films import film_rows
from .measured import in_units, in_words, measured
from .planned import POSSIBLE, dose_rows

Array = NDArray[np.floating[Any]]
SMALLEST_BODY = 0.08  # of the intensity scale: brighter than this in any image is the patient


@dataclass(frozen=True)
class StageEvidence:
    """What a stage is measured with."""

    name: str
    fields: tuple[Field, ...]
    given: tuple[str, ...]
    metrics: tuple[str, ...]
    mask: str | None = None
    competitors: tuple[str, ...] = (
        "copied",
        "histogram",
        "mean",
        "crude",
    )  # kinds of trivial answers, as a job declares
    dose: DoseCheck | None = None  # a plan that is given to every CT
    constraints: Sequence[Constraint] = ()  # of every dose


@dataclass(frozen=True)
class Competitors:
    """Fitted on training patients only."""

    histograms: Mapping[str, Array]  # per asked contrast: foreground values
    joint: Mapping[str, JointHistogram]
    mean: Mapping[str, Array]  # mean training volume, when grids agree


def competitors_of(store: Store, evidence: StageEvidence) -> Competitors:
    """Histograms, joint histogram and mean image of the training targets."""
    histograms: dict[str, Any] = {}
    joint: dict[str, JointHistogram] = {}
    mean: dict[str, Any] = {}
    for target in (f.name for f in evidence.fields if f.kind == "intensity" and f.frames == 1):
        entries = [e for e in store.entries if target in e.files]
        volumes = [store.array(e, target)[0] for e in entries[:32]]
        if not volumes:
            continue
        histograms[target] = np.concatenate([v[v > v.mean()][::97] for v in volumes])
        inputs = [g for g in evidence.given if g != target and all(g in e.files for e in entries)][:2]
        if inputs:
            flat = [[store.array(e, g)[0].ravel()[::11] for e in entries[:32]] for g in inputs]
            joint[target] = fit_histogram(
                [np.concatenate(f) for f in flat], np.concatenate([v.ravel()[::11] for v in volumes])
            )
        if len({v.shape for v in volumes}) == 1:
            mean[target] = np.asarray(np.mean(np.stack(volumes), axis=0), np.float32)
    return Competitors(histograms, joint, mean)


@dataclass(frozen=True)
class Answer:
    """What a stage drew of one question, and what the data alone say."""

    x: Tensor  # (draws, C, z, y, x)
    seconds: float = 0.0  # a draw
    hidden: str = ""  # the contrast that was asked for, where a job asks for several in turn
    crude: Mapping[str, Tensor] = field(default_factory=dict)  # name -> (C, z, y, x), as `Operator.crude` answers


def evaluate_case(
    evidence: StageEvidence, case: str, prepared: Prepared, answer: Answer, competitors: Competitors,
    preparation: GridPreparation,
) -> list[Row]:  # fmt: skip
    """All rows of one case; arrays are on the prepared grid when it is the source's, else back on the source's."""
    x, hidden = answer.x, answer.hidden
    rows = [Row(case, prepared.case.patient, "", "model", "seconds a draw", answer.seconds, "s")]
    start = 0
    for f in evidence.fields:
        part = x[:, start : start + f.channels]
        start += f.channels
        if hidden and f.name != hidden:
            continue
        truth = prepared.case.images.get(f.name)
        if truth is None:
            missing = NotEvaluated((f"the true {f.name} of this case",))
            rows += [Row(case, prepared.case.patient, f.name, "model", m, str(missing)) for m in evidence.metrics]
        elif f.kind == "label":
            rows += _label_rows(evidence, case, prepared, part, truth, preparation, f)
        elif f.frames > 1:
            crude = {by: y[start - f.channels : start] for by, y in answer.crude.items()}
            rows += _film_rows((case, prepared.case.patient, f.name), part, prepared.tensors[f.name], crude)
        elif evidence.metrics:
            crude = {by: y[start - f.channels : start] for by, y in answer.crude.items()}
            rows += _intensity_rows(evidence, case, prepared, (part, crude), competitors, preparation, f)
    return rows


def _film_rows(case: tuple[str, str, str], part: Tensor, truth: Tensor, crude: Mapping[str, Tensor]) -> list[Row]:
    """Of draws (draws, t, z, y, x) on the prepared grid: frame by frame, and how they hang together."""
    answers = {"model: one draw" if len(part) > 1 else "model": part[0]}
    answers |= {"model: mean of draws": part.mean(0)} if len(part) > 1 else {}
    every = np.arange(len(truth))
    return [
        row
        for by, film in {**answers, **crude}.items()
        for row in film_rows(case, by, film.numpy(), truth.numpy(), every, None)
    ]


def _on_source(volume: Tensor, field: Field, prepared: Prepared, preparation: GridPreparation) -> Array:
    """(z, y, x) on the source's grid: what is written, on the model's scale, where truths of arbitrary units are
    compared.
    """
    unit = "" if field.kind == "label" else preparation.unit_of(field.name, field.unit)
    trace = prepared.traces[field.name]
    meaning = replace(field, channels=1, unit=unit)
    image = preparation.back(volume, replace(trace, like=replace(trace.like, meaning=meaning)))
    scale = Scale() if field.kind == "label" else preparation.draw_scale(field.name, unit)
    array: Array = (image.data[0].numpy() - scale.offset) / scale.width
    return array


def _label_rows(
    evidence: StageEvidence,
    case: str,
    prepared: Prepared,
    part: Tensor,
    truth: Image,
    preparation: GridPreparation,
    f: Field,
) -> list[Row]:
    reference = truth.data[0].numpy().round()
    drawn = part.mean(0).argmax(0, keepdim=True).float()
    generated = _on_source(drawn, f, prepared, preparation)
    by = "model: mean of draws" if len(part) > 1 else "model"
    found: dict[str, tuple[Any, str]] = dict(overlap.rows_of(generated, reference, spacing_mm=truth.spacing_mm))
    given = {"labels": generated, "reference_labels": reference, "spacing_mm": truth.spacing_mm, "classes": f.channels}
    for metric in evidence.metrics:
        if metric not in found and METRICS.find(metric).tier != "pixel":
            found[metric] = in_words(measure(METRICS.find(metric), given)), METRICS.find(metric).unit
    return [Row(case, prepared.case.patient, f.name, by, m, value, unit) for m, (value, unit) in found.items()]


def _intensity_rows(
    evidence: StageEvidence, case: str, prepared: Prepared, drawn: tuple[Tensor, Mapping[str, Tensor]],
    competitors: Competitors, preparation: GridPreparation, f: Field,
) -> list[Row]:  # fmt: skip
    (part, crude), truth = drawn, prepared.case.images[f.name]
    scale = preparation.scale_of(truth)
    reference = (truth.data[0].numpy() - scale.offset) / scale.width
    mask = body_mask(prepared, evidence, f.name, preparation)
    answers = {"model: one draw" if len(part) > 1 else "model": _on_source(part[0], f, prepared, preparation)}
    if len(part) > 1:
        answers["model: mean of draws"] = _on_source(part.mean(0), f, prepared, preparation)
    if "crude" in evidence.competitors:
        answers |= {by: _on_source(y, f, prepared, preparation) for by, y in crude.items()}
    inputs = {
        g: _scaled(prepared.case.images[g], preparation)
        for g in evidence.given
        if g in prepared.case.images and g != f.name
    }
    inputs = {g: a for g, a in inputs.items() if a.shape == reference.shape}
    answers |= _trivial(inputs, competitors, f.name, evidence.competitors)
    if (
        "mean" in evidence.competitors
        and f.name in competitors.mean
        and competitors.mean[f.name].shape == tuple(part.shape[2:])
    ):
        answers["training mean image"] = _on_source(
            torch.from_numpy(competitors.mean[f.name])[None], f, prepared, preparation
        )
    unit = truth.meaning.unit if truth.meaning.unit not in (*ARBITRARY, "grey") else ""
    rows, patient = list[Row](), prepared.case.patient
    masks = {n: i.data[0].numpy() > 0.5 for n, i in prepared.case.images.items() if i.meaning.kind == "label"}
    more = {"spacing_mm": truth.spacing_mm, **masks, "values": prepared.case.values}
    for by, image in answers.items():
        for metric in evidence.metrics:
            physical = (scale, unit) if unit else None
            value, own = measured(metric, image, reference, mask, physical, preparation.axes, more)
            rows.append(Row(case, patient, f.name, by, metric, value, own))
    for by, image in answers.items() if unit == "HU" else ():
        pair = {"generated": in_units(image, scale), "reference": in_units(reference, scale), "mask": mask}
        rows += [Row(case, patient, f.name, by, m, *found) for m, found in hounsfield.rows_of(pair).items()]
    if unit == "HU" and evidence.dose is not None:
        inside = mask if mask is not None else np.ones(reference.shape, bool)
        other = {f"{g} copied" for g, i in prepared.case.images.items() if i.meaning.unit != "HU"}  # no densities
        drawn_hu = {by: in_units(image, scale) for by, image in answers.items() if by not in other}
        rows += dose_check_rows((case, patient, f.name), drawn_hu, truth, inside, masks, evidence.dose)
    for by, image in answers.items() if unit == "Gy" else ():
        doses = in_units(image, scale), in_units(reference, scale)
        rows += dose_rows((case, patient, f.name), by, *doses, masks, truth.spacing_mm)
        rows += constraint_rows((case, patient, f.name), by, *doses, masks, truth.spacing_mm, evidence.constraints)
    if "lesion" in prepared.case.images and f.name != "lesion":
        rows += _lesion_rows(case, prepared, f.name, answers, reference)
    return rows


def _trivial(
    inputs: Mapping[str, Array], competitors: Competitors, target: str, kinds: Sequence[str]
) -> dict[str, Array]:
    answers: dict[str, Array] = {}
    for name, image in inputs.items():
        if "copied" in kinds:
            answers[f"{name} copied"] = image
        if "histogram" in kinds and target in competitors.histograms:
            answers[f"{name} histogram-matched"] = matched(image, competitors.histograms[target])
    joint = competitors.joint.get(target)
    if "histogram" in kinds and joint is not None and len(inputs) >= len(joint.edges):
        answers["joint histogram"] = joint.predict(list(inputs.values())[: len(joint.edges)])
    return answers


def body_mask(
    prepared: Prepared, evidence: StageEvidence, target: str, preparation: GridPreparation
) -> NDArray[np.bool_]:
    """The label named by the recipe, or the patient: bright in any true image, holes filled per slice; of a dose where
    it is possible.
    """
    if evidence.mask and evidence.mask in prepared.case.images:
        return prepared.case.images[evidence.mask].data[0].numpy() > 0
    possible = prepared.case.images.get(POSSIBLE)
    if possible is not None and prepared.case.images[target].meaning.unit == "Gy":
        return possible.data[0].numpy() > 0
    shape = prepared.case.images[target].data[0].shape
    inside = np.zeros(shape, bool)
    for image in prepared.case.images.values():
        if image.meaning.unit != "mm" and image.meaning.kind == "intensity" and image.data[0].shape == shape:
            inside |= _scaled(image, preparation) > SMALLEST_BODY
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in inside])
    found = filled if filled.any() else np.ones(shape, bool)
    covered = prepared.case.images.get(COVERED)
    if covered is not None and covered.data[0].shape == shape:
        found = found & (covered.data[0].numpy() > 0.5)
    return found


def _scaled(image: Image, preparation: GridPreparation) -> Array:
    scale = preparation.scale_of(image)
    array: Array = (image.data[0].numpy() - scale.offset) / scale.width
    return array


def _lesion_rows(
    case: str, prepared: Prepared, target: str, answers: Mapping[str, Array], reference: Array
) -> list[Row]:
    lesion = prepared.case.images["lesion"].data[0].numpy() > 0.5
    t1 = prepared.case.images.get("T1w")
    tissue = None
    if t1 is not None:
        values = t1.data[0].numpy()
        tissue = values > np.median(values[values > 0.05 * values.max()])
    try:
        true = task.lesion_contrast(reference, lesion, tissue=tissue)
    except ValueError:
        text = str(NotEvaluated(("a lesion with tissue around it",)))
        return [Row(case, prepared.case.patient, target, by, "lesion contrast kept", text) for by in answers]
    return [
        Row(
            case,
            prepared.case.patient,
            target,
            by,
            "lesion contrast kept",
            task.lesion_contrast(image, lesion, tissue=tissue) / true,
        )
        for by, image in answers.items()
    ]
