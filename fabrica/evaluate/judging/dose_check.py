"""The dose that a drawn CT leads to against the dose on the true one, by an engine that no network has touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...contracts import Image
from ...data.grid import Grid, coarser, grid_of, resample
from ...physics.dose import GANTRY_DEGREES, HU_TO_DENSITY, Beam, curve_in_words, curve_of, density_of, dose_and_depths
from ...physics.plan import conformal
from ..metrics.dose import gamma_pass_rate
from ..result import Row

Array = NDArray[np.floating]
GRID_MM = 3.0  # on which doses are computed: finer ones gain nothing that a gamma of 2 mm sees
CUTOFF_PERCENT = 10.0  # of the highest dose, below which gamma is not asked
STEPS = 5  # of the distance criterion that gamma searches by
AIR_HU, WATER_HU = -1000.0, 0.0
WATER = "water in the outline"
CRITERIA = ((3.0, 3.0, False), (2.0, 2.0, False), (2.0, 2.0, True))  # %, mm, of the local dose


@dataclass(frozen=True)
class DoseCheck:
    """A plan made on the true CT and given to the drawn one: beams of equal weight, as wide as the target and a margin.

    `target`: a label of the case; without one a ball of `diameter_mm` in the middle of the body.
    """

    gantry_degrees: Sequence[float] = GANTRY_DEGREES
    prescription_gy: float = 60.0
    target: str | None = None
    diameter_mm: float = 40.0
    margin_mm: float = 5.0
    hu_to_density: Sequence[Sequence[float]] = HU_TO_DENSITY

    def __post_init__(self) -> None:
        if not self.gantry_degrees or not 0 < self.prescription_gy < 200 or self.diameter_mm <= 0 or self.margin_mm < 0:
            raise ValueError("expected a gantry angle at least, Gy up to 200, a diameter above 0 and a margin.")
        curve_of(self.hu_to_density)

    def words(self) -> str:
        """What a reader of figures has to know."""
        turns = ", ".join(f"{a:g}" for a in self.gantry_degrees)
        target = self.target or f"a ball of {self.diameter_mm:g} mm in the middle of the body"
        return (
            f"doses on drawn CTs are of beams from {turns} degrees at {target}, {self.margin_mm:g} mm wider, scaled to "
            f"{self.prescription_gy:g} Gy on the true CT; 6 MV pencil beams; {curve_in_words(self.points)}."
        )

    @property
    def points(self) -> list[tuple[float, float]]:
        return curve_of(self.hu_to_density)


def dose_check_rows(
    case: tuple[str, str, str], answers: Mapping[str, Array], truth: Image, body: NDArray[np.bool_],
    masks: Mapping[str, NDArray[np.bool_]], check: DoseCheck,
) -> list[Row]:  # fmt: skip
    """Of every answer, in HU on the truth's grid (z, y, x), and of water: gamma, target dose and depth of water.

    case: name, patient, contrast. What lies outside the true body is air for all of them.
    """
    planned = _planned(truth, body, masks.get(check.target or ""), check)
    if planned is None:
        return [
            Row(*case, by, "gamma 2 %/2 mm", "not evaluated: needs a body of more than the target") for by in answers
        ]
    rows = []
    for by, hounsfield in {**answers, WATER: np.full(body.shape, WATER_HU)}.items():
        for name, (value, unit) in planned.compared(hounsfield).items():
            rows.append(Row(*case, by, name, value, unit))
    return rows


@dataclass(frozen=True)
class _OnTruth:
    """The plan on the true CT."""

    truth: Image
    outside: NDArray[np.bool_]
    check: DoseCheck
    grid: Grid
    body: NDArray[np.bool_]
    target: Tensor
    beams: Sequence[Beam]
    dose: Array
    depths: Sequence[float]

    def compared(self, hounsfield: Array) -> dict[str, tuple[float, str]]:
        """Metric -> value and unit."""
        density = _density(self.truth, hounsfield, self.outside, self.grid, self.check)
        given, depths = dose_and_depths(density, self.grid.affine, self.beams)
        found = _in_body(given, self.body)
        spacing = self.grid.spacing_mm
        rows: dict[str, tuple[float, str]] = {}
        for percent, mm, local in CRITERIA:
            name = f"gamma {percent:g} %/{mm:g} mm{' local' if local else ''}"
            rate = gamma_pass_rate(
                found, self.dose, spacing_mm=spacing, dose_percent=percent, distance_mm=mm,
                cutoff_percent=CUTOFF_PERCENT, steps=STEPS, local=local,
            )  # fmt: skip
            rows[name] = float(rate), "%"
        inside = self.target.numpy()
        for name, (one, true) in {
            "D95": (np.percentile(found[inside], 5), np.percentile(self.dose[inside], 5)),
            "mean dose": (found[inside].mean(), self.dose[inside].mean()),
        }.items():
            rows[f"target {name} off"] = 100 * abs(float(one - true)) / self.check.prescription_gy, "% of prescription"
        off = [abs(d - t) for d, t in zip(_before(depths, self.target), self.depths, strict=True)]
        rows["depth of water off"] = float(np.mean(off)), "mm"
        return rows


def _planned(
    truth: Image, body: NDArray[np.bool_], target: NDArray[np.bool_] | None, check: DoseCheck
) -> _OnTruth | None:
    grid = coarser(grid_of(truth), GRID_MM)
    flesh = resample(replace(truth, data=torch.from_numpy(body.astype(np.float32))[None]), grid, 0.0).data[0] > 0.5
    if target is not None and target.any():
        like = replace(truth, data=torch.from_numpy(target.astype(np.float32))[None])
        inside = resample(like, grid, 0.0).data[0] > 0.5
    else:
        inside = _ball(flesh, grid, check.diameter_mm) & flesh
    if not bool(inside.any()) or bool((flesh & ~inside).sum() < inside.sum()):
        return None
    density = _density(truth, truth.data[0].numpy(), ~body, grid, check)
    plan = conformal(
        density, grid.affine, inside, gantry_degrees=check.gantry_degrees, margin_mm=check.margin_mm,
        prescription_gy=check.prescription_gy,
    )  # fmt: skip
    given, depths = _in_body(plan.dose, flesh.numpy()), _before(plan.depths, inside)
    return _OnTruth(truth, ~body, check, grid, flesh.numpy(), inside, plan.beams, given, depths)


def _ball(body: Tensor, grid: Grid, diameter_mm: float) -> Tensor:
    lines = [torch.arange(n, dtype=torch.float64) for n in body.shape]
    index = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1)
    middle = body.nonzero().double().mean(0) if bool(body.any()) else index.reshape(-1, 3).mean(0)
    away = (index - middle) @ grid.affine[:3, :3].double().T
    inside: Tensor = away.norm(dim=-1) <= diameter_mm / 2
    return inside


def _density(truth: Image, hounsfield: Array, outside: NDArray[np.bool_], grid: Grid, check: DoseCheck) -> Tensor:
    values = np.where(outside, AIR_HU, hounsfield).astype(np.float32)
    return density_of(resample(replace(truth, data=torch.from_numpy(values)[None]), grid, AIR_HU).data[0], check.points)


def _in_body(found: Tensor, body: NDArray[np.bool_]) -> Array:
    return np.where(body, found.numpy(), 0.0)


def _before(depths: Sequence[Tensor], target: Tensor) -> list[float]:
    """mm of water before the target, a beam each: the mean over its voxels."""
    return [float(depth[target].nanmean()) for depth in depths]
