"""Images and words by one network: a U-Net whose smallest grid attends to words, and words that attend to it.

As in Esser et al. 2024 (MM-DiT) both lie in one sequence there; a class, a number in bins and the subwords of a text
are words alike, and a word that is not known is a mask (Devlin et al. 2019).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..contracts import Backbone, Condition, Field, Signature
from .blocks import channels_last, mark_ends
from .unet import Seen, UNet, UNetShape, check_sides, only_convolutions

DEPTH = 3  # blocks over the joint sequence
HEAD = 32  # channels of a head
BINS, SPAN = 48, 3.0  # of a number: so many bins over so many widths on each side of its centre


def words_in(field: Field) -> int:
    """How many values a word of a part can take."""
    return BINS if field.kind == "number" else field.channels


def positions(field: Field) -> int:
    """How many words a part is made of."""
    return field.length if field.kind == "token" else 1


def beyond(field: Field, value: float) -> str:
    """Why a number cannot be told or heard; '' where it can."""
    if field.kind != "number" or field.stated is None:
        return ""
    low, high = (field.stated.offset + sign * SPAN * field.stated.width for sign in (-1, 1))
    if low <= value <= high:
        return ""
    wide = max(abs(value - field.stated.offset) / SPAN, field.stated.width)
    return (
        f"{field.name} {value:g} lies outside {low:g} to {high:g}, what {SPAN:g} widths around its centre can say. "
        f"Write: covariates: {{{field.name}: [{field.stated.offset:g}, {wide:.3g}]}}"
    )


def as_words(field: Field, value: Tensor) -> Tensor:
    """(B, positions): a class, a number's bin, or the words of a text. Numbers beyond the last bin lie in it."""
    if field.kind == "number":
        share = (value.float().reshape(-1, 1) + SPAN) / (2 * SPAN)
        return (share * BINS).floor().clamp(0, BINS - 1).long()
    return value.long().reshape(len(value), positions(field))


def as_value(field: Field, words: Tensor) -> Tensor:
    """The middle of a number's bin (B,), a class (B,), or the words (B, length)."""
    if field.kind == "number":
        return middles(words.device)[words[:, 0]]
    return words[:, 0] if positions(field) == 1 else words


def middles(device: torch.device) -> Tensor:
    """(BINS,) of a number's bins, on the network's scale."""
    return (torch.arange(BINS, device=device) + 0.5) * (2 * SPAN / BINS) - SPAN


@dataclass(frozen=True, slots=True)
class Looked:
    """What a U-Net has seen on its way down."""

    h: Tensor  # (B, width, *smallest grid)
    e: Tensor  # (B, inner), of the level and what joins it
    seen: Seen


class Joint(Backbone):
    """x (B, C, *axes), level (B,), condition -> (B, out, *axes); `both` answers with the words' logits, too.

    A part on no grid is read from the condition where it is marked as given, or word by word where `known` (B,
    positions) says which of its words may be seen.
    """

    def __init__(self, signature: Signature, x_channels: int, shape: UNetShape, precision: str) -> None:
        super().__init__()
        only_convolutions(shape, "A network of images and words")
        self.parts, self.images = signature.beside, signature.x
        names = {f.name for f in self.parts}
        others = [f for f in signature.condition if f.name not in names]
        self.unet = UNet(len(signature.axes), x_channels, signature.channels, others, shape, precision)
        self.multiple, self.precision = self.unet.multiple, precision
        width, inner = shape.channels[-1], 4 * shape.channels[0]
        self.embed = nn.ModuleList(nn.Embedding(words_in(f) + 1, width) for f in self.parts)  # the last is the mask
        self.place = nn.ParameterList(torch.randn(positions(f), width) * 0.02 for f in self.parts)
        self.grid = nn.Linear(2 * len(signature.axes), width)
        self.blocks = nn.ModuleList(_Block(width, inner) for _ in range(DEPTH))
        self.pooled = nn.Linear(width, inner)
        self.read = nn.ModuleList(nn.Linear(width, words_in(f)) for f in self.parts)
        nn.init.zeros_(self.pooled.weight)
        nn.init.zeros_(self.pooled.bias)
        mark_ends(self.embed, self.read, self.grid)
        for table in self.embed:
            nn.init.normal_(table.weight, std=0.5)  # type: ignore[arg-type]

    def forward(self, x: Tensor, level: Tensor, condition: Condition) -> Tensor:
        return self.both(x, level, condition)[0]

    def both(
        self, x: Tensor, level: Tensor, condition: Condition, known: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(images, logits (B, positions, words) by part)."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            looked = self._looked(x, level, condition)
            h, t = self._met(looked, condition, known)
            told = F.silu(self.pooled(t.mean(1)))
            return self.unet.ascend(h, looked.e + told, looked.seen), self._logits(t)

    def looked(self, x: Tensor, level: Tensor, condition: Condition) -> Looked:
        """What images alone give: the same for whatever words, which `heard` tells from it."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self._looked(x, level, condition)

    def heard(
        self, looked: Looked, condition: Condition, known: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The words' logits alone: a word after another costs the joint sequence, not the U-Net."""
        with torch.autocast(looked.h.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self._logits(self._met(looked, condition, known)[1])

    def _looked(self, x: Tensor, level: Tensor, condition: Condition) -> Looked:
        check_sides(x, self.multiple)
        return Looked(*self.unet.descend(self._asked(x, condition), level, condition))

    def _asked(self, x: Tensor, condition: Condition) -> Tensor:
        """x without the channels of images that are given, which training never asks for: what a walk makes of them is
        nothing that a network has seen.
        """
        parts = []
        for f, part in zip(self.images, torch.split(x, [f.channels for f in self.images], 1), strict=True):
            if f.name in condition.values:
                given = condition.present.get(f.name, torch.ones(len(x), dtype=torch.bool, device=x.device))
                part = part.masked_fill(given.reshape(-1, *[1] * (x.ndim - 1)), 0.0)
            parts.append(part)
        return torch.cat(parts, 1)

    def _met(self, looked: Looked, condition: Condition, known: Mapping[str, Tensor] | None) -> tuple[Tensor, Tensor]:
        """(the smallest grid, the words) after both have attended to each other."""
        h = looked.h
        words, sides = self._words(condition, known or {}, len(h), h.device), h.shape[2:]
        both = torch.cat([h.flatten(2).transpose(1, 2).float() + self.grid(_places(sides, h.device)), words.float()], 1)
        for block in self.blocks:
            both = block(both, looked.e)
        tokens = sides.numel()
        smallest = both[:, :tokens].transpose(1, 2).reshape(h.shape).to(h.dtype)
        return smallest.contiguous(memory_format=channels_last(h.ndim - 2)), both[:, tokens:]

    def _words(self, condition: Condition, known: Mapping[str, Tensor], rows: int, device: torch.device) -> Tensor:
        """(B, all positions, width)."""
        found = []
        for f, table, place in zip(self.parts, self.embed, self.place, strict=True):
            mask = words_in(f)
            words = torch.full((rows, positions(f)), mask, device=device)
            if (value := condition.values.get(f.name)) is not None:
                given = condition.present.get(f.name, torch.ones(rows, dtype=torch.bool, device=device))
                words = torch.where(known.get(f.name, given[:, None]), as_words(f, value), words)
            found.append(table(words) + place)
        return torch.cat(found, 1)

    def _logits(self, t: Tensor) -> dict[str, Tensor]:
        cut = torch.split(t, [positions(f) for f in self.parts], 1)
        return {f.name: read(part).float() for f, read, part in zip(self.parts, self.read, cut, strict=True)}


class _Block(nn.Module):
    """Attention over the joint sequence and a feed-forward layer, scaled and shifted by the embedding; at first the
    identity.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.width = width
        self.heads = next(n for n in range(max(1, width // HEAD), 0, -1) if width % n == 0)
        self.modulate = nn.Linear(inner, 4 * width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.feed[-1].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        a, b, c, d = self.modulate(e)[:, None].chunk(4, 2)
        rows, tokens = x.shape[:2]
        y = F.layer_norm(x, (self.width,)) * (1 + a) + b
        q, k, v = self.qkv(y).reshape(rows, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(rows, tokens, self.width))
        result: Tensor = x + self.feed(F.layer_norm(x, (self.width,)) * (1 + c) + d)
        return result


def _places(sides: Sequence[int], device: torch.device) -> Tensor:
    """(voxels, 2 axes): sine and cosine of where each lies along each axis, from -1 to 1."""
    lines = [2 * (torch.arange(n, device=device) + 0.5) / n - 1 for n in sides]
    places = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).reshape(-1, len(sides))
    return torch.cat([(torch.pi / 2 * places).sin(), places], 1)
