"""Dose distributions: gamma, dose-volume histograms, the scores of the OpenKBP challenge. Doses in Gy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ..result import Result

Array = NDArray[np.float64]
TARGETS = ("PTV", "CTV", "GTV")


def gamma_pass_rate(
    evaluated: ArrayLike, reference: ArrayLike, *, spacing_mm: Sequence[float], dose_percent: float, distance_mm: float,
    cutoff_percent: float, steps: int = 10, local: bool = False,
) -> Result:  # fmt: skip
    """Percent of reference points whose gamma is at most 1 (Low 1998), dose criterion of the reference's maximum, or
    `local`: of the reference's dose at the point itself.

    Points below `cutoff_percent` of that maximum are left out. The evaluated dose is searched within `distance_mm`,
    interpolated linearly on a grid of distance_mm / steps (TG-218 asks for 10 or more). Exchanging the two doses
    changes the answer. Raises ValueError for shapes that differ, criteria that are not positive, or no point above the
    cutoff.
    """
    e, r = _doses(evaluated, reference)
    if len(spacing_mm) != r.ndim or not all(s > 0 for s in spacing_mm):
        raise ValueError(f"spacing_mm is {list(spacing_mm)}, expected {r.ndim} positive numbers, one an axis.")
    if not (dose_percent > 0 and distance_mm > 0 and 0 <= cutoff_percent < 100 and steps >= 1 and r.max() > 0):
        raise ValueError("gamma needs a positive dose and distance, a cutoff in [0, 100) and a dose above 0.")
    points = np.argwhere(r >= cutoff_percent / 100 * r.max())
    waiting, criterion = np.arange(len(points)), dose_percent / 100 * r.max()
    truth = r[tuple(points.T)]
    allowed = dose_percent / 100 * truth if local else np.full(len(truth), criterion)
    for offset in _offsets(r.ndim, distance_mm, steps):
        left = 1 - float(offset @ offset) / distance_mm**2
        at = points[waiting] + offset / np.asarray(spacing_mm)
        found = ndimage.map_coordinates(e, at.T, order=1, mode="constant", cval=np.inf, prefilter=False)
        waiting = waiting[~(((found - truth[waiting]) / allowed[waiting]) ** 2 <= left + 1e-12)]
        if not len(waiting):
            break
    rate = 100 * (1 - len(waiting) / len(points))
    of = "local" if local else "global"
    how = f"{of} {dose_percent:g} %/{distance_mm:g} mm, cutoff {cutoff_percent:g} %, {steps} steps"
    return Result(rate, len(points), how)


def _offsets(axes: int, distance_mm: float, steps: int) -> list[Array]:
    """Displacements within the distance, nearest first."""
    line = np.arange(-steps, steps + 1) * (distance_mm / steps)
    all_of_them = [np.array(o) for o in product(line, repeat=axes)]
    inside = [o for o in all_of_them if o @ o <= distance_mm**2 * (1 + 1e-12)]
    return sorted(inside, key=lambda o: float(o @ o))


def dose_volume_histogram(dose: ArrayLike, mask: ArrayLike, *, bins: int = 1000) -> Result:
    """Mean dose in a structure; details: `dose_gy` and `volume_percent` that receives at least so much, D98 to D1.

    D_p is the dose that p percent of the volume receive at least. Raises ValueError for an empty structure.
    """
    values, inside = np.asarray(dose, np.float64), np.asarray(mask).astype(bool)
    if values.shape != inside.shape or not inside.any() or not np.isfinite(values).all():
        raise ValueError(f"Got a dose of {values.shape} and {inside.sum()} voxels of {inside.shape}, expected some.")
    own = np.sort(values[inside])
    edges = np.linspace(0.0, max(float(own[-1]), 1e-12), bins)
    volume = 100 * (1 - np.searchsorted(own, edges, side="left") / len(own))
    named = {f"D{p}": float(np.percentile(own, 100 - p)) for p in (99, 98, 95, 50, 5, 2, 1)}
    return Result(
        float(own.mean()),
        len(own),
        "percentiles with linear interpolation",
        details={
            "dose_gy": edges,
            "volume_percent": volume,
            "minimum": float(own[0]),
            "maximum": float(own[-1]),
            **named,
        },
    )


def openkbp_scores(
    generated: ArrayLike, reference: ArrayLike, structures: Mapping[str, ArrayLike], *, possible_dose: ArrayLike,
    voxel_mm: Sequence[float],
) -> Result:  # fmt: skip
    """Dose score of OpenKBP (Babier 2021), Gy: sum of |difference| over the voxels that can receive dose.

    As in the challenge's code the numerator is not masked; `details["dose_score_masked"]` is. `details["dvh_score"]`:
    mean absolute difference of D_0.1cc and mean (organs) and of D99, D95, D1 (structures named PTV, CTV or GTV). Raises
    ValueError for shapes that differ or an empty possible-dose mask; empty structures are left out, and counted.
    """
    x, y = _doses(generated, reference)
    possible = np.asarray(possible_dose).astype(bool)
    if possible.shape != x.shape or not possible.any():
        raise ValueError(f"possible_dose has shape {possible.shape} and {possible.sum()} voxels, expected {x.shape}.")
    gaps: dict[str, float] = {}
    empty = []
    for name, mask in structures.items():
        inside = np.asarray(mask).astype(bool)
        if inside.shape != x.shape:
            raise ValueError(f"Structure {name!r} has shape {inside.shape}, expected that of the dose, {x.shape}.")
        if not inside.any():
            empty.append(name)
            continue
        for metric, value in _dvh_metrics(name, y[inside], voxel_mm).items():
            gaps[f"{name} {metric}"] = abs(_dvh_metrics(name, x[inside], voxel_mm)[metric] - value)
    details = {
        "dvh_score": float(np.mean(list(gaps.values()))) if gaps else None, "differences": gaps, "empty": tuple(empty),
        "dose_score_masked": float(np.abs(x - y)[possible].mean()),
    }  # fmt: skip
    score = float(np.abs(x - y).sum() / possible.sum())
    return Result(score, int(possible.sum()), "OpenKBP, numerator not masked", details=details)


def _dvh_metrics(name: str, values: Array, voxel_mm: Sequence[float]) -> dict[str, float]:
    if name.upper().startswith(TARGETS):
        return {f"D{p}": float(np.percentile(values, 100 - p)) for p in (99, 95, 1)}
    hottest = max(1, round(100 / float(np.prod(voxel_mm))))
    share = 100 - 100 * min(hottest, len(values)) / len(values)
    return {"D_0.1cc": float(np.percentile(values, share)), "mean": float(values.mean())}


def _doses(one: ArrayLike, other: ArrayLike) -> tuple[Array, Array]:
    x, y = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if x.shape != y.shape or x.ndim not in (2, 3) or not np.isfinite(x).all() or not np.isfinite(y).all():
        raise ValueError(f"Got doses of {x.shape} and {y.shape}, expected two equal, finite shapes of 2 or 3 axes.")
    return x, y
