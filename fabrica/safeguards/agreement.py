"""How fine the details are that draws agree on: Fourier ring correlation, patch by patch (van Heel and Schatz 2005).

Draws share what the data and the prior are sure of. Where their spectra cease to correlate, what is finer differs from
draw to draw: it looks like anatomy and is one guess of many.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

HALF = 0.5  # correlation below which details are not shared
PATCH = 32  # pixels a side
FAINT = 0.02  # of the strongest patch's deviation: patches that hold less are background


@dataclass(frozen=True)
class Shared:
    """The finest detail that draws share, in mm (half a period is a pixel); NaN over background."""

    map: Tensor  # (y, x), patch by patch
    median: float


def shared_detail(draws: Tensor, pixel_mm: float) -> Shared | None:
    """draws (K, y, x), two at least; None where no patch holds anything or the image is smaller than a patch."""
    count, high, wide = draws.shape
    if count < 2 or min(high, wide) < PATCH:
        return None
    starts = [_starts(n) for n in (high, wide)]
    cells = torch.stack([torch.stack([draws[:, a : a + PATCH, b : b + PATCH] for b in starts[1]]) for a in starts[0]])
    strength = cells.mean(2).flatten(2).std(-1)
    detail = _crossing(ring_correlation(cells)) * pixel_mm
    detail[strength <= FAINT * strength.max().clamp(min=1e-12)] = torch.nan
    if bool(detail.isnan().all()):
        return None
    found, weight = torch.zeros(high, wide), torch.zeros(high, wide)
    for i, a in enumerate(starts[0]):
        for j, b in enumerate(starts[1]):
            if not bool(detail[i, j].isnan()):
                found[a : a + PATCH, b : b + PATCH] += detail[i, j]
                weight[a : a + PATCH, b : b + PATCH] += 1
    return Shared(torch.where(weight > 0, found / weight, torch.nan), float(detail[~detail.isnan()].median()))


def ring_correlation(cells: Tensor) -> Tensor:
    """(..., PATCH / 2 - 1): of every pair of draws (..., K, PATCH, PATCH), together, by ring from the first on."""
    window = torch.hann_window(PATCH, periodic=False)
    centred = cells - cells.mean((-2, -1), keepdim=True)
    spectra = torch.fft.fft2(centred * window[:, None] * window)
    total = spectra.sum(-3)
    own = spectra.abs().square()
    pairs = total.abs().square() - own.sum(-3)  # of k != l: Re F_k conj(F_l), each pair twice
    alone = (cells.shape[-3] - 1) * own.sum(-3)
    line = torch.fft.fftfreq(PATCH, 1 / PATCH)
    radius = (line[:, None] ** 2 + line**2).sqrt().round().long()
    rings = [radius == r for r in range(1, PATCH // 2)]
    shared = torch.stack([pairs[..., ring].sum(-1) for ring in rings], -1)
    return shared / torch.stack([alone[..., ring].sum(-1) for ring in rings], -1).clamp(min=1e-30)


def _crossing(correlation: Tensor) -> Tensor:
    """In pixels: half the period of the first ring that is no longer shared, between rings by a line."""
    rings = correlation.shape[-1]
    below = correlation < HALF
    first = torch.where(below.any(-1), below.float().argmax(-1), rings)
    before = torch.cat([torch.ones_like(correlation[..., :1]), correlation, correlation[..., -1:]], -1)
    low = before.gather(-1, first[..., None])[..., 0]
    high = before.gather(-1, (first + 1)[..., None])[..., 0]
    share = torch.where(first < rings, ((low - HALF) / (low - high).clamp(min=1e-6)).clamp(0, 1), 1.0)
    ring: Tensor = first + share
    return PATCH / 2 / ring.clamp(min=0.5)


def _starts(n: int) -> list[int]:
    """Where patches begin: half a patch apart, the last at the end."""
    last = n - PATCH
    return sorted({*range(0, last + 1, PATCH // 2), last})
