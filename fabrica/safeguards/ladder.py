"""What acquisition does to a scan, in steps: noise, receive field, blur, thick slices, motion, kernel, contrast.

Each rung is worse than the one before. Severities are those that scanners and patients make in practice, not those that
break a network; names and order follow MedMNIST-C (Di Salvo et al. 2024) where it has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from ..contracts import Image
from ..rng import derive

RUNGS = (1, 2, 3)
Change = Callable[[Tensor, int, torch.Generator], Tensor]  # (z, y, x) on a scale where 1 is bright


def noise(volume: Tensor, rung: int, generator: torch.Generator) -> Tensor:
    """Gaussian in both channels of a magnitude image, .03, .06 and .12 of the bright end (Rician)."""
    level = (0.03, 0.06, 0.12)[rung - 1]
    real, imaginary = (torch.randn(volume.shape, generator=generator) * level for _ in range(2))
    if float(volume.min()) < 0:  # CT and other signed units: no magnitude was taken
        return volume + real
    return torch.hypot(volume + real, imaginary)


def receive_field(volume: Tensor, rung: int, generator: torch.Generator) -> Tensor:
    """A smooth factor across the image, up to 20, 40 and 80 % at its ends."""
    strength = (0.2, 0.4, 0.8)[rung - 1]
    axes = [torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in volume.shape]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    a, b, c = (torch.rand(3, generator=generator) * 2 - 1).tolist()
    slope = a * y + b * x + c * (x * y) + 0.3 * z
    bent: Tensor = volume * (1 + strength * slope / slope.abs().max().clamp(min=1e-6))
    return bent


def blur(volume: Tensor, rung: int, generator: torch.Generator) -> Tensor:
    """Gaussian in the plane, of .7, 1.2 and 2 pixels."""
    sigma = (0.7, 1.2, 2.0)[rung - 1]
    return torch.from_numpy(ndimage.gaussian_filter(volume.numpy(), (0, sigma, sigma), mode="nearest"))


def coarse(volume: Tensor, rung: int, generator: torch.Generator) -> Tensor:
    """Pixels of 1.5, 2 and 3 times the size, brought back to the grid."""
    factor = (1.5, 2.0, 3.0)[rung - 1]
    depth = max(1, round(volume.shape[0] / factor)) if volume.shape[0] > 4 else volume.shape[0]
    small = [depth, *(max(2, round(n / factor)) for n in volume.shape[1:])]
    down = F.interpolate(volume[None, None], size=small, mode="area")
    up: Tensor = F.interpolate(down, size=volume.shape, mode="trilinear", align_corners=False)[0, 0]
    return up


def motion(volume: Tensor, rung: int, generator: torch.Generator) -> Tensor:
    """The patient moved two pixels while a tenth, a quarter and a half of the lines of k-space was taken."""
    shift, share = 2.0, (0.1, 0.25, 0.5)[rung - 1]
    k_space = torch.fft.fft2(volume)
    down = torch.fft.fftfreq(volume.shape[-2])[:, None]
    across = torch.fft.fftfreq(volume.shape[-1])[None]
    angle = 6.283185 * float(torch.rand(1, generator=generator))
    offset = shift * torch.tensor([angle]).cos() * down + shift * torch.tensor([angle]).sin() * across
    moved = k_space * torch.exp(-2j * torch.pi * offset)
    lines = torch.zeros(volume.shape[-2], dtype=torch.bool)
    start = int(torch.randint(0, volume.shape[-2], (1,), generator=generator))
    lines[(start + torch.arange(max(1, round(share * volume.shape[-2])))) % volume.shape[-2]] = True
    mixed = torch.where(lines[:, None], moved, k_space)
    found = torch.fft.ifft2(mixed)
    signed = float(volume.min()) < 0
    image: Tensor = found.real if signed else found.abs()
    return image


def kernel(volume: Tensor, rung: int, generator: torch.Generator) -> Tensor:
    """A sharper reconstruction: what a blur of 1 pixel takes away is added .5, 1 and 2 times."""
    amount = (0.5, 1.0, 2.0)[rung - 1]
    smooth = torch.from_numpy(ndimage.gaussian_filter(volume.numpy(), (0, 1.0, 1.0), mode="nearest"))
    sharper: Tensor = (volume + amount * (volume - smooth)).clamp(min=float(volume.min()))  # air stays air
    return sharper


def contrast(volume: Tensor, rung: int, generator: torch.Generator) -> Tensor:
    """Another field strength or echo time: brightness to the power .85, .7 and .5."""
    power = (0.85, 0.7, 0.5)[rung - 1]
    changed: Tensor = volume.sign() * volume.abs() ** power
    return changed


LADDER: Mapping[str, Change] = {
    "noise": noise, "receive field": receive_field, "blur": blur, "coarse": coarse, "motion": motion,
    "kernel": kernel, "contrast": contrast,
}  # fmt: skip


def degraded(image: Image, kind: str, rung: int, seed: int) -> Image:
    """The image with this fault, on its own grid and in its own unit; the same seed gives the same fault."""
    data, fixed = image.data, image.meaning.scale
    offset, width = (fixed.offset, fixed.width) if fixed is not None else (0.0, _bright(data))
    generator = torch.Generator().manual_seed(derive(seed, kind) % 2**31)
    channels = []
    for channel in (data - offset) / width:
        flat = channel.ndim == 2
        volume = LADDER[kind](channel[None] if flat else channel, rung, generator)
        channels.append(volume[0] if flat else volume)
    return replace(image, data=(torch.stack(channels) * width + offset).to(data.dtype))


def _bright(data: Tensor) -> float:
    values = data[data > data.mean()]
    return max(float(values.quantile(0.99)) if 0 < values.numel() < 2**24 else float(data.abs().max()), 1e-6)
