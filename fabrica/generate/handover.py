"""From draws to objects in the outbox: which draws, as which series, of whose patient."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import io
from ..contracts import Image
from ..deliver import draws
from ..deliver.objects.dose import planned_dose
from ..deliver.objects.images import derived_series
from ..deliver.objects.marking import Making, Series
from ..deliver.objects.parametric_map import prior_map, spread_map
from ..deliver.objects.report import answer_report, evidence_report
from ..deliver.objects.segmentation import segmentation
from ..deliver.objects.source import read_headers
from ..deliver.objects.structure_set import structure_set
from ..deliver.outbox import Outbox
from ..deliver.record import Drawn, Record, answers_in, check_decided, check_drawn, check_sources

Say = Callable[[str], None]


def default_store() -> Path:
    """Where the outbox of this user lies: `fabrica/delivery` below XDG_DATA_HOME."""
    home = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(home) / "fabrica" / "delivery"


def hand_over(
    record: Record, outbox: Outbox, *, which: str = "mean", identity: Path | None = None, source: Path | None = None,
    evidence: bool = False, structures: bool = False, say: Say = print,
) -> list[str]:  # fmt: skip
    """UIDs of the series that a record's draws became, in the outbox; those that were there stay as they are.

    `which`: mean, all, or the number of a draw; with the mean of several goes a map of their spread. `identity`: a
    DICOM file that says whose draws of other files are; `source`: where the files lie now that draws were made from.
    `evidence`: a report of what was measured of the model goes with each; `structures`: label maps as contours, too.
    Raises ValueError for what cannot be delivered.
    """
    if record.audit.startswith("REFUSED"):
        raise ValueError(
            f"The run {record.run} was audited and {record.audit}: nothing of it is delivered."
            " Overrule it with a reason, then draw again: fabrica audit RUN --override CHECK=REASON"
        )
    found = []
    for drawn in record.images:
        paths = check_sources(drawn, source) if drawn.sources or identity is None else [identity]
        headers = read_headers(paths)
        if drawn.kind == "value":
            found.append(_said(Making(record, drawn, headers), outbox, paths, evidence, say))
            continue
        for name, image, spread in _wanted(record, drawn, which):
            made = partial(_object, image=image)
            making, series = _of_its_day(Making(record, drawn, headers, name), outbox, made)
            parts = _maps(making, image, spread, series)
            if structures and drawn.kind == "label":
                labels, affine = image.data[0].numpy(), image.affine.numpy()
                parts.append(structure_set(making, labels, affine, classes=drawn.classes))
            if evidence:
                parts.append(evidence_report(making, series))
            event = _told(making, series)
            if name == "mean" and len(drawn.files) > 1 and image.axes == "zyx" and not outbox.drawn(series.uid):
                # whoever judges flips through them
                own = check_drawn(record, drawn, range(len(drawn.files)))
                event["draws"] = draws.keep(outbox.folder, series.uid, own, series.factor)
            new = outbox.add(series, paths, event)
            for part in parts:
                outbox.add(part, paths, {**event, "clipped": 0}, part_of=series.uid)
            if series.clipped:
                say(f"{drawn.case}: {series.clipped} voxels did not fit what DICOM stores and were clipped.")
            beside = "".join(f", with {p.datasets[0].SeriesDescription}" for p in parts)
            say(f"{drawn.case}: {drawn.contrast}, {len(series.datasets)} files{beside}, {'made' if new else 'known'}.")
            found.append(series.uid)
    return found


def _maps(making: Making, image: Image, spread: NDArray[np.float32] | None, series: Series) -> list[Series]:
    """What goes with the mean of draws of an image, voxel by voxel: how far they lie apart, and what no datum fixes."""
    drawn, found = making.drawn, list[Series]()
    if making.which != "mean" or drawn.kind == "label" or drawn.unit == "Gy" or image.axes != "zyx":
        return found
    if spread is not None:
        found.append(spread_map(replace(making, which="spread"), spread, series))
    if (path := check_decided(making.record, drawn)) is not None:
        decided = _volume(io.read_image(path)).data[0].numpy()
        found.append(prior_map(replace(making, which="prior"), decided, series))
    return found


def _volume(image: Image) -> Image:
    """A plane as a volume of one plane."""
    return replace(image, data=image.data[:, None], axes="zyx") if image.axes == "yx" else image


def _said(making: Making, outbox: Outbox, paths: Sequence[Path], evidence: bool, say: Say) -> str:
    """The UID of the report that a case's answers became."""
    drawn = making.drawn
    answers = answers_in(check_drawn(making.record, drawn, [0])[0])
    making, series = _of_its_day(making, outbox, partial(answer_report, answers=answers))
    event = _told(making, series)
    new = outbox.add(series, paths, event)
    if evidence:
        outbox.add(evidence_report(making, series), paths, event, part_of=series.uid)
    say(f"{drawn.case}: {drawn.contrast}, a structured report, {'made' if new else 'known'}.")
    return series.uid


def _of_its_day(making: Making, outbox: Outbox, made: Callable[[Making], Series]) -> tuple[Making, Series]:
    """What was drawn again to the same is the same object, of the day on which it was drawn first."""
    series = made(making)
    before = outbox.drawn(series.uid)
    if before in ("", making.record.made):
        return making, series
    making = replace(making, record=replace(making.record, made=before))
    return making, made(making)


def _told(making: Making, series: Series) -> dict[str, Any]:
    """What the ledger keeps of how a series was made."""
    record = making.record
    return {
        "run": record.run, "stage": record.stage, "weights": record.weights, "recipe": record.recipe,
        "seed": record.seed, "draw": making.which, "drawn": record.made, "version": record.version,
        "sources": sorted(str(h.SOPInstanceUID) for h in making.headers), "clipped": series.clipped,
        "audit": record.audit, "cohort": record.cohort, "doubt": making.drawn.doubt,
        "evidence": [e.words() for e in record.evidence if e.contrast in ("", making.drawn.contrast)],
    }  # fmt: skip


def _object(making: Making, image: Image) -> Series:
    """What the contrast of a draw is in DICOM: a series of planes, segments, or a dose."""
    drawn, number = making.drawn, int(making.which) + 1 if making.which.isdigit() else 0
    if drawn.kind == "label":
        labels, affine = image.data[0].numpy(), image.affine.numpy()
        return segmentation(making, labels, affine, classes=drawn.classes, number=number)
    if drawn.unit == "Gy":
        return planned_dose(making, image.data[0].numpy(), image.affine.numpy(), number=number)
    return derived_series(making, image, number=number)


def _wanted(record: Record, drawn: Drawn, which: str) -> Sequence[tuple[str, Image, NDArray[np.float32] | None]]:
    """(name, image, spread of the draws) of their mean, of each, or of one; of labels the most frequent is the mean."""
    count = len(drawn.files)
    if which not in ("mean", "all") and not (which.isdigit() and int(which) < count):
        raise ValueError(f"--draw {which!r} is none of {drawn.case}'s {count}. Write mean, all, or a number from 0.")
    numbers = list(range(count)) if which in ("mean", "all") else [int(which)]
    images = [_volume(io.read_image(path)) for path in check_drawn(record, drawn, numbers)]
    if which != "mean":
        return [(str(number), image, None) for number, image in zip(numbers, images, strict=True)]
    if drawn.kind == "label":
        frequent = torch.stack([i.data for i in images]).mode(0).values
        return [("mean", replace(images[0], data=frequent), None)]
    mean = torch.zeros_like(images[0].data, dtype=torch.float64)
    for image in images:
        mean += image.data / count
    squares = torch.zeros_like(mean)
    for image in images:
        squares += (image.data - mean) ** 2
    spread = (squares / (count - 1)).sqrt()[0].float().numpy() if count > 1 else None
    return [("mean", replace(images[0], data=mean.float()), spread)]
