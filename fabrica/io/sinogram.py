"""Raw data of CT and PET: `sinogram.npz` as plain arrays, with what says how they were measured.

CT: `data` (view, [row,] detector), `angles_deg`, `detector_mm`, `kind` (counts or line_integrals), with counts `flat`
(before the patient; a number or one for each detector) and perhaps `dark`. PET: `counts` (view, [row,] bin),
`attenuation` (factors of the lines, 0 to 1), `sensitivity` (counts of an SUV of 1 along 1 mm of a line), `background`
(scatter and randoms expected). Both may say `row_mm`, and that `geometry` is parallel. A CT may be of geometry fan:
with `source_mm`, from the source to the middle of the turn, and `source_detector_mm`, to the flat detector whose bins
are `detector_mm` wide. At 0 degrees central rays run along y, at 90 along x; the middle of the detector sees the
middle of the slice. Bins count along x at 0 degrees, along y at 90; a fan's source then stands before the first row,
behind the last column.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .scan import Oddity, Scan, UnreadableError

SINOGRAM: Final = "sinogram"  # what a cohort calls a CT's
COUNTS: Final = "emission counts"  # and a PET's
ENDINGS = (".npz",)
KINDS = ("counts", "line_integrals")


@dataclass(frozen=True)
class RawSinogram:
    """Of CT line integrals with the deviation of each, of PET counts; (row, 1, view, detector)."""

    values: Tensor
    angles: tuple[float, ...]  # radians
    detector_mm: float  # as seen at the middle of the slice
    row_mm: float | None
    deviation: Tensor | None = None  # of line integrals; None for counts
    weight: Tensor | None = None  # of PET: counts of a line of activity 1 a mm, with its attenuation
    background: Tensor | None = None  # of PET, in counts
    source_mm: float | None = None  # of a fan, from its source to the middle of the slice


def listing(path: Path) -> tuple[list[Scan], list[Oddity]] | None:
    """The scan in a file, or None where it is no sinogram."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            names = archive.files
            if not {"angles_deg", "detector_mm"} & set(names) or not {"data", "counts"} & set(names):
                return None
            name = "counts" if "counts" in names else "data"
            shape = archive[name].shape
            detector = float(archive["detector_mm"]) if "detector_mm" in names else 0.0
            if {"source_mm", "source_detector_mm"} <= set(names) and float(archive["source_detector_mm"]) > 0:
                detector *= float(archive["source_mm"]) / float(archive["source_detector_mm"])
            row = float(archive["row_mm"]) if "row_mm" in names else 1.0
    except (ValueError, OSError, EOFError, TypeError, BadZipFile) as error:
        raise UnreadableError(f"cannot be read ({error}).", "Save it again with numpy.") from error
    if len(shape) not in (2, 3):
        raise UnreadableError(f"its {name} is {shape}, expected (view, [row,] detector).", "Save it so.")
    modality: Literal["sinogram", "emission counts"] = COUNTS if name == "counts" else SINOGRAM
    rows = shape[1] if len(shape) == 3 else 1
    side = even(shape[-1])
    affine = np.diag([detector or 1.0, detector or 1.0, row, 1.0])[:, [2, 1, 0, 3]]
    return [Scan((path,), modality, (rows, side, side), "zyx", affine, detector > 0, unit="", modality=modality)], []


def even(detectors: int) -> int:
    """Pixels a side of the slice that is reconstructed: as many as detectors, and even."""
    return detectors + detectors % 2


def read(scan: Scan) -> RawSinogram:
    """Raises UnreadableError for values that are none, angles in another unit, counts without a flat field."""
    with scan.files[0].open("rb") as file, np.load(file, allow_pickle=False) as archive:
        found = {name: archive[name] for name in archive.files}
    for name in ("angles_deg", "detector_mm"):
        if name not in found:
            raise UnreadableError(f"does not say its {name}.", f"Save it beside the data: {name}=...")
    main = found["counts"] if scan.format == COUNTS else found["data"]
    values = _rows(main)
    angles = _angles(found["angles_deg"], values.shape[2])
    width = float(found["detector_mm"])
    if not np.isfinite(width) or width <= 0:
        raise UnreadableError(f"its detector_mm is {width:g}, expected a width above 0 in mm.", "Save it so.")
    row, source = float(found["row_mm"]) if "row_mm" in found else None, _source(found, scan.format)
    if scan.format == COUNTS:
        return _counts(found, values, angles, width, row)
    lines, deviation = _lines(found, values)
    if source is not None:
        width *= source / float(found["source_detector_mm"])
    return RawSinogram(lines, angles, width, row, deviation, source_mm=source)


def _source(found: dict[str, NDArray[Any]], format: str) -> float | None:
    """How far a fan's source lies from the middle of the turn, in mm; None for parallel beams."""
    geometry = str(found.get("geometry", "parallel"))
    if geometry == "parallel":
        return None
    if geometry != "fan" or format == COUNTS:
        able = "parallel" if format == COUNTS else "parallel or fan"
        raise UnreadableError(f"its geometry is {geometry}, expected {able}.", "Rebin it to parallel beams.")
    told = {name: float(found.get(name, np.nan)) for name in ("source_mm", "source_detector_mm")}
    for name, value in told.items():
        if not np.isfinite(value) or value <= 0:
            raise UnreadableError(f"is a fan and does not say its {name}.", f"Save it in mm: {name}=...")
    seen = float(found["detector_mm"]) * told["source_mm"] / told["source_detector_mm"] * found["data"].shape[-1] / 2
    if told["source_mm"] <= seen:
        raise UnreadableError(
            f"its source lies {told['source_mm']:g} mm from the middle of a slice that reaches {seen:g} mm out.",
            "Check the unit of its distances.",
        )
    if told["source_detector_mm"] <= told["source_mm"]:
        raise UnreadableError(
            f"its detector lies {told['source_detector_mm']:g} mm from the source, the middle of the turn"
            f" {told['source_mm']:g} mm.", "Check which is which.",
        )  # fmt: skip
    return told["source_mm"]


def _rows(data: NDArray[Any]) -> Tensor:
    """(row, 1, view, detector), finite."""
    values = torch.from_numpy(np.array(data, np.float64)).float()
    if not bool(values.isfinite().all()):
        raise UnreadableError("holds numbers that are not finite.", "Leave out the views or detectors that failed.")
    return values[None, None] if values.ndim == 2 else values.transpose(0, 1)[:, None].contiguous()


def _angles(degrees: NDArray[Any], views: int) -> tuple[float, ...]:
    told = np.asarray(degrees, np.float64).ravel()
    if len(told) != views:
        raise UnreadableError(f"says {len(told)} angles for {views} views.", "Save (view, [row,] detector).")
    if not np.isfinite(told).all():
        raise UnreadableError("its angles are not finite.", "Save them in degrees.")
    if views > 8 and np.ptp(told) <= 2 * np.pi:
        raise UnreadableError(
            f"its {views} angles span {np.ptp(told):.2f} degrees: they look like radians.", "Save them in degrees."
        )
    return tuple(np.deg2rad(told).tolist())


def _lines(found: dict[str, NDArray[Any]], values: Tensor) -> tuple[Tensor, Tensor]:
    """Line integrals and the deviation of each."""
    kind = str(found.get("kind", ""))
    if kind not in KINDS:
        raise UnreadableError(f"its kind is {kind or 'not said'}, expected {' or '.join(KINDS)}.", "Save it beside.")
    if kind == "line_integrals":
        return values, torch.full_like(values, rough(values))
    if "flat" not in found:
        raise UnreadableError("holds counts without a flat field.", "Save what is counted without a patient: flat=...")
    flat = torch.from_numpy(np.asarray(found["flat"], np.float64)).float()
    dark = torch.from_numpy(np.asarray(found.get("dark", 0.0), np.float64)).float()
    if bool((flat <= dark).any()):
        raise UnreadableError("its flat field is not above its dark field.", "Check which is which.")
    counts = (values - dark).clamp(min=1.0)
    return -(counts / (flat - dark)).log(), counts.rsqrt()


def rough(lines: Tensor) -> float:
    """The deviation of neighbouring line integrals about a straight line between them: their noise, where none says."""
    second = lines[..., 2:] - 2 * lines[..., 1:-1] + lines[..., :-2]
    return max(1e-4, float(second.abs().median()) / 0.6745 / 6**0.5)


def _counts(
    found: dict[str, NDArray[Any]], values: Tensor, angles: tuple[float, ...], width: float, row: float | None
) -> RawSinogram:
    if bool((values < 0).any()):
        raise UnreadableError("holds negative counts.", "Save prompts, with randoms in background.")
    if "attenuation" not in found or "sensitivity" not in found:
        raise UnreadableError(
            "does not say its attenuation and its sensitivity.",
            "Save the factor of each line, 0 to 1, and the counts that an SUV of 1 gives along 1 mm of it.",
        )
    attenuation = _rows(np.broadcast_to(found["attenuation"], found["counts"].shape))
    if bool((attenuation < 0).any()) or bool((attenuation > 1 + 1e-6).any()):
        raise UnreadableError("its attenuation is not from 0 to 1.", "Save factors: exp(-line integral).")
    weight = attenuation * _rows(np.broadcast_to(found["sensitivity"], found["counts"].shape))
    behind = _rows(np.broadcast_to(found.get("background", np.float64(0)), found["counts"].shape))
    return RawSinogram(values, angles, width, row, None, weight, behind)
