"""Pixels of DICOM files in the unit that their header states."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import explicit, meaning
from .scan import UnreadableError, check_values


def pixels_of(path: Path) -> NDArray[np.float32]:
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
    """Stored numbers in physical units, as `_physical` does it; exact in float32 where slope and intercept are
    whole.
    """
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
