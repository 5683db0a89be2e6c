"""What a file measured, with the physics that made it: from raw data to a `Measurement` that jobs can use."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from .. import io
from ..contracts import SCALES, Measurement
from ..contracts.measured import joined
from ..io import RawKSpace, RawSinogram, Scan, UnreadableError
from ..io.sinogram import even
from ..physics import Emission, Poisson
from ..physics.calibration import calibrated, calibrated_anywhere
from ..physics.geometry import FanGeometry, Geometry, ParallelGeometry
from ..physics.mr import CartesianSense, to_image
from .acquisition.ct import from_lines


def measurement_of(scan: Scan) -> Measurement:
    """A row for each slice. Raises UnreadableError where the physics cannot be told from the data."""
    raw = io.read_raw(scan)
    affine = torch.from_numpy(np.asarray(scan.affine, np.float64)) if scan.calibrated else None
    found = _sense(raw, scan.name) if isinstance(raw, RawKSpace) else _projections(raw)
    return replace(found, affine=affine)


def _projections(raw: RawSinogram) -> Measurement:
    """Slices as wide as the detector, on its pixels."""
    side = even(raw.values.shape[-1])
    detectors = raw.values.shape[-1]
    geometry = ParallelGeometry((side, side), raw.angles, detectors)
    if raw.deviation is not None:
        beams: Geometry = geometry
        if raw.source_mm is not None:
            beams = FanGeometry((side, side), raw.angles, detectors, source=raw.source_mm / raw.detector_mm)
        rows = zip(raw.values, raw.deviation, strict=True)
        return joined([from_lines(lines, deviation, beams, raw.detector_mm) for lines, deviation in rows])
    assert raw.weight is not None
    assert raw.background is not None
    weight = raw.weight * raw.detector_mm * SCALES["SUV"].width
    return Measurement(raw.values, Emission(geometry, weight, raw.background), Poisson(raw.background))


def _sense(raw: RawKSpace, name: str) -> Measurement:
    """(z, coils, y, x), a slice a row."""
    k_space, mask = raw.k_space, raw.mask
    if raw.trajectory is not None:
        return _anywhere(raw, name)
    if k_space.shape[1] > 1 and not raw.sliced:
        if not bool((mask == mask[:1]).all()):
            raise UnreadableError(
                "its slices are not measured alike: three-dimensional undersampling is not reconstructed yet.",
                "Give slices, or a volume that is measured whole along its first axis.", name,
            )  # fmt: skip
        k_space = to_image(k_space.transpose(1, 3), 1).transpose(1, 3)
    try:
        maps = [None] * k_space.shape[1] if raw.maps is None else [raw.maps[:, z] for z in range(k_space.shape[1])]
        found = [calibrated(k_space[:, z], mask[z], raw.noise, maps=own) for z, own in enumerate(maps)]
    except ValueError as error:
        raise UnreadableError(str(error), "Give another scan, or one with a measured middle.", name) from error
    whole = joined(found)
    assert isinstance(whole.operator, CartesianSense)
    gain = whole.operator.weight.abs().max()  # of the brightest slice: one for the whole scan
    return replace(whole, operator=whole.operator.with_gain(gain))


def _anywhere(raw: RawKSpace, name: str) -> Measurement:
    """One slice, whose samples lie on no grid."""
    assert raw.trajectory is not None
    assert raw.sides is not None
    try:
        maps = None if raw.maps is None else raw.maps[:, 0]
        return calibrated_anywhere(raw.k_space[:, 0], raw.trajectory, raw.sides, raw.noise, maps=maps)
    except ValueError as error:
        raise UnreadableError(str(error), "Give another scan, or one that covers the middle.", name) from error
