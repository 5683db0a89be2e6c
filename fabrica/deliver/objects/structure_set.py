"""Drawn label maps as an RT Structure Set, for planning systems that read contours (PS3.3 A.19, C.8.8.5, C.8.8.6)."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...io.radiotherapy.contours import keyholed, outlines
from .images import check_plane
from .marking import FIRST_NUMBER, MARK, Making, Series, file_meta
from .planes import directions
from .therapy import begun

RT_STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"  # SOP class
STUDIES = "1.2.840.10008.3.1.2.3.1"  # of the study component that the sequence refers to, retired and still required
NUMBER = FIRST_NUMBER + 750
COLOURS = ((220, 60, 60), (60, 140, 220), (60, 180, 90), (230, 170, 40), (160, 90, 200), (60, 190, 190))
NEAR_MM = 0.01


def structure_set(
    making: Making, labels: NDArray[Any], affine: NDArray[np.float64], *, classes: int, number: int = 0
) -> Series:
    """Classes (z, y, x), 0 is background, a region each, drawn on the planes of the series that it was drawn from.

    Holes are joined to their outlines by keyholes, which every system reads alike. A class without a voxel is a region
    without contours. Raises ValueError for labels on other planes than the source's: contours belong to images.
    """
    case = making.drawn.case
    check_plane(affine, case)
    whole = np.rint(labels).astype(int)
    if whole.min() < 0 or whole.max() >= classes:
        raise ValueError(f"{case}: its label map holds values that are no class below {classes}.")
    source = _planes(making, affine, len(whole), case)
    known = {
        **making.known(), "regions": hashlib.sha256(whole.tobytes()).hexdigest(),
        "affine": np.round(affine, 5).tolist(),
    }  # fmt: skip
    ds = begun(making, known, (RT_STRUCTURES, "RTSTRUCT"), NUMBER + number, f"{making.drawn.contrast} contours")
    ds.ApprovalStatus = "UNAPPROVED"
    ds.StructureSetLabel, ds.StructureSetName = "AI DRAWN", f"{MARK} {making.drawn.contrast}"[:64]
    ds.StructureSetDescription = making.told()
    ds.StructureSetDate, ds.StructureSetTime = ds.ContentDate, ds.ContentTime
    frame = str(ds.FrameOfReferenceUID)
    ds.ReferencedFrameOfReferenceSequence = [_referenced(frame, source)]
    ds.StructureSetROISequence, ds.ROIContourSequence, ds.RTROIObservationsSequence = [], [], []
    for k in range(1, classes):
        _add(ds, making, k, frame, _contours(whole == k, affine, source))
    ds.file_meta = file_meta(ds)
    return Series(ds.SeriesInstanceUID, (ds,))


def _planes(making: Making, affine: NDArray[np.float64], count: int, case: str) -> list[Any]:
    """The source's header of each plane, all of one series."""
    by_series: dict[str, list[Any]] = defaultdict(list)
    for header in making.headers:
        if header.get("ImagePositionPatient") is not None:
            by_series[str(header.get("SeriesInstanceUID", ""))].append(header)
    for headers in sorted(by_series.values(), key=len, reverse=True):
        found = []
        _, row, column = directions(affine)
        normal = np.cross(row, column)
        for z in range(count):
            place = float(normal @ (affine[:3, 3] + z * affine[:3, 0]))
            here = [
                h for h in headers
                if abs(float(normal @ np.array([float(v) for v in h.ImagePositionPatient])) - place) < NEAR_MM
            ]  # fmt: skip
            found.append(here[0] if here else None)
        if all(one is not None for one in found):
            return found
    raise ValueError(f"{case}: its labels lie on other planes than its source: contours have no image to lie on.")


def _contours(
    mask: NDArray[np.bool_], affine: NDArray[np.float64], source: Sequence[Any]
) -> list[tuple[NDArray[np.float64], Any]]:
    """(N, 3) in LPS mm, each with the header of its plane."""
    found = []
    for line in keyholed(outlines(mask)):
        points = line @ affine[:3, :3].T + affine[:3, 3]
        found.append((points, source[round(float(line[0, 0]))]))
    return found


def _add(ds: Any, making: Making, number: int, frame: str, lines: Sequence[tuple[NDArray[np.float64], Any]]) -> None:
    from pydicom.dataset import Dataset

    region, drawn, seen = Dataset(), Dataset(), Dataset()
    several = len(ds.StructureSetROISequence) > 0 or making.drawn.classes > 2
    name = f"{MARK} {making.drawn.contrast}{f' {number}' if several else ''}"[:64]
    region.ROINumber, region.ReferencedFrameOfReferenceUID, region.ROIName = number, frame, name
    region.ROIGenerationAlgorithm = "AUTOMATIC"
    region.ROIGenerationDescription = f"AI DRAWN, not for treatment; weights {making.record.weights[:16]}"[:64]
    ds.StructureSetROISequence.append(region)
    drawn.ReferencedROINumber, drawn.ROIDisplayColor = number, list(COLOURS[(number - 1) % len(COLOURS)])
    if lines:  # a region that was looked for and not found has none
        drawn.ContourSequence = [_contour(points, header) for points, header in lines]
    ds.ROIContourSequence.append(drawn)
    seen.ObservationNumber = seen.ReferencedROINumber = number
    seen.RTROIInterpretedType, seen.ROIInterpreter = "", ""
    ds.RTROIObservationsSequence.append(seen)


def _contour(points: NDArray[np.float64], header: Any) -> Any:
    from pydicom.dataset import Dataset
    from pydicom.valuerep import format_number_as_ds

    ds = Dataset()
    ds.ContourImageSequence = [_image(header)]
    ds.ContourGeometricType, ds.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
    ds.ContourData = [format_number_as_ds(round(float(v), 4)) for v in points.ravel()]
    return ds


def _image(header: Any) -> Any:
    from pydicom.dataset import Dataset

    ds = Dataset()
    ds.ReferencedSOPClassUID, ds.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return ds


def _referenced(frame: str, source: Sequence[Any]) -> Any:
    from pydicom.dataset import Dataset

    on, study, series = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = source[0].SeriesInstanceUID
    series.ContourImageSequence = [_image(header) for header in source]
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = STUDIES, source[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    on.FrameOfReferenceUID, on.RTReferencedStudySequence = frame, [study]
    return on
