"""What moved between planning and a day, climbed by local correlation."""

from __future__ import annotations

from collections.abc import Sequence

from ..contracts import Case, Computation, Field, Image
from ..data.daily import PLANNED
from ..data.moving import MOTION, solved


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
        return solved(today, planning, self.grid_mm)
