"""Raw MR data: k-space as scanners write it, or as plain arrays. `kspace.npy` is complex (coil, [z,] y, x), zero
frequency in the middle, 0 = not measured. `kspace.npz` may hold samples on no grid: `kspace` (coil, readout, sample),
`trajectory` (readout, sample, 2) in cycles per field of view along y and x, and the `matrix` (y, x) of the image. Both
may say `maps` (coil, [z,] y, x): what each coil sees, instead of telling it from the samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import readouts
from .scan import Oddity, Scan, UnreadableError

ENDINGS = (".npy", ".npz", *readouts.ENDINGS)
NAME: Final = "k-space"  # what a cohort calls it
MOST_COILS = 256
KNOWN = ("mask", "maps", "voxel_mm", "noise", "trajectory", "matrix")  # what an archive may say besides
NOT_USED = f"What is read besides kspace: {', '.join(KNOWN)}."
OFF_MIDDLE = 0.06  # of a side: how far from the middle the largest sample may lie
IN_MIDDLE = 0.3  # of the energy: at least so much within an eighth of a side from the middle


@dataclass(frozen=True)
class RawKSpace:
    """k-space (coils, z, y, x) complex64, orthonormal, with what was measured (z, y, x) and what else the file says."""

    k_space: Tensor
    mask: Tensor
    voxel_mm: tuple[float, float, float] | None = None  # (z, y, x)
    noise: Tensor | None = None  # (coils, samples) of a noise scan
    sliced: bool = False  # whether z counts slices that were measured one by one
    trajectory: Tensor | None = None  # (readouts, samples, 2) in cycles per field of view, of k_space (coils, 1, ...)
    maps: Tensor | None = None  # (coils, z, y, x) complex64: what coils see, where the file says it
    sides: tuple[int, int] | None = None  # of the image, where samples lie on no grid


def listing(path: Path) -> tuple[list[Scan], list[Oddity]] | None:
    """The scan in a file, or None where it holds no complex array of coils."""
    if path.suffix.lower() in readouts.ENDINGS:
        return _recorded(path)
    found = _opened(path)
    if found is None:
        return None
    array, more = found
    unused = _unused(path)
    if array.ndim not in (3, 4):
        shape = " x ".join(map(str, array.shape))
        raise UnreadableError(
            f"holds complex numbers of {shape}, expected (coil, y, x) or (coil, z, y, x).", "Save coils first."
        )
    if array.shape[0] > MOST_COILS:
        raise UnreadableError(
            f"its first axis has {array.shape[0]} entries, more than coils there are.",
            "Save coils first: (coil, y, x).",
        )
    odd = [Oddity(str(path), f"says {', '.join(unused)}, which is not used.", NOT_USED, "warning")] if unused else []
    if "trajectory" in more:
        return [_anywhere(path, array, more)], odd
    voxel = _voxel(more)
    affine = np.diag([*(voxel or (1.0, 1.0, 1.0)), 1.0])[[2, 1, 0, 3]]
    z = array.shape[1] if array.ndim == 4 else 1
    scan = Scan(
        (path,),
        "k-space",
        (array.shape[0], z, *array.shape[-2:]),
        "zyx",
        affine,
        voxel is not None,
        unit="",
        modality=NAME,
    )
    return [scan], odd


def _anywhere(path: Path, array: NDArray[Any], more: dict[str, NDArray[Any]]) -> Scan:
    """Samples at any places: (coil, readout, sample) with where each lies."""
    voxel, sides = _voxel(more), _sides(more)
    affine = np.diag([*(voxel or (1.0, 1.0, 1.0)), 1.0])[[2, 1, 0, 3]]
    shape = (array.shape[0], 1, *sides)
    return Scan((path,), "k-space", shape, "zyx", affine, voxel is not None, unit="", modality=NAME)


def _sides(more: dict[str, NDArray[Any]]) -> tuple[int, int]:
    told = [float(v) for v in np.ravel(more.get("matrix", ()))]
    if len(told) != 2 or any(v != int(v) or v < 16 for v in told):
        raise UnreadableError(
            f"its matrix is {told}, expected the image's pixels (y, x).", "Save it: matrix=(256, 256)."
        )
    return int(told[0]), int(told[1])


def _trajectory(more: dict[str, NDArray[Any]], shape: tuple[int, ...]) -> Tensor:
    """Raises UnreadableError for places that are not those of the samples, or in another unit."""
    places, sides = np.asarray(more["trajectory"], np.float64), _sides(more)
    if places.shape != (*shape[1:], 2):
        raise UnreadableError(
            f"its trajectory is {places.shape} for samples {shape[1:]}.", "Save (readout, sample, 2), along y and x."
        )
    if not np.isfinite(places).all():
        raise UnreadableError("its trajectory is not finite.", "Save it in cycles per field of view.")
    far = np.abs(places).max((0, 1))
    reach = far / np.array(sides)
    if reach.max() > 0.525 or reach.max() < 0.05:
        raise UnreadableError(
            f"its trajectory reaches ({far[0]:.3g}, {far[1]:.3g}) along y and x, where an image of {sides[0]} x"
            f" {sides[1]} pixels has frequencies up to {sides[0] // 2} and {sides[1] // 2}: its unit is another, or the"
            " order of its axes.",
            "Save it in cycles per field of view, y first: cycles per pixel times the matrix.",
        )
    return torch.from_numpy(places).float()


def _recorded(path: Path) -> tuple[list[Scan], list[Oddity]] | None:
    """A scan for each contrast, average and so on of a scanner's own file."""
    found = readouts.recorded(path)
    if found is None:
        return None
    scans = []
    for name, k_space in found.groups.items():
        shape = (k_space.shape[0], *k_space.shape[1:])
        scans.append(
            Scan((path,), NAME, shape, "zyx", found.encoding.affine, True, unit="", member=name, modality=NAME)
        )
    return scans, []


def _read_recorded(scan: Scan) -> RawKSpace:
    found = readouts.recorded(scan.files[0])
    assert found is not None  # it was listed
    k_space = torch.from_numpy(found.groups[scan.member or ""])
    noise = None if found.encoding.noise is None else torch.from_numpy(found.encoding.noise)
    step = np.linalg.norm(found.encoding.affine[:3, :3], axis=0)
    voxel = (float(step[0]), float(step[1]), float(step[2]))
    return RawKSpace(k_space, k_space.abs().amax(0) > 0, voxel, noise, found.encoding.sliced)


def read(scan: Scan) -> RawKSpace:
    """Raises UnreadableError for values that are not finite, coils that are not equal in number, nothing measured."""
    raw = _read_recorded(scan) if scan.files[0].suffix.lower() in readouts.ENDINGS else _read_plain(scan)
    if not bool(torch.view_as_real(raw.k_space).isfinite().all()):
        raise UnreadableError("holds samples that are not finite.", "Replace them by 0 where nothing was measured.")
    if not bool(raw.mask.any()):
        raise UnreadableError("holds no measured sample.", "Check how it was exported.")
    if raw.trajectory is None:
        _check_middle(raw.k_space)
    return raw


def _read_plain(scan: Scan) -> RawKSpace:
    found = _opened(scan.files[0])
    assert found is not None  # it was listed
    array, more = found
    k_space = torch.from_numpy(np.array(array, np.complex64))
    if "trajectory" in more:
        return _read_anywhere(k_space, more)
    k_space = k_space[:, None] if k_space.ndim == 3 else k_space
    mask = k_space.abs().amax(0) > 0
    if "mask" in more:
        mask = torch.from_numpy(np.asarray(more["mask"]) > 0).expand(mask.shape) & mask
    maps = _maps(more, tuple(k_space.shape))
    return RawKSpace(k_space, mask, _voxel(more), _noise(more, len(k_space)), maps=maps)


def _read_anywhere(samples: Tensor, more: dict[str, NDArray[Any]]) -> RawKSpace:
    if samples.ndim != 3:
        raise UnreadableError(f"its samples are {tuple(samples.shape)}, expected (coil, readout, sample).", "Save so.")
    trajectory, measured = _trajectory(more, tuple(samples.shape)), samples.abs().amax(0) > 0
    if "mask" in more or not bool(measured.all()):
        raise UnreadableError(
            f"lists places that were not measured: {int((~measured).sum())} samples are 0 in every coil"
            f"{' and it has a mask' if 'mask' in more else ''}.",
            "Leave those readouts out of kspace and of trajectory, and the mask with them.",
        )
    noise = _noise(more, len(samples))
    sides = _sides(more)
    maps = _maps(more, (len(samples), 1, *sides))
    return RawKSpace(samples[:, None], measured[None], _voxel(more), noise, True, trajectory, maps, sides)


def _noise(more: dict[str, NDArray[Any]], coils: int) -> Tensor | None:
    if "noise" not in more:
        return None
    noise = torch.from_numpy(np.asarray(more["noise"], np.complex64))
    if noise.ndim != 2 or len(noise) != coils:
        raise UnreadableError(
            f"its noise is {tuple(noise.shape)}, expected ({coils} coils, samples).", "Save it as it was measured."
        )
    return noise


def _maps(more: dict[str, NDArray[Any]], shape: tuple[int, ...]) -> Tensor | None:
    """Raises UnreadableError for maps of other coils or another grid, and for such that see nothing."""
    if "maps" not in more:
        return None
    maps = np.asarray(more["maps"])
    maps = maps[:, None] if maps.ndim == 3 else maps
    if maps.shape != shape or maps.dtype.kind != "c":
        raise UnreadableError(
            f"its maps are {maps.dtype} of {maps.shape}, expected complex numbers of {shape} (coil, z, y, x).",
            "Save what each coil sees, on the image's grid; or leave maps out: they are told from the samples.",
        )
    if not np.isfinite(maps).all() or not np.abs(maps).max() > 0:
        raise UnreadableError("its maps are not finite, or 0 everywhere.", "Leave them out.")
    return torch.from_numpy(maps.astype(np.complex64))


def _check_middle(k_space: Tensor) -> None:
    """Raises UnreadableError for samples whose energy is not in the middle: an image, or zero frequency in a corner."""
    energy = k_space.abs().square().sum((0, 1))
    y, x = divmod(int(energy.argmax()), energy.shape[1])
    height, width = energy.shape
    off = max(abs(y - height // 2) / height, abs(x - width // 2) / width)
    tall, wide = max(2, height // 8), max(2, width // 8)
    inner = energy[height // 2 - tall : height // 2 + tall, width // 2 - wide : width // 2 + wide]
    share = float(inner.sum() / energy.sum())
    if off > max(OFF_MIDDLE, 2 / min(height, width)) or share < IN_MIDDLE:
        raise UnreadableError(
            f"its largest sample is number ({y}, {x}) of ({height}, {width}), and {share:.0%} of its energy lies in the"
            " middle: this is no k-space with zero frequency there.",
            "Images are no raw data; bring zero frequency to the middle with numpy.fft.fftshift.",
        )


def _opened(path: Path) -> tuple[NDArray[Any], dict[str, NDArray[Any]]] | None:
    """(k-space, what else the file says), mapped into memory where it can be; None for anything else."""
    try:
        if path.suffix.lower() == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            return (array, {}) if array.dtype.kind == "c" else None
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if "kspace" not in archive.files:
                return None
            more = {name: archive[name] for name in KNOWN if name in archive.files}
            array = archive["kspace"]
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise UnreadableError(f"cannot be read ({error}).", "Save it again with numpy.") from error
    if array.dtype.kind != "c":
        raise UnreadableError(f"its kspace is {array.dtype}, expected complex numbers.", "Save both parts: complex64.")
    return array, more


def _unused(path: Path) -> list[str]:
    """Names in an archive that nothing here reads."""
    if path.suffix.lower() != ".npz":
        return []
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return sorted(set(archive.files) - {"kspace", *KNOWN})


def _voxel(more: dict[str, NDArray[Any]]) -> tuple[float, float, float] | None:
    if "voxel_mm" not in more:
        return None
    values = [float(v) for v in np.ravel(more["voxel_mm"])]
    if len(values) not in (2, 3) or not all(np.isfinite(values)) or min(values) <= 0:
        raise UnreadableError(f"its voxel_mm is {values}, expected (y, x) or (z, y, x) in mm.", "Save it so.")
    y, x = values[-2:]
    return (values[0] if len(values) == 3 else 1.0), y, x
