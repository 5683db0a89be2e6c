"""The plan given to the patient as he lies today."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..contracts import Case, Computation, Field, Image
from ..data.beams import inside_body
from ..data.daily import PLANNED
from ..data.grid import Grid, coarser, grid_of, resample
from ..data.moving import check_volume
from ..io import UnreadableError
from ..physics.dose import GANTRY_DEGREES, HU_TO_DENSITY, Beam, curve_in_words, curve_of, density_of, dose
from ..physics.plan import conformal

AIR_HU = -1000.0
AT_PLANNING = "dose at planning"


@dataclass(frozen=True)
class _Planned:
    """The beams of a plan and what they give, with the CT and the target that they were made of."""

    ct: Image
    target: Image
    beams: Sequence[Beam]
    dose: Image

    def is_of(self, ct: Image, target: Image) -> bool:
        return torch.equal(self.ct.data, ct.data) and torch.equal(self.target.data, target.data)


class Deliver(Computation):
    """Even beams at the planning target, scaled to the prescription on the planning CT, given to the CT of the day:
    Gy of the whole course, were every fraction as today (`physics.dose`). `dose at planning` is what the same beams
    give the planning CT; a dose that the files hold comes from other beams, and is not read.
    """

    answer = "dose"
    exact = True
    on_planning = (AT_PLANNING,)

    def __init__(
        self, target: str, prescription_gy: float, *, gantry_degrees: Sequence[float] = GANTRY_DEGREES,
        margin_mm: float = 5.0, hu_to_density: Sequence[Sequence[float]] = HU_TO_DENSITY, grid_mm: float = 3.0,
    ) -> None:  # fmt: skip
        if not gantry_degrees or not 0 < prescription_gy < 200 or not 0 <= margin_mm <= 50:
            raise ValueError("expected a gantry angle at least, a prescription up to 200 Gy, a margin of 0 to 50 mm.")
        if not 1 <= grid_mm <= 10:
            raise ValueError(f"dose.grid_mm is {grid_mm:g}, expected 1 to 10.")
        self.target, self.prescription_gy, self.margin_mm, self.grid_mm = target, prescription_gy, margin_mm, grid_mm
        self.gantry_degrees = tuple(float(a) for a in gantry_degrees)
        self.points = curve_of(hu_to_density)
        self._last: _Planned | None = None

    def words(self) -> str:
        """What a reader of its doses has to know."""
        turns = ", ".join(f"{a:g}" for a in self.gantry_degrees)
        return (
            f"doses of the day are of even beams from {turns} degrees at {self.target}, {self.margin_mm:g} mm wider,"
            f" scaled to {self.prescription_gy:g} Gy on the planning CT, and not of the patient's own plan; 6 MV pencil"
            f" beams; {curve_in_words(self.points)}."
        )

    def reads(self) -> tuple[str, ...]:
        return ("CT", PLANNED + "CT", PLANNED + self.target)

    def makes(self) -> tuple[Field, ...]:
        return tuple(Field(name, "intensity", 1, "Gy") for name in ("dose", AT_PLANNING))

    def compute(self, days: Sequence[Case]) -> dict[str, Image]:
        today, first, target = (days[-1].images.get(name) for name in self.reads())
        if today is None or first is None or target is None:
            raise UnreadableError(
                f"its planning has no {self.target} or no CT, or the day has none.", "See: fabrica inspect DIR.",
                days[-1].patient,
            )  # fmt: skip
        for image in (today, first):
            check_volume(image)
            if image.meaning.unit != "HU":
                raise UnreadableError("is in no HU, and dose needs them.", "Write: --unit CT=HU.", image.source or "")
        planned, grid = self._planned(first, target), coarser(grid_of(today), self.grid_mm)
        density, body = self._density(today, grid)
        given = dose(density, grid.affine, planned.beams) * body
        return {"dose": _as_image(given, grid, today, "dose"), AT_PLANNING: planned.dose}

    def _planned(self, first: Image, target: Image) -> _Planned:
        """Made once for all days and draws of a patient."""
        if self._last is None or not self._last.is_of(first, target):
            self._last = self._made(first, target)
        return self._last

    def _made(self, first: Image, target: Image) -> _Planned:
        grid = coarser(grid_of(first), self.grid_mm)
        soft = replace(target, data=(target.data > 0.5).float(), meaning=Field(self.target, "intensity", 1, ""))
        inside = resample(soft, grid, 0.0).data[0] > 0.5
        if not bool(inside.any()):
            raise UnreadableError(
                f"its planning {self.target} is empty, or smaller than a voxel of {self.grid_mm:g} mm.",
                "Name another target in the recipe's dose stage.", target.source or "",
            )  # fmt: skip
        density, body = self._density(first, grid)
        plan = conformal(
            density, grid.affine, inside, gantry_degrees=self.gantry_degrees, margin_mm=self.margin_mm,
            prescription_gy=self.prescription_gy,
        )  # fmt: skip
        return _Planned(first, target, plan.beams, _as_image(plan.dose * body, grid, first, AT_PLANNING))

    def _density(self, ct: Image, grid: Grid) -> tuple[Tensor, Tensor]:
        """Electron density on a grid, with air around the patient; and where the patient is."""
        body = inside_body(ct.data[0].numpy())
        values = torch.where(torch.from_numpy(body), ct.data[0].float(), torch.full((), AIR_HU))[None]
        flesh = replace(ct, data=torch.from_numpy(body)[None].float(), meaning=Field("body", "intensity", 1, ""))
        inside = resample(flesh, grid, 0.0).data[0] > 0.5
        return density_of(resample(replace(ct, data=values), grid, AIR_HU).data[0], self.points), inside


def _as_image(gray: Tensor, grid: Grid, like: Image, name: str) -> Image:
    """On the voxels of the CT that it was computed on."""
    meaning = Field(name, "intensity", 1, "Gy")
    coarse = replace(like, data=gray[None].float(), affine=grid.affine, meaning=meaning)
    return resample(coarse, grid_of(like), 0.0)
