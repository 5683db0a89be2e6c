"""PNG and JPEG pictures, npz arrays and zip archives of pictures: 2D, grey or colour, of unknown pixel size.

Eight bits are what a screen shows: their unit is "grey" (0 to 255). Other numbers keep arbitrary units.
"""

from __future__ import annotations

import functools
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import UnidentifiedImageError

from ..contracts import Field, Image
from .scan import Oddity, Scan, UnreadableError, check_values

PIXELS = np.eye(4)[:, [2, 1, 0, 3]]  # index (z, y, x) -> LPS: one unit a pixel, rows run back, columns left
ENDINGS = (".png", ".jpg", ".jpeg", ".npz", ".zip")
_PICTURES = (".png", ".jpg", ".jpeg")
LARGEST_BYTES = 2**31  # unpacked size of one archive member: refuses zip bombs


def listing(path: Path) -> tuple[list[Scan], list[Oddity]]:
    """One scan a picture; raises UnreadableError when the file holds none."""
    if path.suffix.lower() == ".zip":
        return _zip_listing(path)
    if path.suffix.lower() == ".npz":
        return _npz_listing(path)
    return [_picture_scan(path, "", path.read_bytes())], []


def read(scan: Scan) -> Image:
    """(C, y, x) with the file's own grey levels; colour with equal channels becomes one channel."""
    path = scan.files[0]
    if isinstance(scan.recipe, _Stack):
        each = np.stack([_pixels(file.read_bytes(), scan.kind == "label") for file in scan.files], 1)
        data = each.reshape(len(each), scan.recipe.frames, scan.recipe.slices, *each.shape[2:])
        data = data if scan.recipe.frames > 1 else data[:, 0]
    elif path.suffix.lower() == ".npz":
        key, index = scan.recipe
        data = _array(path, key)[index] if index is not None else _array(path, key)
        data = np.moveaxis(data, -1, 0) if scan.shape[0] == 3 else data[None]
    elif path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            data = _pixels(archive.read(scan.member), scan.kind == "label")
    else:
        data = _pixels(path.read_bytes(), scan.kind == "label")
    check_values(data)
    if scan.kind == "label" and set(np.unique(data).tolist()) <= {0, 255}:
        data = (data > 0).astype(np.uint8)  # a mask as a screen shows it
    tensor = torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))
    plain = scan.kind == "intensity" and scan.unit in ("a.u.", "grey")
    unit = ("grey" if data.dtype == np.uint8 else "a.u.") if plain else scan.unit
    field = Field(Path(scan.member or path.name).stem, scan.kind, len(tensor), unit)
    affine = torch.from_numpy(scan.affine)
    return Image(tensor, scan.axes, affine, field, source=scan.name, calibrated=False)


def stack(pictures: Mapping[tuple[int, int], Scan]) -> Scan:
    """Pictures by (slice, frame), as a table numbers them, as one volume or film; raises UnreadableError where one is
    missing, and for pictures of different sizes. Their order is that of the numbers, which need not be consecutive.
    """
    slices, frames = (sorted({key[k] for key in pictures}) for k in (0, 1))
    first = pictures[slices[0], frames[0]] if (slices[0], frames[0]) in pictures else next(iter(pictures.values()))
    if lost := [(z, t) for t in frames for z in slices if (z, t) not in pictures]:
        z, t = lost[0]
        raise UnreadableError(
            f"lacks frame {t} of slice {z}; {len(lost)} of {len(slices) * len(frames)} pictures are missing.",
            "Leave slices or frames out that are not whole.", first.name,
        )  # fmt: skip
    if odd := next((p for p in pictures.values() if p.shape != first.shape), None):
        raise UnreadableError(
            f"is a picture of {odd.shape[1]} x {odd.shape[2]}, {first.name} of {first.shape[1]} x {first.shape[2]}.",
            "Pictures of one series have one size.", odd.name,
        )  # fmt: skip
    channels, *sides = first.shape
    depth, axes = (len(slices), *sides), "zyx"
    shape, axes = ((channels, len(frames), *depth), "tzyx") if len(frames) > 1 else ((channels, *depth), axes)
    ordered = tuple(pictures[z, t].files[0] for t in frames for z in slices)
    return replace(first, files=ordered, shape=shape, axes=axes, recipe=_Stack(len(frames), len(slices)))


def places(scan: Scan) -> list[tuple[int, int]] | None:
    """(slice, frame) of each file of a stack, numbered from 0; None of any other scan."""
    if not isinstance(scan.recipe, _Stack):
        return None
    return [(z, t) for t in range(scan.recipe.frames) for z in range(scan.recipe.slices)]


@dataclass(frozen=True)
class _Stack:
    """Files of one series: all slices of a frame, then the next frame."""

    frames: int
    slices: int


def _picture_scan(path: Path, member: str, content: bytes, values: Mapping[str, float | str] | None = None) -> Scan:
    if member:
        shape, bytes_each = _size(content)
    else:
        pixels = _pixels(content)
        shape, bytes_each = pixels.shape, pixels.dtype.itemsize
    unit = "grey" if bytes_each == 1 else "a.u."
    return Scan(
        (path,),
        "raster",
        shape,
        "yx",
        PIXELS,
        False,
        unit,
        "8 bits" if unit == "grey" else "",
        member=member,
        values=values or {},
    )


def _size(content: bytes) -> tuple[tuple[int, int, int], int]:
    """(shape, bytes of a number) without decoding the pixels: an archive may hold thousands."""
    try:
        with Picture.open(io.BytesIO(content)) as picture:
            channels = 3 if picture.mode in ("RGB", "RGBA", "P", "CMYK", "YCbCr") else 1
            return (channels, picture.height, picture.width), 4 if picture.mode.startswith(("I", "F")) else 1
    except (UnidentifiedImageError, OSError, Picture.DecompressionBombError) as error:
        raise UnreadableError(
            f"is not a readable picture ({type(error).__name__}).", "Save it again as PNG."
        ) from error


def _pixels(content: bytes, label: bool = False) -> NDArray[Any]:
    """(C, y, x) of an encoded picture; of a label map with a palette the numbers, not the colours."""
    try:
        with Picture.open(io.BytesIO(content)) as picture:
            grey = picture.mode in ("1", "L", "I", "F", "I;16", "I;16L", "I;16B", *(("P",) if label else ()))
            data = np.asarray(
                picture.convert("L") if picture.mode == "1" else picture if grey else picture.convert("RGB")
            )
    except (UnidentifiedImageError, OSError, Picture.DecompressionBombError) as error:
        raise UnreadableError(
            f"is not a readable picture ({type(error).__name__}).", "Save it again as PNG."
        ) from error
    if data.ndim == 2:
        return data[None]
    planes = np.moveaxis(data, -1, 0)
    same = bool((planes[0] == planes[1]).all() and (planes[0] == planes[2]).all())
    return planes[:1] if same else planes


def _zip_listing(path: Path) -> tuple[list[Scan], list[Oddity]]:
    scans, oddities = [], []
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.is_dir() or not info.filename.lower().endswith(_PICTURES):
                    continue
                if info.file_size > LARGEST_BYTES:
                    oddities.append(Oddity(f"{path}#{info.filename}", "unpacks to over 2 GiB.", "Leave it out."))
                    continue
                try:
                    with archive.open(info) as member:
                        scans.append(_picture_scan(path, info.filename, member.read()))
                except (UnreadableError, zipfile.BadZipFile, RuntimeError) as error:
                    fault = (
                        error
                        if isinstance(error, UnreadableError)
                        else UnreadableError("is damaged.", "Pack it again.")
                    )
                    oddities.append(Oddity(f"{path}#{info.filename}", fault.fault, fault.next_step))
    except zipfile.BadZipFile as error:
        raise UnreadableError("is not a readable zip archive.", "Pack it again.") from error
    if not scans and not oddities:
        raise UnreadableError("holds no PNG or JPEG pictures.", "Unpack it, or leave it out.")
    return scans, oddities


def _npz_listing(path: Path) -> tuple[list[Scan], list[Oddity]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise UnreadableError("is not a plain npz file.", "Save plain arrays with numpy.savez.") from error
    scans = [scan for key, array in arrays.items() for scan in _array_scans(path, key, array, arrays)]
    if not scans:
        raise UnreadableError(f"holds no pictures (arrays: {', '.join(arrays) or 'none'}).", "Name them `images`.")
    return scans, []


def _array_scans(path: Path, key: str, array: NDArray[Any], arrays: Mapping[str, NDArray[Any]]) -> list[Scan]:
    """One scan per picture of (N, y, x), (N, y, x, 3) named `*images`, or of a single (y, x) or (z, y, x)."""
    if array.dtype.kind not in "uif" or "label" in key:
        return []
    many = "image" in key and array.ndim >= 3
    if not many:
        if array.ndim not in (2, 3) or min(array.shape) < 2:
            return []
        axes = "yx" if array.ndim == 2 else "zyx"
        return [Scan((path,), "raster", (1, *array.shape), axes, PIXELS, False, member=key, recipe=(key, None))]
    colour = array.ndim == 4 and array.shape[-1] == 3
    shape = (3 if colour else 1, *array.shape[1:3])
    labels = arrays.get(key.replace("images", "labels"))
    known = labels is not None and len(labels) == len(array)
    part = key.removesuffix("images").strip("_")
    return [
        Scan(
            (path,), "raster", shape, "yx", PIXELS, False, member=f"{key}/{i:05d}", recipe=(key, i),
            values={**({"class": str(int(labels[i].reshape(-1)[0]))} if known and labels is not None else {}),
                    **({"part": part} if part else {})},
        )
        for i in range(len(array))
    ]  # fmt: skip


@functools.lru_cache(maxsize=2)
def _array(path: Path, key: str) -> NDArray[Any]:
    with np.load(path, allow_pickle=False) as archive:
        array: NDArray[Any] = archive[key]
    return array
