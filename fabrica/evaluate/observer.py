"""Model observers: would a reader find the signal?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from ..rng import derive
from .result import Result

Array = NDArray[np.float64]
SPLITS = 20


def laguerre_gauss(shape: Sequence[int], *, width_px: float, count: int = 5) -> Array:
    """(count, *shape) Laguerre-Gauss channels around the middle of an image (Gallas and Barrett 2003).

    For a Gaussian signal of deviation w the width w sqrt(2 pi) makes the first channel the signal itself.
    """
    axes = [np.arange(n) - (n - 1) / 2 for n in shape]
    square = sum(a**2 for a in np.meshgrid(*axes, indexing="ij")) / width_px**2
    bell = np.sqrt(2) / width_px * np.exp(-np.pi * square)
    return np.stack([bell * special.eval_laguerre(k, 2 * np.pi * square) for k in range(count)])


def hotelling_observer(present: ArrayLike, absent: ArrayLike, *, channels: ArrayLike, seed: int = 0) -> Result:
    """Detectability d' of a channelised Hotelling observer, with its bias band as the interval.

    `present`, `absent`: (images, *shape) with and without the signal; `channels`: (count, *shape). The band runs from
    hold-out (trained on one half, tested on the other: too low) to resubstitution (trained and tested on all: too high);
    the value is its middle. details: AUC of the same three. Raises ValueError for too few images or other shapes.
    """
    u = np.asarray(channels, np.float64)
    u = u.reshape(len(u), -1)
    sides = [np.asarray(g, np.float64) for g in (present, absent)]
    for images in sides:
        if images[0].size != u.shape[1] or not np.isfinite(images).all():
            raise ValueError(f"Got images of {images.shape[1:]}, expected finite ones of the channels' shape.")
        if len(images) < 2 * (len(u) + 2):
            raise ValueError(f"Got {len(images)} images of a kind, expected {2 * (len(u) + 2)} for {len(u)} channels.")
    a, b = (images.reshape(len(images), -1) @ u.T for images in sides)
    high = _detectability(_template(a, b), a, b)
    rng = np.random.Generator(np.random.Philox(key=derive(seed, "observer")))
    held = []
    for _ in range(SPLITS):
        i, j = rng.permutation(len(a)), rng.permutation(len(b))
        for one, two in ((slice(None, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(None, None, 2))):
            held.append(_detectability(_template(a[i[one]], b[j[one]]), a[i[two]], b[j[two]]))
    low = min(float(np.mean(held)), high)
    middle = (low + high) / 2
    areas = {n: float(stats.norm.cdf(d / 2**0.5)) for n, d in (("auc", middle), ("auc_low", low), ("auc_high", high))}
    return Result(
        middle, len(a) + len(b), f"{len(u)} channels, hold-out to resubstitution", interval=(low, high), details=areas
    )


def _template(a: Array, b: Array) -> Array:
    pooled = (np.cov(a, rowvar=False) + np.cov(b, rowvar=False)) / 2
    template: Array = np.linalg.lstsq(np.atleast_2d(pooled), a.mean(0) - b.mean(0), rcond=None)[0]
    return template


def _detectability(template: Array, a: Array, b: Array) -> float:
    x, y = a @ template, b @ template
    return float((x.mean() - y.mean()) / np.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 2))
