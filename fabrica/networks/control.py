"""A control branch (Zhang et al. 2023, ControlNet): a trained U-Net that stays as it is, and a copy of its way down
that is shown masks or images too and adds what it makes of them, at first nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..contracts import Backbone, Condition, Field
from .blocks import Stage, conv, planes_and_vectors
from .unet import Seen, UNet, UNetShape, check_sides

UNUSED = ("up", "last", "tune", "head")  # of the branch, which has no way up


class Controlled(Backbone):
    """x (B, C, *axes), level (B,), condition -> (B, out, *axes); called as the U-Net is.

    Conditions named in `shape.control` reach the branch alone. Raises ValueError for names that are no images or masks
    of the condition.
    """

    def __init__(
        self, dimensions: int, x_channels: int, out_channels: int, condition: Sequence[Field], shape: UNetShape,
        precision: str = "fp32",
    ) -> None:  # fmt: skip
        super().__init__()
        planes, _ = planes_and_vectors(condition, reads=True)
        if lost := [name for name in shape.control if name not in {f.name for f in planes}]:
            known = ", ".join(f.name for f in planes) or "nothing"
            raise ValueError(f"network.control names {lost[0]}, and {known} is given on a grid. Name one of those.")
        plain, own = replace(shape, control=()), tuple(f for f in condition if f.name not in shape.control)
        self.base = UNet(dimensions, x_channels, out_channels, own, plain, precision)
        self.branch = UNet(dimensions, x_channels, out_channels, tuple(condition), plain, precision)
        for name in UNUSED:
            setattr(self.branch, name, nn.Identity())
        self.multiple, self.precision, self.x_channels = self.base.multiple, precision, x_channels
        self.added = nn.ModuleList(conv(dimensions, w, w, 1) for w in [*_widths(self.base), shape.channels[-1]])
        for layer in self.added:
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, level: Tensor, condition: Condition) -> Tensor:
        """Raises ValueError when a side is no multiple of `multiple`."""
        check_sides(x, self.multiple)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            h, e, seen = self.base.descend(x, level, condition)
            g, _, more = self.branch.descend(x, level, condition)
            *sides, last = self.added
            skips = tuple(s + add(m) for s, m, add in zip(seen.skips, more.skips, sides, strict=True))
            return self.base.ascend(h + last(g), e, Seen(seen.raw, skips))

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """A U-Net's weights for the base, which stays, and for the branch as far as both have them: what the branch is
        shown besides counts nothing at first. Raises RuntimeError for another network's.
        """
        self.base.load_state_dict(dict(weights))
        self.base.requires_grad_(False)
        own = self.branch.state_dict()
        shared = {n: t for n, t in weights.items() if n in own and own[n].shape == t.shape}
        stem = torch.zeros_like(own["stem.weight"])
        stem[:, self._places()] = weights["stem.weight"]
        self.branch.load_state_dict({**own, **shared, "stem.weight": stem})

    def _places(self) -> list[int]:
        """Where the base's input channels lie among the branch's."""
        places, start = list(range(self.x_channels)), self.x_channels
        kept = {f.name for f in self.base.planes}
        for f in self.branch.planes:
            if f.name in kept:
                places += range(start, start + f.channels + 1)
            start += f.channels + 1
        return places


def _widths(net: UNet) -> list[int]:
    """Channels of each thing that is kept on the way down."""
    widths = [net.width]
    for module in net.down:
        widths.append(module.conv1.out_channels if isinstance(module, Stage) else widths[-1])
    return widths
