"""Noise and resolution as functions of spatial frequency (AAPM TG-233)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ..result import Result
from .pairs import Array, Mask, images


def noise_power_spectrum(
    generated: ArrayLike,
    reference: ArrayLike | None = None,
    *,
    spacing_mm: Sequence[float],
    mask: ArrayLike | None = None,
) -> Result:
    """In-plane noise power: |DFT(noise)|^2 dx dy / (Nx Ny), averaged over slices and over rings of frequency.

    The noise is generated - reference, or generated minus its mean in each slice, inside the mask when one is given
    (zero outside, and divided by the share inside; slices without it are left out). The value is the integral, which is
    the variance; details: `frequency_per_mm`, `power` (unit^2 mm^2) up to Nyquist, `peak_frequency_per_mm`.
    `spacing_mm`: (y, x) or (z, y, x). Raises ValueError as `mae`.
    """
    x, y, inside = images(
        generated, np.zeros(np.shape(generated)) if reference is None else reference, mask, "plain", ("plain",)
    )
    slices, share = _centred(x - y, inside)
    dy, dx = _in_plane(spacing_mm, x.ndim)
    rows, columns = slices.shape[1:]
    power = (np.abs(np.fft.fft2(slices)) ** 2 / share).mean(0) * dx * dy / (rows * columns)
    frequency, radial = _rings(power, dy, dx)
    variance = float(power.sum() / (rows * dy * columns * dx))
    details = {
        "frequency_per_mm": frequency, "power": radial,
        "peak_frequency_per_mm": float(frequency[1:][radial[1:].argmax()]) if len(frequency) > 1 else 0.0,
    }  # fmt: skip
    return Result(variance, len(slices), "radial, mean removed a slice", details=details)


def modulation_transfer(
    generated: ArrayLike, reference: ArrayLike, *, spacing_mm: Sequence[float], mask: ArrayLike | None = None
) -> Result:
    """How much of the reference's detail is left at each in-plane frequency: |<G R*>| / <|R|^2> over rings and slices.

    The value is the frequency (per mm) at which half is left (Nyquist when more is left everywhere); details:
    `frequency_per_mm`, `transfer`. Inside the mask when one is given. A Gaussian blur of deviation s gives exp(-2 pi^2
    s^2 f^2). Raises ValueError as `mae`, and for a constant reference.
    """
    x, y, inside = images(generated, reference, mask, "plain", ("plain",))
    (g, _), (r, _) = (_centred(v, inside) for v in (x, y))
    if not float((r**2).sum()) > 0:
        raise ValueError("modulation_transfer needs a reference with detail; this one is constant in every slice.")
    window = np.outer(*(np.hanning(n + 2)[1:-1] for n in r.shape[1:]))
    dy, dx = _in_plane(spacing_mm, x.ndim)
    fg, fr = np.fft.fft2(g * window), np.fft.fft2(r * window)
    frequency, shared = _rings((fg * fr.conj()).mean(0).real, dy, dx)
    _, own = _rings((np.abs(fr) ** 2).mean(0), dy, dx)
    transfer = np.abs(shared) / np.maximum(own, 1e-300)
    below = np.flatnonzero(transfer[1:] < 0.5) + 1
    half = float(frequency[-1])
    if len(below):
        i = int(below[0])
        step = (transfer[i - 1] - 0.5) / max(transfer[i - 1] - transfer[i], 1e-12)
        half = float(frequency[i - 1] + min(max(step, 0.0), 1.0) * (frequency[i] - frequency[i - 1]))
    return Result(half, len(g), "cross spectrum, radial", details={"frequency_per_mm": frequency, "transfer": transfer})


def _centred(image: Array, inside: Mask | None) -> tuple[Array, Array]:
    """(slices without their mean, zero outside; share inside of each, (slices, 1, 1))."""
    slices = image[None] if image.ndim == 2 else image
    region = np.ones(slices.shape, bool) if inside is None else inside.reshape(slices.shape)
    used = region.any((1, 2))
    slices, region = slices[used], region[used]
    share = region.mean((1, 2), keepdims=True)
    mean = np.where(region, slices, 0.0).mean((1, 2), keepdims=True) / share
    return np.where(region, slices - mean, 0.0), share


def _in_plane(spacing_mm: Sequence[float], axes: int) -> tuple[float, float]:
    if len(spacing_mm) not in (2, axes) or not all(s > 0 for s in spacing_mm):
        raise ValueError(f"spacing_mm is {list(spacing_mm)}, expected positive (y, x) or (z, y, x).")
    return float(spacing_mm[-2]), float(spacing_mm[-1])


def _rings(power: Array, dy: float, dx: float) -> tuple[Array, Array]:
    """(mean frequency, mean power) of rings one frequency step wide, up to the lower Nyquist frequency."""
    fy, fx = np.fft.fftfreq(power.shape[0], dy), np.fft.fftfreq(power.shape[1], dx)
    f = np.hypot(fy[:, None], fx[None])
    step = max(1 / (power.shape[0] * dy), 1 / (power.shape[1] * dx))
    ring = np.rint(f / step).astype(int)
    inside = f <= min(0.5 / dy, 0.5 / dx) * (1 + 1e-9)
    count = np.bincount(ring[inside])
    full = count > 0
    frequency = np.bincount(ring[inside], f[inside])[full] / count[full]
    return frequency, np.bincount(ring[inside], power[inside])[full] / count[full]
