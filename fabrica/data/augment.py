"""Classical augmentation of a batch: the same small turn and scaling for all images of a row."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ..rng import Rng

TURN, SCALE = math.radians(10.0), 0.1  # deviations at strength 1


def augmented(images: Mapping[str, Tensor], labels: Collection[str], strength: float, rng: Rng) -> dict[str, Tensor]:
    """(B, C, *axes) each, turned in the last plane and scaled about the centre; labels take their nearest value.

    A row's chance is its own; what comes from outside is zero.
    """
    draws = rng.child("augment").normal(2).clamp(-2, 2) * strength
    angle, scale = draws[:, 0] * TURN, (draws[:, 1] * SCALE).exp()
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    found = {}
    for name, image in images.items():
        c, s, f = (v.to(image.device) for v in (cosine, sine, scale))
        found[name] = _moved(image, c, s, f, name in labels)
    return found


def _moved(image: Tensor, cosine: Tensor, sine: Tensor, scale: Tensor, label: bool) -> Tensor:
    rows, axes = len(image), image.ndim - 2
    height, width = image.shape[-2:]
    theta = torch.zeros(rows, axes, axes + 1, device=image.device)
    theta[:, 0, 0], theta[:, 0, 1] = cosine, -sine * height / width  # x and y are counted in half sides
    theta[:, 1, 0], theta[:, 1, 1] = sine * width / height, cosine
    if axes == 3:
        theta[:, 2, 2] = 1 / scale
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, mode="nearest" if label else "bilinear", align_corners=False)
