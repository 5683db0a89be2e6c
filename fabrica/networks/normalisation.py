"""Group norm, scale and shift, SiLU as one step that keeps its input alone, so that training holds less in memory."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 8  # at most: more are several times slower in channels-last layout

_forward = torch.ops.aten.native_group_norm
_backward = torch.ops.aten.native_group_norm_backward
_silu_backward = torch.ops.aten.silu_backward
_channels_forward = torch.ops.aten.native_layer_norm
_channels_backward = torch.ops.aten.native_layer_norm_backward


def group_norm(channels: int) -> nn.GroupNorm:
    """Up to 8 groups of at least 4 channels: the norm of a lone channel would lose how bright an image is."""
    return nn.GroupNorm(math.gcd(GROUPS, max(1, channels // 4)), channels)


def norm_silu(norm: nn.GroupNorm, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """silu(norm(x) * (1 + scale) + shift) in the dtype of x, computed in float32.

    x (B, C, *axes); scale and shift (B, C, 1...), both or none. In float32, because the bfloat16 channels-last backward
    of the norm is many times slower.
    """
    if (
        torch.compiler.is_compiling() and not torch.compiler.is_exporting()
    ):  # a compiler sees no further than operations
        y = _normed(x.float(), norm.weight, norm.bias, norm.num_groups, norm.eps)[0]
        return F.silu(_modulated(y, scale, shift)).to(x.dtype)
    result: Tensor = _NormSilu.apply(x, norm.weight, norm.bias, scale, shift, norm.num_groups, norm.eps)  # type: ignore[no-untyped-call]
    return result


class _NormSilu(torch.autograd.Function):
    """What lies between input and output is computed again on the way back: one pass of the norm, no SiLU."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, shift: Tensor | None, groups: int,
        eps: float,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, weight, bias, scale, shift)
        ctx.groups, ctx.eps = groups, eps
        y, _, _ = _normed(x.float(), weight, bias, groups, eps)
        return F.silu(_modulated(y, scale, shift), inplace=True).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, scale, shift = ctx.saved_tensors
        wide = x.float()
        y, mean, deviation = _normed(wide, weight, bias, ctx.groups, ctx.eps)
        d = _silu_backward(gradients[0].float(), _modulated(y, scale, shift))
        inner = list(range(2, x.ndim))
        d_scale = d_shift = None
        if scale is not None:
            d_scale = (d * y).sum(inner, keepdim=True).to(scale.dtype)
            d_shift = d.sum(inner, keepdim=True).to(shift.dtype)
            d = d.mul_(1 + scale.float())
        rows, channels = x.shape[:2]
        size = x.numel() // (rows * channels)
        mask = [True, True, True]
        d_x, d_weight, d_bias = _backward(d, wide, mean, deviation, weight, rows, channels, size, ctx.groups, mask)
        return d_x.to(x.dtype), d_weight, d_bias, d_scale, d_shift, None, None


def _modulated(y: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    return y if scale is None or shift is None else torch.addcmul(shift.float(), y, 1 + scale.float())


def _normed(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    rows, channels = x.shape[:2]
    found: tuple[Tensor, Tensor, Tensor] = _forward(
        x, weight, bias, rows, channels, x.numel() // (rows * channels), groups, eps
    )
    return found


class ChannelNorm(nn.Module):
    """Mean 0 and variance 1 over the channels of each position, a scale and a shift, SiLU: computed in float32, of any
    layout.

    What a position becomes depends on no other, as it must where tiles are to give what the whole gives.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _ChannelNormSilu.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return result


class _ChannelNormSilu(torch.autograd.Function):
    """As `_NormSilu`; channels-last layout is the one that needs no copies."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y, mean, deviation = _channels_normed(x, weight, bias)
        ctx.save_for_backward(x, weight, bias, mean, deviation)
        return F.silu(y, inplace=True).movedim(-1, 1).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, deviation = ctx.saved_tensors
        wide = x.float().movedim(1, -1)
        d = _silu_backward(gradients[0].float().movedim(1, -1), _channels_normed(x, weight, bias)[0])
        mask = [True, True, True]
        d_x, d_weight, d_bias = _channels_backward(d, wide, [len(weight)], mean, deviation, weight, bias, mask)
        return d_x.movedim(-1, 1).to(x.dtype), d_weight, d_bias


def _channels_normed(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(normal values, channels last; mean; one over the deviation)."""
    found: tuple[Tensor, Tensor, Tensor] = _channels_forward(
        x.float().movedim(1, -1), [len(weight)], weight, bias, 1e-5
    )
    return found
