"""What networks are built of: residual blocks, attention, and how conditions enter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..contracts import Condition, Field
from .normalisation import group_norm, norm_silu

# channels x depth x height up to which torch 2.13 (Convolution.cpp, use_mkldnn) sends a batch of one elsewhere
LONE = 20480
HEAD = 48  # channels of a head in networks of tokens: divided by 2 and by 3 axes
PLANES = ("intensity", "label", "complex", "displacement", "coordinates")  # kinds of conditions that lie on a grid


def mark_ends(*layers: nn.Module) -> None:
    """Layers that see or make voxels, classes or numbers: an optimiser treats them otherwise than what lies between."""
    for layer in layers:
        for part in layer.modules():
            part.__dict__["is_end"] = True


def planes_and_vectors(condition: Sequence[Field], reads: bool = False) -> tuple[tuple[Field, ...], tuple[Field, ...]]:
    """Conditions on a grid, and those that join the noise level. Raises ValueError for a text where nobody `reads`."""
    if not reads and (text := next((f for f in condition if f.kind == "token"), None)):
        raise ValueError(
            f"This network reads no texts, and is given {text.name}. Write: family: {{name: flow}}, or a vector of"
            f" hashed words: text: {{{text.name}: 64}}"
        )
    planes = tuple(f for f in condition if f.kind in PLANES)
    return planes, tuple(f for f in condition if f.kind not in (*PLANES, "token"))


def shown(condition: Sequence[Field]) -> tuple[Field, ...]:
    """Conditions on a grid that show the patient: where a voxel lies is none."""
    return tuple(f for f in condition if f.kind in PLANES and f.kind != "coordinates")


def with_planes(x: Tensor | None, fields: Sequence[Field], condition: Condition, grid: Sequence[int]) -> Tensor:
    """x, then each condition on the grid with one plane that says whether it is known; what is not known is zero."""
    rows, device = _rows_and_device(x, condition)
    planes = [] if x is None else [x]
    for f in fields:
        value = condition.values.get(f.name)
        known = torch.full((rows,), float(value is not None), device=device)
        if f.name in condition.present:
            known = known * condition.present[f.name].float()
        known = known.reshape(-1, 1, *[1] * len(grid))
        if value is None:
            value = torch.zeros(rows, f.channels, *grid, device=device)
        planes += [value * known, known.expand(-1, 1, *grid)]
    return torch.cat(planes, 1)


def _rows_and_device(x: Tensor | None, condition: Condition) -> tuple[int, torch.device]:
    some = x if x is not None else next(iter(condition.values.values()))
    return some.shape[0], some.device


def vector_entries(fields: Sequence[Field], width: int) -> nn.ModuleList:
    """How each condition without a grid joins the embedding, in the order of the fields: any name is allowed."""
    entries = nn.ModuleList(_entry(f, width) for f in fields)
    mark_ends(entries)
    return entries


def _entry(field: Field, width: int) -> nn.Module:
    if field.kind == "class":
        return nn.Embedding(field.channels, width)
    return nn.Sequential(nn.Linear(field.channels, width), nn.SiLU(), nn.Linear(width, width))


def embedding(
    embed: nn.Module, entries: nn.ModuleList, width: int, level: Tensor, fields: Sequence[Field], condition: Condition
) -> Tensor:
    """(B, inner) of the noise level and of every known condition without a grid."""
    frequencies = torch.exp(torch.linspace(0, math.log(200.0), width // 2, device=level.device))
    angle = level[:, None].float() * frequencies
    e: Tensor = embed(torch.cat([angle.sin(), angle.cos()], 1))
    for f, enter in zip(fields, entries, strict=True):
        value = condition.values.get(f.name)
        if value is None:
            continue
        known = condition.present.get(f.name)
        entry = enter(value.long()) if f.kind == "class" else enter(value.float().reshape(level.shape[0], -1))
        e = e + (entry if known is None else entry * known.float()[:, None])
    return e


def folded(x: Tensor, factor: int) -> Tensor:
    """(B, C, *axes) -> (B, C * factor^d, *axes / factor): nothing is lost."""
    if factor == 1:
        return x
    d = x.ndim - 2
    small = [n // factor for n in x.shape[2:]]
    cut = x.reshape(*x.shape[:2], *[k for n in small for k in (n, factor)])
    inner, outer = [3 + 2 * i for i in range(d)], [2 + 2 * i for i in range(d)]
    return cut.permute(0, 1, *inner, *outer).reshape(x.shape[0], -1, *small)


def conv(dimensions: int, inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d | nn.Conv3d:
    """Same size for odd kernels; strided ones without padding."""
    padding = kernel // 2 if stride == 1 else 0
    kind = nn.Conv2d if dimensions == 2 else VolumeConv
    return kind(inputs, outputs, kernel, stride=stride, padding=padding)


class VolumeConv(nn.Conv3d):
    """A lone small volume goes through as two halves that share two planes: for a single one torch leaves oneDNN's
    kernels for some that take three to six times as long.
    """

    def forward(self, x: Tensor) -> Tensor:
        alone = (
            not torch.compiler.is_exporting()
            and len(x) == 1
            and x[0, ..., 0].numel() <= LONE
            and x.device.type == "cpu"
        )
        if not alone or self.kernel_size != (3, 3, 3) or self.stride != (1, 1, 1):
            return super().forward(x)
        depth = x.shape[2]
        half = -(-depth // 2)
        wider = F.pad(x, (0, 0, 0, 0, 1, 1 + depth % 2))
        halves = torch.cat([wider[:, :, : half + 2], wider[:, :, half:]]).contiguous(memory_format=channels_last(3))
        found = F.conv3d(halves, self.weight, self.bias, padding=(0, 1, 1)).movedim(1, -1)
        return found.reshape(1, 2 * half, *found.shape[2:])[:, :depth].movedim(-1, 1)


def channels_last(dimensions: int) -> torch.memory_format:
    """The layout in which the channels of a position lie side by side."""
    return torch.channels_last if dimensions == 2 else torch.channels_last_3d


class Stage(nn.Module):
    """A residual block, scaled and shifted by the embedding, and attention where asked for."""

    def __init__(self, dimensions: int, inputs: int, outputs: int, inner: int, attention: bool) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(inputs), conv(dimensions, inputs, outputs, 3)
        self.norm2, self.conv2 = group_norm(outputs), conv(dimensions, outputs, outputs, 3)
        self.modulate = nn.Linear(inner, 2 * outputs)
        self.skip = conv(dimensions, inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.attention = Attention(outputs) if attention else None
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.modulate(e).reshape(x.shape[0], -1, *[1] * (x.ndim - 2)).chunk(2, 1)
        h = self.conv1(norm_silu(self.norm1, x))
        h = self.conv2(norm_silu(self.norm2, h, scale, shift))
        h = self.skip(x) + h
        result: Tensor = h if self.attention is None else self.attention(h)
        return result


class Attention(nn.Module):
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
        placed = self.out(y).transpose(1, 2).reshape(x.shape)
        result: Tensor = x + placed.contiguous(memory_format=channels_last(x.ndim - 2))
        return result


class Down(nn.Module):
    """Half the sides."""

    def __init__(self, dimensions: int, channels: int) -> None:
        super().__init__()
        self.conv = conv(dimensions, channels, channels, 2, stride=2)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        result: Tensor = self.conv(x)
        return result


class Up(nn.Module):
    """Twice the sides."""

    def __init__(self, dimensions: int, channels: int) -> None:
        super().__init__()
        self.conv = conv(dimensions, channels, channels, 3)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return enlarged(x, self.conv, 2)


def enlarged(x: Tensor, conv: nn.Conv2d | nn.Conv3d, factor: int) -> Tensor:
    """`factor` times the sides: every position repeated, then a convolution of side 3, all as one transposed
    convolution.

    Repeated positions meet several taps of a kernel, whose sum is one tap of the transposed kernel: (factor + 2)^d
    products a position instead of (3 factor)^d, and nothing in memory but the result.
    """
    dimensions, weight = x.ndim - 2, conv.weight
    meets = [[float(0 <= tap + own - 2 < factor) for tap in range(factor + 2)] for own in range(3)]
    one = taps = weight.new_tensor(meets)
    for _ in range(dimensions - 1):
        taps = torch.kron(taps, one)
    with torch.autocast(x.device.type, enabled=False):
        summed = (weight.flatten(2) @ taps).reshape(*weight.shape[:2], *[factor + 2] * dimensions)
    transposed: Callable[..., Tensor] = F.conv_transpose2d if dimensions == 2 else F.conv_transpose3d
    return transposed(x, summed.transpose(0, 1), conv.bias, stride=factor, padding=1)
