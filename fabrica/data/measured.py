"""What a file measured, with the physics that made it: from raw data to a `Measurement` that jobs can use."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from .. import io
from ..contracts import Measurement
from ..contracts.measured import joined
from ..io import Scan, UnreadableError
from ..physics.calibration import calibrated
from ..physics.mr import CartesianSense, to_image


def measurement_of(scan: Scan) -> Measurement:
    """A row for each slice, (z, coils, y, x). Raises UnreadableError where the physics cannot be told from the data."""
    raw = io.read_raw(scan)
    k_space, mask = raw.k_space, raw.mask
    if k_space.shape[1] > 1:
        if not bool((mask == mask[:1]).all()):
            raise UnreadableError(
                "its slices are not measured alike: three-dimensional undersampling is not reconstructed yet.",
                "Give slices, or a volume that is measured whole along its first axis.", scan.name,
            )  # fmt: skip
        k_space = to_image(k_space.transpose(1, 3), 1).transpose(1, 3)
    try:
        found = [calibrated(k_space[:, z], mask[z], raw.noise) for z in range(k_space.shape[1])]
    except ValueError as error:
        raise UnreadableError(str(error), "Give another scan, or one with a measured middle.", scan.name) from error
    whole = joined(found)
    assert isinstance(whole.operator, CartesianSense)
    gain = whole.operator.weight.abs().max()  # of the brightest slice: one for the whole scan
    affine = torch.from_numpy(np.asarray(scan.affine, np.float64)) if scan.calibrated else None
    return replace(whole, operator=whole.operator.with_gain(gain), affine=affine)
