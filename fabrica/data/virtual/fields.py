"""Smooth random fields, interpolation and diffeomorphic deformations on regular grids. Axes are (x, y, z), RAS mm.

No value depends on a parallel reduction: fields are scaled by the standard deviation that their filter implies.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ...rng import Rng

Point = tuple[float, float, float]


def points(shape: Sequence[int], origin: Point, spacing: float) -> Tensor:
    """(*shape, 3) positions in mm."""
    axes = [torch.arange(n, dtype=torch.float32) * spacing + o for n, o in zip(shape, origin, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)


def sample(volume: Tensor, at: Tensor, origin: Point, spacing: float) -> Tensor:
    """Trilinear values of (channel, x, y, z) at (*grid, 3) positions in mm, edges continued: (channel, *grid)."""
    size = torch.tensor(volume.shape[1:], dtype=torch.float32)
    unit = (at - torch.tensor(origin)) * (2.0 / (spacing * (size - 1))) - 1
    flat = unit.flip(-1).reshape(1, 1, 1, -1, 3)
    beside = volume[None].contiguous(memory_format=torch.channels_last_3d)  # the channels of a voxel are read together
    values = F.grid_sample(beside, flat, align_corners=True, padding_mode="border")
    return values.reshape(len(volume), *at.shape[:-1])


def noise(
    rng: Rng, shape: Sequence[int], spacing: float, wavelength: float, *, band: float | None = 0.35,
    stretch: Point = (1.0, 1.0, 1.0),
) -> Tensor:  # fmt: skip
    """Gaussian random field of unit variance around one wavelength (mm), or low-pass when `band` is None."""
    axes = [torch.fft.fftfreq(n, spacing) for n in shape[:2]] + [torch.fft.rfftfreq(shape[2], spacing)]
    squares = [(k * s * wavelength) ** 2 for k, s in zip(axes, stretch, strict=True)]
    f = (squares[0][:, None, None] + squares[1][None, :, None] + squares[2][None, None, :]).sqrt()
    gain = torch.exp(-0.5 * f * f) if band is None else torch.exp(-0.5 * ((f - 1) / band) ** 2)
    gain[0, 0, 0] = 0.0  # no mean
    doubled = torch.full(gain.shape[-1:], 2.0)
    doubled[0] = 1.0
    if shape[2] % 2 == 0:
        doubled[-1] = 1.0
    variance = float((gain.double() ** 2 * doubled.double()).sum()) / (shape[0] * shape[1] * shape[2])
    white = rng.normal(*shape)[0]
    field: Tensor = torch.fft.irfftn(torch.fft.rfftn(white) * gain, s=tuple(shape)) * variance**-0.5
    return field


def exponential(velocity: Tensor, spacing: float, steps: int = 6) -> Tensor:
    """Displacement (3, x, y, z) in mm of a stationary velocity field, by scaling and squaring (Arsigny 2006)."""
    here = points(velocity.shape[1:], (0.0, 0.0, 0.0), spacing)
    displacement: Tensor = velocity / 2**steps
    for _ in range(steps):
        moved = here + displacement.movedim(0, -1)
        displacement = displacement + sample(displacement, moved, (0.0, 0.0, 0.0), spacing)
    return displacement


def jacobian_determinant(positions: Tensor, spacing: float) -> Tensor:
    """det d(positions)/d(x, y, z) of (x, y, z, 3) positions in mm on a grid: > 0 everywhere = no fold."""
    columns = [torch.stack(torch.gradient(positions[..., i], spacing=spacing), -1) for i in range(3)]
    determinant: Tensor = torch.linalg.det(torch.stack(columns, -2))
    return determinant


def distance_to_zero(field: Tensor, spacing: float) -> Tensor:
    """About the distance in mm to the zero set of a field; the slope is clamped, or saddles would widen into blobs."""
    slope = torch.stack(torch.gradient(field, spacing=spacing)).pow_(2).sum(0).sqrt_()
    typical = float(slope[::4, ::4, ::4].double().mean())
    return field / slope.clamp_(min=0.7 * typical)


def ball(at: Tensor, centre: Point, radii: Point, soft: float = 1.0) -> Tensor:
    """1 inside an ellipsoid pair (mirrored in x), 0 outside, edge about `soft` mm."""
    mirrored = torch.stack([at[..., 0].abs(), at[..., 1], at[..., 2]], -1)
    reach = ((mirrored - torch.tensor(centre)) / torch.tensor(radii)).square().sum(-1).sqrt()
    return torch.sigmoid((1 - reach) * (min(radii) / soft))


def blur(volume: Tensor, sigma: float) -> Tensor:
    """Near-Gaussian of `sigma` voxels by repeated three-tap filters along each axis; edges keep their weight."""
    passes = max(1, -(-int(sigma * sigma * 1000) // 500))
    w = sigma * sigma / passes / 2
    if w == 0:
        return volume
    for axis in list(range(3)) * passes:
        n = volume.shape[axis]
        smooth = volume * (1 - 2 * w)
        smooth.narrow(axis, 1, n - 1).add_(volume.narrow(axis, 0, n - 1), alpha=w)
        smooth.narrow(axis, 0, 1).add_(volume.narrow(axis, 0, 1), alpha=w)
        smooth.narrow(axis, 0, n - 1).add_(volume.narrow(axis, 1, n - 1), alpha=w)
        smooth.narrow(axis, n - 1, 1).add_(volume.narrow(axis, n - 1, 1), alpha=w)
        volume = smooth
    return volume
