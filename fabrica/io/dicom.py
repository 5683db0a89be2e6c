"""DICOM series, classic and enhanced, in every transfer syntax that the installed decoders know.

Positions follow PS3.3 C.7.6.2 (classic) and the functional groups of C.7.6.16 (enhanced multi-frame).
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..contracts import Field, Image
from . import explicit, meaning, radiotherapy
from .dicom_pixels import pixels_of, pydicom
from .placement import has_geometry, moments, planes_of
from .planes import Plane, Stack, stacks
from .scan import Oddity, Scan, UnreadableError, check_affine

_DIRECTORY = "1.2.840.10008.1.3.10"
_ASKED = [
    "Rows",
    "Columns",
    "BitsAllocated",
    "NumberOfFrames",
    "PerFrameFunctionalGroupsSequence",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "SOPInstanceUID",
    "FrameOfReferenceUID",
    "PatientID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "InstanceNumber",
    "EchoTime",
    "Modality",
    "StudyDate",
]
_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
_LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_NOBODY = ("", "anonymous", "anonymized", "anonymised", "anon", "unknown", "none", "patient", "0", "00000000")
_EXPORT_AGAIN = "Export it again from the archive."


def looks_like(path: Path) -> bool:
    """Part 10 preamble, or the first element of a file without one (group 2 or 8, little or big endian)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        start = os.read(descriptor, 132)
    finally:
        os.close(descriptor)
    return start[128:132] == b"DICM" or (start[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x08") and start[2:4] != b"\0\0")


def listing(paths: Iterable[Path]) -> tuple[list[Scan], list[Oddity]]:
    """Every series in these files as one or more scans; a file that fails is one line and hinders no other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those that matter are caught in `read_header` and become oddities
        return _listing(paths)


def _listing(paths: Iterable[Path]) -> tuple[list[Scan], list[Oddity]]:
    series: dict[tuple[str, ...], list[tuple[Path, Any]]] = {}
    therapy: list[tuple[Path, Any]] = []
    oddities: list[Oddity] = []
    for path in paths:
        try:
            header = read_header(path, oddities)
        except UnreadableError as error:
            oddities.append(Oddity(str(path), error.fault, error.next_step))
            continue
        if radiotherapy.kind_of(header):
            therapy.append((path, header))
        else:
            series.setdefault(_series_key(header, path), []).append((path, header))
    scans: list[Scan] = []
    around: dict[str, radiotherapy.Surroundings] = {}  # anonymisers give one number to several patients
    for members in series.values():
        found = _series_scans(members, oddities)
        around.setdefault(radiotherapy.patient_of(members[0][1]), radiotherapy.Surroundings()).add(members, found)
        scans += found
    more, odd = radiotherapy.listing(therapy, around, facts)
    return scans + more, oddities + odd


def read(scan: Scan) -> Image:
    """Pixels after the modality transform or the real-world value map (HU for CT); padding and MONOCHROME1 as `meaning`
    says.
    """
    stack: Stack = scan.recipe
    several: dict[Path, NDArray[np.float32]] = {}  # files of many frames are read once
    planes = [plane for row in stack.frames for plane in row]
    data: NDArray[np.float32] = np.empty((0,), np.float32)
    for i, plane in enumerate(planes):
        if plane is None:  # a frame that a segmentation leaves out: nothing is marked there
            continue
        frames = several[plane.path] if plane.path in several else pixels_of(plane.path)
        if len(frames) > 1:
            several[plane.path] = frames
        if not data.size:
            data = np.zeros((len(planes), *frames.shape[1:]), np.float32)
        if frames.shape[1:] != data.shape[1:]:
            raise UnreadableError("its slices differ in size or colour.", "Export the series again.")
        data[i] = frames[plane.frame]
    data = data.reshape(len(stack.frames), len(stack.frames[0]), *data.shape[1:])
    if scan.axes == "zyx":
        data = data[0]
    elif scan.axes == "tyx":
        data = data[:, 0]
    elif scan.axes == "yx":
        data = data[0, 0]
    data = np.moveaxis(data, -1, 0)
    times = torch.tensor(stack.times, dtype=torch.float64) if "t" in scan.axes else None
    return Image(
        torch.from_numpy(np.ascontiguousarray(data)),
        scan.axes,
        torch.from_numpy(scan.affine),
        Field(scan.description or scan.modality or "image", scan.kind, len(data), scan.unit),
        times=times - times[0] if times is not None else None,
        frame_of_reference=scan.frame_of_reference,
        source=scan.name,
        calibrated=scan.calibrated,
    )


def read_header(path: Path, oddities: list[Oddity]) -> Any:
    """The data set without pixels; raises UnreadableError for what can never be an image."""
    header = explicit.header(path)  # which knows what images need, and no more
    if header is None or radiotherapy.kind_of(header):
        header = _parsed_header(path, oddities)
    kind = str(header.get("SOPClassUID") or "")
    if kind == _DIRECTORY:
        raise UnreadableError("is a DICOM directory.", "Nothing to do: the files themselves are read.")
    if radiotherapy.kind_of(header):
        return header
    if kind == _SLIDE or "TotalPixelMatrixColumns" in header:
        raise UnreadableError("holds tiles of a slide, not a patient volume.", "Whole-slide images are not supported.")
    if kind == _SEGMENTATION and str(header.get("SegmentationType") or "") == "FRACTIONAL":
        raise UnreadableError(
            "is a fractional segmentation: shares, not labels.", "Export it as binary, at the share that is meant."
        )
    if "MOSAIC" in str(header.get("ImageType") or ""):
        raise UnreadableError("is a mosaic: many slices in one picture.", "Convert it to NIfTI, or export slices.")
    for several, what in (("NumberOfEnergyWindows", "energy windows"), ("NumberOfTimeSlots", "time slots")):
        if int(header.get(several) or 1) > 1:
            raise UnreadableError(f"holds {what} one behind the other.", "Export them as files of their own.")
    if not header.get("Rows") or not header.get("Columns"):
        raise UnreadableError("is DICOM without pixels (a report, a plan or a damaged image).", "Leave it out.")
    return header


def _parsed_header(path: Path, oddities: list[Oddity]) -> Any:
    """By pydicom; what it warns of becomes an oddity."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            for keyword in _ASKED:  # elements are parsed when asked for: what is wrong with them shows here
                header.get(keyword)
        except Exception as error:  # a damaged file may fail anywhere in the parser
            text = f"is a damaged DICOM file ({type(error).__name__})."
            raise UnreadableError(text, _EXPORT_AGAIN) from error
    if caught:
        text = f"breaks a DICOM rule ({str(caught[0].message).splitlines()[0][:90]}); read all the same."
        oddities.append(Oddity(str(path), text, "Nothing to do.", "warning"))
    return header


def _series_key(header: Any, path: Path) -> tuple[str, ...]:
    """Frames of one series and size; files without a series stand alone, as do multi-frame files."""
    alone = str(path) if int(header.get("NumberOfFrames") or 1) > 1 or not header.get("SeriesInstanceUID") else ""
    if not has_geometry(header):
        alone = str(path)
    words = ("SeriesInstanceUID", "PatientID", "StudyInstanceUID")  # anonymisers give one number to several patients
    return (*(str(header.get(w) or "") for w in words), str(header.Rows), str(header.Columns), alone)


def _series_scans(members: Sequence[tuple[Path, Any]], oddities: list[Oddity]) -> list[Scan]:
    planes: list[Plane] = []
    header = members[0][1]
    times, untold = moments([own for _, own in members])
    if untold:
        oddities.append(Oddity(str(members[0][0]), untold, "Give the times in a header that has them.", "warning"))
    for (path, own), time in zip(members, times, strict=True):
        try:
            planes += planes_of(path, own, time)
        except UnreadableError as error:
            oddities.append(Oddity(str(path), error.fault, error.next_step))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            text = f"has incomplete geometry ({type(error).__name__}: {str(error)[:60]})."
            oddities.append(Oddity(str(path), text, _EXPORT_AGAIN))
    if not planes:
        return [] if any(has_geometry(own) for _, own in members) else _flat_scans(members)
    units = sorted({meaning.unit_of(own)[0] for _, own in members})
    if len(units) > 1:
        text = f"is one of a series whose slices are in different units ({', '.join(units)})."
        oddities.append(Oddity(str(members[0][0]), text, _EXPORT_AGAIN))
        return []
    found = stacks(planes, sparse=str(header.get("SOPClassUID", "")) in (_SEGMENTATION, _LABEL_MAP))
    if len(found) > 1:
        text = f"one series holds {len(found)} volumes (echoes, b-values, segments or orientations)."
        oddities.append(Oddity(str(members[0][0]), text, "Each is read on its own.", "warning"))
    scans = []
    for i, stack in enumerate(found):
        name = str(stack.planes[0].path)
        oddities += [
            Oddity(name, remark, "Check the export if this is unexpected.", "warning") for remark in stack.remarks
        ]
        try:
            check_affine(stack.affine)
        except UnreadableError as error:
            oddities.append(Oddity(name, error.fault, error.next_step))
            continue
        scans.append(_scan(header, stack, f"volume{i + 1}" if len(found) > 1 else ""))
    return scans


def _scan(header: Any, stack: Stack, member: str) -> Scan:
    moments, slices = len(stack.frames), len(stack.frames[0])
    channels = 3 if int(header.get("SamplesPerPixel") or 1) == 3 else 1
    size = (slices, int(header.Rows), int(header.Columns))
    axes = "tzyx" if moments > 1 else "zyx"
    shape = (channels, moments, *size) if moments > 1 else (channels, *size)
    files = tuple(dict.fromkeys(plane.path for plane in stack.planes))
    known = facts(header)
    if member and known["kind"] == "label":
        known["description"] = _segment(header, str(stack.planes[0].key[-1]))
    return Scan(files, "dicom", shape, axes, stack.affine, member=member, recipe=stack, **known)


def _segment(header: Any, number: str) -> str:
    """What the segment of a number is called (PS3.3 C.8.20.2)."""
    for item in header.get("SegmentSequence") or []:
        if str(item.get("SegmentNumber")) == number:
            return str(item.get("SegmentLabel") or f"segment {number}")
    return f"segment {number}"


def _flat_scans(members: Sequence[tuple[Path, Any]]) -> list[Scan]:
    """Images without a position in the patient: radiographs, ultrasound, secondary capture."""
    scans = []
    for path, header in members:
        frames = int(header.get("NumberOfFrames") or 1)
        spacing = header.get("PixelSpacing") or header.get("ImagerPixelSpacing")
        rows, columns = (float(spacing[0]), float(spacing[1])) if spacing else (1.0, 1.0)
        rate = float(header.get("CineRate") or header.get("RecommendedDisplayFrameRate") or 1.0)
        step = float(header.get("FrameTime") or 1000.0 / rate) / 1000
        planes = tuple(
            (Plane(path, i, (0, 0, 0), (1, 0, 0), (0, 1, 0), (rows, columns), 1.0, i * step),) for i in range(frames)
        )
        channels = (
            3
            if int(header.get("SamplesPerPixel") or 1) == 3 or "PALETTE" in str(header.get("PhotometricInterpretation"))
            else 1
        )
        size = (int(header.Rows), int(header.Columns))
        shape, axes = ((channels, frames, *size), "tyx") if frames > 1 else ((channels, *size), "yx")
        stack = Stack(planes, np.diag([1.0, rows, columns, 1.0]), ())
        scans.append(
            Scan((path,), "dicom", shape, axes, stack.affine, calibrated=bool(spacing), recipe=stack, **facts(header))
        )
    return scans


def facts(header: Any) -> dict[str, Any]:
    """What the header says of the patient and the image, without any name or identifier."""
    modality = str(header.get("Modality") or "")
    named = str(header.get("PatientID") or "").strip()
    identifier = named or str(header.get("StudyInstanceUID") or "")
    words = [header.get("SeriesDescription"), header.get("ProtocolName"), header.get("SequenceName")]
    unit, stated = meaning.unit_of(header)
    grey = "MONOCHROME" in str(header.get("PhotometricInterpretation"))
    return {
        "kind": "label" if str(header.get("SOPClassUID", "")) in (_SEGMENTATION, _LABEL_MAP) else "intensity",
        "unit": unit if grey else "a.u.",
        "unit_from": stated if grey else "colour",
        "doubt": "" if named.casefold() not in _NOBODY else f"their headers name nobody ({named or 'no PatientID'})",
        "modality": modality,
        "description": " ".join(str(w) for w in words if w),
        "patient": _pseudonym(identifier) if identifier else "",
        "visit": str(header.get("StudyDate") or ""),
        "frame_of_reference": str(header.get("FrameOfReferenceUID") or "") or None,
        "values": _values(header),
    }


def _pseudonym(identifier: str) -> str:
    """64 bits: of 100,000 patients, 32 would give three pairs one name."""
    return "P-" + hashlib.blake2b(identifier.encode(), digest_size=8).hexdigest()


def _values(header: Any) -> dict[str, float | str]:
    values: dict[str, float | str] = {}
    age, sex = str(header.get("PatientAge") or ""), str(header.get("PatientSex") or "")
    if len(age) == 4 and age[:3].isdigit() and age[3] in "YMWD":
        values["age"] = int(age[:3]) / {"Y": 1, "M": 12, "W": 52.18, "D": 365.25}[age[3]]
    if sex in ("F", "M"):
        values["sex"] = sex
    for name in ("EchoTime", "RepetitionTime", "InversionTime", "MagneticFieldStrength"):
        if isinstance(value := header.get(name), float | int):
            values[name] = float(value)
    return values
