"""What one file says of itself: whose it is, which study and series, its grid; without its neighbours or its pixels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import dicom, radiotherapy
from .scan import Oddity, Scan, UnreadableError


@dataclass(frozen=True, slots=True)
class Header:
    """One file. `fault`: why it is no image, "" where it is one; `note` says of a fault that it is only text."""

    format: str = ""
    patient: str = ""  # pseudonym made from the header's patient identifier, "" where a format has none
    study: str = ""  # Study Instance UID, "" where a format has none
    series: str = ""
    visit: str = ""  # date of the study
    modality: str = ""
    grid: str = ""  # "30 x 256 x 256": frames, rows, columns of DICOM; z, y, x of others
    images: int = 0
    fault: str = ""
    note: bool = False


def header_of(path: Path) -> Header:
    """The header of any file that `io.scan_folder` knows; what cannot be read is a header with its fault."""
    from . import scans_in

    try:
        found = scans_in(path)
        return _dicom(path) if found is None else _other(*found)
    except UnreadableError as error:
        return Header(fault=f"{error.fault} {error.next_step}")


def _other(scans: Sequence[Scan], oddities: Sequence[Oddity]) -> Header:
    if not scans:
        told = oddities[0] if oddities else None
        if told is None:
            return Header(fault="belongs to the file beside it.", note=True)  # the voxels of a pair
        return Header(fault=f"{told.fault} {told.next_step}", note=told.severity == "note")
    first = scans[0]
    grid = " x ".join(str(n) for n in first.shape[1:])
    return Header(first.format, first.patient, "", "", first.visit, first.modality, grid, len(scans))


def _dicom(path: Path) -> Header:
    odd: list[Oddity] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those that matter become oddities
        header = dicom.read_header(path, odd)
        facts = dicom.facts(header)
    study, series = (str(header.get(word) or "") for word in ("StudyInstanceUID", "SeriesInstanceUID"))
    about = (facts["patient"], study, series, facts["visit"], facts["modality"])
    if radiotherapy.kind_of(header):
        return Header("radiotherapy", *about)
    frames = int(header.get("NumberOfFrames") or 1)
    return Header("dicom", *about, f"{frames} x {int(header.Rows)} x {int(header.Columns)}", frames)
