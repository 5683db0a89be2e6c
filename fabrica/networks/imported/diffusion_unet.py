"""The U-Net of Ho et al. 2020 and Dhariwal and Nichol 2021 as MONAI (`DiffusionModelUNet`) and diffusers
(`UNet2DModel`) publish it: the same arithmetic, so that a published state dict predicts the same noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...registry import check_type, unknown
from ..blocks import conv
from .parts import Attention, Doubled, Halved, moment


@dataclass(frozen=True)
class DiffusionShape:
    """What both configurations come to; entries of sequences are levels, from the finest."""

    spatial_dims: int
    in_channels: int
    out_channels: int
    channels: tuple[int, ...]
    blocks: tuple[int, ...]  # residual blocks a level on the way down; one more on the way up
    attention_down: tuple[bool, ...]
    attention_up: tuple[bool, ...]
    heads: tuple[int, ...]  # channels of a head
    groups: int
    eps: float
    time: int  # width of the embedding of a step
    classes: int = 0
    mid_attention: bool = True
    by_blocks: bool = False  # sides are halved and doubled inside residual blocks
    far: bool = False  # strided convolutions are padded on the far side alone
    cosine_first: bool = True
    shift: float = 0.0  # of the frequencies that embed a step
    centred: bool = False  # the network sees 2 x - 1
    attention_out: bool = True
    combined: bool = False  # queries, keys and values by one layer

    @property
    def multiple(self) -> int:
        """Sides that it can be called with are multiples of this."""
        return int(2 ** (len(self.channels) - 1))


class DiffusionUNet(nn.Module):
    """x (B, C, *axes), step (B,), classes (B,) or None -> (B, out, *axes)."""

    def __init__(self, shape: DiffusionShape) -> None:
        super().__init__()
        d, first = shape.spatial_dims, shape.channels[0]
        self.shape = shape
        self.conv_in = conv(d, shape.in_channels, first, 3)
        self.time_1, self.time_2 = nn.Linear(first, shape.time), nn.Linear(shape.time, shape.time)
        self.classes = nn.Embedding(shape.classes, shape.time) if shape.classes else None
        self.down, self.up, widths = nn.ModuleList(), nn.ModuleList(), [first]
        before, last = first, len(shape.channels) - 1
        for level, width in enumerate(shape.channels):
            inputs = [before, *[width] * (shape.blocks[level] - 1)]
            self.down.append(_Level(shape, level, inputs, width, shape.attention_down[level], _down(shape, level)))
            widths += [width] * (shape.blocks[level] + (level < last))
            before = width
        self.mid = _Middle(shape)
        for level in reversed(range(len(shape.channels))):
            width, inputs = shape.channels[level], []
            for _ in range(shape.blocks[level] + 1):
                inputs.append(before + widths.pop())
                before = width
            self.up.append(_Level(shape, level, inputs, width, shape.attention_up[level], _up(shape, level)))
        self.out_norm, self.out_conv = (
            nn.GroupNorm(shape.groups, first, shape.eps),
            conv(d, first, shape.out_channels, 3),
        )

    def forward(self, x: Tensor, step: Tensor, classes: Tensor | None = None) -> Tensor:
        s = self.shape
        e = self.time_2(F.silu(self.time_1(moment(step, s.channels[0], s.cosine_first, s.shift).to(x.dtype))))
        if self.classes is not None:
            if classes is None:
                raise ValueError("These weights are of classes. Name them in the card: classes: {class: [A, B]}")
            e = e + self.classes(classes)
        h = self.conv_in(2 * x - 1 if s.centred else x)
        seen = [h]
        for level in self.down:
            h = level.descend(h, e, seen)  # type: ignore[operator]
        h = self.mid(h, e)
        for level in self.up:
            h = level.ascend(h, e, seen)  # type: ignore[operator]
        result: Tensor = self.out_conv(F.silu(self.out_norm(h)))
        return result


class _Level(nn.Module):
    """Residual blocks of one grid, each with attention where the level has it, and what leads to the next grid."""

    def __init__(
        self, shape: DiffusionShape, level: int, inputs: Sequence[int], width: int, attention: bool,
        sampler: nn.Module | None
    ) -> None:  # fmt: skip
        super().__init__()
        self.resnets = nn.ModuleList(_Residual(shape, before, width) for before in inputs)
        self.attentions = nn.ModuleList(_attention(shape, width, level) for _ in inputs if attention)
        self.sampler = sampler

    def _block(self, number: int, h: Tensor, e: Tensor) -> Tensor:
        h = self.resnets[number](h, e)
        return self.attentions[number](h) if len(self.attentions) else h

    def _sampled(self, h: Tensor, e: Tensor) -> Tensor:
        assert self.sampler is not None
        result: Tensor = self.sampler(h, e) if isinstance(self.sampler, _Residual) else self.sampler(h)
        return result

    def descend(self, h: Tensor, e: Tensor, seen: list[Tensor]) -> Tensor:
        for number in range(len(self.resnets)):
            h = self._block(number, h, e)
            seen.append(h)
        if self.sampler is not None:
            h = self._sampled(h, e)
            seen.append(h)
        return h

    def ascend(self, h: Tensor, e: Tensor, seen: list[Tensor]) -> Tensor:
        for number in range(len(self.resnets)):
            h = self._block(number, torch.cat([h, seen.pop()], 1), e)
        return h if self.sampler is None else self._sampled(h, e)


class _Middle(nn.Module):
    def __init__(self, shape: DiffusionShape) -> None:
        super().__init__()
        width = shape.channels[-1]
        self.resnet_1, self.resnet_2 = _Residual(shape, width, width), _Residual(shape, width, width)
        self.attention = _attention(shape, width, -1) if shape.mid_attention else nn.Identity()

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        result: Tensor = self.resnet_2(self.attention(self.resnet_1(h, e)), e)
        return result


class _Residual(nn.Module):
    """Two convolutions with the step between them; `sides`: 2 doubles them, -2 halves them, before the first one."""

    def __init__(self, shape: DiffusionShape, inputs: int, outputs: int, sides: int = 1) -> None:
        super().__init__()
        d, self.sides = shape.spatial_dims, sides
        self.norm1, self.conv1 = nn.GroupNorm(shape.groups, inputs, shape.eps), conv(d, inputs, outputs, 3)
        self.time = nn.Linear(shape.time, outputs)
        self.norm2, self.conv2 = nn.GroupNorm(shape.groups, outputs, shape.eps), conv(d, outputs, outputs, 3)
        self.skip = conv(d, inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = F.silu(self.norm1(x))
        if self.sides != 1:
            x, h = self._moved(x), self._moved(h)
        t = self.time(F.silu(e)).reshape(x.shape[0], -1, *[1] * (x.ndim - 2))
        h = self.conv2(F.silu(self.norm2(self.conv1(h) + t)))
        result: Tensor = self.skip(x) + h
        return result

    def _moved(self, x: Tensor) -> Tensor:
        if self.sides > 0:
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return F.avg_pool2d(x, 2) if x.ndim == 4 else F.avg_pool3d(x, 2)


def _attention(shape: DiffusionShape, width: int, level: int) -> Attention:
    return Attention(
        width, shape.heads[level], shape.groups, shape.eps, out=shape.attention_out, combined=shape.combined
    )


def _down(shape: DiffusionShape, level: int) -> nn.Module | None:
    if level == len(shape.channels) - 1:
        return None
    width = shape.channels[level]
    return _Residual(shape, width, width, -2) if shape.by_blocks else Halved(shape.spatial_dims, width, shape.far)


def _up(shape: DiffusionShape, level: int) -> nn.Module | None:
    if not level:
        return None
    width = shape.channels[level]
    return _Residual(shape, width, width, 2) if shape.by_blocks else Doubled(shape.spatial_dims, width)


# What published keys are called here, in the order in which rules are tried: facts of the formats, kept as data.
_SHARED: Sequence[tuple[str, str]] = (
    (r"^(down|up)_blocks\.", r"\1."),
    (r"\.time_emb_proj\.", ".time."),
    (r"^class_embedding\.", "classes."),
)
MONAI_KEYS: Sequence[tuple[str, str]] = (
    *_SHARED,
    (r"^time_embed\.0\.", "time_1."), (r"^time_embed\.2\.", "time_2."),
    (r"^middle_block\.", "mid."),
    (r"\.attn\.(to_q|to_k|to_v|qkv|out_proj)\.", r".\1."), (r"\.proj_attn\.", ".out_proj."),
    (r"\.skip_connection\.conv\.", ".skip."), (r"\.(conv1|conv2)\.conv\.", r".\1."), (r"^conv_in\.conv\.", "conv_in."),
    (r"\.downsampler\.op\.conv\.", ".sampler.conv."), (r"\.upsampler\.(postconv|conv)\.conv\.", ".sampler.postconv."),
    (r"\.(down|up)sampler\.", ".sampler."),
    (r"^out\.0\.", "out_norm."), (r"^out\.2\.conv\.", "out_conv."),
)  # fmt: skip
DIFFUSERS_KEYS: Sequence[tuple[str, str]] = (
    *_SHARED,
    (r"^time_embedding\.linear_([12])\.", r"time_\1."),
    (r"^mid_block\.resnets\.0\.", "mid.resnet_1."), (r"^mid_block\.resnets\.1\.", "mid.resnet_2."),
    (r"^mid_block\.attentions\.0\.", "mid.attention."),
    (r"\.group_norm\.", ".norm."), (r"\.to_out\.0\.", ".out_proj."), (r"\.query\.", ".to_q."), (r"\.key\.", ".to_k."),
    (r"\.value\.", ".to_v."), (r"\.proj_attn\.", ".out_proj."),
    (r"\.conv_shortcut\.", ".skip."),
    (r"\.downsamplers\.0\.conv\.", ".sampler.conv."), (r"\.upsamplers\.0\.conv\.", ".sampler.postconv."),
    (r"^conv_norm_out\.", "out_norm."), (r"^conv_out\.", "out_conv."),
)  # fmt: skip

_MONAI: Mapping[str, Any] = {
    "spatial_dims": None, "in_channels": None, "out_channels": None, "num_res_blocks": [2, 2, 2, 2],
    "channels": [32, 64, 64, 64], "attention_levels": [False, False, True, True], "norm_num_groups": 32,
    "norm_eps": 1e-6,
    "resblock_updown": False, "num_head_channels": 8, "with_conditioning": False, "transformer_num_layers": 1,
    "cross_attention_dim": None, "num_class_embeds": None, "upcast_attention": False, "dropout_cattn": 0.0,
    "include_fc": True, "use_combined_linear": False, "use_flash_attention": False,
}  # fmt: skip


def monai_diffusion_shape(config: Mapping[str, Any]) -> DiffusionShape:
    """From the configuration of MONAI's network; raises ValueError for a key that is not known, or not read."""
    target = str(config.get("_target_", "DiffusionModelUNet")).rsplit(".", 1)[-1]
    if target != "DiffusionModelUNet":
        raise ValueError(f"The configuration is of a {target}, expected a DiffusionModelUNet.")
    given = {("channels" if k == "num_channels" else k): v for k, v in config.items() if k != "_target_"}
    plain = _whole(given, _MONAI, "DiffusionModelUNet", ("spatial_dims", "in_channels", "out_channels"))
    if plain["with_conditioning"] or plain["cross_attention_dim"] is not None:
        raise ValueError("with_conditioning needs a context that its own encoder makes, and is not read.")
    channels = _numbers("channels", plain["channels"])
    levels = len(channels)
    blocks = _each("num_res_blocks", plain["num_res_blocks"], levels)
    attention = tuple(bool(a) for a in plain["attention_levels"])
    if not levels == len(blocks) == len(attention):
        raise ValueError(f"channels has {levels} levels; attention_levels and num_res_blocks need as many.")
    return _checked(
        DiffusionShape(
            plain["spatial_dims"], plain["in_channels"], plain["out_channels"], channels, blocks, attention, attention,
            _each("num_head_channels", plain["num_head_channels"], levels), plain["norm_num_groups"],
            float(plain["norm_eps"]), 4 * channels[0], plain["num_class_embeds"] or 0,
            by_blocks=bool(plain["resblock_updown"]), attention_out=bool(plain["include_fc"]),
            combined=bool(plain["use_combined_linear"]),
        )
    )  # fmt: skip


_DIFFUSERS: Mapping[str, Any] = {
    "in_channels": 3, "out_channels": 3, "center_input_sample": False, "time_embedding_type": "positional",
    "time_embedding_dim": None, "freq_shift": 0, "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D", "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D",
    "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896], "layers_per_block": 2, "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv", "upsample_type": "conv", "dropout": 0.0, "act_fn": "silu", "attention_head_dim": 8,
    "norm_num_groups": 32, "attn_norm_num_groups": None, "norm_eps": 1e-5, "resnet_time_scale_shift": "default",
    "add_attention": True, "class_embed_type": None, "num_class_embeds": None, "num_train_timesteps": None,
}  # fmt: skip
_READ: Mapping[str, tuple[Any, ...]] = {
    "time_embedding_type": ("positional",), "mid_block_type": ("UNetMidBlock2D",), "mid_block_scale_factor": (1,),
    "downsample_type": ("conv",), "upsample_type": ("conv",), "act_fn": ("silu", "swish"),
    "attn_norm_num_groups": (None,),
    "resnet_time_scale_shift": ("default",), "class_embed_type": (None,), "downsample_padding": (0, 1),
}  # fmt: skip
_IDLE = ("_class_name", "_diffusers_version", "_name_or_path", "sample_size")


def diffusers_shape(config: Mapping[str, Any]) -> DiffusionShape:
    """From diffusers' `config.json`; raises ValueError for a key that is not known, or not read."""
    if (name := config.get("_class_name", "UNet2DModel")) != "UNet2DModel":
        raise ValueError(f"The configuration is of a {name}, expected a UNet2DModel.")
    plain = _whole({k: v for k, v in config.items() if k not in _IDLE}, _DIFFUSERS, "UNet2DModel", ())
    for key, wanted in _READ.items():
        if plain[key] not in wanted:
            raise ValueError(f"{key} is {plain[key]!r}, which is not read. {' and '.join(map(repr, wanted))} are.")
    down, up = plain["down_block_types"], plain["up_block_types"]
    if other := sorted({*down, *up} - {"DownBlock2D", "AttnDownBlock2D", "UpBlock2D", "AttnUpBlock2D"}):
        raise ValueError(f"Blocks of the kind {other[0]} are not read. DownBlock2D, AttnDownBlock2D and theirs up are.")
    channels = _numbers("block_out_channels", plain["block_out_channels"])
    levels = len(channels)
    if not levels == len(down) == len(up):
        raise ValueError(f"block_out_channels has {levels} levels; down_block_types and up_block_types need as many.")
    head = plain["attention_head_dim"]
    return _checked(
        DiffusionShape(
            2, plain["in_channels"], plain["out_channels"], channels, (plain["layers_per_block"],) * levels,
            tuple(kind.startswith("Attn") for kind in down), tuple(kind.startswith("Attn") for kind in reversed(up)),
            channels if head is None else (head,) * levels, plain["norm_num_groups"], float(plain["norm_eps"]),
            plain["time_embedding_dim"] or 4 * channels[0], plain["num_class_embeds"] or 0,
            bool(plain["add_attention"]),
            far=plain["downsample_padding"] == 0, cosine_first=bool(plain["flip_sin_to_cos"]),
            shift=float(plain["freq_shift"]), centred=bool(plain["center_input_sample"]),
        )
    )  # fmt: skip


def _whole(given: Mapping[str, Any], known: Mapping[str, Any], what: str, needed: Sequence[str]) -> dict[str, Any]:
    for key in given:
        if key not in known:
            raise unknown(f"key of a {what}", str(key), list(known))
    if lacking := [key for key in needed if key not in given]:
        raise ValueError(f"The configuration says no {lacking[0]}. Write: {lacking[0]}: 1")
    return {**known, **given}


def _numbers(name: str, value: Any) -> tuple[int, ...]:
    check_type(name, value, Sequence[int])
    return tuple(value)


def _each(name: str, value: Any, levels: int) -> tuple[int, ...]:
    """One number for all levels, or one each."""
    return (value,) * levels if type(value) is int else _numbers(name, value)


def _checked(shape: DiffusionShape) -> DiffusionShape:
    """Raises ValueError for what cannot be built."""
    for f in fields(DiffusionShape):
        value = getattr(shape, f.name)
        if f.type == "int" and (type(value) is not int or value < (0 if f.name == "classes" else 1)):
            raise ValueError(f"{f.name} is {value!r}, expected a whole number above 0.")
    if shape.spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims is {shape.spatial_dims}, expected 2 or 3.")
    if odd := [c for c in shape.channels if c % shape.groups]:
        raise ValueError(f"channels holds {odd[0]}, expected multiples of norm_num_groups, {shape.groups}.")
    attended = [
        (c, h)
        for c, h, a, b in zip(shape.channels, shape.heads, shape.attention_down, shape.attention_up, strict=True)
        if a or b
    ]
    attended += [(shape.channels[-1], shape.heads[-1])] if shape.mid_attention else []
    if wrong := [(c, h) for c, h in attended if h < 1 or c % h]:
        raise ValueError(f"{wrong[0][0]} channels have no whole heads of {wrong[0][1]}.")
    return shape
