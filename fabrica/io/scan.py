"""What is known of a scan before its pixels are read, and what is said of a file that cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Affine = NDArray[np.float64]  # (4, 4) index (z, y, x, 1) -> LPS millimetres

Format = Literal[
    "nifti", "metaimage", "dicom", "raster", "k-space", "sinogram", "emission counts", "planning", "contours", "dose"
]


class UnreadableError(Exception):
    """A file that cannot become an Image: which one, what is wrong with it and what to do next, in one line."""

    def __init__(self, fault: str, next_step: str, file: str = "") -> None:
        super().__init__(f"{file}: {fault} {next_step}" if file else f"{fault} {next_step}")
        self.fault, self.next_step, self.file = fault, next_step, file

    def of(self, file: str) -> UnreadableError:
        """The same, naming the file that it is about; what is named already stays."""
        return self if self.file else UnreadableError(self.fault, self.next_step, file)


@dataclass(frozen=True, slots=True)
class Oddity:
    """One line about one file (or series): what is odd, and what to do about it."""

    file: str
    fault: str
    next_step: str
    severity: Literal["note", "warning", "fault"] = "fault"  # note: not an image; warning: read all the same

    def __str__(self) -> str:
        return f"{self.file}: {self.fault} {self.next_step}"


@dataclass(frozen=True, slots=True)
class Scan:
    """One image as its header describes it; `io.read(scan)` brings the pixels."""

    files: tuple[Path, ...]
    format: Format
    shape: tuple[int, ...]  # (C, *axes)
    axes: str
    affine: Affine
    calibrated: bool = True
    unit: str = "a.u."
    unit_from: str = ""  # what says so: an element of the header, the name, the values
    kind: Literal["intensity", "label"] = "intensity"
    modality: str = ""  # "MR", "CT", "PT", ... when the header says so
    description: str = ""  # free words of the header that may name the contrast
    patient: str = ""  # pseudonym made from the header's patient identifier; "" when the format has none
    visit: str = ""  # date of the study, or ""
    member: str = ""  # inside an archive or a series: tells apart several scans of one file
    frame_of_reference: str | None = None
    values: Mapping[str, float | str] = field(default_factory=dict)  # age, sex, label, ...
    doubt: str = ""  # why its patient may be another than it seems
    bytes_each: int = 0  # of a stored whole number; 0 where numbers are no whole ones, or it is not known
    recipe: Any = None  # what the format's reader needs to find the pixels again

    @property
    def name(self) -> str:
        """The first file, with the member when there is one."""
        return f"{self.files[0]}{'#' + self.member if self.member else ''}"


@dataclass(frozen=True, slots=True)
class Listing:
    """What a folder holds: scans that can be read, and one line about everything else."""

    scans: tuple[Scan, ...]
    oddities: tuple[Oddity, ...]


def check_values(values: NDArray[Any]) -> None:
    """Raise UnreadableError when voxels are not finite: a mean over them would be NaN for the whole patient."""
    if values.dtype.kind not in "fc":
        return
    wrong = int(values.size - np.count_nonzero(np.isfinite(values)))
    if wrong:
        raise UnreadableError(
            f"{wrong} of {values.size} voxels are not finite (NaN or infinite).",
            "Replace them where they were made, or leave this file out.",
        )


def check_affine(affine: Affine) -> None:
    """Raise UnreadableError for a geometry that no scanner makes: singular, or spacing outside 1 um to 100 mm."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise UnreadableError(
            "its orientation matrix is not invertible.", "Export the scan again, or give its geometry."
        )
    if spacing.min() < 1e-3 or spacing.max() > 100:
        shown = " x ".join(f"{s:.4g}" for s in spacing)
        raise UnreadableError(
            f"its voxel spacing is {shown} mm (z, y, x), expected 0.001 to 100 mm.",
            "Correct the spacing in the header; it may be in metres or micrometres.",
        )
