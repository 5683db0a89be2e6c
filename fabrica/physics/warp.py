"""Motion: images moved by displacement fields, fields from velocities without folds, and what a field does to space.

A field (B, D, *axes) says in mm, along the image's axes, where a point of the fixed image lies in the moving one:
fixed(x) = moving(x + u(x)). Velocities become fields by scaling and squaring (Arsigny et al. 2006), whose inverse is
that of the velocity turned round.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

SQUARINGS = 7


def moved(image: Tensor, field_mm: Tensor, spacing_mm: Sequence[float], *, nearest: bool = False) -> Tensor:
    """(B, C, *axes) of what lies where a field points; beyond the image its edge. `nearest`: for label maps."""
    mode = "nearest" if nearest else "bilinear"
    where = _unit(field_mm, spacing_mm)
    found: Tensor = F.grid_sample(image, where, mode=mode, padding_mode="border", align_corners=True)
    return found


def _unit(field_mm: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """(B, *axes, D): places in [-1, 1], the last axis first."""
    axes = field_mm.shape[2:]
    lines = [torch.linspace(-1, 1, n, device=field_mm.device) if n > 1 else torch.zeros(1) for n in axes]
    grid = torch.stack(torch.meshgrid(*lines, indexing="ij"))
    scale = torch.tensor([2 / (s * max(n - 1, 1)) for s, n in zip(spacing_mm, axes, strict=True)])
    scale = scale.to(field_mm).reshape(-1, *[1] * len(axes))
    found: Tensor = (grid.to(field_mm) + field_mm * scale).movedim(1, -1).flip(-1)
    return found


def composed(first_mm: Tensor, then_mm: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """The field of going by one, then by the other: u(x) = first(x) + then(x + first(x))."""
    return first_mm + moved(then_mm, first_mm, spacing_mm)


def exponential(velocity_mm: Tensor, spacing_mm: Sequence[float], squarings: int = SQUARINGS) -> Tensor:
    """The field that a constant velocity has led to after one unit of time."""
    field = velocity_mm * 0.5**squarings
    for _ in range(squarings):
        field = composed(field, field, spacing_mm)
    return field


def jacobian(field_mm: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """(B, *axes): by how much space grows at each point; 0 and less where it folds."""
    axes = field_mm.ndim - 2
    slopes = torch.stack(
        [
            torch.stack(torch.gradient(field_mm[:, d], spacing=list(spacing_mm), dim=list(range(1, axes + 1))))
            for d in range(axes)
        ]
    )  # (D of u, D of x, B, *axes)
    matrix = slopes.movedim((0, 1), (-2, -1)) + torch.eye(axes, device=field_mm.device)
    found: Tensor = torch.linalg.det(matrix)
    return found


def folded(field_mm: Tensor, spacing_mm: Sequence[float]) -> float:
    """Share of points at which space folds."""
    return float((jacobian(field_mm, spacing_mm) <= 0).float().mean())


def carried(dose_gy: Tensor, field_mm: Tensor, spacing_mm: Sequence[float], *, energy: bool = False) -> Tensor:
    """A dose of the moving image on the fixed one. `energy`: the energy in each piece of tissue is kept, in density 1,
    and not the dose at each point: where space grows, dose falls.
    """
    found = moved(dose_gy, field_mm, spacing_mm)
    return found * jacobian(field_mm, spacing_mm).clamp(min=0)[:, None] if energy else found


def smooth_velocity(noise: Tensor, spacing_mm: Sequence[float], width_mm: float, largest_mm: float) -> Tensor:
    """White noise (B, D, *axes) as a velocity: smoothed over a width, its largest speed as said, still at the edges."""
    field = blurred(noise, [width_mm / s for s in spacing_mm])
    window = torch.ones(noise.shape[2:], device=noise.device)
    for axis, count in enumerate(noise.shape[2:]):
        line = torch.sin(torch.linspace(0, torch.pi, count, device=noise.device)).clamp(min=0).sqrt()
        window = window * line.reshape([-1 if a == axis else 1 for a in range(noise.ndim - 2)])
    field = field * window
    speed = field.norm(dim=1).flatten(1).max(1).values.clamp(min=1e-6)
    fastest: Tensor = largest_mm / speed
    return field * fastest.reshape(-1, *[1] * (field.ndim - 1))


def blurred(x: Tensor, sigma: Sequence[float]) -> Tensor:
    """(B, C, *axes) smoothed by a Gaussian, a width in voxels for each axis; edges are continued."""
    for axis, width in enumerate(sigma):
        if width <= 0.05:
            continue
        reach = max(1, min(int(3 * width + 0.5), x.shape[2 + axis] - 1))
        line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / width) ** 2)
        count, place = x.shape[2 + axis], torch.arange(-reach, x.shape[2 + axis] + reach, device=x.device)
        wide = x.index_select(2 + axis, place.clamp(0, count - 1))
        found = torch.zeros_like(x)  # a few shifts: quicker than a convolution of many short lines
        for k, share in enumerate((line / line.sum()).tolist()):
            found = found.add(wide.narrow(2 + axis, k, count), alpha=share)
        x = found
    return x
