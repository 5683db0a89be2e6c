"""Folders of images from any generator: paired file by file where names agree, and as sets of patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import io
from ..contracts import Image
from ..data.prepare import foreground, grid_of, offset_mm, resample, same_grid
from ..io import Scan, UnreadableError
from ..registry import measure
from .claim import Claim, Verdict, declare, judge
from .embedding import Picture
from .pixel import METRICS
from .realism import realism
from .report import Report, StageResult, render
from .summary import Row, in_words

Say = Callable[[str], None]
FAR = 0.5  # of a voxel's diagonal: pairs shifted by more lose decibels to the shift alone


@dataclass(frozen=True)
class Folders:
    """What is judged, against whom, and what else is known."""

    generated: Path
    reference: Path
    masks: Path | None = None
    training: Path | None = None
    holdout: Path | None = None
    competitor: Path | None = None


def evaluate_folders(
    folders: Folders, out: Path, data_range: float | None, say: Say, seed: int = 0, claim: Claim | None = None
) -> Path:
    """Tier 1 for every pair, tier 2 for the sets; what the inputs do not allow is listed. Returns the page.

    Pairs have one relative name. Masks too: metrics count inside them. A claim is about generated against competitor images
    of the same truth; its hash is written before anything is measured. Raises ValueError for an empty folder, one patient
    both in the training folder and in another, or a claim without a competitor.
    """
    if claim is not None and folders.competitor is None:
        raise ValueError("A claim compares two sets of images of the same patients. Name the other: --competitor DIR")
    stamp = declare(claim, out) if claim is not None else ""
    asked = {k: v.name for k, v in vars(folders).items() if v is not None}
    report = Report.start({"evaluate": {**asked, "data_range": data_range, "seed": seed}}, out.name)
    report.title = f"{folders.generated.name} judged by {folders.reference.name}"
    found = {k: _scans(v, report) for k, v in vars(folders).items() if v is not None}
    _check_shared(found)
    report.stages.append(_pairs(found, report, data_range, say))
    if "competitor" in found:
        others = {**found, "generated": found["competitor"]}
        report.stages.append(_pairs(others, report, data_range, say, "competitor"))
    if claim is not None:
        report.verdict = _judged(claim, report.stages, stamp)
        say(f"{report.verdict.status}: {report.verdict.may}")
    else:
        report.not_evaluated.append("a verdict: needs --claim, declared before results, and --competitor.")
    if folders.masks is None:
        report.not_evaluated.append(
            "metrics inside a region: needs --masks, one mask per reference with its relative name."
        )
    masks = found.get("masks", {})
    sets = {
        side: _pictures(scans, masks, report) for side, scans in found.items() if side not in ("masks", "competitor")
    }
    _compare(sets, report, seed)
    for line in report.not_evaluated:
        say(f"Not evaluated: {line}")
    return render(report, out)


def _scans(folder: Path, report: Report) -> dict[str, Scan]:
    """Readable images by relative name; raises ValueError when there are none."""
    listed = io.scan_folder(folder)
    for oddity in listed.oddities:
        if oddity.severity != "note":
            report.remark(f"{Path(oddity.file).name}: {oddity.fault}")
    scans = {str(s.files[0].relative_to(folder)) if folder.is_dir() else s.files[0].name: s for s in listed.scans}
    if not scans:
        raise ValueError(f"{folder} holds no readable image. See: fabrica inspect {folder}")
    return scans


def _patient(name: str, scan: Scan) -> str:
    """As the file says; else its first folder, or its own name where it lies in none."""
    first, *inner = name.split("/")
    return scan.patient or (first if inner else first.split(".")[0])


def _check_shared(found: Mapping[str, Mapping[str, Scan]]) -> None:
    """Honesty check 1: whoever trained the generator may not judge it."""
    if "training" not in found:
        return
    trained = {_patient(n, s) for n, s in found["training"].items()}
    for side in ("reference", "holdout"):
        shared = sorted(trained & {_patient(n, s) for n, s in found.get(side, {}).items()})
        if shared:
            shown = ", ".join(shared[:5]) + (" and others" if len(shared) > 5 else "")
            raise ValueError(
                f"{shown}: in the training folder and in --{side}. Judge on patients whom training did not see."
            )


def _judged(claim: Claim, stages: Sequence[StageResult], stamp: str) -> Verdict:
    rows = [[r for r in stage.cases if r.metric == claim.endpoint] for stage in stages]
    ours, theirs = ({r.case: _number(r.value) for r in side} for side in rows)
    return judge(claim, ours, theirs, {r.case: r.patient for side in rows for r in side}, stamp)


def _number(value: float | str) -> float | None:
    """None for a case that failed; an infinite PSNR is a perfect answer, not a failure."""
    if isinstance(value, str):
        return float("inf") if value.startswith("infinite") else None
    return float(value)


def _pairs(
    found: Mapping[str, Mapping[str, Scan]],
    report: Report,
    data_range: float | None,
    say: Say,
    name_of: str = "given images",
) -> StageResult:
    """Every metric of tier 1 for every pair; a case that fails says why in its place."""
    ours, theirs = found["generated"], found["reference"]
    names = sorted(ours.keys() & theirs.keys())
    result = StageResult(name_of, "evaluation", "unknown", {}, 0, 0.0, [])
    if not names:
        report.not_evaluated.append("paired metrics: needs the same relative file name in both folders.")
        return result
    if lost := len(ours.keys() | theirs.keys()) - len(names):
        report.remark(f"{lost} files stand in one folder only and were left out of the pairs.")
        say(report.remarks[-1])
    for name in names:
        patient = _patient(name, theirs[name])
        try:
            evidence = _evidence(name, found, report) | {"data_range": data_range}
            rows = [(m, in_words(measure(known, evidence)), known.unit) for m, known in METRICS.items()]
        except UnreadableError as error:
            rows = [(m, f"failed: {error.fault}", "") for m in METRICS]
            report.remark(f"{name}: {error.fault} {error.next_step}")
        result.cases += [
            Row(name, patient, "", "model", m, value, unit if unit == "dB" else "") for m, value, unit in rows
        ]
    return result


def _evidence(name: str, found: Mapping[str, Mapping[str, Scan]], report: Report) -> dict[str, object]:
    """Arrays of one grid; what had to be resampled or lies shifted is remarked."""
    image, truth = io.read(found["generated"][name]), io.read(found["reference"][name])
    grid = grid_of(truth)
    if not same_grid(grid_of(image), grid):
        image = resample(image, grid)
        report.remark(f"{name}: resampled to the grid of its reference.")
    evidence: dict[str, object] = {"generated": image.data[0].numpy(), "reference": truth.data[0].numpy()}
    if truth.axes in ("zyx", "yx"):
        volumes = [i.data[0] if i.axes == "zyx" else i.data[0][None] for i in (image, truth)]
        off = offset_mm(
            volumes[0], volumes[1], truth.spacing_mm if truth.axes == "zyx" else (1.0, *truth.spacing_mm[-2:])
        )
        if off > FAR * float(np.linalg.norm(truth.spacing_mm)):
            report.remark(f"{name}: lies about {off:.1f} mm off its reference; paired metrics mostly measure that.")
    if name in found.get("masks", {}):
        mask = io.read(found["masks"][name])
        evidence["mask"] = resample(mask, grid).data[0].numpy() > 0.5
    return evidence


def _pictures(scans: Mapping[str, Scan], masks: Mapping[str, Scan], report: Report) -> list[Picture]:
    """Images of a set with the patient's outline (the mask of that name, or what is brighter than the mean)."""
    pictures = []
    for name, scan in scans.items():
        try:
            image = io.read(scan)
        except UnreadableError as error:
            report.remark(f"{name}: {error.fault} Left out of the set.")
            continue
        if image.axes not in ("zyx", "yx"):
            report.remark(f"{name}: has a time axis, which sets cannot hold yet. Left out of the set.")
            continue
        values = image.data[0].numpy().astype(np.float64)
        inside = _outline(name, image, masks)
        if not inside.any():
            report.remark(f"{name}: {'its mask is empty' if name in masks else 'is constant'}. Left out of the set.")
            continue
        pictures.append(Picture(name, _patient(name, scan), values, inside, tuple(image.spacing_mm[-values.ndim :])))
    return pictures


def _outline(name: str, image: Image, masks: Mapping[str, Scan]) -> NDArray[np.bool_]:
    if name in masks:
        return np.asarray(resample(io.read(masks[name]), grid_of(image)).data[0].numpy() > 0.5)
    return np.asarray(foreground(image.data[0]).numpy())


def _compare(sets: Mapping[str, list[Picture]], report: Report, seed: int) -> None:
    """Tier 2, or the reason why there is none."""
    generated, real = sets["generated"], sets["reference"]
    if not generated or not real:
        report.not_evaluated.append("distances between sets: needs images without a time axis in both folders.")
        return
    if len({p.values.ndim for p in (*generated, *real)}) > 1:
        report.not_evaluated.append("distances between sets: needs slices on both sides, or volumes on both.")
        return
    lossy = [any(p.name.lower().endswith((".jpg", ".jpeg")) for p in side) for side in (generated, real)]
    if lossy[0] != lossy[1]:  # honesty check 14
        side = "generated" if lossy[0] else "reference"
        report.not_evaluated.append(
            f"distances between sets: JPEG on the {side} side alone would be what they measure."
        )
        return
    for side, pictures in sets.items():
        if copies := len(pictures) - len({p.values.tobytes() for p in pictures}):
            report.remark(f"{copies} of {len(pictures)} {side} images are exact copies of another one there.")
    try:
        found = realism(generated, real, training=sets.get("training", ()), holdout=sets.get("holdout", ()), seed=seed)
    except ValueError as error:
        report.not_evaluated.append(f"distances between sets: {error}")
        return
    report.realism = found
    report.not_evaluated += found.not_evaluated
    for remark in found.remarks:
        report.remark(remark)
