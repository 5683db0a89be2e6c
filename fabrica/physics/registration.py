"""Registration without learning: a velocity climbed from coarse to fine by what locally correlates (LNCC).

The similarity is the squared correlation of small neighbourhoods (Avants et al. 2008), which bears contrasts that
differ by place; the velocity is smoothed after every step, as Demons are (Vercauteren et al. 2009): nothing folds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .warp import SQUARINGS, blurred, exponential, moved

LEVELS = (4, 2, 1)  # by how much sides are shrunk
STEPS = (60, 40, 15)  # at each level
REACH = 3  # voxels on each side that are correlated
SMOOTH = 2.0  # voxels over which the velocity is smoothed at each level
FIRST_STEP = 0.125  # voxels
PACE = 0.5  # voxels of a level that the fastest point moves in a step


def registered(
    fixed: Tensor, moving: Tensor, spacing_mm: Sequence[float], *, levels: Sequence[int] = LEVELS,
    steps: Sequence[int] = STEPS, smooth: float = SMOOTH,
) -> Tensor:  # fmt: skip
    """The velocity (B, D, *axes) in mm whose field brings the moving image (B, 1, *axes) onto the fixed one.

    Raises ValueError for images of different shapes.
    """
    if fixed.shape != moving.shape or len(spacing_mm) != fixed.ndim - 2:
        raise ValueError(f"Got images of {tuple(fixed.shape)} and {tuple(moving.shape)}, expected two of one grid.")
    axes = fixed.ndim - 2
    velocity = torch.zeros(len(fixed), axes, *[1] * axes)
    for shrink, count in zip(levels, steps, strict=True):
        one, other, spacing = _shrunk(fixed, moving, spacing_mm, shrink)
        velocity = F.interpolate(velocity, one.shape[2:], mode="trilinear" if axes == 3 else "bilinear")
        velocity = _climbed(velocity, one, other, spacing, count, smooth)
    return velocity


def _shrunk(
    fixed: Tensor, moving: Tensor, spacing_mm: Sequence[float], shrink: int
) -> tuple[Tensor, Tensor, list[float]]:
    """Both smoothed and made smaller; axes that would have too few voxels stay."""
    by = [shrink if n // shrink >= 8 else 1 for n in fixed.shape[2:]]
    size = [max(1, n // k) for n, k in zip(fixed.shape[2:], by, strict=True)]
    mode = "trilinear" if len(by) == 3 else "bilinear"
    small = [
        F.interpolate(blurred(x, [0.4 * k if k > 1 else 0.0 for k in by]), size, mode=mode, align_corners=True)
        for x in (fixed, moving)
    ]
    spacing = [s * (n - 1) / max(m - 1, 1) for s, n, m in zip(spacing_mm, fixed.shape[2:], size, strict=True)]
    return small[0], small[1], spacing


def _climbed(
    velocity: Tensor, fixed: Tensor, moving: Tensor, spacing_mm: Sequence[float], steps: int, smooth: float
) -> Tensor:
    scale = torch.tensor(list(spacing_mm)).reshape(1, -1, *[1] * len(spacing_mm))
    pace = torch.full((len(fixed), *[1] * (fixed.ndim - 1)), PACE)
    best = torch.full((len(fixed),), -torch.inf)
    kept = velocity
    for _ in range(steps):
        velocity = velocity.detach().requires_grad_()
        field = exponential(velocity, spacing_mm, _squarings(velocity.detach() / scale))
        likeness = similarity(fixed, moved(moving, field, spacing_mm))
        (slope,) = torch.autograd.grad(likeness.sum(), velocity)
        with torch.no_grad():
            worse = likeness.detach() < best
            pace[worse] *= 0.6  # gone too far: back, with smaller steps
            kept = torch.where(worse.reshape(pace.shape), kept, velocity.detach())
            best = torch.maximum(best, likeness.detach())
            step = blurred(slope * scale**2, [smooth] * len(spacing_mm))
            fastest = (step / scale).norm(dim=1).flatten(1).max(1).values.clamp(min=1e-12).reshape(pace.shape)
            velocity = torch.where(worse.reshape(pace.shape), kept, velocity + step / fastest * pace)
            velocity = blurred(velocity, [0.5 * smooth] * len(spacing_mm))
        if float(pace.max()) < 0.02:
            break
    return kept.detach()


def _squarings(velocity: Tensor) -> int:
    """How often a velocity (B, D, *axes) in voxels is squared: its first step goes an eighth of a voxel at most."""
    fastest = math.sqrt(float((velocity * velocity).sum(1).max()))
    return min(SQUARINGS, max(1, math.ceil(math.log2(max(fastest, 1e-6) / FIRST_STEP))))


def similarity(one: Tensor, other: Tensor, reach: int = REACH) -> Tensor:
    """(B,): mean squared correlation of neighbourhoods that are not flat, 0 to 1."""
    a, b = _mean(one, reach), _mean(other, reach)
    cross = _mean(one * other, reach) - a * b
    var_a, var_b = _mean(one * one, reach) - a * a, _mean(other * other, reach) - b * b
    flat_a, flat_b = _flat(one), _flat(other)  # each image by its own scale
    found = cross * cross / ((var_a + flat_a) * (var_b + flat_b))
    weight = (var_a.detach() > 10 * flat_a).float() + 1e-6
    result: Tensor = (found * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)
    return result


def _flat(image: Tensor) -> Tensor:
    """(B, 1, ...): variance of a neighbourhood below which nothing is seen in it."""
    return 1e-4 * image.detach().flatten(1).var(1).clamp(min=1e-12).reshape(-1, *[1] * (image.ndim - 1))


def _mean(x: Tensor, reach: int) -> Tensor:
    """Over a box, axis by axis, which is the same; fewer voxels at edges."""
    pool = F.avg_pool3d if x.ndim == 5 else F.avg_pool2d
    for axis, n in enumerate(x.shape[2:]):
        side = min(2 * reach + 1, n if n % 2 else n - 1)
        kernel = [side if a == axis else 1 for a in range(x.ndim - 2)]
        if side > 1:
            x = pool(x, kernel, stride=1, padding=[s // 2 for s in kernel], count_include_pad=False)
    return x
