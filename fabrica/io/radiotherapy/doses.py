"""RT Dose objects (PS3.3 A.18, C.8.8.3): dose in Gy on its own grid, and the histograms that come with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...contracts import Field, Image
from ..dicom_pixels import pydicom
from ..scan import Affine, Oddity, Scan, UnreadableError, check_affine
from .plans import HIGHEST_GY

WHOLE = ("", "PLAN", "MULTI_PLAN", "PLAN_OVERVIEW", "RECORD")  # of a treatment, not of a part of it
EVEN_MM = 0.05  # how far planes may lie off an even step
_AGAIN = "Export it again from the planning system."


@dataclass(frozen=True)
class StatedHistogram:
    """A dose-volume histogram as the planning system wrote it: cumulative, volumes in its own unit (CM3 or PERCENT)."""

    structures: tuple[int, ...]  # numbers of the regions of interest
    dose_gy: NDArray[np.float64]
    volume: NDArray[np.float64]  # that receives at least so much
    volume_unit: str


def listed(path: Path, header: Any, facts: dict[str, Any]) -> tuple[Scan, list[Oddity]]:
    """A dose before its voxels are read; raises UnreadableError for one that is not absorbed dose in Gy."""
    unit = str(header.get("DoseUnits") or "").strip()
    if unit != "GY":
        step = "Export it in Gy: a share of an unknown dose cannot be used."
        raise UnreadableError(f"is a dose in {unit.lower() or 'no stated'} units.", step)
    kind = str(header.get("DoseType") or "").strip()
    if kind not in ("", "PHYSICAL"):
        raise UnreadableError(f"is of dose type {kind}, not physical dose.", "Export the physical dose.")
    summation = str(header.get("DoseSummationType") or "").strip()
    frames, affine = int(header.get("NumberOfFrames") or 1), grid(header)
    check_affine(affine)
    name = "dose" if summation in WHOLE else f"dose_{summation.lower()}"
    odd = [] if summation else [Oddity(str(path), "does not say what its dose is a sum of.", _SUM, "warning")]
    shape = (1, frames, int(header.Rows), int(header.Columns))
    return (
        Scan(
            (path,), "dose", shape, "zyx", affine,
            **{**facts, "unit": "Gy", "unit_from": "DoseUnits", "modality": name, "kind": "intensity"},
        ),
        odd,
    )  # fmt: skip


_SUM = "It is taken for the whole dose; leave it out if it is of one beam or fraction."


def grid(header: Any) -> Affine:
    """Index (z, y, x) -> LPS mm; offsets count from the first plane, or are places along z (C.8.8.3.2).

    Raises UnreadableError for planes without a step, or with an uneven one.
    """
    try:
        corner = np.array([float(v) for v in header.ImagePositionPatient])
        row, column = np.array([float(v) for v in header.ImageOrientationPatient]).reshape(2, 3)
        down, across = (float(v) for v in header.PixelSpacing)
    except (AttributeError, TypeError, ValueError) as error:
        raise UnreadableError(f"does not say where its planes lie ({error}).", _AGAIN) from error
    step = _step(header, corner, np.cross(row, column))
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = np.cross(row, column) * step, column * down, row * across
    affine[:3, 3] = corner
    return affine


def _step(header: Any, corner: NDArray[np.float64], normal: NDArray[np.float64]) -> float:
    """mm from plane to plane along the normal, negative where they go the other way."""
    frames = int(header.get("NumberOfFrames") or 1)
    if frames == 1:
        return float(header.get("SliceThickness") or 1.0)
    offsets = header.get("GridFrameOffsetVector")
    if offsets is None or len(offsets) != frames:
        found = "no" if offsets is None else f"{len(offsets)}"
        raise UnreadableError(f"has {frames} planes and {found} offsets for them.", _AGAIN)
    places = np.array([float(v) for v in offsets])
    if abs(places[0]) > EVEN_MM:  # places along the patient, allowed where planes are axial
        if abs(abs(normal[2]) - 1) > 1e-3 or abs(places[0] - corner[2]) > EVEN_MM:
            raise UnreadableError(f"has offsets that begin at {places[0]:g} mm, expected 0.", _AGAIN)
        places = (places - places[0]) * np.sign(normal[2])
    step = (places[-1] - places[0]) / (frames - 1)
    if step == 0 or np.abs(places - step * np.arange(frames)).max() > EVEN_MM:
        raise UnreadableError("has planes at uneven steps.", "Export it on an even grid.")
    return float(step)


def read(scan: Scan) -> Image:
    """(1, z, y, x) in Gy; raises UnreadableError for pixels that cannot be decoded, or that can only be cGy."""
    try:
        header = pydicom.dcmread(scan.files[0], force=True)
        header.ensure_file_meta()
        if "TransferSyntaxUID" not in header.file_meta:
            header.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        values = np.asarray(header.pixel_array, np.float64) * float(header.DoseGridScaling)
    except Exception as error:  # decoders raise their own kinds
        text = f"has a dose that cannot be decoded ({type(error).__name__}: {str(error).splitlines()[0][:80]})."
        raise UnreadableError(text, _AGAIN) from error
    if not np.isfinite(values).all() or values.min() < 0:
        raise UnreadableError("holds doses below 0 or not finite.", "Export the dose of the plan, not a difference.")
    check_gray(float(values.max()))
    data = torch.from_numpy(values.astype(np.float32).reshape(scan.shape))
    return Image(
        data, "zyx", torch.from_numpy(scan.affine), Field("dose", "intensity", 1, "Gy"),
        frame_of_reference=scan.frame_of_reference, source=scan.name,
    )  # fmt: skip


def check_gray(highest: float) -> None:
    """Raises UnreadableError for more than any treatment from outside gives: cGy, called Gy."""
    if highest > HIGHEST_GY:
        text = f"reaches {highest:.0f} Gy, more than external beams give: it is taken for cGy."
        raise UnreadableError(text, "Export it in Gy, or divide its DoseGridScaling by 100.")


def stated_histograms(path: Path) -> list[StatedHistogram]:
    """What the planning system computed (C.8.8.4), to hold ours against; differential ones are summed up.

    Histograms of relative dose are left out. Raises UnreadableError for bins that do not fit.
    """
    header = pydicom.dcmread(path, force=True, stop_before_pixels=True)
    return [_histogram(item) for item in header.get("DVHSequence") or [] if str(item.get("DoseUnits")) == "GY"]


def _histogram(item: Any) -> StatedHistogram:
    pairs: Sequence[Any] = item.get("DVHData") or []
    if len(pairs) < 2 or len(pairs) % 2:
        raise UnreadableError(f"has a histogram of {len(pairs)} numbers, expected pairs.", _AGAIN)
    wide, high = np.array([float(v) for v in pairs]).reshape(-1, 2).T
    edges = np.concatenate([[0.0], np.cumsum(wide)[:-1]]) * float(item.get("DVHDoseScaling") or 1)
    if str(item.get("DVHType")) == "DIFFERENTIAL":
        high = np.cumsum(high[::-1])[::-1]
    numbers = tuple(int(one.ReferencedROINumber) for one in item.get("DVHReferencedROISequence") or [])
    return StatedHistogram(numbers, edges, high, str(item.get("DVHVolumeUnits") or ""))
