"""One U-Net for 2D and 3D, conditioned on noise level, numbers, classes and images.

Built for speed on CPUs and GPUs alike: channels-last, a patchify stem (pixels folded into channels), at most 8 norm
groups computed in float32, attention only on the smallest grid, bfloat16 through autocast where the machine has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..contracts import Backbone, Condition, Field
from .blocks import (
    Down,
    Stage,
    Up,
    channels_last,
    conv,
    embedding,
    folded,
    mark_ends,
    planes_and_vectors,
    vector_entries,
    with_planes,
)
from .normalisation import group_norm, norm_silu
from .reader import CrossAttention, Reader, worded


@dataclass(frozen=True, slots=True)
class UNetShape:
    """The kind and size of a network as a recipe says it."""

    channels: tuple[int, ...] = (48, 96, 192)  # per level
    blocks: int = 2  # residual blocks per level
    patch: int = 2  # side of the stem's patches; 1 keeps full resolution
    attention: bool = True  # on the smallest grid
    kind: Literal["unet", "transformer", "state-space"] = "unet"  # the last two: width channels[-1], depth blocks
    recompute: bool = False  # keep no activations inside blocks: less memory, more time
    control: tuple[str, ...] = ()  # conditions that a branch beside a trained network is shown, see networks/control


@dataclass(frozen=True, slots=True)
class Seen:
    """What a U-Net met on its way down."""

    raw: Tensor  # noise and given images whole
    skips: tuple[Tensor, ...]


def only_convolutions(shape: UNetShape, what: str) -> None:
    """Raises ValueError where a recipe asks a network for tokens that it has not."""
    if shape.kind != "unet":
        raise ValueError(f"{what} is made of convolutions, not a {shape.kind}. Take kind out of its network.")


def check_sides(x: Tensor, multiple: int) -> None:
    """Raises ValueError where a grid cannot be halved as often as a U-Net halves it."""
    if any(side % multiple for side in x.shape[2:]):
        raise ValueError(
            f"The U-Net got a grid of {tuple(x.shape[2:])}, expected sides that are multiples of {multiple}."
            f" Write: prepare: {{multiple: {multiple}}}"
        )


class UNet(Backbone):
    """x (B, C, *axes), level (B,), condition -> (B, out, *axes), float32.

    Conditions of kind intensity and label are planes beside x, with one plane each that says whether they are known;
    numbers, classes and embeddings join the noise level; the smallest grid attends to texts. Axes must be multiples of
    patch * 2^(levels - 1).
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
        self.planes, self.vectors = planes_and_vectors(condition, reads=True)
        width = list(shape.channels)
        inner = 4 * width[0]
        self.embed = nn.Sequential(nn.Linear(width[0], inner), nn.SiLU(), nn.Linear(inner, inner))
        self.entries = vector_entries(self.vectors, inner)
        inputs = x_channels + sum(f.channels for f in self.planes) + len(self.planes)
        self.stem = (
            conv(dimensions, inputs, width[0], shape.patch, stride=shape.patch)
            if shape.patch > 1
            else conv(dimensions, inputs, width[0], 3)
        )
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self._build(dimensions, width, shape, inner)
        self.reader: Reader | None = None
        if texts := worded(condition):
            self.reader, self.told = Reader(texts, width[-1]), nn.Linear(width[-1], inner)
            self.meet = nn.ModuleList(CrossAttention(width[-1]) for _ in range(shape.blocks + 1))
        self.last = group_norm(width[0])
        self.tune = nn.Linear(inner, 2 * width[0])
        seen = inputs * shape.patch**dimensions
        self.gain = nn.Linear(inner, seen)
        beside = 2 * width[0] + seen
        self.head = conv(dimensions, beside, out_channels * shape.patch**dimensions, 1 if shape.patch > 1 else 3)
        self.patch, self.out_channels, self.width = shape.patch, out_channels, width[0]
        self.recompute, self.blocks = shape.recompute, shape.blocks
        mark_ends(self.stem, self.gain, self.tune, self.head)
        nn.init.zeros_(self.tune.weight)
        nn.init.zeros_(self.tune.bias)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.gain.weight)
        nn.init.zeros_(self.gain.bias)
        if self.head.bias is not None:
            nn.init.zeros_(self.head.bias)
        self.to(memory_format=channels_last(dimensions))  # type: ignore[call-overload]

    def _build(self, dimensions: int, width: Sequence[int], shape: UNetShape, inner: int) -> None:
        channels, skips = width[0], [width[0]]
        for level, size in enumerate(width):
            deepest = level == len(width) - 1
            for _ in range(shape.blocks):
                self.down.append(Stage(dimensions, channels, size, inner, shape.attention and deepest))
                channels = size
                skips.append(channels)
            if not deepest:
                self.down.append(Down(dimensions, channels))
                skips.append(channels)
        self.middle = Stage(dimensions, channels, channels, inner, shape.attention)
        for level in reversed(range(len(width))):
            for _ in range(shape.blocks + 1):
                self.up.append(Stage(dimensions, channels + skips.pop(), width[level], inner, False))
                channels = width[level]
            if level:
                self.up.append(Up(dimensions, channels))

    def forward(self, x: Tensor, level: Tensor, condition: Condition) -> Tensor:
        """Raises ValueError when a side is no multiple of `multiple`."""
        check_sides(x, self.multiple)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            h, e, seen = self.descend(x, level, condition)
            return self.ascend(h, e, seen)

    def descend(self, x: Tensor, level: Tensor, condition: Condition) -> tuple[Tensor, Tensor, Seen]:
        """(what the smallest grid holds, the embedding of level and conditions, what `ascend` needs of the way)."""
        h = with_planes(x, self.planes, condition, x.shape[2:]).contiguous(memory_format=channels_last(self.dimensions))
        e = embedding(self.embed, self.entries, self.width, level, self.vectors, condition)
        read = None if self.reader is None else self.reader(condition, x.shape[0], x.device)
        e = F.silu(e if read is None else e + self.told(read.whole))
        raw = self._raw(h, e)
        h = self.stem(h)
        skips = [h]
        smallest = len(self.down) - self.blocks  # from here on the grid asks the words
        for number, module in enumerate(self.down):
            h = self._through(module, h, e)
            if read is not None and number >= smallest:
                h = self.meet[number - smallest].on_grid(h, read)  # type: ignore[operator]
            skips.append(h)
        h = self._through(self.middle, h, e)
        if read is not None:
            h = self.meet[-1].on_grid(h, read)  # type: ignore[operator]
        return h, e, Seen(raw, tuple(skips))

    def ascend(self, h: Tensor, e: Tensor, seen: Seen) -> Tensor:
        """(B, out, *axes) from the smallest grid."""
        skips = list(seen.skips)
        for module in self.up:
            h = self._through(module, h if isinstance(module, Up) else torch.cat([h, skips.pop()], 1), e)
        scale, shift = self.tune(e).reshape(e.shape[0], -1, *[1] * self.dimensions).chunk(2, 1)
        ends = [norm_silu(self.last, h, scale, shift), seen.skips[0], seen.raw.to(h.dtype)]
        return self._unfold(self.head(torch.cat(ends, 1)).float())

    def _raw(self, seen: Tensor, e: Tensor) -> Tensor:
        """Noise and given images whole, however narrow the network is; how much of each is to go depends on the
        level.
        """
        scale: Tensor = 1 + self.gain(e)
        return folded(seen, self.patch) * scale.reshape(*scale.shape, *[1] * self.dimensions)

    def _through(self, module: nn.Module, h: Tensor, e: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            again: Tensor = checkpoint(module, h, e, use_reentrant=False, preserve_rng_state=False)  # nothing is random
            return again
        result: Tensor = module(h, e)
        return result

    def _unfold(self, h: Tensor) -> Tensor:
        """Channels back into pixels: (B, out * p^d, *small) -> (B, out, *axes)."""
        if self.patch == 1:
            return h.contiguous()
        p, d = self.patch, self.dimensions
        small = h.shape[2:]
        h = h.reshape(h.shape[0], self.out_channels, *[p] * d, *small)
        order = [0, 1, *[k for i in range(d) for k in (2 + d + i, 2 + i)]]
        return h.permute(order).reshape(h.shape[0], self.out_channels, *[n * p for n in small])
