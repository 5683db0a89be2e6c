"""Spaces in which images are compared: pixels, radiomics and spectrum, and an encoder that nobody trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ...data.grid import foreground
from ...evaluate.sets.embedding import BINS, Embedding, Picture, by_radiomics, by_spectrum
from ...evaluate.threads import side_by_side
from ...rng import derive

SIDE = 32  # pixels a side of what slices are compared by; of volumes half
WIDTHS = (16, 32, 64)  # channels of the encoder
POOLED = 4  # places a side in which its features are averaged
LARGEST = 8.0  # deviations: beyond, one feature would be the whole distance
Array = NDArray[np.float64]


def pixels(images: Sequence[Tensor]) -> Array:
    """A row for each (1, z, y, x): coarse brightness, less its mean, of unit length: gain and offset do not matter."""
    rows = []
    for image in images:
        flat = image.shape[1] == 1
        size = (1, SIDE, SIDE) if flat else (min(image.shape[1], SIDE // 2), SIDE // 2, SIDE // 2)
        rows.append(F.adaptive_avg_pool3d(image[None].float(), size).flatten().double().numpy())
    return _unit(np.stack(rows))


def variants(images: Sequence[Tensor]) -> list[list[Tensor]]:
    """Each image as it is, mirrored, and moved by a pixel or two: a copy that is turned so is still one."""
    moved = []
    for image in images:
        step = max(1, round(image.shape[-1] / 64))
        shifts = [torch.roll(image, s * step, axis) for axis in (-1, -2) for s in (-1, 1)]
        moved.append([image, image.flip(-1), *shifts])
    return [list(one) for one in zip(*moved, strict=True)]


def textures(images: Sequence[Tensor], spacing_mm: Sequence[float]) -> Array:
    """Radiomics (IBSI) and spectrum of each: neither cares for flips, and hardly for shifts."""

    def one(image: Tensor) -> Array:
        picture = _pictured(image, spacing_mm)
        return np.concatenate([by_radiomics(picture, 1 / BINS), by_spectrum(picture, 1 / BINS)])

    return np.stack(side_by_side(one, images))


def embedded(images: Sequence[Tensor], spacing_mm: Sequence[float], embedding: Embedding) -> Array:
    """Features of each by an embedding that the user brings; raises ValueError where one is not finite."""
    rows = np.stack([embedding(_pictured(image, spacing_mm), 1 / BINS) for image in images])
    if not np.isfinite(rows).all():
        raise ValueError("The embedding says NaN or infinity of an image. Check the run that --embedding names.")
    return rows


def _pictured(image: Tensor, spacing_mm: Sequence[float]) -> Picture:
    """As embeddings read it: its brightest voxel is 1."""
    top = max(float(image.max()), 1e-6)
    inside = foreground(image[0])
    if not bool(inside.any()):  # an image of one value
        inside = torch.ones_like(inside)
    flat = image.shape[1] == 1
    values, mask = (t[0, 0] if flat else t[0] for t in (image / top, inside[None]))
    spacing = tuple(spacing_mm[1:] if flat else spacing_mm)
    return Picture("", "", values.double().numpy(), mask.numpy(), spacing)


@torch.inference_mode()
def encoded(images: Sequence[Tensor], seed: int = 0) -> Array:
    """Features of a small convolutional network with random weights, averaged over a coarse grid, of unit length.

    Such features tell textures and shapes apart without having learned of anybody (Saxe et al. 2011).
    """
    generator = torch.Generator().manual_seed(derive(seed, "encoder") % 2**31)
    weights, before = list[Tensor](), 1
    for width in WIDTHS:
        kernel = torch.randn(width, before, 3, 3, generator=generator)
        weights.append((kernel - kernel.mean((2, 3), keepdim=True) / 2) / (9 * before) ** 0.5 * 1.6)
        before = width
    rows = []
    for image in images:
        x = image[0][:: max(1, image.shape[1] // 9)][:, None].float()
        x = (x - x.mean()) / x.std().clamp(min=1e-6)
        levels = []
        for kernel in weights:
            x = F.relu(F.conv2d(x, kernel, padding=1))
            levels.append(F.adaptive_avg_pool2d(x, POOLED).mean(0).flatten())
            x = F.avg_pool2d(x, 2) if min(x.shape[-2:]) >= 2 * POOLED else x
        rows.append(torch.cat([level / level.norm().clamp(min=1e-9) for level in levels]).double().numpy())
    return np.stack(rows)


def shared_scale(rows: Sequence[Array], real: Array) -> tuple[list[Array], Array]:
    """Features by the middle and spread of the real images of both sides together, so that neither is favoured."""
    middle, spread = real.mean(0), real.std(0)
    used = spread > 1e-9 * (1 + np.abs(middle))
    if not used.any():
        used = np.ones_like(used)

    def scaled(x: Array) -> Array:
        z = (x[:, used] - middle[used]) / np.maximum(spread[used], 1e-12)
        found: Array = np.clip(z, -LARGEST, LARGEST) / used.sum() ** 0.5
        return found

    return [scaled(x) for x in rows], scaled(real)


def _unit(rows: Array) -> Array:
    centred = rows - rows.mean(1, keepdims=True)
    found: Array = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    return found
