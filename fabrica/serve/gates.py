"""What a series must be before a model may answer it: one stack of planes, whole, straight, acquired."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

TURNED = 1e-3  # of direction cosines between planes of one stack
UNEVEN = 0.02  # of the step between planes
TILTED = 0.02  # of the step, sideways
ONE = ("PatientID", "PatientName", "StudyInstanceUID", "Modality", "FrameOfReferenceUID", "SOPClassUID", "PixelSpacing",
       "ImageType", "EchoTime", "Rows", "Columns")  # fmt: skip  # what all images of a stack say alike


def faults(headers: Sequence[Any], *, lossy: bool = False) -> list[str]:
    """Everything that is wrong with a series, in words; nothing where it may be answered. Headers have no pixels."""
    found = [*_kinds(headers, lossy)]
    if any("NumberOfFrames" in h for h in headers):
        return [*found, *([] if len(headers) == 1 else [f"it holds {len(headers)} files of several frames"])]
    placed = [h for h in headers if _placed(h)]
    if len(placed) < len(headers):
        return [*found, f"{len(headers) - len(placed)} of {len(headers)} images do not say where they lie"]
    return [*found, *_stack(placed)]


def unread(files: Sequence[Path]) -> list[str]:
    """What our own reader would leave out of these files: a part of a series is never answered as if it were whole."""
    from ..io import dicom

    scans, oddities = dicom.listing(files)
    if len(scans) == 1 and len(scans[0].files) == len(files):
        return []
    said = f" ({oddities[0].fault})" if oddities else ""
    return [f"its {len(files)} files are {len(scans)} stacks, not one{said}"]


def _placed(header: Any) -> bool:
    """Whether it says in numbers where it lies, along directions at right angles, with pixels of a size."""
    place, turn = header.get("ImagePositionPatient") or (), header.get("ImageOrientationPatient") or ()
    spacing = header.get("PixelSpacing") or ()
    if (len(place), len(turn), len(spacing)) != (3, 6, 2):
        return False
    numbers = np.array([*place, *turn, *spacing], float)
    row, column = numbers[3:6], numbers[6:9]
    lengths = np.array([row @ row, column @ column])
    return bool(
        np.isfinite(numbers).all() and (numbers[9:] > 0).all() and np.abs(lengths - 1).max() < 1e-2
        and abs(row @ column) < 1e-2
    )  # fmt: skip


def _kinds(headers: Sequence[Any], lossy: bool) -> Iterator[str]:
    for name in ONE:
        several = {str(h.get(name, "")) for h in headers}
        if len(several) > 1:
            yield f"it holds {len(several)} different {name}"
    if any("LOCALIZER" in _words(h.get("ImageType")) for h in headers):
        yield "it is a localizer"
    if not lossy and any(str(h.get("LossyImageCompression", "")) == "01" for h in headers):
        yield "its images were compressed with loss"
    if any(str(h.get("SyntheticData", "")) == "YES" for h in headers):
        yield "its images are synthetic already"
    told = {int(h.ImagesInAcquisition) for h in headers if h.get("ImagesInAcquisition")}
    if len(told) == 1 and (wanted := told.pop()) > len(headers):
        yield f"{len(headers)} images arrived of {wanted} in the acquisition"


def _words(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(v) for v in value or ()]


def _stack(headers: Sequence[Any]) -> Iterator[str]:
    turns = np.array([h.ImageOrientationPatient for h in headers], float)
    if np.abs(turns - turns[0]).max() > TURNED:
        yield "its planes are not parallel"
        return
    if len(headers) < 2:
        return
    normal = np.cross(turns[0, :3], turns[0, 3:])
    places = np.array([h.ImagePositionPatient for h in headers], float)
    places = places[np.argsort(places @ normal)]
    steps = np.diff(places @ normal)
    usual = float(np.median(steps))
    if usual < 1e-3:
        yield "several images lie at one place (echoes, moments, or sent twice)"
        return
    if (steps < 1e-3).any():
        yield f"{int((steps < 1e-3).sum())} images lie where another lies"
    elif (wide := np.flatnonzero(steps > usual * (1 + UNEVEN))).size:
        yield f"planes are missing: {steps[wide[0]]:.2f} mm behind plane {wide[0] + 1}, {usual:.2f} mm elsewhere"
    elif (steps < usual * (1 - UNEVEN)).any():
        yield f"its planes are not evenly spaced: {steps.min():.2f} to {steps.max():.2f} mm"
    sideways = np.linalg.norm(np.diff(places, axis=0) - steps[:, None] * normal, axis=1)
    if (sideways > TILTED * usual).any():
        yield f"its planes are moved sideways by {sideways.max():.2f} mm each (a tilted gantry)"
