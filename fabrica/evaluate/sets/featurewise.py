"""Which radiomic features differ between two sets, each by itself: what a distance between sets is made of (AAPM
DGM-Image 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from ...rng import derive
from ..threads import side_by_side
from .embedding import Picture, bin_width, named_radiomics

Array = NDArray[np.float64]
LEAST = 5  # patients a side
PERMUTATIONS = 1999


@dataclass(frozen=True)
class FeatureDifference:
    """One feature: how far the sets are apart, and whether that survives the number of features that were looked at."""

    name: str
    shift: float  # mean of generated minus mean of real, in standard deviations of the real patients
    ks: float  # largest gap between the two cumulative distributions, 0 to 1
    p_value: float  # adjusted: false discovery rate over all features (Benjamini and Hochberg 1995)


def feature_differences(
    generated: Sequence[Picture], real: Sequence[Picture], seed: int = 0
) -> list[FeatureDifference]:
    """Largest gap first. Units are patients: a patient's images are averaged first, and patients are moved between the
    sets. Features that never vary are left out.

    Raises ValueError for fewer than 5 patients on a side or only constant images.
    """
    width = bin_width([generated, real])
    x, y = (_by_patient(side, side_by_side(lambda p: named_radiomics(p, width), side)) for side in (generated, real))
    if min(len(x), len(y)) < LEAST:
        raise ValueError(f"Feature by feature needs {LEAST} patients on each side; there are {len(x)} and {len(y)}.")
    pooled = np.array([list(patient.values()) for patient in (*x, *y)])
    varies = np.ptp(pooled, axis=0) > 1e-9 * (1 + np.abs(pooled).max(0))
    names = [n for n, used in zip(x[0], varies, strict=True) if used]
    if not names:
        return []
    pooled, real_ones = pooled[:, varies], pooled[len(x) :, varies]
    gaps, chances = _gaps(pooled, len(x), seed)
    spread = np.where(real_ones.std(0) > 0, real_ones.std(0, ddof=1), pooled.std(0, ddof=1))
    shifts = (pooled[: len(x)].mean(0) - real_ones.mean(0)) / spread
    rows = zip(names, shifts, gaps, false_discovery_control(chances), strict=True)
    return sorted(
        (FeatureDifference(n, float(s), float(k), float(p)) for n, s, k, p in rows), key=lambda f: (-f.ks, f.name)
    )


def _gaps(pooled: Array, first: int, seed: int) -> tuple[Array, Array]:
    """Kolmogorov-Smirnov distance of the first rows from the others, and its chance when whole patients are moved."""
    rng = np.random.Generator(np.random.Philox(key=derive(seed, "features")))
    own = np.where(np.arange(len(pooled)) < first, 1 / first, -1 / (len(pooled) - first))
    moved = np.stack([own, *(rng.permutation(own) for _ in range(PERMUTATIONS))])
    gaps, chances = [], []
    for values in pooled.T:
        order = np.argsort(values, kind="stable")
        last = np.append(np.diff(values[order]) > 0, True)  # of equal values: a distribution jumps once
        found = np.abs(np.cumsum(moved[:, order], axis=1)[:, last]).max(1)
        gaps.append(min(1.0, float(found[0])))  # sums of shares may pass 1 by a rounding
        chances.append(float((found >= found[0] - 1e-12).mean()))
    return np.array(gaps), np.array(chances)


def _by_patient(pictures: Sequence[Picture], rows: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    groups: dict[str, list[Mapping[str, float]]] = {}
    for picture, features in zip(pictures, rows, strict=True):
        groups.setdefault(picture.patient, []).append(features)
    return [{n: float(np.mean([f[n] for f in own])) for n in own[0]} for own in groups.values()]
