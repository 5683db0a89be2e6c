"""The network that a signature needs: every family asks here, and knows no network by name."""

from __future__ import annotations

from torch import nn

from ..contracts import Signature
from .control import Controlled
from .encoder import Encoder
from .joint import Joint
from .transformer import Transformer
from .unet import UNet, UNetShape


def backbone(signature: Signature, x_channels: int, shape: UNetShape, precision: str) -> nn.Module:
    """Called as net(x, level, condition) -> (B, channels of x, *axes): a U-Net, transformer or state-space network on a
    grid, an encoder where x is numbers, both at once where x has parts on no grid.
    """
    if signature.beside and not shape.control:
        return Joint(signature, x_channels, shape, precision)
    if shape.control:
        if shape.kind != "unet" or not signature.axes:
            raise ValueError("network.control is of a U-Net that draws images. Take control out, or kind.")
        return Controlled(len(signature.axes), x_channels, signature.channels, signature.condition, shape, precision)
    axes = signature.axes or signature.given_axes
    kinds: dict[str, type[nn.Module]] = {"unet": UNet, "transformer": Transformer, "state-space": Transformer}
    kind = kinds[shape.kind] if signature.axes else Encoder
    return kind(len(axes), x_channels, signature.channels, signature.condition, shape, precision)
