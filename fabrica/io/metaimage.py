"""MetaImage (.mha, and .mhd beside its voxels): a header of lines, then numbers, plain or zlib (ITK's own format).

Its world is LPS and its indices are (x, y, z); inside indices are (z, y, x). Format as documented by Kitware (MetaIO).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..contracts import Field, Image
from .scan import Affine, Oddity, Scan, UnreadableError, check_affine, check_values

ENDINGS = (".mha", ".mhd")
VOXELS = (".raw", ".zraw")  # what an .mhd names; read through it
LONGEST = 65536  # bytes of a header
_TYPES: Mapping[str, str] = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_ZYX = np.eye(4)[[2, 1, 0, 3]]


@dataclass(frozen=True)
class Header:
    """What the lines say, and where the voxels begin."""

    sides: tuple[int, ...]  # x, y[, z]
    channels: int
    kind: np.dtype[np.generic]
    packed: bool
    packed_bytes: int  # 0 where it is not said
    place: Path
    start: int  # bytes; -1 (HeaderSize): the last ones of the file
    affine: Affine  # index (z, y, x, 1) -> LPS mm

    @property
    def count(self) -> int:
        return math.prod(self.sides) * self.channels


def listing(path: Path) -> tuple[list[Scan], list[Oddity]]:
    """What the header says; raises UnreadableError when it cannot be an image."""
    header = _header(path)
    flat = len(header.sides) == 2
    shape = (header.channels, *reversed(header.sides))
    whole = header.kind.itemsize if header.kind.kind in "ui" else 0
    scan = Scan((path,), "metaimage", shape, "yx" if flat else "zyx", header.affine, bytes_each=whole)
    return [scan], []


def read(scan: Scan) -> Image:
    """The voxels as they are stored: integers stay exact in float32 up to 2^24."""
    path = scan.files[0]
    header = _header(path)
    values = np.frombuffer(_voxels(header), header.kind, header.count)
    check_values(values)
    ordered = values.reshape(*reversed(header.sides), header.channels)
    tensor = torch.from_numpy(np.moveaxis(ordered, -1, 0).astype(np.float32))
    field = Field(path.stem, scan.kind, len(tensor), scan.unit)
    return Image(tensor, scan.axes, torch.from_numpy(scan.affine), field, source=str(path), calibrated=scan.calibrated)


def _voxels(header: Header) -> bytes:
    """Exactly as many bytes as the header promises; raises UnreadableError for fewer."""
    wanted = header.count * header.kind.itemsize
    try:
        with header.place.open("rb") as file:
            if header.start < 0:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - wanted))
            else:
                file.seek(header.start)
            content = file.read(header.packed_bytes or -1)
    except OSError as error:
        raise UnreadableError(
            f"its voxels should lie in {header.place.name}, which cannot be read.", "Copy both files."
        ) from error
    if header.packed:
        unpacking = zlib.decompressobj()
        try:
            content = unpacking.decompress(content, wanted)
        except zlib.error as error:
            raise UnreadableError("its voxel data is cut short or damaged.", "Copy the file again.") from error
    if len(content) < wanted:
        raise UnreadableError("its voxel data is cut short or damaged.", "Copy the file again.")
    return content[:wanted]


def _header(path: Path) -> Header:
    lines, end = _lines(path)
    dimensions = int(lines.get("ndims", "0") or 0)
    sides = tuple(int(n) for n in lines.get("dimsize", "").split())
    if dimensions not in (2, 3) or len(sides) != dimensions or min(sides, default=0) < 1:
        raise UnreadableError(f"has {dimensions} axes of {sides}, expected two or three.", "Save one volume.")
    kind = _TYPES.get(lines.get("elementtype", ""))
    if kind is None:
        raise UnreadableError(f"its voxels are {lines.get('elementtype')!r}.", "Save whole numbers or floats.")
    big = _true(lines.get("binarydatabyteordermsb", lines.get("elementbyteordermsb", "")))
    if lines.get("binarydata", "True").lower() == "false":
        raise UnreadableError("holds its voxels as text.", "Save it as binary.")
    place, start = _place(path, lines["elementdatafile"], end, lines)
    return Header(
        sides, int(lines.get("elementnumberofchannels", "1")), np.dtype(f"{'>' if big else '<'}{kind}"),
        _true(lines.get("compresseddata", "")), int(lines.get("compresseddatasize", "0")), place, start,
        _affine(lines, dimensions),
    )  # fmt: skip


def _lines(path: Path) -> tuple[dict[str, str], int]:
    """(key in small letters -> value, where the voxels begin); ElementDataFile is the last line there is."""
    with path.open("rb") as file:
        content, found = file.read(LONGEST), dict[str, str]()
    position = 0
    while (end := content.find(b"\n", position)) >= 0 or position < len(content):
        stop = end if end >= 0 else len(content)
        key, equals, value = content[position:stop].decode("latin-1").partition("=")
        position = stop + 1
        if not equals:
            break
        found[key.strip().lower()] = value.strip()
        if key.strip().lower() == "elementdatafile":
            return found, position
    raise UnreadableError("is no MetaImage: its header names no ElementDataFile.", "Save it again.")


def _place(path: Path, named: str, end: int, lines: Mapping[str, str]) -> tuple[Path, int]:
    """Where the voxels lie: here after the header, or in one file beside it; never anywhere else."""
    skipped = int(lines.get("headersize", "0"))
    if named.upper() == "LOCAL":
        return path, end
    if named.upper() == "LIST" or "%" in named:
        raise UnreadableError("its voxels lie in several files.", "Save it as one .mha.")
    if Path(named).name != named:
        raise UnreadableError(f"its voxels lie in {named!r}, outside its folder.", "Save both files in one folder.")
    return path.parent / named, skipped


def _affine(lines: Mapping[str, str], dimensions: int) -> Affine:
    spacing = _numbers(lines, ("elementspacing", "elementsize"), [1.0] * dimensions)
    offset = _numbers(lines, ("offset", "position", "origin"), [0.0] * dimensions)
    turned = _numbers(lines, ("transformmatrix", "rotation", "orientation"), np.eye(dimensions).ravel().tolist())
    if len(spacing) != dimensions or len(offset) != dimensions or len(turned) != dimensions**2:
        raise UnreadableError("its spacing, offset and directions have other axes than its voxels.", "Save it again.")
    affine = np.eye(4)
    affine[:dimensions, :dimensions] = np.array(turned).reshape(dimensions, dimensions).T * np.array(spacing)
    affine[:dimensions, 3] = offset
    found: Affine = affine @ _ZYX
    check_affine(found)
    return found


def _numbers(lines: Mapping[str, str], keys: tuple[str, ...], usual: list[float]) -> list[float]:
    text = next((lines[k] for k in keys if k in lines), None)
    if text is None:
        return usual
    try:
        return [float(n) for n in text.split()]
    except ValueError as error:
        raise UnreadableError(f"its {keys[0]} is {text!r}, expected numbers.", "Save it again.") from error


def _true(text: str) -> bool:
    return text.strip().lower() in ("true", "1")
