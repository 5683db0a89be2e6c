"""What moved, written for others: a displacement field, and the moving image where it belongs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from .. import io
from ..contracts import Field, Image
from ..data.cohort import Member
from ..data.grid import grid_of, resample
from ..data.moving import MOTION, along_axes, along_patient
from ..physics.warp import exponential, folded, moved


def write_motion(
    images: Mapping[str, Image], member: Member, names: tuple[str, str], folder: Path, number: int
) -> tuple[list[Path], str]:
    """displacement-N.nii.gz (five axes, mm, RAS, fixed to moving) and moved-N.nii.gz; and a line about folds.

    `images`: the parts of a drawn velocity on the fixed image's grid; `names`: of the fixed and the moving image.
    """
    like = images[MOTION[0]]
    velocity = along_axes(torch.cat([images[name].data for name in MOTION]).float(), like.affine)[None]
    field = exponential(velocity, like.spacing_mm)
    vectors = along_patient(field[0], like.affine).flip(0)  # x, y, z of LPS
    written = [folder / f"displacement-{number}.nii.gz", folder / f"moved-{number}.nii.gz"]
    io.write_nifti(replace(like, data=vectors, meaning=Field("displacement", "displacement", 3, "mm")), written[0])
    source = member.load([names[1]]).images[names[1]]
    on = resample(source, grid_of(like))
    data = moved(on.data[None].float(), field, like.spacing_mm)[0]
    io.write_nifti(replace(on, data=data), written[1])
    share = folded(field, like.spacing_mm)
    return written, f"{member.name}: {share:.2%} of its voxels fold." if share else f"{member.name}: nothing folds."
