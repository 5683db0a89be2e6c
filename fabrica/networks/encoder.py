"""From images to numbers: the encoding half of the U-Net, then mean and deviation over positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..contracts import Backbone, Condition, Field
from .blocks import (
    Down,
    Stage,
    channels_last,
    conv,
    embedding,
    mark_ends,
    planes_and_vectors,
    vector_entries,
    with_planes,
)
from .unet import UNetShape, only_convolutions


class Encoder(Backbone):
    """x (B, C), level (B,), condition with images on a grid -> (B, out), float32. Without images: a plain network of
    vectors.

    The same shape as the U-Net's, of which it has the way down; grids of any size, as sides are padded with zeros to
    whole patches.
    """

    def __init__(
        self, dimensions: int, x_channels: int, out_channels: int, condition: Sequence[Field], shape: UNetShape,
        precision: str = "fp32",
    ) -> None:  # fmt: skip
        super().__init__()
        only_convolutions(shape, "A network from images to numbers")
        self.dimensions, self.precision = dimensions, precision
        self.planes, self.vectors = planes_and_vectors(condition)
        self.width = shape.channels[0]
        inner = 4 * self.width
        self.embed = nn.Sequential(nn.Linear(self.width, inner), nn.SiLU(), nn.Linear(inner, inner))
        self.entries = vector_entries(self.vectors, inner)
        self.enter = nn.Linear(x_channels, inner) if x_channels else None
        if self.enter is not None:
            mark_ends(self.enter)
        pooled = 2 * self._build(shape, inner) if self.planes else 0
        self.head = nn.Sequential(nn.Linear(pooled + inner, inner), nn.SiLU(), nn.Linear(inner, out_channels))
        mark_ends(self.head[-1])
        if dimensions:
            self.to(memory_format=channels_last(dimensions))  # type: ignore[call-overload]

    def _build(self, shape: UNetShape, inner: int) -> int:
        """The way down; returns its last width."""
        inputs = sum(f.channels + 1 for f in self.planes)
        self._step = shape.patch * 2 ** (len(shape.channels) - 1)
        stride = shape.patch if shape.patch > 1 else 1
        self.stem = conv(self.dimensions, inputs, self.width, shape.patch if stride > 1 else 3, stride=stride)
        mark_ends(self.stem)
        self.down, channels = nn.ModuleList(), self.width
        for level, size in enumerate(shape.channels):
            deepest = level == len(shape.channels) - 1
            for _ in range(shape.blocks):
                self.down.append(Stage(self.dimensions, channels, size, inner, shape.attention and deepest))
                channels = size
            if not deepest:
                self.down.append(Down(self.dimensions, channels))
        return channels

    def forward(self, x: Tensor, level: Tensor, condition: Condition) -> Tensor:
        e = embedding(self.embed, self.entries, self.width, level, self.vectors, condition)
        if self.enter is not None:
            e = e + self.enter(x)
        e = F.silu(e)
        if self.planes:
            e = torch.cat([self._pooled(condition, e).float(), e], 1)
        result: Tensor = self.head(e)
        return result.float()

    def _pooled(self, condition: Condition, e: Tensor) -> Tensor:
        grid = next(condition.values[f.name] for f in self.planes).shape[2:]
        h = with_planes(None, self.planes, condition, grid)
        missing = [(-side) % self._step for side in grid]
        h = F.pad(h, [n for side in reversed(missing) for n in (0, side)])
        with torch.autocast(h.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            h = self.stem(h.contiguous(memory_format=channels_last(self.dimensions)))
            for module in self.down:
                h = module(h, e)
            flat = h.flatten(2)  # not normalised: how bright and how varied the image is would be lost
            return torch.cat([flat.mean(2), flat.float().std(2).to(flat.dtype)], 1)
