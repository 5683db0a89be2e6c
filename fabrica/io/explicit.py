"""One-frame DICOM files in explicit little endian, walked by hand: many times faster than a general parser.

The files of a series have the same elements of the same lengths, but for a few: where a header's bytes agree with a
layout that was walked before, its values are at the same places and nothing is walked again.

Only what is plain is taken (PS3.5 section 7 for the encoding, annex A.2 for the syntax): every element that is asked
for must be of its dictionary's value representation, ASCII and free of anything that pydicom would warn of. All else is
answered with None, and the caller asks pydicom, which is also the oracle of the tests.
"""

from __future__ import annotations

import os
import re
import struct
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .meaning import CODES

_START = 132
_FIRST_READ = 8192
_LONGEST_HEADER = 1 << 20
_WIDE = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_KINDS = _WIDE | frozenset(
    (
        b"AE",
        b"AS",
        b"AT",
        b"CS",
        b"DA",
        b"DS",
        b"DT",
        b"FD",
        b"FL",
        b"IS",
        b"LO",
        b"LT",
        b"PN",
        b"SH",
        b"SL",
        b"SS",
        b"ST",
        b"TM",
        b"UI",
        b"UL",
        b"US",
    )
)
_SYNTAX = "1.2.840.10008.1.2.1"
_PIXELS, _PADDING = 0x7FE00010, 0x00280120
_UNDEFINED = 0xFFFFFFFF
_SHORT, _LENGTH, _ITEM = (struct.Struct(form).unpack_from for form in ("<HH2sH", "<I", "<HHI"))
_NEVER = frozenset((  # elements that change what pixels or places mean: left to pydicom
    0x00283000, 0x00480006, 0x00480007, 0x52009229, 0x52009230, 0x00620002, 0x00280121, 0x00541006,
))  # fmt: skip

_REAL_WORLD = 0x00409096  # a map of stored to real-world values: plain as long as it names no unit that is known here

Parse = Callable[[bytes], Any]


class _NotPlainError(Exception):
    """Something that is pydicom's to read."""


def _text(pattern: str) -> Parse:
    allowed = re.compile(pattern.encode(), re.ASCII).fullmatch

    def parse(raw: bytes) -> Any:
        if not allowed(raw):
            raise _NotPlainError
        words = raw.decode("ascii").split("\\")
        return words[0] if len(words) == 1 else words

    return parse


_number = re.compile(rb"[ ]*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?[ ]*").fullmatch
_whole = re.compile(rb"[ ]*[-+]?\d{1,10}[ ]*").fullmatch


def _decimal(raw: bytes) -> Any:
    parts = raw.split(b"\\")
    if any(len(p) > 16 or not _number(p) for p in parts):
        raise _NotPlainError
    values = [float(p) for p in parts]
    return values[0] if len(values) == 1 else values


def _integer(raw: bytes) -> Any:
    if not _whole(raw):
        raise _NotPlainError
    return int(raw)


def _unsigned(raw: bytes) -> Any:
    if len(raw) != 2:
        raise _NotPlainError
    return raw[0] | raw[1] << 8


def _signed(raw: bytes) -> Any:
    return int.from_bytes(raw, "little", signed=True)


def _double(raw: bytes) -> Any:
    if len(raw) != 8:
        raise _NotPlainError
    return struct.unpack("<d", raw)[0]


_code_values = re.compile(rb"\x08\x00\x00\x01SH(.)\x00", re.DOTALL).finditer  # (0008,0100) and the length of its text


def _without_unit(raw: bytes) -> Any:
    for found in _code_values(raw):
        text = raw[found.end() : found.end() + found[1][0]]
        if text.rstrip(b" ").decode("latin-1") in CODES:
            raise _NotPlainError
    return None


_code = _text(r"[A-Z0-9 _]{0,16}(\\[A-Z0-9 _]{0,16})*")
_long = _text(r"[\x20-\x5b\x5d-\x7e]{0,64}")
_uid = _text(r"(?=.{1,64}$)(0|[1-9]\d*)(\.(0|[1-9]\d*))*")
_PARSERS: dict[bytes, Parse] = {
    b"CS": _code, b"LO": _long, b"SH": _text(r"[\x20-\x5b\x5d-\x7e]{0,16}"), b"DA": _text(r"(\d{8})?"),
    b"TM": _text(r"(\d{6}(\.\d{1,6})?)? *"), b"AS": _text(r"(\d{3}[DWMY])?"), b"UI": _uid,
    b"DS": _decimal, b"IS": _integer, b"US": _unsigned, b"SS": _signed, b"FD": _double, b"SQ": _without_unit,
}  # fmt: skip
_ASKED: dict[int, tuple[str, tuple[bytes, ...]]] = {
    0x00020010: ("TransferSyntaxUID", (b"UI",)),
    _PADDING: ("PixelPaddingValue", (b"US", b"SS")),
    0x00080008: ("ImageType", (b"CS",)),
    0x00080016: ("SOPClassUID", (b"UI",)),
    0x00080018: ("SOPInstanceUID", (b"UI",)),
    0x00080020: ("StudyDate", (b"DA",)),
    0x00080032: ("AcquisitionTime", (b"TM",)),
    0x00080033: ("ContentTime", (b"TM",)),
    0x00080060: ("Modality", (b"CS",)),
    0x0008103E: ("SeriesDescription", (b"LO",)),
    0x00100020: ("PatientID", (b"LO",)),
    0x00100040: ("PatientSex", (b"CS",)),
    0x00101010: ("PatientAge", (b"AS",)),
    0x00180024: ("SequenceName", (b"SH",)),
    0x00180050: ("SliceThickness", (b"DS",)),
    0x00180080: ("RepetitionTime", (b"DS",)),
    0x00180081: ("EchoTime", (b"DS",)),
    0x00180082: ("InversionTime", (b"DS",)),
    0x00180087: ("MagneticFieldStrength", (b"DS",)),
    0x00180088: ("SpacingBetweenSlices", (b"DS",)),
    0x00181030: ("ProtocolName", (b"LO",)),
    0x00181060: ("TriggerTime", (b"DS",)),
    0x00181063: ("FrameTime", (b"DS",)),
    0x00181164: ("ImagerPixelSpacing", (b"DS",)),
    0x00189087: ("DiffusionBValue", (b"FD",)),
    0x0020000D: ("StudyInstanceUID", (b"UI",)),
    0x0020000E: ("SeriesInstanceUID", (b"UI",)),
    0x00200013: ("InstanceNumber", (b"IS",)),
    0x00200032: ("ImagePositionPatient", (b"DS",)),
    0x00200037: ("ImageOrientationPatient", (b"DS",)),
    0x00200052: ("FrameOfReferenceUID", (b"UI",)),
    0x00200100: ("TemporalPositionIdentifier", (b"IS",)),
    0x00200110: ("TemporalResolution", (b"DS",)),
    0x00280002: ("SamplesPerPixel", (b"US",)),
    0x00280004: ("PhotometricInterpretation", (b"CS",)),
    0x00280008: ("NumberOfFrames", (b"IS",)),
    0x00280010: ("Rows", (b"US",)),
    0x00280011: ("Columns", (b"US",)),
    0x00280030: ("PixelSpacing", (b"DS",)),
    0x00280100: ("BitsAllocated", (b"US",)),
    0x00280101: ("BitsStored", (b"US",)),
    0x00280102: ("HighBit", (b"US",)),
    0x00280103: ("PixelRepresentation", (b"US",)),
    0x00281052: ("RescaleIntercept", (b"DS",)),
    0x00281053: ("RescaleSlope", (b"DS",)),
    0x00281054: ("RescaleType", (b"LO",)),
    0x00541001: ("Units", (b"CS",)),
    0x00541300: ("FrameReferenceTime", (b"DS",)),
}


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the bytes are that say which elements follow each other, what they are, and where asked values lie."""

    places: NDArray[np.intp]
    marks: bytes
    values: tuple[tuple[str, bytes, int, int], ...]  # keyword, value representation, start, stop
    offset: int  # of the pixels
    length: int


_LAYOUTS: deque[_Layout] = deque(maxlen=12)  # latest first
_PARSED: dict[tuple[bytes, bytes], Any] = {}  # (representation, bytes) -> value: most repeat from slice to slice
_HEADERS: dict[Path, tuple[tuple[int, int, int], PlainHeader | None]] = {}  # of this process, with the file's version
_MOST_PARSED, _MOST_HEADERS = 50_000, 20_000


@dataclass(frozen=True, slots=True)
class PlainHeader:
    """The elements asked for, by keyword, read like a pydicom data set; and where the pixels are."""

    elements: Mapping[str, Any]
    offset: int
    length: int
    size: int  # of the file, bytes

    def get(self, keyword: str, default: Any = None) -> Any:
        return self.elements.get(keyword, default)

    def __contains__(self, keyword: str) -> bool:
        return keyword in self.elements

    def __getattr__(self, keyword: str) -> Any:
        try:
            return self.elements[keyword]
        except KeyError:
            raise AttributeError(keyword) from None


def header(path: Path) -> PlainHeader | None:
    """The header of a plain file, or None when pydicom must read it; read again when the file has changed."""
    state = os.stat(path)
    version = (state.st_ino, state.st_size, state.st_mtime_ns)
    if (seen := _HEADERS.get(path)) is not None and seen[0] == version:
        return seen[1]
    descriptor = os.open(path, os.O_RDONLY)
    try:
        found = _header(descriptor)
    finally:
        os.close(descriptor)
    if len(_HEADERS) > _MOST_HEADERS:
        _HEADERS.clear()
    _HEADERS[path] = (version, found)
    return found


def forget() -> None:
    """Drop what is remembered of headers: what a first reading costs can then be measured."""
    _HEADERS.clear()
    _LAYOUTS.clear()
    _PARSED.clear()


def pixels(path: Path) -> tuple[PlainHeader, NDArray[Any]] | None:
    """(header, stored numbers (rows, columns)) of a plain file with whole pixel data, or None."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        known = _header(descriptor)
        kind = None if known is None else _kind(known)
        if known is None or kind is None:
            return None
        stored = np.empty((known.Rows, known.Columns), kind)
        if known.length not in (stored.nbytes, stored.nbytes + 1):
            return None
        if os.preadv(descriptor, [stored.view(np.uint8).reshape(-1).data], known.offset) != stored.nbytes:
            return None
        return (known, stored) if _within(known, stored) else None
    finally:
        os.close(descriptor)


def _kind(known: PlainHeader) -> str | None:
    """The type of the stored numbers: one grey channel of 8 or 16 bits, nothing else."""
    grey = known.get("PhotometricInterpretation") in ("MONOCHROME1", "MONOCHROME2")
    if not grey or known.get("SamplesPerPixel", 1) != 1:
        return None
    sign, bits = known.get("PixelRepresentation"), known.get("BitsAllocated")
    return {(0, 8): "u1", (1, 8): "i1", (0, 16): "<u2", (1, 16): "<i2"}.get((sign, bits))


def _within(known: PlainHeader, stored: NDArray[Any]) -> bool:
    """Are there only the bits that are said to be stored? Others must be masked, which is pydicom's to do."""
    bits = known.get("BitsStored")
    if bits is None or known.get("HighBit") != bits - 1 or bits > 8 * stored.itemsize:
        return False
    if bits == 8 * stored.itemsize:
        return True
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if stored.dtype.kind == "i" else (0, (1 << bits) - 1)
    return bool(stored.min() >= low and stored.max() <= high)


def _header(descriptor: int) -> PlainHeader | None:
    content, size = os.pread(descriptor, _FIRST_READ, 0), os.fstat(descriptor).st_size
    if content[128:_START] != b"DICM":
        return None
    try:
        try:
            layout = _known(content) or _walk(content)
        except (IndexError, struct.error):  # the header is longer than the first read, or cut short
            content = os.pread(descriptor, _LONGEST_HEADER, 0)
            layout = _walk(content)
        elements = {keyword: _parsed(kind, content[a:b]) for keyword, kind, a, b in layout.values}
    except (IndexError, struct.error, _NotPlainError):
        return None
    elements.pop("RealWorldValueMappingSequence", None)
    if elements.pop("TransferSyntaxUID", None) != _SYNTAX or (elements.get("NumberOfFrames") or 1) != 1:
        return None
    return PlainHeader(elements, layout.offset, layout.length, size)


def _known(content: bytes) -> _Layout | None:
    """The layout that this header shares to the byte with one walked before."""
    seen = np.frombuffer(content, np.uint8)
    for layout in _LAYOUTS:
        if layout.offset <= len(content) and seen[layout.places].tobytes() == layout.marks:
            return layout
    return None


def _parsed(kind: bytes, raw: bytes) -> Any:
    try:
        return _PARSED[kind, raw]
    except KeyError:
        if len(_PARSED) > _MOST_PARSED:
            _PARSED.clear()
        plain = raw.rstrip(b"\0" if kind == b"UI" else b" ")
        value = _PARSED[kind, raw] = _PARSERS[kind](plain) if plain else None
        return value


def _walk(content: bytes) -> _Layout:
    """Element after element up to the pixels; raises when something is not plain or the content ends before."""
    values: list[tuple[str, bytes, int, int]] = []
    marks: list[tuple[int, int]] = []  # stretches of bytes that decide where the next element is
    at, last = _START, 0
    while True:
        tag, kind, length, at = _element(content, at, marks)
        if tag <= last or tag in _NEVER:
            raise _NotPlainError
        if tag == _PIXELS and length != _UNDEFINED:
            break
        if tag == _REAL_WORLD:
            end = _behind_sequence(content, at, kind, marks) if length == _UNDEFINED else at + length
            if end > len(content):
                raise IndexError
            values.append(("RealWorldValueMappingSequence", b"SQ", at, end))
            at, length = end, 0
        elif length == _UNDEFINED:
            at, length = _behind_sequence(content, at, kind, marks), 0
        elif tag in _ASKED:
            keyword, expected = _ASKED[tag]
            if kind not in expected or (tag == _PADDING and length != 2):
                raise _NotPlainError
            if at + length > len(content):
                raise IndexError
            values.append((keyword, kind, at, at + length))
        at += length
        last = tag
    places = np.concatenate([np.arange(a, b) for a, b in marks])
    layout = _Layout(places, np.frombuffer(content, np.uint8)[places].tobytes(), tuple(values), at, length)
    _LAYOUTS.appendleft(layout)
    return layout


def _element(content: bytes, at: int, marks: list[tuple[int, int]]) -> tuple[int, bytes, int, int]:
    """(tag, value representation, length, where the value starts), PS3.5 section 7.1.2."""
    group, element, kind, length = _SHORT(content, at)
    end = at + 8
    if kind in _WIDE:
        (length,) = _LENGTH(content, end)
        end += 4
    elif kind not in _KINDS:
        raise _NotPlainError
    marks.append((at, end))
    return group << 16 | element, kind, length, end


def _behind_sequence(content: bytes, at: int, kind: bytes, marks: list[tuple[int, int]], depth: int = 0) -> int:
    """Where the element after a sequence of undefined length starts, PS3.5 section 7.5."""
    if kind != b"SQ" or depth > 16:
        raise _NotPlainError
    while True:
        group, element, length = _ITEM(content, at)
        marks.append((at, at + 8))
        at += 8
        if (group, element) == (0xFFFE, 0xE0DD):
            return at
        if (group, element) != (0xFFFE, 0xE000):
            raise _NotPlainError
        at = at + length if length != _UNDEFINED else _behind_item(content, at, marks, depth)


def _behind_item(content: bytes, at: int, marks: list[tuple[int, int]], depth: int) -> int:
    while True:
        group, element, _ = _ITEM(content, at)
        if (group, element) == (0xFFFE, 0xE00D):
            marks.append((at, at + 8))
            return at + 8
        _, kind, length, at = _element(content, at, marks)
        at = at + length if length != _UNDEFINED else _behind_sequence(content, at, kind, marks, depth + 1)
