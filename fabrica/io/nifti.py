"""NIfTI-1 and -2, plain or gzipped. Files are RAS and (x, y, z); inside everything is LPS and (z, y, x)."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from ..contracts import SCALES, Field, Image
from ..machine.device import writing
from .gzipped import content
from .scan import Affine, Oddity, Scan, UnreadableError, check_affine, check_values

ENDINGS = (".nii", ".nii.gz", ".hdr", ".img")
_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_ZYX = np.eye(4)[[2, 1, 0, 3]]  # permutes index order; its own inverse
GREY = "grey"  # the unit of what a screen shows, 0 to 255
_TO_MM = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
_TO_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}


def listing(path: Path) -> tuple[list[Scan], list[Oddity]]:
    """What the header says; raises UnreadableError when it cannot be an image."""
    image = _open(path)
    header, shape = image.header, tuple(int(n) for n in image.shape)
    affine, oddities = _geometry(image, path)
    shape, axes = _axes(shape)
    values = image.get_data_dtype()
    if values.fields is not None or values.kind == "c":
        raise UnreadableError(f"its voxels are {values}, expected plain numbers.", "Save magnitude or single channels.")
    description = os.fsdecode(bytes(header["descrip"]).rstrip(b"\0"))
    if "t" in axes:
        oddities += _time_oddities(header, path)
    named = (
        bytes(header["intent_name"]).rstrip(b"\0").decode("ascii", "replace") if not int(header["intent_code"]) else ""
    )
    unit = named if named in SCALES else "a.u."
    scan = Scan(
        (path,),
        "nifti",
        shape,
        axes,
        affine,
        calibrated=unit != GREY,
        unit=unit,
        unit_from="header" if unit != "a.u." else "",
        description=description,
        bytes_each=values.itemsize if values.kind in "ui" else 0,
    )
    return [scan], oddities


def _time_oddities(header: Any, path: Path) -> list[Oddity]:
    """A fourth axis without a step, or of another unit than time."""
    unit, step = _units(header)[1], float(header["pixdim"][4])
    if unit in ("hz", "ppm", "rads"):
        text = f"has a fourth axis in {unit}, which is no time; its steps are counted as seconds."
    elif not step:
        text = "states no time between its frames; they are counted as 1 s apart."
    elif unit == "unknown" and step > 30:
        text = f"states {step:g} between its frames and no unit; it is taken for seconds."
    else:
        return []
    return [Oddity(str(path), text, "Correct the header if times matter.", "warning")]


def read(scan: Scan) -> Image:
    """The voxels with the header's slope applied: integers stay exact in float32 up to 2^24."""
    image = _open(scan.files[0])
    try:
        packed = scan.files[0].name.lower().endswith(".nii.gz")
        data = _unpacked(image.dataobj, content(scan.files[0])) if packed else np.asanyarray(image.dataobj)
    except (EOFError, OSError, ValueError) as error:
        raise UnreadableError("its voxel data is cut short or damaged.", "Copy the file again.") from error
    check_values(data)
    data = data.reshape((*data.shape[:3], 1, 1, 1)[:3] + _trailing(data.shape))
    ordered = data.transpose(4, 3, 2, 1, 0)  # x y z t c -> c t z y x
    if scan.axes == "zyx":
        ordered = ordered[:, 0]
    tensor = torch.from_numpy(np.array(ordered, dtype=np.float32, order="C"))
    return Image(
        tensor,
        scan.axes,
        torch.from_numpy(scan.affine),
        Field(_stem(scan.files[0]), scan.kind, len(tensor), scan.unit),
        times=_times(image) if "t" in scan.axes else None,
        source=str(scan.files[0]),
        calibrated=scan.calibrated,
    )


def _unpacked(stored: Any, inside: bytes) -> NDArray[Any]:
    """The voxels straight from the bytes of the whole file, scaled as nibabel does; raises ValueError when they are too
    few.
    """
    count = math.prod(stored.shape)
    voxels = np.frombuffer(inside, stored.dtype, count, stored.offset).reshape(stored.shape, order="F")
    scaled: NDArray[Any] = apply_read_scaling(voxels, stored.slope, stored.inter)
    return scaled


def write(image: Image, path: Path) -> None:
    """The same grid as a NIfTI-1 file; labels as uint8 or int16, all else float32. 2D images get one slice.

    A unit is named in `intent_name`, so that it is read again; grey levels of pictures come back without a pixel size.
    """
    data = image.data.detach().cpu().numpy()
    if image.axes[0] != "t":
        data = data[:, None]
    if "z" not in image.axes:
        data = data[:, :, None]
    ordered = np.transpose(data, (4, 3, 2, 1, 0))  # c t z y x -> x y z t c
    ordered = ordered[..., 0] if ordered.shape[4] == 1 else ordered
    ordered = ordered[..., 0] if ordered.ndim == 4 and ordered.shape[3] == 1 else ordered
    if image.meaning.kind == "label":
        ordered = np.rint(ordered).astype(np.uint8 if ordered.max(initial=0) < 256 else np.int16)
    affine = _LPS_FROM_RAS @ image.affine.double().numpy() @ _ZYX
    if image.meaning.kind == "displacement":  # vectors in the file's own directions, x y z along its fifth axis
        ordered = ordered * np.array([-1, -1, 1], np.float32)
    nifti = nibabel.Nifti1Image(
        ordered.astype(np.float32, copy=False) if image.meaning.kind != "label" else ordered, affine
    )
    nifti.header.set_xyzt_units("mm", "sec")
    if image.meaning.kind == "displacement":
        nifti.header.set_intent("vector")
    if image.meaning.unit in SCALES:
        nifti.header["intent_name"] = image.meaning.unit.encode()
    nifti.set_sform(affine, code=1)
    if _orthogonal(affine):  # a qform cannot hold shear (gantry tilt)
        nifti.set_qform(affine, code=1)
    if image.times is not None and len(image.times) > 1:
        nifti.header["pixdim"][4] = float(image.times[1] - image.times[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path):
        nibabel.save(nifti, path)


def _open(path: Path) -> Any:
    try:
        return nibabel.load(path)
    except Exception as error:  # nibabel raises many kinds for damaged headers
        raise UnreadableError(
            f"is not a readable NIfTI file ({type(error).__name__}).", "Copy or convert it again."
        ) from error


def _geometry(image: Any, path: Path) -> tuple[Affine, list[Oddity]]:
    if not hasattr(image, "get_sform"):  # Analyze 7.5 states no orientation
        raise UnreadableError("an Analyze file has no orientation.", "Convert it to NIfTI with its orientation.")
    header = image.header
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    oddities = []
    if not sform and not qform:
        text = "states no orientation (sform and qform codes are 0); left and right may be swapped."
        oddities.append(Oddity(str(path), text, "Check it against a known scan.", "warning"))
    if sform and qform and not np.allclose(image.get_sform(), image.get_qform(), atol=0.1):
        text = "its sform and qform differ by more than 0.1 mm; the sform is used."
        oddities.append(Oddity(str(path), text, "Correct the header if this is wrong.", "warning"))
    scale = _TO_MM[_units(header)[0]]
    affine = _LPS_FROM_RAS @ np.diag([scale, scale, scale, 1.0]) @ np.asarray(image.affine, np.float64) @ _ZYX
    check_affine(affine)
    pixdim = np.abs(np.asarray(header["pixdim"][1:4], np.float64))[::-1] * scale
    if not np.allclose(pixdim, np.linalg.norm(affine[:3, :3], axis=0), rtol=0.02):
        shown = " x ".join(f"{d:.4g}" for d in pixdim)
        raise UnreadableError(
            f"its stated voxel size ({shown} mm, z y x) contradicts its orientation matrix.",
            "One of them is wrong: correct the header.",
        )
    return affine, oddities


def _units(header: Any) -> tuple[str, str]:
    """Of space and of time; raises UnreadableError for a code that NIfTI does not know."""
    try:
        space, time = header.get_xyzt_units()
    except KeyError as error:
        raise UnreadableError(
            f"states units of space or time that NIfTI does not know (xyzt_units {int(header['xyzt_units'])}).",
            "Correct the header: 10 means mm and s.",
        ) from error
    return str(space), str(time)


def _axes(shape: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
    if not 2 <= len(shape) <= 5 or 0 in shape:
        raise UnreadableError(f"its shape is {shape}, expected 2 to 5 axes.", "Split the file into volumes.")
    frames, channels = _trailing(shape)
    spatial = (*shape[:3], 1)[:3][::-1]
    if frames == 1:
        return (channels, *spatial), "zyx"
    return (channels, frames, *spatial), "tzyx"


def _trailing(shape: tuple[int, ...]) -> tuple[int, ...]:
    padded = (*shape, 1, 1, 1)
    return padded[3], padded[4] if len(shape) > 4 else 1


def _times(image: Any) -> torch.Tensor:
    unit = _TO_SECONDS.get(_units(image.header)[1], 1.0)
    step = float(image.header["pixdim"][4]) * unit or 1.0
    return torch.arange(image.shape[3], dtype=torch.float64) * step


def _orthogonal(affine: Affine) -> bool:
    columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.allclose(columns.T @ columns, np.eye(3), atol=1e-5))


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")
