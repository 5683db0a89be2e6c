"""Folders of images from any generator: paired file by file where names agree, and as sets of patients."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import io
from ...contracts import Image
from ...data.grid import foreground, grid_of, resample
from ...io import Scan, UnreadableError
from ...machine.device import threads
from ...machine.folders import writing_into
from ..honesty.claim import declare
from ..honesty.ledger import Ledger
from ..honesty.validity import certify
from ..metrics import hounsfield, temporal
from ..metrics.pixel import METRICS
from ..report.page import render
from ..report.results import REAL, Report, StageResult
from ..result import Row
from ..sets.adherence import adherence, read_labels
from ..sets.embedding import Picture
from ..sets.realism import realism
from ..threads import side_by_side
from .elsewhere import measured_elsewhere, plain_scans, scans_of
from .folder_checks import (
    BY_DESIGN,
    after_checks,
    aligned,
    check_pairs,
    check_shared,
    fingerprints,
    lossy_side,
    measured,
    patient_of,
    refused,
    trivial_rows,
)
from .folder_claim import check_answerable, verdict_on
from .segmented import segmented_rows
from .shelf import BESIDE, Asked, Folders, Shelf, evidence, scans, values

Say = Callable[[str], None]

IMAGES = ("generated", "reference", "training", "holdout", "competitor")  # folders of images
OTHERS = ("training", "holdout")  # of other patients than the references: nothing in them makes a pair
LESION = 0.2  # of the patient: a smaller mask marks something in it


def evaluate_folders(
    folders: Folders, out: Path, asked: Asked, say: Say, made: str = "", seen_from: Path | None = None, known: str = ""
) -> Path:
    """Tier 1 for every pair, tier 2 for the sets; what the inputs do not allow is listed. Returns the page.

    Pairs have one relative name. Masks too: metrics count inside them. A claim's hash is written before anything is
    measured. Raises ValueError for an empty folder or a claim that these folders cannot answer, HonestyError for what a
    check refuses to evaluate. `made`: the time that the report bears; none = now. `seen_from`: the folder that the
    report's paths are relative to; none = `out`. `known`: why results were known before the claim.
    """
    if asked.claim is not None:
        check_answerable(asked.claim, {k for k, v in vars(folders).items() if v is not None})
    with writing_into(out):
        return _evaluated(folders, out, asked, say, made, seen_from or out, known)


def _evaluated(folders: Folders, out: Path, asked: Asked, say: Say, made: str, seen_from: Path, known: str) -> Path:
    ledger = Ledger(asked.overrides)
    stamp = known or declare(asked.claim, out) if asked.claim is not None else ""
    report = Report.start({"evaluate": _plain(folders, asked, seen_from, known)}, out.resolve().name)
    report.made, report.ledger = made or report.made, ledger
    report.title = f"{folders.generated.name} judged by {folders.reference.name}"
    found = {k: scans(v, report) for k, v in vars(folders).items() if v is not None}
    report.inputs = {k: fingerprints(v, scans) for (k, v), scans in zip(_given(folders), found.values(), strict=True)}
    check_shared(ledger, found)
    shelf = Shelf()
    named = {side: scans if side in OTHERS else aligned(scans, found["reference"]) for side, scans in found.items()}
    report.stages.append(_pairs(named, shelf, report, asked, say, out))
    if "competitor" in found:
        others = {**named, "generated": named["competitor"]}
        report.stages.append(_pairs(others, shelf, report, asked, say, out, "competitor"))
    report.stages[0].cases += segmented_rows(named, shelf.read, report)
    masks = {io.stem(name): scan for name, scan in found.get("masks", {}).items()}
    sets = {side: _pictures(scans, masks, shelf, report) for side, scans in found.items() if side in IMAGES}
    _validate(sets, report, asked, say)
    if folders.masks is None:
        report.not_evaluated.append(
            "metrics inside a region: needs --masks, one mask per reference with its relative name."
        )
    _compare(sets, report, asked)
    _adhere(sets, report, asked)
    _conclude(report, asked, sets, stamp, say)
    for line in report.not_evaluated:
        say(f"Not evaluated: {line}")
    return render(report, out)


def _given(folders: Folders) -> list[tuple[str, Path]]:
    return [(k, v) for k, v in vars(folders).items() if v is not None]


def _plain(folders: Folders, asked: Asked, out: Path, known: str) -> dict[str, Any]:
    """What was asked, with paths as seen from the report, so that another machine can ask it again."""
    paths = {k: os.path.relpath(v.resolve(), out.resolve()) for k, v in _given(folders)}
    labels = os.path.relpath(asked.labels.resolve(), out.resolve()) if asked.labels else None
    return {
        "folders": paths,
        "data_range": asked.data_range,
        "seed": asked.seed,
        "labels": labels,
        "quick": asked.quick,
        "embeddings": list(asked.embeddings),
        "networks": [os.path.relpath(p.resolve(), out.resolve()) for p in asked.networks],
        "overrides": {str(k): v for k, v in asked.overrides.items()},
        "claim": vars(asked.claim) if asked.claim else None,
        **({"known": known} if known else {}),
    }


def _validate(sets: Mapping[str, list[Picture]], report: Report, asked: Asked, say: Say) -> None:
    """What the metrics see on these real images, before any of them may support a claim."""
    real = [*sets["reference"], *sets.get("holdout", ())]
    if asked.quick or not real or len({p.values.ndim for p in real}) > 1:
        why = "was left out by --quick" if asked.quick else "needs real images of one number of axes"
        report.not_evaluated.append(f"what the metrics see on these images: {why}.")
        return
    try:
        report.validity = certify(real, asked.data_range, asked.seed, asked.embeddings)
    except ValueError as error:
        report.not_evaluated.append(f"what the metrics see on these images: {error}")
        return
    say(f"On these real images: {report.validity.sentence()}")


def _conclude(report: Report, asked: Asked, sets: Mapping[str, Sequence[Picture]], stamp: str, say: Say) -> None:
    """Checks that look at results, and the verdict."""
    ledger = report.ledger or Ledger()
    if any(not r.by.startswith(("model", REAL)) for stage in report.stages for r in stage.cases):
        ledger.looked.add(21)
    if report.realism is not None and report.realism.rivals and all(stage.cases for stage in report.stages[:2]):
        ledger.looked.add(25)
    for sentence in (*report.undiscriminating(), *(report.realism.cheats if report.realism else ())):
        ledger.trigger(21, sentence)
    for stage in report.stages:
        own = [r.value for r in stage.cases if r.by == "model"]
        if own and all(isinstance(v, str) and v.startswith("failed") for v in own):
            ledger.trigger(19, f"Every case of {stage.name} failed: there is nothing that could be counted.")
    if disagree := report.disagreement():
        ledger.trigger(25, disagree)
    if asked.claim is None:
        report.not_evaluated.append("a verdict: needs --claim, declared before results.")
    else:
        verdict = verdict_on(asked.claim, report.stages, sets, asked.embeddings, stamp)
        report.verdict = after_checks(verdict, ledger, report.validity)
        say(f"{report.verdict.status}: {report.verdict.may}")
    for number in BY_DESIGN:
        ledger.passed(number, BY_DESIGN[number])
    ledger.close()


def _pairs(
    found: Mapping[str, Mapping[str, Scan]],
    shelf: Shelf,
    report: Report,
    asked: Asked,
    say: Say,
    out: Path,
    name_of: str = "given images",
) -> StageResult:
    """Every metric of tier 1 for every pair; a case that fails says why in its place."""
    ours, theirs = found["generated"], found["reference"]
    names = sorted(ours.keys() & theirs.keys())
    result = StageResult(name_of, "evaluation", "unknown", {}, 0, 0.0, [])
    if not names:
        report.not_evaluated.append(
            "paired metrics: needs the same relative file name in both folders (formats may differ)."
        )
        return result
    _say_unpaired(ours, theirs, name_of, report, say)
    lost = dict.fromkeys(sorted(theirs.keys() - ours.keys()), "there is no readable image of this name")
    ledger, pairs = report.ledger or Ledger(), dict[str, dict[str, Any]]()
    for name in names:
        try:
            pairs[name] = evidence(name, found, shelf, report)
        except UnreadableError as error:
            lost[name] = error.fault
            report.remark(f"{name}: {error.fault} {error.next_step}")
    patients = {n: patient_of(n, theirs[n]) for n in pairs}
    check_pairs(ledger, pairs, asked.data_range, patients)
    for name, why in lost.items():
        if BESIDE in why:
            ledger.looked.add(9)
            ledger.trigger(9, f"{name} {why}", "Write images with the geometry of their reference.")
    allowed = [m for m in METRICS if not (m in ("ssim", "ms_ssim") and refused(ledger, 4))]
    span = None if refused(ledger, 3) else asked.data_range
    in_hu = bool(pairs) and all(hounsfield.in_hounsfield(p) for p in pairs.values())
    for name, why in lost.items():
        result.cases += _failed(name, theirs[name], why, in_hu)
    if in_hu and any("HU" not in p["units"] for p in pairs.values()):
        report.remark("References reach from -1000 far above 0, as HU do: errors are shown by tissue and window too.")
    more = {"data_range": span, "in_hu": in_hu}
    if asked.executor is None:
        rows = side_by_side(lambda n: _pair_rows(n, patients[n], pairs[n] | more, allowed), list(pairs))
    else:
        given = {"found": plain_scans(found), **more, "allowed": allowed}
        rows = measured_elsewhere(asked.executor, {n: {**given, "patient": patients[n]} for n in pairs}, out, say)
    result.cases += [row for own in rows for row in own]
    if name_of == "given images":
        known = {n: values(image) for n, image in shelf.all(found.get("training", {}))}
        trivial = trivial_rows(pairs, patients, span, known)
        if alone := len(pairs) - len({row.case for row in trivial}):
            report.not_evaluated.append(
                f"trivial answers to {alone} of {len(pairs)} cases: needs images of other patients on the same grid."
            )
        result.cases += [row for row in trivial if row.metric in allowed]
    return result


def _say_unpaired(ours: Mapping[str, Scan], theirs: Mapping[str, Scan], name_of: str, report: Report, say: Say) -> None:
    if more := len(ours.keys() - theirs.keys()):
        report.remark(f"{more} {name_of} have no reference of their name and were left out of the pairs.")
        say(report.remarks[-1])
    if fewer := len(theirs.keys() - ours.keys()):
        report.remark(
            f"{fewer} references have no readable image of their name among the {name_of}: they count as failed, at the"
            " worst value. Move away what was not asked for."
        )
        say(report.remarks[-1])


def _failed(name: str, truth: Scan, why: str, in_hu: bool) -> list[Row]:
    units = {m: "dB" if metric.unit == "dB" else "" for m, metric in METRICS.items()}
    units |= hounsfield.UNITS if in_hu else {}
    patient = patient_of(name, truth)
    return [Row(name, patient, "", "model", m, f"failed: {why}", unit) for m, unit in units.items()]


def pair_task(task: Mapping[str, Any]) -> list[list[Any]]:
    """Every metric of one pair, from plain data to plain data: what a worker process does."""
    found = {side: {task["name"]: scan} for side, scan in scans_of(task["found"], task["name"]).items()}
    known = evidence(task["name"], found, Shelf(), Report.start({}, ""))
    more = {"data_range": task["data_range"], "in_hu": task["in_hu"]}
    with threads(task["threads"]):
        return [list(astuple(row)) for row in _pair_rows(task["name"], task["patient"], known | more, task["allowed"])]


def _pair_rows(name: str, patient: str, known: Mapping[str, Any], allowed: Sequence[str]) -> list[Row]:
    """Every metric of one pair."""
    rows = []
    for m, metric in METRICS.items():
        value = measured(metric, known) if m in allowed else "refused: negative values (check 4)"
        rows.append(Row(name, patient, "", "model", m, value, "dB" if metric.unit == "dB" else ""))
    if known["in_hu"]:
        rows += [Row(name, patient, "", "model", m, *found) for m, found in hounsfield.rows_of(known).items()]
    if "series" in known:
        rows += [Row(name, patient, "", "model", m, measured(k, known, True)) for m, k in temporal.METRICS.items()]
    return rows


def _pictures(scans: Mapping[str, Scan], masks: Mapping[str, Scan], shelf: Shelf, report: Report) -> list[Picture]:
    """Images of a set with the patient's outline (the mask of that name, or what is brighter than the mean)."""
    pictures = []
    for name, scan in scans.items():
        try:
            image = shelf.read(scan)
            if len(image.data) > 1:
                image = replace(image, data=image.data.mean(0, keepdim=True))
            frames = image.data[0].numpy().astype(np.float64) if image.axes[0] == "t" else None
            if frames is not None:  # the middle frame stands for the series, which the embedding of motion sees whole
                image = replace(image, data=image.data[:, len(frames) // 2], axes=image.axes[1:], times=None)
            inside = _outline(name, image, masks, shelf)
        except UnreadableError as error:
            report.remark(f"{error.of(name)} Left out of the set.")
            continue
        values = image.data[0].numpy()  # shared with the pair, if there is one
        if not inside.any():
            report.remark(
                f"{name}: {'its mask is empty' if io.stem(name) in masks else 'is constant'}. Left out of the set."
            )
            continue
        spacing = tuple(image.spacing_mm[-values.ndim :])
        small = io.stem(name) in masks and inside.sum() < LESION * foreground(image.data[0]).numpy().sum()
        pictures.append(
            Picture(name, patient_of(name, scan), values, inside, spacing, frames, inside if small else None)
        )
    return pictures


def _outline(name: str, image: Image, masks: Mapping[str, Scan], shelf: Shelf) -> NDArray[np.bool_]:
    if io.stem(name) in masks:
        return np.asarray(resample(shelf.read(masks[io.stem(name)]), grid_of(image)).data[0].numpy() > 0.5)
    return np.asarray(foreground(image.data[0]).numpy())


def _compare(sets: Mapping[str, list[Picture]], report: Report, asked: Asked) -> None:
    """Tier 2, or the reason why there is none."""
    generated, real = sets["generated"], sets["reference"]
    if not generated or not real:
        report.not_evaluated.append("distances between sets: needs images without a time axis in both folders.")
        return
    if len({p.values.ndim for p in (*generated, *real)}) > 1:
        report.not_evaluated.append("distances between sets: needs slices on both sides, or volumes on both.")
        return
    ledger = report.ledger or Ledger()
    ledger.looked.add(14)
    every = [*real, *sets.get("holdout", ())]
    sides = [(name, sets[name]) for name in ("generated", "competitor") if sets.get(name)]
    faults = [why for name, pictures in sides if (why := lossy_side(pictures, every, report, name))]
    if (why := " ".join(faults)) and not ledger.trigger(14, why):
        report.not_evaluated.append(f"distances between sets: {why}")
        return
    for side, pictures in sets.items():
        if copies := len(pictures) - len({p.values.tobytes() for p in pictures}):
            report.remark(f"{copies} of {len(pictures)} {side} images are exact copies of another one there.")
    try:
        training, holdout, competitor = (sets.get(side, ()) for side in ("training", "holdout", "competitor"))
        found = realism(
            generated,
            real,
            training=training,
            holdout=holdout,
            competitor=competitor,
            more=asked.embeddings,
            seed=asked.seed,
        )
    except ValueError as error:
        report.not_evaluated.append(f"distances between sets: {error}")
        return
    report.realism = found
    if weak := sorted({d.embedding for d in found.distances if d.few}):
        ledger.trigger(
            11,
            f"By {', '.join(weak)} there are fewer cases than features: the Fréchet distance is shown, and is no"
            " evidence.",
        )
    report.not_evaluated += found.not_evaluated
    for remark in found.remarks:
        report.remark(remark)


def _adhere(sets: Mapping[str, list[Picture]], report: Report, asked: Asked) -> None:
    """Whether generated images are what was asked for: class or number, measured again by what real images teach."""
    if asked.labels is None:
        report.not_evaluated.append(
            "adherence to the condition: needs --labels FILE with the columns folder, name, label."
        )
        return
    try:
        report.adherence = adherence(sets, read_labels(asked.labels), asked.seed, asked.embeddings)
    except ValueError as error:
        report.not_evaluated.append(f"adherence to the condition: {error}")
