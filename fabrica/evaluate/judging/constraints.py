"""What a plan must keep: `SpinalCord D0.1cc <= 45 Gy`, told of a drawn dose and of the true one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..result import Row

_FORM = re.compile(
    r"^(?P<structure>\S+) (?P<figure>mean|max|D[\d.]+(?:cc|%)|V[\d.]+Gy) "
    r"(?P<way><=|>=) (?P<limit>[\d.]+) (?P<unit>Gy|%)$"
)
EXAMPLE = "SpinalCord D0.1cc <= 45 Gy"
Gray = NDArray[np.floating]  # of a dose


@dataclass(frozen=True)
class Constraint:
    """One line of a plan's prescription; figures after AAPM TG-263: Dx% and Dxcc in Gy, VxGy in % of the volume."""

    text: str
    structure: str
    figure: str
    at_most: bool
    limit: float
    unit: str

    @staticmethod
    def of(text: str) -> Constraint:
        """Raises ValueError for words that are none, and for a figure in another unit than its own."""
        found = _FORM.match(" ".join(str(text).split()))
        if found is None:
            raise ValueError(f"{text!r} is no constraint. Write it as {EXAMPLE!r}, or with mean, max, D95% or V20Gy.")
        figure, unit = found["figure"], found["unit"]
        if (unit == "%") != figure.startswith("V"):
            right = "%" if figure.startswith("V") else "Gy"
            raise ValueError(f"{text!r} has a limit in {unit}, expected {right}.")
        return Constraint(found[0], found["structure"], figure, found["way"] == "<=", float(found["limit"]), unit)

    def value(self, dose_gy: Gray, inside: NDArray[np.bool_], voxel_mm: Sequence[float]) -> float:
        """In the constraint's unit. D0.1cc is what the hottest whole voxels of 0.1 cm3, at least one, receive at
        least; the challenge's D_0.1cc (`metrics.dose`) is a percentile, a little lower.
        """
        own = dose_gy[inside]
        if self.figure == "mean":
            return float(own.mean())
        if self.figure == "max":
            return float(own.max())
        if self.figure.startswith("V"):
            return float(100 * (own >= float(self.figure[1:-2])).mean())
        if self.figure.endswith("%"):
            return float(np.percentile(own, 100 - float(self.figure[1:-1])))
        voxels = max(1, round(1000 * float(self.figure[1:-2]) / float(np.prod(voxel_mm))))
        return float(np.sort(own)[-min(voxels, len(own))])

    def kept(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit


def constraint_rows(
    case: tuple[str, str, str], by: str, dose_gy: Gray, truth_gy: Gray, masks: Mapping[str, NDArray[np.bool_]],
    spacing_mm: Sequence[float], constraints: Sequence[Constraint],
) -> list[Row]:  # fmt: skip
    """Of one answer: each figure, how far it is off, and whether the constraint is kept as it is in the true dose.

    Structures that the case does not have are left out.
    """
    rows = []
    for one in constraints:
        inside = masks.get(one.structure)
        if inside is None or not inside.any():
            continue
        value, true = (one.value(dose, inside, spacing_mm) for dose in (dose_gy, truth_gy))
        name = f"{one.structure} {one.figure}"
        rows += [
            Row(*case, by, name, value, one.unit),
            Row(*case, by, f"{name} off", abs(value - true), one.unit),
            Row(*case, by, f"{one.text}: decided as by the true dose", float(one.kept(value) == one.kept(true)), ""),
        ]
    return rows
