"""Model observers: would a reader find the signal?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from ...rng import derive
from ..result import Result

Array = NDArray[np.float64]
SPLITS = 20
FEWEST_IMAGES = 8


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
    hold-out (trained on one half, tested on the other: too low) to resubstitution (trained and tested on all: too
    high); the value is its middle. details: AUC of the same three. Raises ValueError for too few images or other
    shapes.
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


def ideal_observer(signal: ArrayLike, noise: ArrayLike) -> Result:
    """Detectability d' of a known signal in stationary Gaussian noise by the best of all observers (ICRU 54, 4.4): the
    prewhitening matched filter, d'^2 = sum |S|^2 / P over frequencies. No reader and no other observer does better.

    `signal`: (*shape) without noise; `noise`: (images, *shape) without signal, from which the mean image is taken and
    the noise power P is estimated (its inverse is corrected for the number of images). details: AUC; `npw`, the
    observer who does not know P (matched filter without whitening). The interval is a jackknife over images. Raises
    ValueError for fewer than 8 images, other shapes, a signal that is zero, or noise-free images.
    """
    s, n = np.asarray(signal, np.float64), np.asarray(noise, np.float64)
    if n.ndim != s.ndim + 1 or n.shape[1:] != s.shape or not np.isfinite(s).all() or not np.isfinite(n).all():
        raise ValueError(
            f"Got a signal of {s.shape} and noise of {n.shape}, expected finite (images, *shape of the signal)."
        )
    if len(n) < FEWEST_IMAGES:
        raise ValueError(f"Got {len(n)} images of noise, expected at least {FEWEST_IMAGES}.")
    if not s.any():
        raise ValueError("The signal is zero everywhere: there is nothing to detect.")
    power = np.abs(np.fft.fftn(n - n.mean(0), axes=tuple(range(1, n.ndim)))) ** 2
    if not (power.sum(0) > 1e-12 * power.sum() / power[0].size).all():
        raise ValueError(
            "The noise has no power at some frequency: a filtered or noise-free image has no such observer."
        )
    energy = np.abs(np.fft.fftn(s)) ** 2
    value, plain = _whitened(energy, power.sum(0), len(n)), _unwhitened(energy, power.sum(0), len(n))
    without = [_whitened(energy, power.sum(0) - one, len(n) - 1) for one in power]
    error = float(np.sqrt((len(n) - 1) * np.var(without)))
    areas = {
        "auc": float(stats.norm.cdf(value / 2**0.5)),
        "npw": plain,
        "npw_auc": float(stats.norm.cdf(plain / 2**0.5)),
    }
    return Result(
        value,
        len(n),
        "prewhitening matched filter, stationary Gaussian noise",
        interval=(value - 1.96 * error, value + 1.96 * error),
        standard_error=error,
        details=areas,
    )


def _whitened(energy: Array, power: Array, images: int) -> float:
    """Inverse power is too large by (n - 1) / (n - 2) where n - 1 complex Gaussians estimate it."""
    estimate = power / (images - 1)
    return float(np.sqrt((energy / estimate).sum() * (images - 2) / (images - 1)))


def _unwhitened(energy: Array, power: Array, images: int) -> float:
    return float(energy.sum() / np.sqrt((energy * power / (images - 1)).sum()))


def _template(a: Array, b: Array) -> Array:
    pooled = (np.cov(a, rowvar=False) + np.cov(b, rowvar=False)) / 2
    template: Array = np.linalg.lstsq(np.atleast_2d(pooled), a.mean(0) - b.mean(0), rcond=None)[0]
    return template


def _detectability(template: Array, a: Array, b: Array) -> float:
    x, y = a @ template, b @ template
    return float((x.mean() - y.mean()) / np.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 2))
