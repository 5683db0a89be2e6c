"""The autoencoder of Rombach et al. 2022 as MONAI publishes it (`AutoencoderKL`, 1.4 and later, and the layout of
MONAI Generative): the same arithmetic, so that a published state dict gives the same images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ...registry import check_type, unknown
from ..blocks import conv
from .parts import Attention, Convolution, Doubled, Halved

TARGET = "AutoencoderKL"
WITHOUT_EFFECT = ("use_checkpoint", "use_flash_attention", "_target_")  # on what a network answers
LOG_VARIANCES = (-30.0, 20.0)

# What a published key is called here, in the order in which it is looked for: facts of the format, kept as data.
KEYS: Sequence[tuple[str, str]] = (
    (r"^(en|de)coder\.blocks\.", r"\1coder."),
    (r"\.attn\.(to_q|to_k|to_v|qkv|out_proj)\.", r".\1."),
    (r"\.proj_attn\.", ".out_proj."),  # MONAI Generative
    (r"\.nin_shortcut\.conv\.", ".skip."),
    (r"\.(conv1|conv2|postconv)\.conv\.", r".\1."),
    (r"^(en|de)coder\.(\d+)\.conv\.conv\.", r"\1coder.\2.conv."),
    (r"^(quant_conv_mu|quant_conv_log_sigma|post_quant_conv)\.conv\.", r"\1."),
)


@dataclass(frozen=True)
class KLShape:
    """What its configuration says; names are MONAI's. `num_channels` is an older word for `channels`."""

    spatial_dims: int
    in_channels: int = 1
    out_channels: int = 1
    num_res_blocks: Sequence[int] = (2, 2, 2, 2)
    channels: Sequence[int] = (32, 64, 64, 64)
    attention_levels: Sequence[bool] = (False, False, True, True)
    latent_channels: int = 3
    norm_num_groups: int = 32
    norm_eps: float = 1e-6
    with_encoder_nonlocal_attn: bool = True
    with_decoder_nonlocal_attn: bool = True
    include_fc: bool = True
    use_combined_linear: bool = False
    use_convtranspose: bool = False
    activated: bool = False  # before the last convolutions; this and what follows: of diffusers' `AutoencoderKL`
    more_decoded: int = 0  # residual blocks of a level on the way back, beyond those on the way there
    together: bool = False  # means and log-variances by one convolution
    mid_attention: bool = True
    quantised: tuple[bool, bool] = (True, True)  # whether there is a convolution around the codes, there and back

    @property
    def factor(self) -> int:
        """Voxels a side that one code stands for."""
        return int(2 ** (len(self.channels) - 1))


def kl_shape(config: Mapping[str, Any]) -> KLShape:
    """From a configuration file's plain data; raises ValueError for a key that is not known or does not fit."""
    target = str(config.get("_target_", TARGET)).rsplit(".", 1)[-1]
    if target != TARGET:
        raise ValueError(f"The configuration is of a {target}, expected an {TARGET}.")
    plain = {("channels" if k == "num_channels" else k): v for k, v in config.items() if k not in WITHOUT_EFFECT}
    hints = dict(_HINTS)
    for key, value in plain.items():
        if key not in hints:
            raise unknown(f"key of an {TARGET}", str(key), list(hints))
        if key == "num_res_blocks" and type(value) is int:
            continue
        check_type(key, value, hints[key])
    if "spatial_dims" not in plain:
        raise ValueError("The configuration says no spatial_dims. Write: spatial_dims: 2, or 3")
    levels = len(plain.get("channels", KLShape.channels))
    if type(plain.get("num_res_blocks")) is int:
        plain["num_res_blocks"] = [plain["num_res_blocks"]] * levels
    checked: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
    shape = KLShape(**checked)
    if shape.spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims is {shape.spatial_dims}, expected 2 or 3.")
    if shape.use_convtranspose:
        raise ValueError("use_convtranspose is not read: weights of transposed convolutions have no place here.")
    if not levels == len(shape.attention_levels) == len(shape.num_res_blocks):
        raise ValueError(f"channels has {levels} levels; attention_levels and num_res_blocks need as many.")
    if odd := [c for c in shape.channels if c % shape.norm_num_groups]:
        raise ValueError(f"channels holds {odd[0]}, expected multiples of norm_num_groups, {shape.norm_num_groups}.")
    return shape


_HINTS: Mapping[str, Any] = {
    "spatial_dims": int, "in_channels": int, "out_channels": int, "num_res_blocks": Sequence[int],
    "channels": Sequence[int], "attention_levels": Sequence[bool], "latent_channels": int, "norm_num_groups": int,
    "norm_eps": float, "with_encoder_nonlocal_attn": bool, "with_decoder_nonlocal_attn": bool, "include_fc": bool,
    "use_combined_linear": bool, "use_convtranspose": bool,
}  # fmt: skip


class AutoencoderKL(nn.Module):
    """x (B, C, *axes) -> codes (B, latent, *axes / factor) -> x; sides are multiples of `factor`."""

    def __init__(self, shape: KLShape) -> None:
        super().__init__()
        d, z = shape.spatial_dims, shape.latent_channels
        self.encoder = nn.ModuleList(_encoder(shape))
        self.decoder = nn.ModuleList(_decoder(shape))
        self.together = shape.together
        there, back = shape.quantised
        if shape.together:
            self.quant_conv = conv(d, 2 * z, 2 * z, 1) if there else nn.Identity()
        else:
            self.quant_conv_mu, self.quant_conv_log_sigma = conv(d, z, z, 1), conv(d, z, z, 1)
        self.post_quant_conv = conv(d, z, z, 1) if back else nn.Identity()

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(means, log-variances) of codes."""
        for block in self.encoder:
            x = block(x)
        if self.together:
            mean, log_variance = self.quant_conv(x).chunk(2, 1)
            return mean, log_variance.clamp(*LOG_VARIANCES)
        return self.quant_conv_mu(x), self.quant_conv_log_sigma(x).clamp(*LOG_VARIANCES)

    def decode(self, z: Tensor) -> Tensor:
        z = self.post_quant_conv(z)
        for block in self.decoder:
            z = block(z)
        return z


def _encoder(shape: KLShape) -> list[nn.Module]:
    d, before = shape.spatial_dims, shape.channels[0]
    blocks: list[nn.Module] = [Convolution(d, shape.in_channels, before)]
    for level, width in enumerate(shape.channels):
        for _ in range(shape.num_res_blocks[level]):
            blocks.append(_Residual(shape, before, width))
            before = width
            if shape.attention_levels[level]:
                blocks.append(_attention(shape, width))
        if level < len(shape.channels) - 1:
            blocks.append(Halved(d, width))
    if shape.with_encoder_nonlocal_attn:
        blocks += _middle(shape, before)
    return [*blocks, *_last(shape, before, shape.latent_channels * (2 if shape.together else 1))]


def _decoder(shape: KLShape) -> list[nn.Module]:
    d, before = shape.spatial_dims, shape.channels[-1]
    blocks: list[nn.Module] = [Convolution(d, shape.latent_channels, before)]
    if shape.with_decoder_nonlocal_attn:
        blocks += _middle(shape, before)
    for level in reversed(range(len(shape.channels))):
        width = shape.channels[level]
        for _ in range(shape.num_res_blocks[level] + shape.more_decoded):
            blocks.append(_Residual(shape, before, width))
            before = width
            if shape.attention_levels[level]:
                blocks.append(_attention(shape, width))
        if level:
            blocks.append(Doubled(d, width))
    return [*blocks, *_last(shape, before, shape.out_channels)]


def _middle(shape: KLShape, width: int) -> list[nn.Module]:
    between = [_attention(shape, width)] if shape.mid_attention else []
    return [_Residual(shape, width, width), *between, _Residual(shape, width, width)]


def _last(shape: KLShape, before: int, outputs: int) -> list[nn.Module]:
    activation = [nn.SiLU()] if shape.activated else []
    return [_norm(shape, before), *activation, Convolution(shape.spatial_dims, before, outputs)]


def _attention(shape: KLShape, channels: int) -> Attention:
    return Attention(
        channels,
        channels,
        shape.norm_num_groups,
        shape.norm_eps,
        out=shape.include_fc,
        combined=shape.use_combined_linear,
    )


def _norm(shape: KLShape, channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(shape.norm_num_groups, channels, shape.norm_eps)


class _Residual(nn.Module):
    def __init__(self, shape: KLShape, inputs: int, outputs: int) -> None:
        super().__init__()
        d = shape.spatial_dims
        self.norm1, self.conv1 = _norm(shape, inputs), conv(d, inputs, outputs, 3)
        self.norm2, self.conv2 = _norm(shape, outputs), conv(d, outputs, outputs, 3)
        self.skip = conv(d, inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        result: Tensor = self.skip(x) + h
        return result
