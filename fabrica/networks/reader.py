"""Texts that a network is given: subwords met by a small transformer, and a grid that attends to what it makes of them.

As in Rombach et al. 2022 (cross-attention of a U-Net) and Chen et al. 2024 (of a transformer); the text is read by a
network that is trained with the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..contracts import Condition, Field
from .blocks import channels_last, mark_ends

DEPTH = 2  # blocks that read
HEAD = 32  # channels of a head


def worded(condition: Sequence[Field]) -> tuple[Field, ...]:
    """Conditions that are texts."""
    return tuple(f for f in condition if f.kind == "token")


@dataclass(frozen=True, slots=True)
class Read:
    """What was made of the texts of a batch."""

    tokens: Tensor  # (B, N, width); the first stands for itself, whatever is said
    there: Tensor  # bool (B, N)

    @property
    def whole(self) -> Tensor:
        """(B, width): what all of it says."""
        return self.tokens[:, 0]


class Reader(nn.Module):
    """Conditions -> `Read`. A text that is absent or empty has no words, and one token stands alone."""

    def __init__(self, fields: Sequence[Field], width: int) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.embed = nn.ModuleList(nn.Embedding(f.channels, width) for f in self.fields)
        self.place = nn.ParameterList(torch.randn(f.length, width) * 0.02 for f in self.fields)
        self.first = nn.Parameter(torch.randn(width) * 0.02)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(DEPTH))
        mark_ends(self.embed)
        for table in self.embed:
            nn.init.normal_(table.weight, std=0.5)  # type: ignore[arg-type]

    def forward(self, condition: Condition, rows: int, device: torch.device) -> Read:
        tokens = [self.first.expand(rows, 1, -1)]
        there = [torch.ones(rows, 1, dtype=torch.bool, device=device)]
        for f, table, place in zip(self.fields, self.embed, self.place, strict=True):
            if (words := condition.values.get(f.name)) is None:
                continue
            words = words.long().reshape(rows, f.length)
            known = condition.present.get(f.name, torch.ones(rows, dtype=torch.bool, device=device))
            tokens.append(table(words) + place)
            there.append((words > 0) & known[:, None])
        x, seen = torch.cat(tokens, 1).float(), torch.cat(there, 1)
        for block in self.blocks:
            x = block(x, seen)
        return Read(x, seen)


class _Block(nn.Module):
    """Self-attention over words that are there, and a feed-forward layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.heads = width, _heads(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        rows, tokens = x.shape[:2]
        y = F.layer_norm(x, (self.width,))
        q, k, v = self.qkv(y).reshape(rows, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=there[:, None, None]).transpose(1, 2)
        x = x + self.out(y.reshape(rows, tokens, self.width)).to(x.dtype)
        result: Tensor = x + self.feed(F.layer_norm(x, (self.width,))).to(x.dtype)
        return result


class CrossAttention(nn.Module):
    """What every position of a sequence (B, P, width) is told by the words, to be added to it; at first nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.heads = width, _heads(width)
        self.q, self.kv, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, read: Read) -> Tensor:
        rows, places = x.shape[:2]
        q = self.q(F.layer_norm(x.float(), (self.width,))).reshape(rows, places, self.heads, -1).transpose(1, 2)
        kv = self.kv(F.layer_norm(read.tokens, (self.width,)))
        k, v = kv.reshape(rows, kv.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=read.there[:, None, None])
        result: Tensor = self.out(y.transpose(1, 2).reshape(rows, places, self.width)).to(x.dtype)
        return result

    def on_grid(self, h: Tensor, read: Read) -> Tensor:
        """(B, width, *axes) with what it is told."""
        told: Tensor = self(h.flatten(2).transpose(1, 2), read)
        return h + told.transpose(1, 2).reshape(h.shape).contiguous(memory_format=channels_last(h.ndim - 2))


def _heads(width: int) -> int:
    return next(n for n in range(max(1, width // HEAD), 0, -1) if width % n == 0)
