"""Images to a small grid of codes and back, without attention and with norms over channels alone: a code depends on a
finite neighbourhood, so that tiles give what the whole gives.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import channels_last, conv, enlarged, mark_ends
from .normalisation import ChannelNorm
from .unet import UNetShape, only_convolutions


class Residual(nn.Module):
    """Two convolutions beside the way through; starts as the identity."""

    def __init__(self, dimensions: int, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(channels)
        self.conv1, self.conv2 = conv(dimensions, channels, channels, 3), conv(dimensions, channels, channels, 3)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        result: Tensor = x + h
        return result


class Enlarge(nn.Module):
    """`factor` times the sides."""

    def __init__(self, dimensions: int, inputs: int, outputs: int, factor: int = 2) -> None:
        super().__init__()
        self.conv, self.factor = conv(dimensions, inputs, outputs, 3), factor

    def forward(self, x: Tensor) -> Tensor:
        return enlarged(x, self.conv, self.factor)


class Encoder(nn.Module):
    """(B, C, *axes) -> (B, out, *axes / factor), float32; factor = patch * 2^(levels - 1).

    A linear map of each patch is added: how bright it is would be lost in norms over channels, above all where it is
    bright.
    """

    def __init__(self, dimensions: int, inputs: int, outputs: int, shape: UNetShape, precision: str = "fp32") -> None:
        super().__init__()
        only_convolutions(shape, "A codec")
        self.factor, self.precision, self.dimensions = factor_of(shape), precision, dimensions
        width, stride = shape.channels[0], shape.patch if shape.patch > 1 else 1
        layers: list[nn.Module] = [conv(dimensions, inputs, width, stride if stride > 1 else 3, stride=stride)]
        for level, size in enumerate(shape.channels):
            if level:
                layers.append(conv(dimensions, shape.channels[level - 1], size, 2, stride=2))
            layers += [Residual(dimensions, size) for _ in range(shape.blocks)]
        layers += [ChannelNorm(shape.channels[-1]), conv(dimensions, shape.channels[-1], outputs, 1)]
        self.layers = nn.Sequential(*layers)
        self.whole = conv(dimensions, inputs, outputs, self.factor, stride=self.factor)
        nn.init.zeros_(self.whole.weight)
        mark_ends(layers[0], layers[-1], self.whole)
        self.to(memory_format=channels_last(dimensions))  # type: ignore[call-overload]
        self.reach = (2 * 2 * shape.blocks + 1) * self.factor  # voxels on each side that a code may depend on

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            x = x.contiguous(memory_format=channels_last(self.dimensions))
            out: Tensor = self.layers(x) + self.whole(x)
        return out.float()


class Decoder(nn.Module):
    """(B, inputs, *small) -> (B, out, *small * factor), float32."""

    def __init__(self, dimensions: int, inputs: int, outputs: int, shape: UNetShape, precision: str = "fp32") -> None:
        super().__init__()
        self.factor, self.precision, self.dimensions = factor_of(shape), precision, dimensions
        sizes = list(reversed(shape.channels))
        layers: list[nn.Module] = [conv(dimensions, inputs, sizes[0], 3)]
        for level, size in enumerate(sizes):
            if level:
                layers.append(Enlarge(dimensions, sizes[level - 1], size))
            layers += [Residual(dimensions, size) for _ in range(shape.blocks)]
        if shape.patch > 1:
            layers.append(Enlarge(dimensions, sizes[-1], sizes[-1], shape.patch))
        layers += [ChannelNorm(sizes[-1]), conv(dimensions, sizes[-1], outputs, 3)]
        self.layers = nn.Sequential(*layers)
        mark_ends(layers[0], layers[-1])
        self.to(memory_format=channels_last(dimensions))  # type: ignore[call-overload]
        self.reach = 2 * (2 * shape.blocks + 2)  # codes on each side that a voxel may depend on

    def forward(self, z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            out: Tensor = self.layers(z.contiguous(memory_format=channels_last(self.dimensions)))
        return out.float()


def factor_of(shape: UNetShape) -> int:
    """Voxels a side for each code."""
    factor: int = shape.patch * 2 ** (len(shape.channels) - 1)
    return factor


def by_tiles(work: Callable[[Tensor], Tensor], x: Tensor, tile: int, reach: int, step: int, scale: float) -> Tensor:
    """`work(x)` computed tile by tile with a margin of `reach`: equal to the whole, in the memory of a tile.

    `step`: what tiles and margins are rounded up to; `scale`: sides of the result over those of x.
    """
    side, margin = -(-tile // step) * step, -(-reach // step) * step
    grid = x.shape[2:]
    out: Tensor | None = None
    for corner in itertools.product(*(range(0, n, side) for n in grid)):
        inner = [(a, min(a + side, n)) for a, n in zip(corner, grid, strict=True)]
        outer = [(max(0, a - margin), min(n, b + margin)) for (a, b), n in zip(inner, grid, strict=True)]
        part = work(x[(slice(None), slice(None), *(slice(a, b) for a, b in outer))])
        if out is None:
            out = part.new_empty(*part.shape[:2], *(round(n * scale) for n in grid))
        source = [
            slice(round((a - o) * scale), round((b - o) * scale)) for (a, b), (o, _) in zip(inner, outer, strict=True)
        ]
        target = [slice(round(a * scale), round(b * scale)) for a, b in inner]
        out[(slice(None), slice(None), *target)] = part[(slice(None), slice(None), *source)]
    assert out is not None  # a grid has at least one tile
    return out


class Levels(nn.Module):
    """Finite scalar quantisation (Mentzer et al. 2024): each channel is rounded to one of `levels` values in [-1,
    1].
    """

    basis: Tensor
    counts: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("counts", torch.tensor(levels), persistent=False)
        strides = list(itertools.accumulate([1, *levels[:-1]], operator.mul))
        basis = torch.tensor(strides)
        self.size, self.places = int(math.prod(levels)), tuple(zip(strides, levels, strict=True))
        self.register_buffer("basis", basis, persistent=False)

    def _wide(self, values: Tensor, like: Tensor) -> Tensor:
        return values.reshape(1, -1, *[1] * (like.ndim - 2))

    def forward(self, z: Tensor) -> Tensor:
        """Rounded values in [-1, 1]; gradients pass as if nothing were rounded."""
        half = self._wide((self.counts - 1) / 2, z)
        even = self._wide((self.counts % 2 == 0).float() * 0.5, z)
        bounded = torch.tanh(z + torch.atanh(even / (half + 1e-3))) * (half + 1e-3) - even
        rounded = bounded + (bounded.round() - bounded).detach()
        return (rounded + even) / half

    def tokens(self, codes: Tensor) -> Tensor:
        """(B, channels, *grid) of rounded values -> whole numbers (B, *grid)."""
        half = self._wide((self.counts - 1) / 2, codes)
        digits = (codes * half + half).round().long()
        return (digits * self._wide(self.basis, codes)).sum(1)

    def codes(self, tokens: Tensor) -> Tensor:
        """The inverse of `tokens`."""
        digits = torch.stack([tokens // b % n for b, n in self.places], 1)
        half = self._wide((self.counts - 1) / 2, digits)
        return digits / half - 1

    def one_hot(self, codes: Tensor) -> Tensor:
        """(B, channels, *grid) of rounded values -> (B, sum of levels, *grid): the words of each channel side by
        side.
        """
        half = self._wide((self.counts - 1) / 2, codes)
        digits = (codes * half + half).round().long()
        parts = [F.one_hot(digits[:, k], count).movedim(-1, 1) for k, (_, count) in enumerate(self.places)]
        return torch.cat(parts, 1).float()

    def from_one_hot(self, words: Tensor) -> Tensor:
        """The inverse of `one_hot`; of chances the largest counts."""
        parts = torch.split(words, [count for _, count in self.places], 1)
        digits = torch.stack([p.argmax(1) for p in parts], 1)
        return digits / self._wide((self.counts - 1) / 2, digits) - 1
