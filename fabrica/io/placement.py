"""Where the frames of a DICOM image lie and when they were taken, as their header says.

Positions follow PS3.3 C.7.6.2 (classic) and the functional groups of C.7.6.16 (enhanced multi-frame).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from . import explicit
from .planes import Plane
from .scan import UnreadableError

DAY = 86400.0  # seconds
SLOW_MS = 300.0  # a repetition time from which it may be the time of a whole volume


def has_geometry(header: Any) -> bool:
    return "PerFrameFunctionalGroupsSequence" in header or _place(header) is not None


def planes_of(path: Path, header: Any, time: float) -> list[Plane]:
    if "PerFrameFunctionalGroupsSequence" in header:
        return _enhanced_planes(path, header)
    place = _place(header)
    if place is None:
        return []
    position, (row, column), spacing = place
    words = (str(header.get(k) or "") for k in ("ImageType", "SegmentLabel"))
    numbers = (float(header.get(k) or 0) for k in ("EchoTime", "InversionTime", "DiffusionBValue"))
    key = (*numbers, *words)
    number, size = int(header.get("InstanceNumber") or 0), _bytes(path, header)
    apart = float(header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 0)
    first = Plane(path, 0, position, row, column, spacing, abs(apart), time, key, number, size)
    count = int(header.get("NumberOfFrames") or 1)
    return [first] if count == 1 else _frames_behind(first, count, header)


def _place(header: Any) -> tuple[tuple[float, float, float], Any, tuple[float, float]] | None:
    """Position, directions and spacing of the first frame; nuclear medicine states them of its detector (C.8.4.11)."""
    source = header
    if "ImagePositionPatient" not in header:
        detectors = header.get("DetectorInformationSequence")
        if not detectors or "ImagePositionPatient" not in detectors[0] or "TOMO" not in str(header.get("ImageType")):
            return None
        source = detectors[0]
    directions = _directions(source.ImageOrientationPatient)
    return _triple(source.ImagePositionPatient), directions, _pair(header.PixelSpacing)


def _frames_behind(first: Plane, count: int, header: Any) -> list[Plane]:
    """Frames that share one position: apart by the spacing that is stated along the normal (C.8.4.15), or in time.

    Raises UnreadableError when neither is stated: where the others lie cannot be known.
    """
    step = header.get("FrameTime")
    apart = header.get("SpacingBetweenSlices")
    if step and not apart:
        return [replace(first, frame=i, time=i * float(step) / 1000) for i in range(count)]
    if not apart:
        raise UnreadableError(
            f"states one position for {count} frames and no spacing between them.", "Export it as single slices."
        )
    along = [float(apart) * n for n in first.normal]
    places = ([p + i * n for p, n in zip(first.position, along, strict=True)] for i in range(count))
    return [replace(first, frame=i, position=_triple(place)) for i, place in enumerate(places)]


def _bytes(path: Path, header: Any) -> int:
    return header.size if isinstance(header, explicit.PlainHeader) else path.stat().st_size


def moments(headers: Sequence[Any]) -> tuple[list[float], str]:
    """Seconds that order frames at one place, and what is said where they are not stated.

    Temporal positions are apart by the temporal resolution, else as their acquisition times, else by a repetition time
    that is long enough for a volume; without positions trigger times or acquisition times order frames.
    """
    positions = [int(h.get("TemporalPositionIdentifier") or 0) for h in headers]
    clocks = _clocks(headers)
    if not any(positions):
        for keyword in ("TriggerTime", "FrameReferenceTime"):
            found = [h.get(keyword) for h in headers]
            if len(set(found)) > 1 and all(v is not None for v in found):
                return [float(v) / 1000 for v in found], ""
        return clocks, ""
    if len(set(positions)) == 1:
        return [float(p) for p in positions], ""
    stated = next((float(h.get("TemporalResolution")) for h in headers if h.get("TemporalResolution")), 0.0)
    if stated:
        return [p * stated / 1000 for p in positions], ""
    starts: dict[int, float] = {}
    for position, clock in zip(positions, clocks, strict=True):
        starts[position] = min(starts.get(position, math.inf), clock)
    ordered = [starts[p] for p in sorted(starts)]
    if all(b > a for a, b in pairwise(ordered)):
        return [starts[p] for p in positions], ""
    repetition = next((float(h.get("RepetitionTime")) for h in headers if h.get("RepetitionTime")), 0.0)
    if repetition >= SLOW_MS:
        return [p * repetition / 1000 for p in positions], ""
    return [float(p) for p in positions], "states no time between its frames; they are counted as 1 s apart."


def _clocks(headers: Sequence[Any]) -> list[float]:
    """Seconds of each acquisition; what begins before midnight goes on after it, where the numbers of instances say
    so.
    """
    found = [_clock(h) for h in headers]
    if max(found) - min(found) <= DAY / 2:
        return found
    order = sorted(range(len(found)), key=lambda k: int(headers[k].get("InstanceNumber") or 0))
    later = [c + DAY if c < DAY / 2 else c for c in found]
    wrapped = (
        all(later[b] >= later[a] for a, b in pairwise(order))
        and len({headers[k].get("InstanceNumber") for k in order}) > 1
    )
    return later if wrapped else found


def _clock(header: Any) -> float:
    """Seconds after midnight of the acquisition; 0 where it is not stated."""
    clock = str(header.get("AcquisitionTime") or header.get("ContentTime") or "")
    if len(clock) < 6 or not clock[:6].isdigit():
        return 0.0
    return 3600 * float(clock[:2]) + 60 * float(clock[2:4]) + float(clock[4:])


def _enhanced_planes(path: Path, header: Any) -> list[Plane]:
    shared = header.SharedFunctionalGroupsSequence[0] if "SharedFunctionalGroupsSequence" in header else {}
    planes = []
    for i, own in enumerate(header.PerFrameFunctionalGroupsSequence):

        def group(name: str, own: Any = own) -> Any:
            sequence = own.get(name) or shared.get(name)
            return sequence[0] if sequence else {}

        if not group("PlanePositionSequence"):
            return []
        row, column = _directions(group("PlaneOrientationSequence").ImageOrientationPatient)
        measures, content = group("PixelMeasuresSequence"), group("FrameContentSequence")
        types = group("MRImageFrameTypeSequence") or group("CTImageFrameTypeSequence")
        key = (
            str(types.get("FrameType") or "") if types else "",
            str(group("MREchoSequence").get("EffectiveEchoTime") or "") if group("MREchoSequence") else "",
            str(group("MRDiffusionSequence").get("DiffusionBValue") or "") if group("MRDiffusionSequence") else "",
            str(group("SegmentIdentificationSequence").get("ReferencedSegmentNumber") or "")
            if group("SegmentIdentificationSequence") else "",
        )  # fmt: skip
        thickness = float(measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 0)
        moment = float((content.get("TemporalPositionIndex") if content else None) or i)
        position = _triple(group("PlanePositionSequence").ImagePositionPatient)
        planes.append(Plane(path, i, position, row, column, _pair(measures.PixelSpacing), thickness, moment, key))
    return planes


def _triple(values: Any) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z


def _pair(values: Any) -> tuple[float, float]:
    rows, columns = (float(v) for v in values)
    return rows, columns


def _directions(values: Any) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    numbers = [float(v) for v in values]
    return _triple(numbers[:3]), _triple(numbers[3:])
