"""What published networks are built of: the same arithmetic under names of ours."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..blocks import conv


def renamed(state: Mapping[str, Tensor], keys: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Published tensors under the names that they have here, by rules (pattern, instead) in the order in which they are
    tried; names that no rule knows stay.
    """
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        own = key
        for pattern, instead in keys:
            own = re.sub(pattern, instead, own)
        found[own] = tensor
    return found


class Convolution(nn.Module):
    def __init__(self, dimensions: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = conv(dimensions, inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(x)
        return result


class Attention(nn.Module):
    """Over all places, in heads of `head` channels."""

    def __init__(
        self, channels: int, head: int, groups: int, eps: float, *, out: bool = True, combined: bool = False
    ) -> None:  # fmt: skip
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps)
        if combined:
            self.qkv = nn.Linear(channels, 3 * channels)
        else:
            self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.combined, self.heads = combined, channels // head
        self.out_proj = nn.Linear(channels, channels) if out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x).flatten(2).transpose(1, 2)
        parts = self.qkv(y).chunk(3, -1) if self.combined else (self.to_q(y), self.to_k(y), self.to_v(y))
        q, k, v = (p.reshape(*p.shape[:2], self.heads, -1).transpose(1, 2) for p in parts)
        y = self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(y.shape))
        result: Tensor = x + y.transpose(1, 2).reshape(x.shape)
        return result


class Halved(nn.Module):
    """Strided, padded by one voxel of zeros on the far side of every axis (`far`), or on both."""

    def __init__(self, dimensions: int, channels: int, far: bool = True) -> None:
        super().__init__()
        self.pad = (0, 1) * dimensions if far else (1, 1) * dimensions
        self.conv = conv(dimensions, channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(F.pad(x, self.pad))
        return result


class Doubled(nn.Module):
    """Every voxel repeated, then a convolution."""

    def __init__(self, dimensions: int, channels: int) -> None:
        super().__init__()
        self.postconv = conv(dimensions, channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.postconv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return result


def moment(t: Tensor, width: int, cosine_first: bool, shift: float) -> Tensor:
    """(B, width) of steps (B,), which may lie between whole ones (Ho et al. 2020)."""
    half = width // 2
    frequencies = torch.exp(
        -math.log(10000) * torch.arange(half, device=t.device, dtype=torch.float32) / (half - shift)
    )
    angle = t[:, None].float() * frequencies
    parts = (angle.cos(), angle.sin()) if cosine_first else (angle.sin(), angle.cos())
    return F.pad(torch.cat(parts, -1), (0, width % 2))
