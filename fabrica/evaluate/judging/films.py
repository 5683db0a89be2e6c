"""Films judged frame by frame where nothing was given, and by how much blood they eject."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..metrics.pixel import psnr
from ..metrics.structure import ssim_map
from ..metrics.temporal import METRICS
from ..result import Figure, Row

Array = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
COHERENCE = ("motion_error", "jerkiness")  # in time: whether what moves moves as it should
REACH = 6  # pixels around the cavity at rest within which it is looked for


def film_rows(
    case: tuple[str, str, str],
    by: str,
    film: Array,
    truth: Array,
    asked: NDArray[np.int_],
    cavity: NDArray[np.bool_] | None,
) -> list[Row]:
    """Of one answer (t, z, y, x), 1 = the film's brightest: means over the frames that were not given.

    `cavity` (z, y, x): of the left ventricle in the first frame; `case`: name, patient, contrast.
    """
    gaps = [float(psnr(film[t], truth[t], data_range=1.0)) for t in asked]
    alike = [
        np.mean([ssim_map(film[t, z], truth[t, z], 1.0, True).mean() for z in range(film.shape[1])]) for t in asked
    ]
    rows = [Row(*case, by, "psnr", float(np.mean(gaps)), "dB"), Row(*case, by, "ssim", float(np.mean(alike)), "")]
    if len(truth) > 2:
        rows += [Row(*case, by, name.replace("_", " "), _in_time(name, film, truth), "") for name in COHERENCE]
    if cavity is not None and cavity.any():
        own, real = (ejection_fraction(f, truth[0], cavity) for f in (film, truth))
        rows.append(Row(*case, by, "ejection fraction error", abs(own - real), "percentage points"))
        curves = [cavity_volumes(f, truth[0], cavity) for f in (film, truth)]
        off = 100 * np.abs(curves[0] - curves[1])[asked].mean() / max(curves[1].max(), 1.0)
        rows.append(Row(*case, by, "volume curve error", float(off), "% of the largest"))
    return rows


def _in_time(name: str, film: Array, truth: Array) -> float | str:
    try:
        return float(METRICS[name].function(film, truth))
    except ValueError as error:
        return f"not evaluated: {error}"


def asked_figures(stage: str, asked: Sequence[float], measured: Sequence[float], patients: int) -> list[Figure]:
    """Ejection fractions that were asked for against those of the films that came, over all of both."""
    wanted, found = np.asarray(asked, np.float64), np.asarray(measured, np.float64)
    spread = float(((wanted - wanted.mean()) ** 2).sum())
    told = 1 - float(((found - wanted) ** 2).sum()) / spread
    slope = float(((wanted - wanted.mean()) * (found - found.mean())).sum()) / spread
    how = f"{len(np.unique(wanted))} fractions asked of each of {patients} patients"
    return [
        Figure(stage, "model", name, value, None, patients, how)
        for name, value in (
            ("ejection fraction asked against measured, R2", told),
            ("ejection fraction asked against measured, slope", slope),
            ("ejection fraction asked against measured, mean absolute error (percentage points)",
             float(np.abs(found - wanted).mean())),
        )
    ]  # fmt: skip


def ejection_fraction(film: Array, first: Array, cavity: Mask) -> float:
    """Percent, from the largest volume to the smallest."""
    volumes = cavity_volumes(film, first, cavity)
    return float(100 * (volumes.max() - volumes.min()) / max(volumes.max(), 1.0))


def cavity_volumes(film: Array, first: Array, cavity: Mask) -> Array:
    """Voxels of each frame near the cavity that are brighter than half-way to its wall.

    One threshold for all films of a case, told from its first true frame.
    """
    around = np.stack([ndimage.binary_dilation(plane, iterations=REACH) for plane in cavity])
    inner = np.stack([ndimage.binary_dilation(plane, iterations=2) for plane in cavity])
    wall = around & ~inner
    limit = 0.5 * (float(np.median(first[cavity])) + float(np.percentile(first[wall], 20)))
    reach = np.stack([ndimage.binary_dilation(plane, iterations=1) for plane in cavity])
    return np.array([int((frame[reach] > limit).sum()) for frame in film], np.float64)
