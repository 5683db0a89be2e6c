"""Folders of images as judging reads them: each file once, every pair on one grid."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import io
from ...contracts import Image
from ...data.grid import coverage, grid_of, resample, same_grid
from ...io import Scan, UnreadableError
from ...machine.executors import Executor
from ..honesty.claim import Claim
from ..report.results import Report
from ..sets.embedding import Embedding

BESIDE = "lies beside its reference"


WHOLE = 0.005  # of a reference that may stay uncovered: rounded corners


@dataclass(frozen=True)
class Folders:
    """What is judged, against whom, and what else is known."""

    generated: Path
    reference: Path
    masks: Path | None = None
    training: Path | None = None
    holdout: Path | None = None
    competitor: Path | None = None
    segmentations: Path | None = None  # what somebody's segmentation marked in the generated images
    reference_segmentations: Path | None = None  # and in the real ones


@dataclass(frozen=True)
class Asked:
    """How folders are judged."""

    data_range: float | None = None
    seed: int = 0
    claim: Claim | None = None
    overrides: Mapping[int, str] = field(default_factory=dict)  # honesty check -> why it may be overruled
    labels: Path | None = None  # a table: folder, name, and what was asked for (class or number)
    quick: bool = False  # leave out the test of the metrics themselves
    embeddings: Mapping[str, Embedding] = field(default_factory=dict)  # the user's own, by a name that holds their hash
    networks: tuple[Path, ...] = ()  # where these come from
    executor: Executor | None = None  # who measures pairs; this process, side by side, when left out


class Shelf:
    """Images that were read: pairs and sets share them, so that each is in memory once, as it was stored."""

    def __init__(self) -> None:
        self.images: dict[int, tuple[Scan, Image]] = {}

    def read(self, scan: Scan) -> Image:
        """Raises UnreadableError as `io.read`."""
        if id(scan) not in self.images:
            self.images[id(scan)] = scan, io.read(scan)
        return self.images[id(scan)][1]

    def all(self, scans: Mapping[str, Scan]) -> Iterator[tuple[str, Image]]:
        """Images of a set by name; what cannot be read is said where the set is judged."""
        for name, scan in scans.items():
            with contextlib.suppress(UnreadableError):
                yield name, self.read(scan)


def scans(folder: Path, report: Report) -> dict[str, Scan]:
    """Readable images by relative name; raises ValueError when there are none."""
    listed = io.scan_folder(folder)
    for oddity in listed.oddities:
        if oddity.severity != "note":
            report.remark(f"{Path(oddity.file).name}: {oddity.fault}")
    scans = io.by_name(folder, listed.scans)
    if not scans:
        raise ValueError(f"{folder} holds no readable image. See: fabrica inspect {folder}")
    return scans


def evidence(name: str, found: Mapping[str, Mapping[str, Scan]], shelf: Shelf, report: Report) -> dict[str, object]:
    """Arrays of one grid; what had to be resampled or lies shifted is remarked."""
    image, truth = shelf.read(found["generated"][name]), shelf.read(found["reference"][name])
    evidence: dict[str, Any] = {}
    grid = grid_of(truth)
    if image.axes[0] == "t" or truth.axes[0] == "t":
        if image.axes != truth.axes or image.data.shape != truth.data.shape:
            raise UnreadableError(
                "has other frames than its reference.", "Draw the series on the grid and frames of its reference."
            )
        evidence["series"] = True
    elif not same_grid(grid_of(image), grid):
        if (share := coverage(image, grid)) < 1 - WHOLE:
            evidence["covered"] = share
        if not share:
            raise UnreadableError(
                f"{BESIDE}: 0 % of the reference is covered.",
                "Write images with the geometry of their reference (a NIfTI affine, DICOM positions).",
            )
        image = resample(image, grid)
        report.remark(f"{name}: resampled to the grid of its reference{covered(share)}.")
    if len(image.data) != len(truth.data):
        raise UnreadableError(
            f"has {len(image.data)} colour channels, its reference {len(truth.data)}.",
            "Write all of them, or both in grey.",
        )
    if len(truth.data) > 1:
        evidence["channels"] = True
        report.remark("Colour images are compared channel by channel, and the mean is shown; sets of them in grey.")
    if not image.data.isfinite().all():
        raise UnreadableError("holds NaN or infinity.", "Write finite values, or leave the case out as failed.")
    evidence |= {
        "generated": values(image), "reference": values(truth),
        "units": (image.meaning.unit, truth.meaning.unit),
    }  # fmt: skip
    if name in found.get("masks", {}):
        mask = shelf.read(found["masks"][name])
        evidence["mask"] = resample(mask, grid).data[0].numpy() > 0.5
    return evidence


def values(image: Image) -> NDArray[np.float32]:
    """(y, x) or (z, y, x); of several channels (C, ...) all of them."""
    found: NDArray[np.float32] = image.data[0].numpy() if len(image.data) == 1 else image.data.numpy()
    return found


def covered(share: float) -> str:
    return f", of which it covers {share:.0%}; outside it counts as 0" if share < 1 - WHOLE else ""
