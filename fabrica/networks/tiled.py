"""A network over a grid larger than memory: overlapping windows, blended. Every evaluation of a sampler is blended, so
that one draw has no seams, as it would if finished windows were put side by side (Bar-Tal et al. 2023).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..contracts import Condition
from .codec import Decoder, Encoder, by_tiles
from .joint import Joint
from .transformer import Transformer
from .unet import UNet

OVERLAP = 0.25  # of a window's side, shared with each neighbour


@dataclass(frozen=True, slots=True)
class Windows:
    """Sides of the windows in voxels of the image, and the share of a side that neighbours have in common."""

    sides: tuple[int, ...]
    overlap: float = OVERLAP

    @staticmethod
    def of(given: Windows | Sequence[int] | None) -> Windows | None:
        """Sides alone overlap as usual."""
        return given if given is None or isinstance(given, Windows) else Windows(tuple(given))


class Tiled(nn.Module):
    """Called like the network that it holds; grids no larger than `window` pass untouched.

    Planes of the condition are cut like x. Group norms see one window at a time, which is why windows should be as
    large as memory allows and no smaller than the patches of training.
    """

    def __init__(self, net: nn.Module, window: Sequence[int], overlap: float = OVERLAP) -> None:
        super().__init__()
        self.net, self.window, self.overlap = net, tuple(window), overlap

    def forward(self, x: Tensor, level: Tensor, condition: Condition) -> Tensor:
        grid = tuple(x.shape[2:])
        if all(n <= w for n, w in zip(grid, self.window, strict=True)):
            whole: Tensor = self.net(x, level, condition)
            return whole
        sides = [min(n, w) for n, w in zip(grid, self.window, strict=True)]
        weight = _ramp(sides, self.overlap).to(x.device)
        blended: Tensor | None = None
        for place in windows(grid, sides, self.overlap):
            inside = (slice(None), slice(None), *place)
            part = self.net(x[inside], level, cut(condition, grid, place))
            if blended is None:
                blended = part.new_zeros(*part.shape[:2], *grid)
            blended[inside] += weight * part
        assert blended is not None  # a grid has at least one window
        for axis, total in enumerate(_totals(grid, sides, self.overlap)):  # weights are products: so is their sum
            blended.div_(total.to(x.device).reshape(-1, *[1] * (len(grid) - 1 - axis)))
        return blended


class TiledCodec(nn.Module):
    """The half of a codec that it holds, tile by tile: equal to the whole, as a code depends on a finite
    neighbourhood.
    """

    def __init__(self, net: Encoder | Decoder, window: Sequence[int]) -> None:
        super().__init__()
        self.net, self.tile = net, min(window)

    def forward(self, x: Tensor) -> Tensor:
        factor, reach = self.net.factor, self.net.reach
        if isinstance(self.net, Encoder):
            return by_tiles(self.net, x, self.tile, reach, factor, 1 / factor)
        return by_tiles(self.net, x, max(1, self.tile // factor), reach, 1, factor)


def windows(grid: Sequence[int], sides: Sequence[int], overlap: float = OVERLAP) -> list[tuple[slice, ...]]:
    """Windows that cover a grid, evenly spread, sharing at least `overlap` of their side with a neighbour."""
    starts = [_starts(n, side, overlap) for n, side in zip(grid, sides, strict=True)]
    return [
        tuple(slice(a, a + side) for a, side in zip(place, sides, strict=True)) for place in itertools.product(*starts)
    ]


def _starts(n: int, side: int, overlap: float) -> list[int]:
    """Of the windows along one axis."""
    shared = math.floor(overlap * side)
    count = 1 if n <= side else math.ceil((n - shared) / (side - shared))
    return [round(i * (n - side) / max(1, count - 1)) for i in range(count)]


@contextmanager
def tiled(family: nn.Module, window: Windows | Sequence[int] | None) -> Iterator[None]:
    """Inside the block the family's networks work by windows (codecs by tiles, exactly); None changes nothing.

    `window` counts voxels of the image: a prior over codes works by windows of as many codes as stand for them.
    """
    asked = Windows.of(window)
    held = [] if asked is None else list(networks_of(family))
    for found in held:
        assert asked is not None
        sides = [max(1, n // found.factor) for n in asked.sides]
        net = Tiled(found.net, sides, asked.overlap) if found.asked else TiledCodec(found.codec, sides)
        setattr(found.parent, found.name, net)
    try:
        yield
    finally:
        for found in held:
            setattr(found.parent, found.name, found.net)


@dataclass(frozen=True, slots=True)
class Held:
    """A network where a family holds it."""

    parent: nn.Module
    name: str
    net: nn.Module
    factor: int  # voxels a side of what one of its grid's points stands for

    @property
    def asked(self) -> bool:
        """Whether a sampler asks it; else it is half of a codec."""
        return not isinstance(self.net, Encoder | Decoder)

    @property
    def codec(self) -> Encoder | Decoder:
        assert isinstance(self.net, Encoder | Decoder)
        return self.net


def networks_of(module: nn.Module, factor: int = 1) -> Iterator[Held]:
    """Every network of a family."""
    for name, child in module.named_children():
        step = factor * int(getattr(module, "factor", 1)) if name == "prior" else factor
        if isinstance(child, Joint | UNet | Transformer | Encoder | Decoder):
            yield Held(module, name, child, step)
        else:
            yield from networks_of(child, step)


def _ramp(sides: Sequence[int], overlap: float) -> Tensor:
    """Weights that fall to the window's border within the overlap, never to zero."""
    weight = torch.ones(())
    for side in sides:
        weight = weight[..., None] * _rise(side, overlap)
    return weight


def _rise(side: int, overlap: float) -> Tensor:
    """The weights along one axis of a window."""
    reach = max(1, math.floor(overlap * side))
    to_border = torch.arange(1, side + 1).minimum(torch.arange(side, 0, -1))
    return (to_border / reach).clamp(max=1.0)


def _totals(grid: Sequence[int], sides: Sequence[int], overlap: float) -> list[Tensor]:
    """The sum of all windows' weights along each axis."""
    totals = [torch.zeros(n) for n in grid]
    for total, n, side in zip(totals, grid, sides, strict=True):
        for start in _starts(n, side, overlap):
            total[start : start + side] += _rise(side, overlap)
    return totals


def cut(condition: Condition, grid: Sequence[int], place: tuple[slice, ...]) -> Condition:
    """The condition of a part of the grid: planes are cut, numbers stay."""
    inside = (slice(None), slice(None), *place)
    values = {n: v[inside] if tuple(v.shape[2:]) == tuple(grid) else v for n, v in condition.values.items()}
    return Condition(values, condition.present)
