"""Line integrals through a slice: a cached matrix with its transpose; another way to simulate; and back again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .geometry import FanGeometry, Geometry
from .sparse import csr

KEPT = 32  # geometries whose matrices stay in memory; subsets of views are their own
STEP = 0.25  # of a pixel, between the samples of a ray where sinograms are simulated


@dataclass(frozen=True)
class Projector:
    """P and its transpose as sparse matrices: sums of pixels by the length of a ray in them, in pixels."""

    geometry: Geometry
    forward_matrix: Tensor  # (views * detectors, y * x) sparse CSR
    backward_matrix: Tensor  # (y * x, views * detectors) sparse CSR

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, y, x) -> (B, 1, views, detectors)."""
        flat = self.forward_matrix.to(x.device) @ x.reshape(len(x), -1).T
        return flat.T.reshape(len(x), 1, len(self.geometry.angles), self.geometry.detectors)

    def backward(self, y: Tensor) -> Tensor:
        """The transpose: (B, 1, views, detectors) -> (B, 1, y, x)."""
        flat = self.backward_matrix.to(y.device) @ y.reshape(len(y), -1).T
        return flat.T.reshape(len(y), 1, *self.geometry.shape)


@lru_cache(maxsize=KEPT)
def projector(geometry: Geometry) -> Projector:
    """By Joseph's method (1982): a ray is followed along the axis it is closest to, linear between two pixels."""
    from .rays import joseph

    turns, offsets = geometry.beams()
    rows, columns, values = joseph(geometry.shape, turns.reshape(-1), offsets.reshape(-1))
    size = (len(geometry.angles) * geometry.detectors, geometry.shape[0] * geometry.shape[1])
    return Projector(geometry, csr(rows, columns, values, size), csr(columns, rows, values, (size[1], size[0])))


def simulated(image: Tensor, geometry: Geometry, finer: int = 2, rays: int = 3) -> Tensor:
    """(1, y, x) -> (1, views, detectors) in pixels of the slice: what bins of a real width see of a finer slice.

    Not the matrix that reconstructs: `finer` times smaller pixels, sampled along each of `rays` rays a bin. A sinogram
    by the same matrix would be explained by it too well (an inverse crime).
    """
    from .rays import in_threads, sampled

    fine = torch.nn.functional.interpolate(image[None].double(), scale_factor=finer, mode="bilinear")[0, 0]
    turns, offsets = geometry.beams(rays)
    with in_threads(torch.get_num_threads()):
        seen = sampled(fine.numpy(), turns, offsets * finer, STEP * finer)
    return torch.from_numpy(seen / finer).float()[None]


def filtered(sinogram: Tensor, geometry: Geometry) -> Tensor:
    """(B, 1, y, x): filtered back projection by a ramp with a Hann window, of views spread evenly over half a turn.

    The ramp is the band-limited one in space (Kak and Slaney 1988, eq. 3.61), so that a level is kept. Views that do
    not cover half a turn are weighted as if they did; what they leave out stays out. Fans are rebinned to parallel
    beams first.
    """
    if isinstance(geometry, FanGeometry):
        return filtered(rebinned(sinogram, geometry), geometry.rebinned())
    size = 2 ** math.ceil(math.log2(2 * geometry.detectors))
    n = torch.fft.fftfreq(size, 1 / size).round()
    odd = n.long() % 2 != 0
    kernel = torch.where(odd, -1 / (math.pi * n.clamp(max=-1).where(n < 0, n.clamp(min=1))) ** 2, torch.zeros(size))
    kernel[0] = 0.25
    ramp = torch.fft.rfft(kernel).real / geometry.width
    ramp = ramp * (0.5 + 0.5 * torch.cos(math.pi * torch.linspace(0, 1, len(ramp))))
    spectrum = torch.fft.rfft(sinogram, n=size) * ramp.to(sinogram.device)
    turned = torch.fft.irfft(spectrum, n=size)[..., : geometry.detectors].contiguous()
    scale = math.pi / len(geometry.angles) * geometry.width
    return projector(geometry).backward(turned) * scale


def rebinned(sinogram: Tensor, fan: FanGeometry) -> Tensor:
    """(B, 1, views, detectors) of fans -> of `fan.rebinned()`: every parallel ray is looked up in the two fans that
    hold it, linear between rays; 0 where neither was measured.
    """
    parallel = fan.rebinned()
    turns, offsets = (torch.from_numpy(part[..., 0]) for part in parallel.beams())
    within = torch.asin((offsets / fan.source).clamp(-1, 1))
    step = (fan.angles[-1] - fan.angles[0]) / max(1, len(fan.angles) - 1)
    total, weight = sinogram.new_zeros(len(sinogram), 1, *turns.shape), sinogram.new_zeros(turns.shape)
    for angle, place in ((turns + within, within.tan()), (turns + math.pi - within, -within.tan())):
        view = ((angle - fan.angles[0]) / step) % (2 * math.pi / abs(step))
        ray = fan.source * place / fan.width + (fan.detectors - 1) / 2 + fan.centre
        values, there = _between(sinogram, view, ray, whole_turn=abs(len(fan.angles) * step) > 2 * math.pi - 1e-6)
        total, weight = total + values * there, weight + there
    return total / weight.clamp(min=1)


def _between(sinogram: Tensor, view: Tensor, ray: Tensor, *, whole_turn: bool) -> tuple[Tensor, Tensor]:
    """Values at fractional places of (view, bin), and 1 where there are such."""
    views, bins = sinogram.shape[-2:]
    low, left = view.floor().long(), ray.floor().long()
    u, v = (view - low).float(), (ray - left).float()
    there = (left >= 0) & (left + 1 < bins)
    there &= (low < views) if whole_turn else (low + 1 < views)
    left = left.clamp(0, bins - 2)
    first, second = low % views, (low + 1) % views
    found = (1 - u) * ((1 - v) * sinogram[..., first, left] + v * sinogram[..., first, left + 1])
    found = found + u * ((1 - v) * sinogram[..., second, left] + v * sinogram[..., second, left + 1])
    return found, there.to(sinogram)
