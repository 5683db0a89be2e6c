"""Images in time: does what moves move as it should? Frames first: (t, y, x) or (t, z, y, x).

A distance between frames taken one by one is nearly blind to their order (Ge et al., CVPR 2024): these look at order
alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...contracts import Metric
from ..result import Result

Array = NDArray[np.float64]
FREQUENCIES = 12  # of the time course's spectrum, relative to the series' length


def over_frames(metric: Callable[..., float], generated: ArrayLike, reference: ArrayLike, **options: object) -> float:
    """The mean of a metric of images over the frames of two series; a mask counts for every frame. Raises as the
    metric.
    """
    x, y = _series(generated, reference)
    return float(np.mean([metric(a, b, **options) for a, b in zip(x, y, strict=True)]))


def motion_error(generated: ArrayLike, reference: ArrayLike) -> float:
    """|change of generated - change of reference| / |change of reference|, from frame to frame; 0 = moves as the
    reference.

    Raises ValueError for shapes that differ, fewer than 3 frames, NaN, or a reference that does not change.
    """
    x, y = _series(generated, reference)
    wanted = np.diff(y, axis=0)
    size = float(np.linalg.norm(wanted))
    if size == 0:
        raise ValueError("motion_error needs a reference that changes from frame to frame.")
    return float(np.linalg.norm(np.diff(x, axis=0) - wanted)) / size


def jerkiness(generated: ArrayLike, reference: ArrayLike) -> float:
    """Mean size of the second difference in time over that of the reference: above 1 flickers, below 1 is too smooth.
    Errors as `motion_error`.
    """
    x, y = _series(generated, reference)
    rough = [float(np.abs(np.diff(v, 2, axis=0)).mean()) for v in (x, y)]
    if rough[1] == 0:
        raise ValueError("jerkiness needs a reference that changes from frame to frame.")
    return rough[0] / rough[1]


def cyclic_gap(series: ArrayLike) -> Result:
    """Step from the last frame back to the first over the mean step between neighbours: near 1 where a beat closes.

    Raises ValueError as `motion_error`.
    """
    x, _ = _series(series, series)
    steps = np.sqrt((np.diff(np.concatenate([x, x[:1]]), axis=0) ** 2).reshape(len(x), -1).mean(1))
    if not steps[:-1].any():
        raise ValueError("cyclic_gap needs a series that changes from frame to frame.")
    return Result(float(steps[-1] / steps[:-1].mean()), len(x), "root mean square step, last to first over neighbours")


def motion_features(series: Array, inside: NDArray[np.bool_], width: float) -> Array:
    """Logarithms of the power of time courses by frequency, of their spread, and of steps between neighbours, in bin
    widths.
    """
    courses = series[:, inside] / width
    power = np.abs(np.fft.rfft(courses - courses.mean(0), axis=0, norm="ortho")) ** 2
    mean = power[1:].mean(1)
    place = np.linspace(0, len(mean) - 1, FREQUENCIES)
    steps = np.abs(np.diff(courses, axis=0))
    found = [
        *np.interp(place, np.arange(len(mean)), mean),
        steps.mean(),
        steps.std(),
        np.abs(np.diff(courses, 2, axis=0)).mean(),
        courses.std(0).mean(),
    ]
    return np.log(np.asarray(found) + 1e-6)


def _series(generated: ArrayLike, reference: ArrayLike) -> tuple[Array, Array]:
    x, y = np.asarray(generated, np.float64), np.asarray(reference, np.float64)
    if x.shape != y.shape or x.ndim not in (3, 4) or len(x) < 3:
        raise ValueError(
            f"Got series of {x.shape} and {y.shape}, expected equal shapes (t, y, x) or (t, z, y, x) of at least 3"
            " frames."
        )
    if not np.isfinite(x).all() or not np.isfinite(y).all():
        raise ValueError("A series holds NaN or infinity. Count it as failed; do not average over it.")
    return x, y


METRICS = {
    "motion_error": Metric(motion_error, ("generated", "reference"), "pixel", "lower", ""),
    "jerkiness": Metric(jerkiness, ("generated", "reference"), "pixel", "neither", ""),
}
