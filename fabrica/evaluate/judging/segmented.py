"""Masks that a segmentation found in generated images, against the true ones: is what was asked for there, where and as
large?

The reader is the user's own (a run of `fabrica run recipes/segmentation.yaml`, or any other tool). What the same reader
finds in the real images is the ceiling; the true mask of the patient who looks most alike is the floor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...contracts import Image
from ...data.grid import grid_of, resample
from ...io import Scan, UnreadableError
from ..honesty.ledger import Ledger
from ..metrics import overlap
from ..report.results import REAL, Report
from ..result import Row
from .folder_checks import Nearest, patient_of

Labels = NDArray[np.floating[Any]]
Read = Callable[[Scan], Image]
IN_MM = ("hausdorff95", "surface dice", "volume error")
UNCALIBRATED = "pixel sizes in mm"
TRIVIAL = "mask of the patient most alike"


def segmented_rows(found: Mapping[str, Mapping[str, Scan]], read: Read, report: Report) -> list[Row]:
    """Dice, surfaces, volumes and pieces of every reference that has a mask; a case that fails says why in its place.

    `found`: folder -> relative name -> scan. Masks of generated images lie on the grid of their reference, or are
    brought there by the nearest voxel.
    """
    if "segmentations" not in found:
        report.not_evaluated.append(
            "what a segmentation finds in the images: needs --segmentations, its masks of the generated images by"
            " relative name."
        )
        return []
    truths = _truths(found, read, report)
    if not truths:
        report.not_evaluated.append(
            "what a segmentation finds in the images: needs --masks with the true masks by relative name."
        )
        return []
    if without := len(found["reference"]) - len(truths):
        report.remark(
            f"{without} of {len(found['reference'])} references have no readable true mask: no segmentation of them was"
            " judged."
        )
    _check_spacing(truths, report)
    patients = {name: patient_of(name, found["reference"][name]) for name in truths}
    near, rows = Nearest({name: image.data[0].numpy() for name, (image, _) in truths.items()}, patients, {}), []
    sides = {"model": "segmentations", REAL: "reference_segmentations"}
    for name, (truth, labels) in truths.items():
        patient = patients[name]
        for by, side in sides.items():
            if side in found:
                rows += _rows(name, patient, by, labels, truth, found[side].get(name), read)
        if (nearest := near.name_of(name)) is not None:
            rows += _figure(name, patient, TRIVIAL, truths[nearest][1], labels, truth)
    if "reference_segmentations" not in found:
        report.not_evaluated.append(
            "what the same segmentation finds in real images: needs --reference-segmentations, its masks of them."
        )
    return rows


def _truths(found: Mapping[str, Mapping[str, Scan]], read: Read, report: Report) -> dict[str, tuple[Image, Labels]]:
    """The reference and its true labels, of every reference that can be read and has a mask."""
    truths = {}
    for name, scan in found["reference"].items():
        if name not in found.get("masks", {}):
            continue
        try:
            image = read(scan)
            truths[name] = image, _labels(read(found["masks"][name]), image)
        except UnreadableError as error:
            report.remark(f"{name}: {error.fault} No segmentation of it was judged.")
    return truths


def _labels(mask: Image, image: Image) -> Labels:
    """(z, y, x) on the grid of an image; whole numbers. Raises UnreadableError for a series and for values that are no
    labels.
    """
    if "t" in (mask.axes[0], image.axes[0]):
        raise UnreadableError("is a series.", "Give masks of single frames.")
    moved = resample(replace(mask, meaning=replace(mask.meaning, kind="label")), grid_of(image)).data[0].numpy()
    if not np.isfinite(moved).all() or (moved != np.round(moved)).any() or (moved < 0).any():
        raise UnreadableError("holds values that are no labels.", "Write whole numbers, 0 for what is not marked.")
    picture = set(np.unique(moved)) == {0.0, 255.0}
    values = np.where(moved > 0, 1.0, 0.0) if picture else moved
    return values if values.ndim == 3 else values[None]


def _rows(name: str, patient: str, by: str, labels: Labels, truth: Image, scan: Scan | None, read: Read) -> list[Row]:
    if scan is None:
        return _failed(name, patient, by, "there is no segmentation of this name")
    try:
        marked = _labels(read(scan), truth)
    except UnreadableError as error:
        return _failed(name, patient, by, f"its segmentation {error.fault}")
    return _figure(name, patient, by, marked, labels, truth)


def _figure(name: str, patient: str, by: str, marked: Labels, labels: Labels, truth: Image) -> list[Row]:
    found: dict[str, tuple[float | str, str]] = dict(overlap.rows_of(marked, labels, spacing_mm=truth.spacing_mm))
    if not truth.calibrated:
        found |= {m: (f"not evaluated: needs {UNCALIBRATED}", overlap.UNITS.get(m, "")) for m in IN_MM}
    return [Row(name, patient, "", by, metric, value, unit) for metric, (value, unit) in found.items()]


def _check_spacing(truths: Mapping[str, tuple[Image, Labels]], report: Report) -> None:
    """Check 10: surfaces and volumes are not measured in pixels of unknown size."""
    ledger = report.ledger or Ledger()
    ledger.looked.add(10)
    if unknown := sorted(name for name, (image, _) in truths.items() if not image.calibrated):
        ledger.trigger(
            10,
            f"{len(unknown)} of {len(truths)} references ({unknown[0]}) state no pixel size.",
            f"Surfaces and volumes need {UNCALIBRATED}: give NIfTI or DICOM.",
        )


def _failed(name: str, patient: str, by: str, why: str) -> list[Row]:
    return [Row(name, patient, "", by, m, f"failed: {why}", overlap.UNITS.get(m, "")) for m in overlap.BETTER]
