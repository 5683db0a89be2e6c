"""Intervals that keep their promise: spreads of draws, widened until images of unseen patients lie inside.

Conformal risk control (Angelopoulos et al. 2022, theorem 1) with the patient as the unit: the share of a patient's
voxels that fall outside has an expectation of at most 1 - level, whatever the model, where patients are exchangeable.
Pooling voxels instead would leave whole patients uncovered.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..machine.device import writing

Array = NDArray[np.floating[Any]]
FLOOR = 0.02  # of the model's scale: an interval is never told from a smaller spread
KEPT = 40_000  # voxels of a patient that a factor is told from
FILE = "intervals.json"


@dataclass(frozen=True)
class Intervals:
    """mean +- factor * (spread of draws + floor) holds `level` of a new patient's voxels, on average over patients."""

    level: float
    factor: float
    floor: float
    patients: int
    draws: int

    @property
    def slack(self) -> float:
        """How far the mean coverage may lie above the level because patients are few."""
        return 1 / (self.patients + 1)

    def reach(self, spread: Array) -> Array:
        """Half the width of each voxel's interval, on the scale of the spread."""
        return np.asarray(self.factor * (spread + self.floor))

    def covered(self, truth: Array, mean: Array, spread: Array) -> NDArray[np.bool_]:
        """Which voxels lie inside."""
        return np.asarray(np.abs(truth - mean) <= self.reach(spread))


def fewest(level: float) -> int:
    """Patients below which no interval can promise so much: with one more, all of it could fall outside."""
    return math.ceil(1 / (1 - level) - 1 - 1e-9)


def check_enough(patients: int, level: float) -> None:
    """Raises ValueError where so few patients cannot carry the promise."""
    if patients < fewest(level):
        raise ValueError(
            f"{patients} validation patient{'s' * (patients != 1)} cannot promise {level:.0%}: it takes "
            f"{fewest(level)}. Write: split: {{train: 0.6, validate: 0.2, test: 0.2}}, or a lower coverage"
        )


def calibrated(ratios: Sequence[Array], level: float, draws: int, floor: float = FLOOR) -> Intervals:
    """From |truth - mean| / (spread + floor) of the voxels of each calibration patient.

    Raises ValueError for a level that is none, and with fewer patients than the promise needs.
    """
    if not 0.5 <= level < 1:
        raise ValueError(f"coverage is {level}, expected from 0.5 to below 1. Write: coverage: 0.9")
    n, alpha = len(ratios), 1 - level
    check_enough(n, level)
    own = [np.sort(r.ravel()) for r in ratios]

    def risk(factor: float) -> float:
        outside = sum(1 - np.searchsorted(r, factor, side="right") / len(r) for r in own)
        return (outside + 1) / (n + 1)

    values = np.unique(np.concatenate(own))
    low, high = 0, len(values) - 1
    while low < high:  # the smallest value whose risk is small enough; at the largest nothing is outside
        middle = (low + high) // 2
        low, high = (low, middle) if risk(float(values[middle])) <= alpha + 1e-9 else (middle + 1, high)
    return Intervals(level, float(values[low]), floor, n, draws)


def ratios_of(truth: Array, mean: Array, spread: Array, inside: NDArray[np.bool_], floor: float = FLOOR) -> Array:
    """Of one patient's voxels, at most KEPT of them, evenly spread."""
    found = (np.abs(truth - mean) / (spread + floor))[inside]
    return np.asarray(found[:: max(1, len(found) // KEPT)], np.float32)


def write_intervals(folder: Path, by_contrast: Mapping[str, Intervals]) -> None:
    """Beside a stage's checkpoint, for whoever draws with it."""
    with writing(folder / FILE):
        (folder / FILE).write_text(json.dumps({n: asdict(one) for n, one in by_contrast.items()}, indent=1) + "\n")


def read_intervals(folder: Path) -> dict[str, Intervals]:
    """What was written there; nothing where nobody was calibrated on."""
    if not (folder / FILE).is_file():
        return {}
    try:
        plain = json.loads((folder / FILE).read_text())
        return {str(name): _of(one) for name, one in plain.items()}
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{folder / FILE} is damaged ({error}). Run again: fabrica run RUN") from error


def _of(plain: Mapping[str, Any]) -> Intervals:
    level, factor, floor = (float(plain[k]) for k in ("level", "factor", "floor"))
    return Intervals(level, factor, floor, int(plain["patients"]), int(plain["draws"]))
