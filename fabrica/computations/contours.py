"""Contours of planning where they lie today."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ..contracts import Case, Computation, Field, Image
from ..data.daily import PLANNED
from ..data.grid import coarser, grid_of, resample
from ..data.moving import MOTION, check_volume, velocity_on
from ..io import UnreadableError
from ..physics.warp import exponential, moved


class Warp(Computation):
    """Structures of the planning image brought to the day by a motion, a mask each; those that a case lacks are left
    out. `names`: which; `grid_mm`: no finer voxels are used for the field.
    """

    answer = "contours"

    def __init__(self, names: Sequence[str], *, grid_mm: float = 3.0) -> None:
        if not names:
            raise ValueError("warp has no names. Write: compute: {name: warp, names: [PTV70, SpinalCord]}")
        self.names, self.grid_mm = tuple(names), grid_mm

    def reads(self) -> tuple[str, ...]:
        return (*MOTION, *(PLANNED + name for name in self.names))

    def makes(self) -> tuple[Field, ...]:
        return tuple(Field(name, "label", 2, "") for name in self.names)

    def compute(self, days: Sequence[Case]) -> dict[str, Image]:
        images = days[-1].images
        known = [name for name in self.names if PLANNED + name in images]
        if not known:
            raise UnreadableError(
                f"its planning has none of {', '.join(self.names)}.", "See what there is: fabrica inspect DIR.",
                days[-1].patient,
            )  # fmt: skip
        like = images[MOTION[0]]
        check_volume(like)
        whole, grid = grid_of(like), coarser(grid_of(like), self.grid_mm)
        field = exponential(velocity_on(images, grid), grid.spacing_mm)
        parts = replace(like, data=field[0], affine=grid.affine, meaning=Field("displacement", "intensity", 3, "mm"))
        fine = resample(parts, whole, 0.0).data[None]  # the axes of both grids point the same way
        return {name: _brought(images[PLANNED + name], name, like, fine) for name in known}


def _brought(mask: Image, name: str, like: Image, field_mm: Tensor) -> Image:
    soft = replace(mask, data=(mask.data > 0.5).float(), meaning=Field(name, "intensity", 1, ""))
    data = moved(resample(soft, grid_of(like), 0.0).data[None], field_mm, like.spacing_mm)[0]
    return replace(like, data=(data > 0.5).float(), meaning=Field(name, "label", 2, ""))
