"""Raw MR data as scanners write it, a readout at a time: ISMRMRD (Inati et al. 2017) and Siemens twix."""

from __future__ import annotations

import contextlib
import io as buffers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .scan import Affine, UnreadableError

ENDINGS = (".h5", ".mrd", ".dat")
EXTRA = 'Install what reads it: pip install -e ".[mr]" -c constraints.txt'
ASIDE = ("NAVIGATION_DATA", "PHASECORR_DATA", "RTFEEDBACK_DATA", "DUMMYSCAN_DATA",
         "SURFACECOILCORRECTIONSCAN_DATA", "HPFEEDBACK_DATA")  # fmt: skip
INPLACE = 2  # of a Siemens protocol: calibration lines lie in the grid of the image
Array = NDArray[np.complex64]


@dataclass(frozen=True)
class Readout:
    """One line of k-space (coils, samples), in the order of time."""

    data: Array
    group: tuple[tuple[str, int], ...]  # contrast, average, repetition and so on: what is kept apart
    line: int  # along y, from 0
    partition: int  # along z, from 0; a slice where slices are measured one by one
    centre: int  # sample at zero frequency


@dataclass(frozen=True)
class Encoding:
    """The grid that was measured, and that of the image: (z, y, x)."""

    shape: tuple[int, int, int]
    kept: int  # samples along x once oversampling is taken off
    sliced: bool  # whether z counts slices, not partitions
    affine: Affine  # index (z, y, x, 1) -> LPS mm of the image
    noise: Array | None  # (coils, samples) of a noise scan


@dataclass(frozen=True)
class Recorded:
    """A file: each group of readouts as k-space (coil, z, y, x), 0 = not measured."""

    groups: Mapping[str, Array]
    encoding: Encoding


def recorded(path: Path) -> Recorded | None:
    """What a file holds, or None for one that is neither; raises UnreadableError for a damaged one."""
    state = path.stat()
    return _recorded(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=2)  # listed, then read
def _recorded(path: Path, size: int, changed: int) -> Recorded | None:
    opened = _twix(path) if path.suffix.lower() == ".dat" else _ismrmrd(path)
    if opened is None:
        return None
    readouts, encoding = opened
    groups: dict[tuple[tuple[str, int], ...], list[Readout]] = {}
    for readout in readouts:
        groups.setdefault(readout.group, []).append(readout)
    if not groups:
        raise UnreadableError("holds no readout of an image.", "Export the measurement itself.")
    several = {name for name, _ in next(iter(groups))
               if len({dict(group)[name] for group in groups}) > 1}  # fmt: skip
    named = {" ".join(f"{n} {k}" for n, k in group if n in several): rows for group, rows in groups.items()}
    return Recorded({name: _gridded(rows, encoding) for name, rows in named.items()}, encoding)


def _gridded(readouts: Iterable[Readout], encoding: Encoding) -> Array:
    """(coil, z, y, x) with zero frequency in the middle and no oversampling; a line measured twice is refused."""
    rows = list(readouts)
    z, y, x = encoding.shape
    found = np.zeros((len(rows[0].data), z, y, x), np.complex64)
    taken = np.zeros((z, y), bool)
    for readout in rows:
        start = x // 2 - readout.centre
        low, high = max(0, start), min(x, start + readout.data.shape[1])
        if not (0 <= readout.partition < z and 0 <= readout.line < y) or len(readout.data) != len(found):
            raise UnreadableError(
                f"has a readout at line {readout.line}, partition {readout.partition}, outside the grid of {y} x {z}.",
                "Export it again: its header does not fit its data.",
            )
        if taken[readout.partition, readout.line]:
            raise UnreadableError(
                f"measured line {readout.line} twice (segments or navigators?).", "Export plain Cartesian lines."
            )
        taken[readout.partition, readout.line] = True
        found[:, readout.partition, readout.line, low:high] = readout.data[:, low - start : high - start]
    if encoding.kept == x:
        return found
    image = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(found, -1), norm="ortho"), -1)
    first = x // 2 - encoding.kept // 2
    inner = np.fft.ifftshift(image[..., first : first + encoding.kept], -1)
    whole: Array = np.fft.fftshift(np.fft.fft(inner, norm="ortho"), -1).astype(np.complex64)
    measured: Array = np.where(np.abs(found).sum(-1, keepdims=True) > 0, whole, np.complex64(0))
    return measured


def _affine(
    read: NDArray[Any], phase: NDArray[Any], normal: NDArray[Any], centre: NDArray[Any], step: Iterable[float],
    shape: tuple[int, int, int],
) -> Affine:  # fmt: skip
    """The middle voxel of the grid (n // 2) lies at `centre`; step (z, y, x) in mm."""
    affine = np.eye(4)
    affine[:3, :3] = np.stack([normal, phase, read], 1) * np.array(list(step))
    affine[:3, 3] = centre - affine[:3, :3] @ np.array([n // 2 for n in shape])
    return affine


def _ismrmrd(path: Path) -> tuple[list[Readout], Encoding] | None:
    with path.open("rb") as file:
        if file.read(8) != b"\x89HDF\r\n\x1a\n":
            return None
    try:
        import h5py
        import ismrmrd
    except ImportError as error:
        raise UnreadableError("is raw MR data in HDF5.", EXTRA) from error
    with h5py.File(path, "r") as file:
        if "dataset/xml" not in file or "dataset/data" not in file:
            return None
    with ismrmrd.Dataset(str(path), "dataset", create_if_needed=False, mode="r") as dataset:  # never written to
        header = ismrmrd.xsd.CreateFromDocument(dataset.read_xml_header())
        acquisitions = [dataset.read_acquisition(k) for k in range(dataset.number_of_acquisitions())]
    encoding = header.encoding[0]
    if str(getattr(encoding.trajectory, "value", encoding.trajectory)).lower() != "cartesian":
        raise UnreadableError(f"its trajectory is {encoding.trajectory.value}, expected cartesian.", "Grid it first.")
    noise = [a for a in acquisitions if a.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)]
    embedded = "embedded" in str(getattr(encoding.parallelImaging, "calibrationMode", "")).lower()
    used = [a for a in acquisitions if not _aside(a, embedded)]
    if not used:
        raise UnreadableError("holds no readout of an image.", "Export the measurement itself.")
    return [_of_ismrmrd(a, encoding) for a in used], _ismrmrd_encoding(encoding, used, noise)


def _aside(acquisition: Any, embedded: bool) -> bool:
    """Readouts of no image, noise among them; calibration is one where it is not embedded in the image's grid."""
    import ismrmrd

    names = ("NOISE_MEASUREMENT", *ASIDE, *(() if embedded else ("PARALLEL_CALIBRATION",)))
    return any(acquisition.is_flag_set(getattr(ismrmrd, f"ACQ_IS_{name}")) for name in names)


def _of_ismrmrd(a: Any, encoding: Any) -> Readout:
    import ismrmrd

    data, centre = np.asarray(a.data, np.complex64), int(a.center_sample)
    kept = data[:, a.discard_pre : data.shape[1] - a.discard_post]
    centre -= a.discard_pre
    if a.is_flag_set(ismrmrd.ACQ_IS_REVERSE):
        kept, centre = kept[:, ::-1], kept.shape[1] - 1 - centre
    names = ("average", "contrast", "phase", "repetition", "set")
    group = tuple((name, int(getattr(a.idx, name))) for name in names)
    limits, space = encoding.encodingLimits, encoding.encodedSpace.matrixSize
    line = _shifted(int(a.idx.kspace_encode_step_1), limits.kspace_encoding_step_1, space.y)
    sliced = space.z == 1
    step = int(a.idx.kspace_encode_step_2)
    third = int(a.idx.slice) if sliced else _shifted(step, limits.kspace_encoding_step_2, space.z)
    return Readout(kept, group, line, third, centre)


def _shifted(step: int, limit: Any, size: int) -> int:
    """Where a step lies on a grid whose zero frequency is in the middle."""
    return step + size // 2 - (int(limit.center) if limit is not None else size // 2)


def _ismrmrd_encoding(encoding: Any, used: list[Any], noise: list[Any]) -> Encoding:
    space, image = encoding.encodedSpace, encoding.reconSpace
    size, fov = space.matrixSize, space.fieldOfView_mm
    sliced = size.z == 1
    depth = 1 + max(int(a.idx.slice) for a in used) if sliced else size.z
    kept = min(size.x, round(size.x * image.fieldOfView_mm.x / fov.x))
    step = (fov.z / size.z, fov.y / size.y, fov.x / size.x)
    vectors = [np.array(v, float) for v in (used[0].read_dir, used[0].phase_dir, used[0].slice_dir)]
    told = all(abs(np.linalg.norm(v) - 1) < 1e-3 for v in vectors)
    read, phase, normal = vectors if told else (np.eye(3)[0], np.eye(3)[1], np.eye(3)[2])
    centre = np.array(used[0].position, float) if told else np.zeros(3)
    if sliced and told and depth > 1:
        last = np.array(next(a.position for a in used if int(a.idx.slice) == depth - 1), float)
        step = (float(np.dot(last - centre, normal)) / (depth - 1) or step[0], *step[1:])
        centre = centre + normal * step[0] * (depth // 2)
    shape = (depth, size.y, kept)
    samples = np.concatenate([np.asarray(a.data, np.complex64) for a in noise], 1) if noise else None
    if samples is not None and noise[0].sample_time_us and used[0].sample_time_us:
        wider = noise[0].sample_time_us / used[0].sample_time_us  # to the bandwidth of the image
        samples *= np.float32(wider**0.5)
    return Encoding((depth, size.y, size.x), kept, sliced, _affine(read, phase, normal, centre, step, shape), samples)


def _twix(path: Path) -> tuple[list[Readout], Encoding] | None:
    with path.open("rb") as file:
        first = np.frombuffer(file.read(8), np.uint32)
    if len(first) < 2 or not (first[0] < 10000 and first[1] <= 64):  # as VD and VE files begin
        return None
    try:
        import twixtools
    except ImportError as error:
        raise UnreadableError("is raw data of a Siemens scanner.", EXTRA) from error
    with contextlib.redirect_stdout(buffers.StringIO()):  # it says on the way what it does
        measurement = twixtools.read_twix(str(path), parse_pmu=False, keep_syncdata=False, verbose=False)[-1]
    protocol = measurement["hdr"]["MeasYaps"]
    k_space = protocol["sKSpace"]
    if k_space.get("ucTrajectory", 1) != 1:
        raise UnreadableError("its trajectory is not Cartesian.", "Grid it first.")
    embedded = protocol.get("sPat", {}).get("ucRefScanMode") == INPLACE
    blocks = [b for b in measurement["mdb"] if b.is_image_scan() or (embedded and _is_calibration(b))]
    sliced = k_space.get("ucDimension", 2) == 2
    lines = int(k_space["lPhaseEncodingLines"])
    depth = len(protocol["sSliceArray"]["asSlice"]) if sliced else int(k_space["lPartitions"])
    readouts = [_of_twix(block, lines, depth, sliced) for block in blocks]
    noise = [np.asarray(b.data, np.complex64) for b in measurement["mdb"] if b.is_flag_set("NOISEADJSCAN")]
    samples = np.concatenate(noise, 1) if noise else None
    return readouts, _twix_encoding(measurement, readouts, (depth, lines), sliced, samples)


def _is_calibration(block: Any) -> bool:
    return bool(block.is_flag_set("PATREFSCAN")) and not any(block.is_flag_set(f) for f in ("PHASCOR", "RTFEEDBACK"))


def _of_twix(block: Any, lines: int, depth: int, sliced: bool) -> Readout:
    data, centre = np.asarray(block.data, np.complex64), int(block.mdh.CenterCol)
    if block.is_flag_set("REFLECT"):
        data, centre = data[:, ::-1], data.shape[1] - 1 - centre
    group = (("average", block.cAve), ("echo", block.cEco), ("phase", block.cPhs), ("repetition", block.cRep),
             ("set", block.cSet))  # fmt: skip
    line = int(block.cLin) + lines // 2 - int(block.mdh.CenterLin)
    third = int(block.cSlc) if sliced else int(block.cPar) + depth // 2 - int(block.mdh.CenterPar)
    return Readout(data, tuple((n, int(k)) for n, k in group), line, third, centre)


def _twix_encoding(
    measurement: Any, readouts: list[Readout], sizes: tuple[int, int], sliced: bool, noise: Array | None
) -> Encoding:
    """Siemens coordinates of the patient (Sag, Cor, Tra) are LPS."""
    protocol = measurement["hdr"]["MeasYaps"]
    (depth, lines), kept = sizes, int(protocol["sKSpace"]["lBaseResolution"])
    geometry = measurement["geometry"]
    first = geometry[0] if isinstance(geometry, list) else geometry
    phase, read, normal = np.asarray(first.prs_to_pcs(), float).T
    samples = max((r.data.shape[1] for r in readouts), default=2 * kept)
    array = protocol["sSliceArray"]["asSlice"][0]
    thickness = float(array["dThickness"])
    step = [thickness if sliced else thickness / depth, array["dPhaseFOV"] / lines, array["dReadoutFOV"] / kept]
    centre = np.asarray(first.offset, float)
    if sliced and depth > 1:
        last = np.asarray(geometry[-1].offset if isinstance(geometry, list) else first.offset, float)
        step[0] = float(np.dot(last - centre, normal)) / (depth - 1) or thickness
        centre = centre + normal * step[0] * (depth // 2)
    affine = _affine(read, phase, normal, centre, step, (depth, lines, kept))
    return Encoding((depth, lines, samples), kept, sliced, affine, noise)
