"""DICOM series, classic and enhanced, in every transfer syntax that the installed decoders know.

Positions follow PS3.3 C.7.6.2 (classic) and the functional groups of C.7.6.16 (enhanced multi-frame).
"""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..contracts import Field, Image
from . import explicit, meaning
from .placement import has_geometry, moments, planes_of
from .planes import Plane, Stack, stacks
from .scan import Oddity, Scan, UnreadableError, check_affine, check_values


def _import_pydicom() -> Any:
    """gdcm tries `import dl`, a module that left Python long ago: a folder of that name would be taken for it."""
    shadowed = sys.modules.get("dl")
    sys.modules["dl"] = None  # type: ignore[assignment]  # None makes the import fail, which gdcm expects
    try:
        import pydicom
        import pydicom.pixels
    finally:
        sys.modules.pop("dl")
        if shadowed is not None:
            sys.modules["dl"] = shadowed
    return pydicom


pydicom = _import_pydicom()

_WITHOUT_PIXELS = {  # SOP class -> what to say
    "1.2.840.10008.5.1.4.1.1.481.3": ("is an RT structure set.", "Contours cannot be read yet; images are."),
    "1.2.840.10008.5.1.4.1.1.481.5": ("is an RT plan.", "Plans cannot be read yet; images are."),
    "1.2.840.10008.5.1.4.1.1.481.2": ("is an RT dose.", "Dose cannot be read yet; images are."),
    "1.2.840.10008.1.3.10": ("is a DICOM directory.", "Nothing to do: the files themselves are read."),
}
_OF_THERAPY = {"RTDOSE": "5.1.4.1.1.481.2", "RTPLAN": "5.1.4.1.1.481.5", "RTSTRUCT": "5.1.4.1.1.481.3"}
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
        warnings.simplefilter("ignore")  # those that matter are caught in `_header` and become oddities
        return _listing(paths)


def _listing(paths: Iterable[Path]) -> tuple[list[Scan], list[Oddity]]:
    series: dict[tuple[str, ...], list[tuple[Path, Any]]] = {}
    oddities: list[Oddity] = []
    for path in paths:
        try:
            header = _header(path, oddities)
        except UnreadableError as error:
            oddities.append(Oddity(str(path), error.fault, error.next_step))
            continue
        series.setdefault(_series_key(header, path), []).append((path, header))
    scans: list[Scan] = []
    for members in series.values():
        scans += _series_scans(members, oddities)
    return scans, oddities


def read(scan: Scan) -> Image:
    """Pixels after the modality transform or the real-world value map (HU for CT); padding and MONOCHROME1 as `meaning` says."""
    stack: Stack = scan.recipe
    several: dict[Path, NDArray[np.float32]] = {}  # files of many frames are read once
    planes = [plane for row in stack.frames for plane in row]
    data: NDArray[np.float32] = np.empty((0,), np.float32)
    for i, plane in enumerate(planes):
        if plane is None:  # a frame that a segmentation leaves out: nothing is marked there
            continue
        frames = several[plane.path] if plane.path in several else _pixels(plane.path)
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


def _header(path: Path, oddities: list[Oddity]) -> Any:
    """The data set without pixels; raises UnreadableError for what can never be an image."""
    header = explicit.header(path) or _parsed_header(path, oddities)
    kind = str(header.get("SOPClassUID") or "")
    if not kind and (known := _OF_THERAPY.get(str(header.get("Modality") or ""))):
        kind = f"1.2.840.10008.{known}"
    if kind in _WITHOUT_PIXELS:
        raise UnreadableError(*_WITHOUT_PIXELS[kind])
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
    facts = _facts(header)
    if member and facts["kind"] == "label":
        facts["description"] = _segment(header, str(stack.planes[0].key[-1]))
    return Scan(files, "dicom", shape, axes, stack.affine, member=member, recipe=stack, **facts)


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
            Scan((path,), "dicom", shape, axes, stack.affine, calibrated=bool(spacing), recipe=stack, **_facts(header))
        )
    return scans


def _facts(header: Any) -> dict[str, Any]:
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
        "patient": "P-" + hashlib.blake2b(identifier.encode(), digest_size=4).hexdigest() if identifier else "",
        "visit": str(header.get("StudyDate") or ""),
        "frame_of_reference": str(header.get("FrameOfReferenceUID") or "") or None,
        "values": _values(header),
    }


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


def _pixels(path: Path) -> NDArray[np.float32]:
    """(frames, y, x, C) in stored units; raises UnreadableError when the decoder fails or values are not finite."""
    if (plain := explicit.pixels(path)) is not None:
        return _rescaled(*plain)[None, :, :, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # already told as an oddity of the header
        try:
            header = pydicom.dcmread(path, force=True)
            header.ensure_file_meta()
            if "TransferSyntaxUID" not in header.file_meta:
                header.file_meta.TransferSyntaxUID = _guessed_syntax(header)
            pixels = header.pixel_array
            pixels = _physical(header, pixels)
        except UnreadableError:
            raise
        except Exception as error:  # decoders raise their own kinds
            text = f"has pixels that cannot be decoded ({type(error).__name__}: {str(error).splitlines()[0][:80]})."
            raise UnreadableError(text, "Export it again, uncompressed if need be.") from error
    frames = int(header.get("NumberOfFrames") or 1)
    check_values(pixels)
    colour = pixels.shape[-1] == 3 and pixels.ndim == (4 if frames > 1 else 3)
    array: NDArray[np.float32] = np.ascontiguousarray(pixels, np.float32).reshape(
        frames, int(header.Rows), int(header.Columns), 3 if colour else 1
    )
    if colour and (array[..., 0] == array[..., 1]).all() and (array[..., 0] == array[..., 2]).all():
        return array[..., :1]
    return array


def _rescaled(header: explicit.PlainHeader, stored: NDArray[Any]) -> NDArray[np.float32]:
    """Stored numbers in physical units, as `_physical` does it; exact in float32 where slope and intercept are whole."""
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    plain = meaning.turned(header, stored)
    if slope is None or intercept is None:
        values = plain.astype(np.float32)
    elif slope == 1 and float(intercept).is_integer() and abs(intercept) < 1e6:
        values = np.add(plain, np.float32(intercept), dtype=np.float32)
    else:
        with np.errstate(over="ignore"):  # what overflows is refused in words
            values = (plain * slope + intercept).astype(np.float32)
        check_values(values)
    return _without_padding(header, stored, values)


def _without_padding(header: Any, stored: NDArray[Any], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Padding becomes as dark as the darkest pixel inside."""
    outside = meaning.padded(header, stored)
    if outside is not None:
        values[outside] = values[~outside].min()
    return values


def _guessed_syntax(header: Any) -> Any:
    little, implicit = header.is_little_endian, header.is_implicit_VR
    uid = pydicom.uid
    return uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian


def _physical(header: Any, pixels: NDArray[Any]) -> NDArray[Any]:
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

    interpretation = str(header.get("PhotometricInterpretation", ""))
    if interpretation == "PALETTE COLOR":
        return np.asarray(apply_color_lut(pixels, header))
    plain = meaning.turned(header, pixels)
    values = _real_world(header, pixels)
    if values is None:
        values = np.asarray(apply_modality_lut(plain, header), np.float32)
        per_frame = header.get("PerFrameFunctionalGroupsSequence")
        if per_frame and "RescaleSlope" not in header:
            values = _rescaled_frames(header, values, per_frame)
    return _without_padding(header, pixels, values)


def _real_world(header: Any, pixels: NDArray[Any]) -> NDArray[np.float32] | None:
    """By the one map of stored to real-world values that the file or each frame states; None where there is none."""
    if (mapped := meaning.real_world(header)) is None:
        return None
    per_frame = header.get("PerFrameFunctionalGroupsSequence")
    values = np.empty(pixels.shape, np.float32)
    frames: Any = range(len(pixels)) if per_frame and pixels.ndim > 2 else (0,)
    for i in frames:
        shared = header.SharedFunctionalGroupsSequence[0] if "SharedFunctionalGroupsSequence" in header else None
        own = meaning.of_frame(per_frame[i], shared, str(header.get("Modality") or "")) if per_frame else mapped
        if own is None or own[2] != mapped[2]:
            other = "in no unit" if own is None else f"in {own[2]}"
            raise UnreadableError(f"its frames are in {mapped[2]} and {other}.", "Export them as series of their own.")
        slope, intercept, _ = own
        where = i if pixels.ndim > 2 and per_frame else slice(None)
        values[where] = pixels[where] * slope + intercept
    return values


def _rescaled_frames(header: Any, values: NDArray[Any], per_frame: Any) -> NDArray[Any]:
    shared = header.get("SharedFunctionalGroupsSequence")
    for i, group in enumerate(per_frame):
        sequence = group.get("PixelValueTransformationSequence") or (
            shared and shared[0].get("PixelValueTransformationSequence")
        )
        if sequence:
            frame = values[i] if values.ndim > 2 else values
            frame *= float(sequence[0].get("RescaleSlope", 1))
            frame += float(sequence[0].get("RescaleIntercept", 0))
    return values
