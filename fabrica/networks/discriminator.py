"""Real or generated? Patches of an image, given its condition; without norms, so that gradients of gradients are
plain.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..contracts import Condition, Field
from .blocks import channels_last, conv, embedding, mark_ends, planes_and_vectors, vector_entries, with_planes
from .unet import UNetShape

SLOPE = 0.2


class Discriminator(nn.Module):
    """x (B, C, *axes), condition -> logits (B, patches), float32; high = real.

    The U-Net's way down with leaky units and no norms (Huang et al. 2024); numbers and classes meet the features in an
    inner product (Miyato and Koyama 2018), planes lie beside x. `spectral`: weights divided by their largest singular
    value.
    """

    def __init__(
        self, dimensions: int, x_channels: int, condition: Sequence[Field], shape: UNetShape, spectral: bool = False
    ) -> None:
        super().__init__()
        self.dimensions, self.width = dimensions, shape.channels[0]
        self.planes, self.vectors = planes_and_vectors(condition)
        inputs = x_channels + sum(f.channels + 1 for f in self.planes)
        stride = shape.patch if shape.patch > 1 else 1
        self.stem = conv(dimensions, inputs, self.width, shape.patch if stride > 1 else 3, stride=stride)
        self.blocks, channels = nn.ModuleList(), self.width
        for level, size in enumerate(shape.channels):
            if level:
                self.blocks.append(conv(dimensions, channels, size, 2, stride=2))
            self.blocks.extend(_Block(dimensions, size) for _ in range(shape.blocks))
            channels = size
        self.head = conv(dimensions, channels, 1, 1)
        inner = 4 * self.width
        self.embed = (
            nn.Sequential(nn.Linear(self.width, inner), nn.SiLU(), nn.Linear(inner, inner)) if self.vectors else None
        )
        self.entries = vector_entries(self.vectors, inner)
        self.project = nn.Linear(inner, channels) if self.vectors else None
        mark_ends(self.stem, self.head)
        if spectral:
            for module in list(self.modules()):
                if isinstance(module, nn.Conv2d | nn.Conv3d):
                    nn.utils.parametrizations.spectral_norm(module)
        else:
            self.to(memory_format=channels_last(dimensions))  # type: ignore[call-overload]

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        return self.with_features(x, condition)[0]

    def with_features(self, x: Tensor, condition: Condition) -> tuple[Tensor, list[Tensor]]:
        """Logits, and what each level sees (for feature matching)."""
        h = self.stem(with_planes(x, self.planes, condition, x.shape[2:]))
        features = []
        for block in self.blocks:
            h = block(h)
            features.append(h)
        logits = self.head(h).flatten(1)
        if self.project is not None and self.embed is not None:
            level = torch.zeros(len(x), device=x.device)
            e = self.project(embedding(self.embed, self.entries, self.width, level, self.vectors, condition))
            logits = logits + (e[:, :, None] * h.flatten(2)).mean(1)
        return logits.float(), features


class _Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, dimensions: int, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(dimensions, channels, channels, 3), conv(dimensions, channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(x, SLOPE)), SLOPE))
        result: Tensor = x + h * 0.5**0.5
        return result
