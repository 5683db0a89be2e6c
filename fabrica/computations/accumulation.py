"""Doses of several days on the anatomy of planning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from torch import Tensor

from ..contracts import Case, Computation, Field, Image
from ..data.daily import PLANNED
from ..data.grid import Grid, coarser, grid_of, resample
from ..data.moving import MOTION, velocity_on
from ..physics.plan import accumulated, eqd2
from ..physics.warp import carried, exponential

ACCUMULATED, EQD2 = "accumulated dose", "accumulated EQD2"


class Accumulate(Computation):
    """Doses of the days so far, carried back to planning against each day's motion and added up, Gy.

    Every day that was seen stands for an equal share of the `fractions`. `alpha_beta_gy`: as EQD2, day by day; left
    out: physical dose. Results bear the name of their measure: accumulated dose, or accumulated EQD2. `carry`: point
    (a point's dose goes with it) or energy (kept: where space grows, dose falls).
    """

    answer = "dose"
    exact = True
    looks_back = True

    def __init__(
        self, fractions: int, *, alpha_beta_gy: float | None = None, carry: Literal["point", "energy"] = "point",
        grid_mm: float = 3.0,
    ) -> None:  # fmt: skip
        if not 1 <= fractions <= 100:
            raise ValueError(f"accumulate.fractions is {fractions}, expected 1 to 100.")
        if alpha_beta_gy is not None and not 0.1 <= alpha_beta_gy <= 50:
            raise ValueError(f"accumulate.alpha_beta_gy is {alpha_beta_gy:g}, expected 0.1 to 50 Gy, or nothing.")
        if not 0.5 <= grid_mm <= 20:
            raise ValueError(f"accumulate.grid_mm is {grid_mm:g}, expected 0.5 to 20.")
        self.fractions, self.alpha_beta_gy, self.carry, self.grid_mm = fractions, alpha_beta_gy, carry, grid_mm
        self.name = ACCUMULATED if alpha_beta_gy is None else EQD2
        self.on_planning = (self.name,)

    def words(self) -> str:
        """What a reader of its doses has to know."""
        physical = "physical dose" if self.alpha_beta_gy is None else f"EQD2 with alpha/beta {self.alpha_beta_gy:g} Gy"
        how = "point by point" if self.carry == "point" else "keeping energy"
        return (
            f"accumulated doses are {physical} of {self.fractions} fractions, carried {how}; each day seen so far"
            " stands for an equal share of them."
        )

    def reads(self) -> tuple[str, ...]:
        return ("dose", *MOTION, PLANNED + "CT")

    def makes(self) -> tuple[Field, ...]:
        return (Field(self.name, "intensity", 1, "Gy"),)

    def measured(self, image: Image) -> Image:
        if self.alpha_beta_gy is None:
            return image
        return replace(image, data=eqd2(image.data, self.fractions, self.alpha_beta_gy))

    def compute(self, days: Sequence[Case]) -> dict[str, Image]:
        first = days[-1].images[PLANNED + "CT"]
        grid = coarser(grid_of(first), self.grid_mm)
        total = accumulated([self._carried(day, grid) for day in days], self.fractions, self.alpha_beta_gy)
        coarse = replace(first, data=total[None], affine=grid.affine, meaning=self.makes()[0])
        return {self.name: resample(coarse, grid_of(first), 0.0)}

    def _carried(self, day: Case, grid: Grid) -> Tensor:
        """(z, y, x) in Gy on the planning grid: a velocity turned round leads back."""
        back = exponential(-velocity_on(day.images, grid), grid.spacing_mm)
        there = resample(day.images["dose"], grid, 0.0).data[None].float()
        found: Tensor = carried(there, back, grid.spacing_mm, energy=self.carry == "energy")[0, 0]
        return found
