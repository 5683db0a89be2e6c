"""A diffusion transformer (Peebles and Xie 2023) for slices and volumes: patches, rotary positions, adaptive norms.

Its tokens meet by attention, or by state spaces where there are too many of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..contracts import Backbone, Condition, Field
from .blocks import HEAD, conv, embedding, mark_ends, planes_and_vectors, vector_entries, with_planes
from .reader import CrossAttention, Reader, worded
from .state_space import StateSpace
from .unet import UNetShape


class Transformer(Backbone):
    """x (B, C, *axes), level (B,), condition -> (B, out, *axes), float32; called as the U-Net is.

    Width is the last entry of `channels` (a multiple of 48), depth is `blocks`; `patch` is the side of a token.
    Positions turn queries and keys by their place along each axis, so that grids may differ between training and
    drawing. Attention costs the square of the number of tokens: 4,096 tokens are 64 x 64 patches, or 16 x 16 x 16.
    `kind: state-space` costs as many as there are. Texts are attended to after each block.
    """

    def __init__(
        self, dimensions: int, x_channels: int, out_channels: int, condition: Sequence[Field], shape: UNetShape,
        precision: str = "fp32",
    ) -> None:  # fmt: skip
        super().__init__()
        width = shape.channels[-1]
        if width % HEAD:
            raise ValueError(
                f"A transformer of width {width} has no whole heads. Write: channels: [{-(-width // HEAD) * HEAD}]"
            )
        self.dimensions, self.precision, self.width, self.out_channels = dimensions, precision, width, out_channels
        self.patch = self.multiple = shape.patch
        self.recompute = shape.recompute
        self.planes, self.vectors = planes_and_vectors(condition, reads=True)
        inner = 4 * width
        self.embed = nn.Sequential(nn.Linear(width, inner), nn.SiLU(), nn.Linear(inner, width))
        self.entries = vector_entries(self.vectors, width)
        inputs = x_channels + sum(f.channels + 1 for f in self.planes)
        self.stem = conv(dimensions, inputs, width, shape.patch, stride=shape.patch)
        self.blocks = nn.ModuleList(
            _Block(width, StateSpace(dimensions, width, k) if shape.kind == "state-space" else _Attention(width))
            for k in range(shape.blocks)
        )
        self.reader: Reader | None = None
        if texts := worded(condition):
            self.reader, self.told = Reader(texts, width), nn.Linear(width, width)
            self.meet = nn.ModuleList(CrossAttention(width) for _ in range(shape.blocks))
        self.modulate = nn.Linear(width, 2 * width)
        self.head = nn.Linear(2 * width, out_channels * shape.patch**dimensions)
        mark_ends(self.stem, self.head)
        for layer in (self.modulate, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, level: Tensor, condition: Condition) -> Tensor:
        """Raises ValueError when a side is no multiple of the patch."""
        grid = tuple(x.shape[2:])
        if any(side % self.patch for side in grid):
            raise ValueError(
                f"The transformer got a grid of {grid}, expected sides that are multiples of {self.patch}. Write:"
                f" prepare: {{multiple: {self.patch}}}"
            )
        small = [n // self.patch for n in grid]
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            e = embedding(self.embed, self.entries, self.width, level, self.vectors, condition)
            read = None if self.reader is None else self.reader(condition, x.shape[0], x.device)
            e = F.silu(e if read is None else e + self.told(read.whole))
            first = h = self.stem(with_planes(x, self.planes, condition, grid)).flatten(2).transpose(1, 2)
            angles = rotations(small, x.device)
            for number, block in enumerate(self.blocks):
                again = self.recompute and torch.is_grad_enabled()
                h = checkpoint(block, h, e, small, angles, use_reentrant=False) if again else block(h, e, small, angles)
                h = h if read is None else h + self.meet[number](h, read)
            scale, shift = self.modulate(e)[:, None].chunk(2, 2)
            h = F.layer_norm(h, (self.width,)) * (1 + scale) + shift
            h = self.head(torch.cat([h, first], 2))  # noise reaches the output unnormalised
        return self._unfold(h.float(), small)

    def _unfold(self, h: Tensor, small: Sequence[int]) -> Tensor:
        """(B, tokens, out * patch^d) -> (B, out, *axes)."""
        d, p = self.dimensions, self.patch
        h = h.reshape(h.shape[0], *small, self.out_channels, *[p] * d)
        order = [0, 1 + d, *[k for i in range(d) for k in (1 + i, 2 + d + i)]]
        return h.permute(order).reshape(h.shape[0], self.out_channels, *[n * p for n in small])


class _Block(nn.Module):
    """A mixing of tokens and a feed-forward layer, each scaled, shifted and gated by the embedding; starts as the
    identity.
    """

    def __init__(self, width: int, mix: nn.Module) -> None:
        super().__init__()
        self.width, self.mix = width, mix
        self.modulate = nn.Linear(width, 6 * width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, e: Tensor, grid: Sequence[int], angles: Tensor) -> Tensor:
        a, b, gate, c, d, other = self.modulate(e)[:, None].chunk(6, 2)
        y = F.layer_norm(x, (self.width,)) * (1 + a) + b
        x = x + gate * (self.mix(y, grid) if isinstance(self.mix, StateSpace) else self.mix(y, angles))
        result: Tensor = x + other * self.feed(F.layer_norm(x, (self.width,)) * (1 + c) + d)
        return result


class _Attention(nn.Module):
    """Every token with every token; angles turn queries and keys."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.heads = width, width // HEAD
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, y: Tensor, angles: Tensor) -> Tensor:
        rows, tokens = y.shape[:2]
        q, k, v = self.qkv(y).reshape(rows, tokens, 3, self.heads, HEAD).permute(2, 0, 3, 1, 4)
        q, k = (rotated(F.layer_norm(t, (HEAD,)), angles) for t in (q, k))
        y = F.scaled_dot_product_attention(q, k, v.to(q.dtype)).transpose(1, 2).reshape(rows, tokens, self.width)
        result: Tensor = self.out(y)
        return result


def rotations(grid: Sequence[int], device: torch.device) -> Tensor:
    """(tokens, HEAD / 2) angles: each axis turns its share of the channel pairs (Su et al. 2021, axial)."""
    pairs = HEAD // 2 // len(grid)
    frequencies = 100.0 ** (-torch.arange(pairs, device=device) / pairs)
    places = torch.meshgrid(*[torch.arange(n, device=device).float() for n in grid], indexing="ij")
    return torch.cat([p.reshape(-1, 1) * frequencies for p in places], 1)


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """x (..., tokens, HEAD): pairs of channels turned; inner products depend on differences of places alone."""
    one, two = x.float().chunk(2, -1)
    c, s = angles.cos(), angles.sin()
    return torch.cat([one * c - two * s, one * s + two * c], -1).to(x.dtype)
