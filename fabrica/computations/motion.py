"""What moved between planning and a day, climbed by local correlation."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..contracts import Case, Computation, Field, Image
from ..data.daily import PLANNED
from ..data.grid import coarser, grid_of, resample
from ..data.moving import MOTION, as_images, check_volume
from ..physics.registration import registered

HOUNSFIELD = (-200.0, 300.0)  # of a CT: inside soft tissue there is something to hold on to; bone and air are edges


class Register(Computation):
    """The velocity (mm, along LPS z, y, x) that brings the planning image onto that of the day: multi-resolution,
    local correlation, no folds (`physics.registration`). `image`: which, of both; `grid_mm`: no finer voxels are used.
    """

    answer = "motion"

    def __init__(self, image: str = "CT", *, grid_mm: float = 3.0) -> None:
        if not 0.5 <= grid_mm <= 20:
            raise ValueError(f"register.grid_mm is {grid_mm:g}, expected 0.5 to 20.")
        self.image, self.grid_mm = image, grid_mm

    def reads(self) -> tuple[str, ...]:
        return (self.image, PLANNED + self.image)

    def makes(self) -> tuple[Field, ...]:
        return tuple(Field(name, "intensity", 1, "mm") for name in MOTION)

    def compute(self, days: Sequence[Case]) -> dict[str, Image]:
        today, planning = (days[-1].images[name] for name in self.reads())
        for image in (today, planning):
            check_volume(image)
        grid = coarser(grid_of(today), self.grid_mm)
        fixed, moving = (_scaled(resample(image, grid)) for image in (today, planning))
        spacing = grid.affine[:3, :3].norm(dim=0).tolist()
        like = Image(fixed, "zyx", grid.affine, today.meaning, frame_of_reference=today.frame_of_reference)
        found = as_images(registered(fixed[None], moving[None], spacing), like)
        return {name: resample(image, grid_of(today), 0.0) for name, image in found.items()}


def _scaled(image: Image) -> torch.Tensor:
    """(1, z, y, x) from 0 to 1."""
    data = image.data.float()
    if image.meaning.unit == "HU":
        low, high = HOUNSFIELD
    else:
        seen = data.flatten()[:: max(1, data.numel() // 10**6)]
        low, high = float(data.min()), float(seen.quantile(0.995))
    return ((data - low) / max(high - low, 1e-6)).clamp(0, 1)
