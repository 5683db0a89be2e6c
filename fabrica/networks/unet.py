"""One U-Net for 2D and 3D, conditioned on noise level, numbers, classes and images.

Built for speed on CPUs and GPUs alike: channels-last, a patchify stem (pixels folded into channels), at most 8 norm
groups computed in float32, attention only on the smallest grid, bfloat16 through autocast where the machine has it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..contracts import Condition, Field
from .normalisation import group_norm, norm_silu


@dataclass(frozen=True, slots=True)
class UNetShape:
    """The size of a U-Net as a recipe says it."""

    channels: tuple[int, ...] = (48, 96, 192)  # per level
    blocks: int = 2  # residual blocks per level
    patch: int = 2  # side of the stem's patches; 1 keeps full resolution
    attention: bool = True  # on the smallest grid
    recompute: bool = False  # keep no activations inside blocks: less memory, more time


class UNet(nn.Module):
    """x (B, C, *axes), level (B,), condition -> (B, out, *axes), float32.

    Conditions of kind intensity and label are planes beside x, with one plane each that says whether they are known;
    numbers, classes and embeddings join the noise level. Axes must be multiples of patch * 2^(levels - 1).
    """

    def __init__(
        self, dimensions: int, x_channels: int, out_channels: int, condition: Sequence[Field], shape: UNetShape,
        precision: str = "fp32",
    ) -> None:  # fmt: skip
        super().__init__()
        self.dimensions, self.precision, self.multiple = (
            dimensions,
            precision,
            shape.patch * 2 ** (len(shape.channels) - 1),
        )
        self.planes = tuple(f for f in condition if f.kind in ("intensity", "label", "complex", "displacement"))
        self.vectors = tuple(f for f in condition if f not in self.planes)
        width = list(shape.channels)
        inner = 4 * width[0]
        self.embed = nn.Sequential(nn.Linear(width[0], inner), nn.SiLU(), nn.Linear(inner, inner))
        self.entries = nn.ModuleDict({f.name: _vector_entry(f, inner) for f in self.vectors})
        inputs = x_channels + sum(f.channels for f in self.planes) + len(self.planes)
        self.stem = (
            _conv(dimensions, inputs, width[0], shape.patch, stride=shape.patch)
            if shape.patch > 1
            else _conv(dimensions, inputs, width[0], 3)
        )
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self._build(dimensions, width, shape, inner)
        self.last = group_norm(width[0])
        self.head = _conv(dimensions, 2 * width[0], out_channels * shape.patch**dimensions, 1 if shape.patch > 1 else 3)
        self.patch, self.out_channels, self.width = shape.patch, out_channels, width[0]
        self.recompute = shape.recompute
        nn.init.zeros_(self.head.weight)
        if self.head.bias is not None:
            nn.init.zeros_(self.head.bias)
        layout = torch.channels_last if dimensions == 2 else torch.channels_last_3d
        self.to(memory_format=layout)  # type: ignore[call-overload]

    def _build(self, dimensions: int, width: Sequence[int], shape: UNetShape, inner: int) -> None:
        channels, skips = width[0], [width[0]]
        for level, size in enumerate(width):
            deepest = level == len(width) - 1
            for _ in range(shape.blocks):
                self.down.append(_Stage(dimensions, channels, size, inner, shape.attention and deepest))
                channels = size
                skips.append(channels)
            if not deepest:
                self.down.append(_Down(dimensions, channels))
                skips.append(channels)
        self.middle = _Stage(dimensions, channels, channels, inner, shape.attention)
        for level in reversed(range(len(width))):
            for _ in range(shape.blocks + 1):
                self.up.append(_Stage(dimensions, channels + skips.pop(), width[level], inner, False))
                channels = width[level]
            if level:
                self.up.append(_Up(dimensions, channels))

    def forward(self, x: Tensor, level: Tensor, condition: Condition) -> Tensor:
        """Raises ValueError when a side is no multiple of `multiple`."""
        if any(side % self.multiple for side in x.shape[2:]):
            raise ValueError(
                f"The U-Net got a grid of {tuple(x.shape[2:])}, expected sides that are multiples of {self.multiple}."
            )
        layout = torch.channels_last if self.dimensions == 2 else torch.channels_last_3d
        h = self._with_planes(x, condition).contiguous(memory_format=layout)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            e = F.silu(self._embedding(level, condition, len(x)))
            first = h = self.stem(h)
            skips = [h]
            for module in self.down:
                h = self._through(module, h, e)
                skips.append(h)
            h = self._through(self.middle, h, e)
            for module in self.up:
                h = self._through(module, h if isinstance(module, _Up) else torch.cat([h, skips.pop()], 1), e)
            h = self.head(torch.cat([norm_silu(self.last, h), first], 1))  # noise reaches the output unnormalised
        return self._unfold(h.float())

    def _through(self, module: nn.Module, h: Tensor, e: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            again: Tensor = checkpoint(module, h, e, use_reentrant=False, preserve_rng_state=False)  # nothing is random
            return again
        result: Tensor = module(h, e)
        return result

    def _with_planes(self, x: Tensor, condition: Condition) -> Tensor:
        planes = [x]
        for f in self.planes:
            value = condition.values.get(f.name)
            known = torch.zeros(len(x), device=x.device) if value is None else torch.ones(len(x), device=x.device)
            if f.name in condition.present:
                known = known * condition.present[f.name].float()
            known = known.reshape(-1, 1, *[1] * self.dimensions)
            flag = known.expand(-1, 1, *x.shape[2:])
            if value is None:
                value = x.new_zeros(len(x), f.channels, *x.shape[2:])
            planes += [value * known, flag]
        return torch.cat(planes, 1)

    def _embedding(self, level: Tensor, condition: Condition, rows: int) -> Tensor:
        half = self.width // 2
        frequencies = torch.exp(torch.linspace(0, math.log(200.0), half, device=level.device))
        angle = level[:, None].float() * frequencies
        e: Tensor = self.embed(torch.cat([angle.sin(), angle.cos()], 1))
        for f in self.vectors:
            value = condition.values.get(f.name)
            if value is None:
                continue
            known = condition.present.get(f.name)
            if f.kind == "class":
                entry = self.entries[f.name](value.long())
            else:
                entry = self.entries[f.name](value.float().reshape(rows, -1))
            e = e + (entry if known is None else entry * known.float()[:, None])
        return e

    def _unfold(self, h: Tensor) -> Tensor:
        """Channels back into pixels: (B, out * p^d, *small) -> (B, out, *axes)."""
        if self.patch == 1:
            return h.contiguous()
        p, d = self.patch, self.dimensions
        small = h.shape[2:]
        h = h.reshape(len(h), self.out_channels, *[p] * d, *small)
        order = [0, 1, *[k for i in range(d) for k in (2 + d + i, 2 + i)]]
        return h.permute(order).reshape(len(h), self.out_channels, *[n * p for n in small])


def _conv(dimensions: int, inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d | nn.Conv3d:
    padding = kernel // 2 if stride == 1 else 0
    kind = nn.Conv2d if dimensions == 2 else nn.Conv3d
    return kind(inputs, outputs, kernel, stride=stride, padding=padding)


def _vector_entry(field: Field, width: int) -> nn.Module:
    if field.kind == "class":
        return nn.Embedding(field.channels, width)
    return nn.Sequential(nn.Linear(field.channels, width), nn.SiLU(), nn.Linear(width, width))


class _Stage(nn.Module):
    """A residual block, scaled and shifted by the embedding, and attention where asked for."""

    def __init__(self, dimensions: int, inputs: int, outputs: int, inner: int, attention: bool) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(inputs), _conv(dimensions, inputs, outputs, 3)
        self.norm2, self.conv2 = group_norm(outputs), _conv(dimensions, outputs, outputs, 3)
        self.modulate = nn.Linear(inner, 2 * outputs)
        self.skip = _conv(dimensions, inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.attention = _Attention(outputs) if attention else None
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.modulate(e).reshape(len(x), -1, *[1] * (x.ndim - 2)).chunk(2, 1)
        h = self.conv1(norm_silu(self.norm1, x))
        h = self.conv2(norm_silu(self.norm2, h, scale, shift))
        h = self.skip(x) + h
        result: Tensor = h if self.attention is None else self.attention(h)
        return result


class _Attention(nn.Module):
    """Self-attention over all positions of a small grid (fused)."""

    def __init__(self, channels: int, head: int = 32) -> None:
        super().__init__()
        self.heads = max(1, channels // head)
        self.norm = group_norm(channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        rows, channels = x.shape[:2]
        y = self.norm(x.float()).to(x.dtype).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(y).reshape(rows, -1, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(rows, -1, channels)
        layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
        result: Tensor = x + self.out(y).transpose(1, 2).reshape(x.shape).contiguous(memory_format=layout)
        return result


class _Down(nn.Module):
    def __init__(self, dimensions: int, channels: int) -> None:
        super().__init__()
        self.conv = _conv(dimensions, channels, channels, 2, stride=2)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        result: Tensor = self.conv(x)
        return result


class _Up(nn.Module):
    def __init__(self, dimensions: int, channels: int) -> None:
        super().__init__()
        self.conv = _conv(dimensions, channels, channels, 3)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        result: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return result
