"""RT Structure Sets (PS3.3 A.19): the regions that somebody drew on a series, as label maps of its grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...contracts import Field, Image
from ..dicom_pixels import pydicom
from ..scan import Oddity, Scan, UnreadableError
from . import contours
from .names import known_as, plain

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_TARGETS = ("PTV", "CTV", "GTV")
_AGAIN = "Export the structure set together with its series."
_MOST_REMARKS = 4  # structures that are named in one line


@dataclass(frozen=True)
class Region:
    """One region of interest: its contours in LPS mm, and the images that they were drawn on."""

    number: int
    name: str
    interpreted: str  # ORGAN, PTV, EXTERNAL, ...
    frame_of_reference: str
    contours: tuple[NDArray[np.float64], ...]  # each (N, 3); closed ones alone
    drawn_on: frozenset[str]  # SOP Instance UIDs
    other: str = ""  # what there is beside closed contours: points, open lines


@dataclass(frozen=True)
class StructureSet:
    """What a file says, before it is laid on a series."""

    instance: str  # its SOP Instance UID
    series: tuple[str, ...]  # Series Instance UIDs that it refers to
    images: frozenset[str]  # SOP Instance UIDs that it refers to
    regions: tuple[Region, ...]


@dataclass(frozen=True)
class OnSeries:
    """Where a region is read: the file's region on the grid of a series. The recipe of its scan."""

    number: int
    shape: tuple[int, int, int]
    stated: str  # what the file calls it
    matched: bool  # whether the table of names knows it


def structure_set(path: Path) -> StructureSet:
    """Raises UnreadableError for a file without regions, or with contours that are no triples of numbers."""
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)  # a patient's regions are read one after the other
def _read(path: Path, changed: int) -> StructureSet:
    ds = pydicom.dcmread(path, force=True)
    named = {int(r.ROINumber): r for r in ds.get("StructureSetROISequence") or []}
    if not named:
        raise UnreadableError("is a structure set without structures.", "Leave it out.")
    kinds = {
        int(o.ReferencedROINumber): str(o.get("RTROIInterpretedType") or "")
        for o in ds.get("RTROIObservationsSequence") or []
    }
    drawn = {int(r.ReferencedROINumber): r for r in ds.get("ROIContourSequence") or []}
    series, images = [], set()
    for frame in ds.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            for one in study.get("RTReferencedSeriesSequence") or []:
                series.append(str(one.get("SeriesInstanceUID") or ""))
                images |= {str(i.ReferencedSOPInstanceUID) for i in one.get("ContourImageSequence") or []}
    regions = [_region(number, item, kinds.get(number, ""), drawn.get(number)) for number, item in named.items()]
    return StructureSet(str(ds.get("SOPInstanceUID") or ""), tuple(series), frozenset(images), tuple(regions))


def _region(number: int, item: Any, kind: str, drawn: Any) -> Region:
    name = str(item.get("ROIName") or f"region {number}")
    closed, on, others = [], set(), set()
    for contour in (drawn.get("ContourSequence") if drawn is not None else None) or []:
        shape = str(contour.get("ContourGeometricType") or "CLOSED_PLANAR")
        points = _points(contour, name)
        if shape not in CLOSED or len(points) < 3:
            others.add(shape.lower().replace("_", " ") if shape not in CLOSED else f"{len(points)} points")
            continue
        closed.append(points)
        on |= {str(i.get("ReferencedSOPInstanceUID") or "") for i in contour.get("ContourImageSequence") or []}
    frame = str(item.get("ReferencedFrameOfReferenceUID") or "")
    return Region(number, name, kind, frame, tuple(closed), frozenset(on), ", ".join(sorted(others)))


def _points(contour: Any, name: str) -> NDArray[np.float64]:
    """(N, 3) in LPS mm. The raw text is read where it is still there: thousands of decimal strings are slow."""
    element = contour.get_item("ContourData")
    raw = None if element is None else element.value
    try:
        numbers = raw.split(b"\\") if isinstance(raw, bytes) else list(raw if raw is not None else ())
        points = np.array([float(v) for v in numbers])
        if len(points) % 3 or not np.isfinite(points).all():
            raise ValueError(f"{len(points)} numbers")
    except (TypeError, ValueError) as error:
        text = f"has a contour of {name!r} that is no list of triples ({error})."
        raise UnreadableError(text, "Export it again.") from error
    return points.reshape(-1, 3)


def listed(
    path: Path, series: Mapping[str, Sequence[Scan]], frames: Mapping[str, str], instances: Mapping[str, str]
) -> tuple[list[Scan], list[Oddity]]:
    """Its regions on the series that it was drawn on. `series`: Series Instance UID -> volumes; `frames`: the same ->
    Frame of Reference UID; `instances`: SOP Instance UID -> Series Instance UID, of all images that were found.

    Raises UnreadableError where that series is not there, or was not what the contours were drawn on.
    """
    found = structure_set(path)
    home, odd = _series_of(found, path, series, instances)
    scan = max(series[home], key=lambda s: s.shape[-3])
    stated = {r.frame_of_reference for r in found.regions if r.frame_of_reference}
    if stated and frames.get(home) and stated != {frames[home]}:
        odd.append(_other_frame(found, path, home, instances))
    scans: list[Scan] = []
    empty: list[Region] = []
    points: list[Region] = []
    outside: list[tuple[Region, str]] = []
    for region in found.regions:
        if not region.contours:
            (points if region.other else empty).append(region)
            continue
        if fault := _beside(region, scan):
            outside.append((region, fault))
            continue
        scans.append(_scan(path, region, scan))
    odd += _remarks(path, empty, points, outside)
    return scans, odd


def _series_of(
    found: StructureSet, path: Path, series: Mapping[str, Sequence[Scan]], instances: Mapping[str, str]
) -> tuple[str, list[Oddity]]:
    """The series by its own number, else by the images that contours name; never by resemblance."""
    here = [uid for uid in found.series if series.get(uid)]
    if len(here) == 1:
        return here[0], []
    if len(here) > 1:
        raise UnreadableError(f"was drawn on {len(here)} series.", "Export one structure set for each.")
    if any(found.series):
        named = next(uid for uid in found.series if uid)
        raise UnreadableError(f"was drawn on series ...{named[-12:]}, which is not among these files.", _AGAIN)
    drawn_on = frozenset().union(*(r.drawn_on for r in found.regions))
    known = {instances[uid] for uid in drawn_on if uid in instances and series.get(instances[uid])}
    if len(known) == 1:
        text = "does not name its series; it is read on the one whose images its contours name."
        return known.pop(), [Oddity(str(path), text, "Check that it is this one.", "warning")]
    images = f"{len(drawn_on)} images, none of which is here" if drawn_on else "no image"
    raise UnreadableError(f"names no series that it was drawn on, and {images}.", _AGAIN)


def _other_frame(found: StructureSet, path: Path, home: str, instances: Mapping[str, str]) -> Oddity:
    """Contours that name images of the series lie on them, whatever frame the file states; raises UnreadableError
    where that is not so for all of them.
    """
    drawn_on = frozenset().union(*(r.drawn_on for r in found.regions))
    if not drawn_on or any(instances.get(uid) != home for uid in drawn_on):
        raise UnreadableError(
            "lies in another frame of reference than the series that it names.",
            "Export both again, or register them in the planning system.",
        )
    text = "states another frame of reference than the series whose images its contours name; it is read on those."
    return Oddity(str(path), text, "Check one structure against its image.", "warning")


def _index(region: Region, scan: Scan) -> list[NDArray[np.float64]]:
    """Contours in voxels (z, y, x) of a series."""
    back = np.linalg.inv(scan.affine)
    return [points @ back[:3, :3].T + back[:3, 3] for points in region.contours]


def _beside(region: Region, scan: Scan) -> str:
    """Why a region cannot be read whole on a series; "" where it can."""
    slices, rows, columns = scan.shape[-3:]
    lines = _index(region, scan)
    if any(float(np.ptp(line[:, 0])) > contours.FLAT for line in lines):
        return "across the slices of its series"
    if any(not -0.5 <= float(line[:, 0].mean()) < slices - 0.5 for line in lines):
        return "beyond the slices that are here"
    low, high = np.concatenate(lines).min(0), np.concatenate(lines).max(0)
    if low[1] < -1 or low[2] < -1 or high[1] > rows or high[2] > columns:
        return "beyond the edges of its images"
    return ""


def _scan(path: Path, region: Region, on: Scan) -> Scan:
    known = known_as(region.name)
    where = OnSeries(region.number, (on.shape[-3], on.shape[-2], on.shape[-1]), region.name, bool(known))
    return Scan(
        (path,), "contours", (1, *where.shape), "zyx", on.affine, unit="", kind="label", doubt=on.doubt,
        modality=known or plain(region.name), description=region.name, patient=on.patient, visit=on.visit,
        member=f"region{region.number}", frame_of_reference=on.frame_of_reference, recipe=where,
    )  # fmt: skip


def _remarks(
    path: Path, empty: Sequence[Region], points: Sequence[Region], outside: Sequence[tuple[Region, str]]
) -> list[Oddity]:
    odd = []
    targets = [r for r in empty if r.interpreted in _TARGETS or r.name.upper().startswith(_TARGETS)]
    if targets:
        text = f"has targets without contours: {_names(targets)}."
        odd.append(Oddity(str(path), text, "Draw them, or take them out: nothing can be planned to them.", "fault"))
    if rest := [r for r in empty if r not in targets]:
        text = f"has structures without contours: {_names(rest)}. They are missing, not empty."
        odd.append(Oddity(str(path), text, "Nothing to do.", "warning"))
    if points:
        text = f"has points and lines, which have no volume: {_names(points)}."
        odd.append(Oddity(str(path), text, "Nothing to do.", "warning"))
    for fault in dict.fromkeys(fault for _, fault in outside):
        who = _names([r for r, why in outside if why == fault])
        text = f"has structures drawn {fault}: {who}. They are left out, not cut."
        odd.append(Oddity(str(path), text, "Give the whole series that they were drawn on.", "fault"))
    return odd


def _names(regions: Sequence[Region]) -> str:
    shown = ", ".join(repr(r.name) for r in regions[:_MOST_REMARKS])
    return shown + (f" and {len(regions) - _MOST_REMARKS} more" if len(regions) > _MOST_REMARKS else "")


def read(scan: Scan) -> Image:
    """(1, z, y, x) of 0 and 1 on the grid of its series; raises UnreadableError for a structure without volume."""
    where: OnSeries = scan.recipe
    region = next(r for r in structure_set(scan.files[0]).regions if r.number == where.number)
    spacing = np.linalg.norm(scan.affine[:3, :3], axis=0).tolist()
    mask = contours.voxels(_index(region, scan), where.shape, spacing)
    if not mask.any():
        text = f"its {where.stated!r} holds not one voxel of its series."
        raise UnreadableError(text, "Draw it again, or leave it out.", scan.name)
    data = torch.from_numpy(mask[None].astype(np.float32))
    field = Field(scan.modality, "label", 2, "")
    return Image(
        data, "zyx", torch.from_numpy(scan.affine), field, frame_of_reference=scan.frame_of_reference, source=scan.name
    )
