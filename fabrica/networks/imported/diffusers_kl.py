"""diffusers' `AutoencoderKL` (Rombach et al. 2022): its configuration and names, for the network of the same kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...registry import check_type, unknown
from .autoencoder_kl import KLShape
from .parts import renamed

# What a published key is called here after the place of its block: facts of the format, kept as data.
KEYS: Sequence[tuple[str, str]] = (
    (r"\.(group_norm)\.", ".norm."),
    (r"\.to_out\.0\.", ".out_proj."),
    (r"\.query\.", ".to_q."), (r"\.key\.", ".to_k."), (r"\.value\.", ".to_v."), (r"\.proj_attn\.", ".out_proj."),
    (r"\.conv_shortcut\.", ".skip."),
)  # fmt: skip
DEFAULTS: Mapping[str, Any] = {
    "in_channels": 3, "out_channels": 3, "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
    "block_out_channels": [64], "layers_per_block": 1, "act_fn": "silu", "latent_channels": 4, "norm_num_groups": 32,
    "scaling_factor": 0.18215, "shift_factor": None, "latents_mean": None, "latents_std": None, "use_quant_conv": True,
    "use_post_quant_conv": True, "mid_block_add_attention": True,
}  # fmt: skip
WITHOUT_EFFECT = ("_class_name", "_diffusers_version", "_name_or_path", "sample_size", "force_upcast")
ONLY: Mapping[str, Any] = {"act_fn": "silu", "shift_factor": None, "latents_mean": None, "latents_std": None}


def diffusers_kl_shape(config: Mapping[str, Any]) -> tuple[KLShape, float]:
    """(shape, scaling factor of codes) from `config.json`; raises ValueError for what is not known or not read."""
    if (name := config.get("_class_name", "AutoencoderKL")) != "AutoencoderKL":
        raise ValueError(f"The configuration is of a {name}, expected an AutoencoderKL.")
    plain = {**DEFAULTS, **{k: v for k, v in config.items() if k not in WITHOUT_EFFECT}}
    if odd := [k for k in plain if k not in DEFAULTS]:
        raise unknown("key of an AutoencoderKL of diffusers", odd[0], list(DEFAULTS))
    for key in ("block_out_channels",):
        check_type(key, plain[key], Sequence[int])
    for key in ("in_channels", "out_channels", "layers_per_block", "latent_channels", "norm_num_groups"):
        check_type(key, plain[key], int)
    for key, wanted in ONLY.items():
        if plain[key] != wanted:
            raise ValueError(f"{key} is {plain[key]!r}, which is not read. Weights with {key}: {wanted} are.")
    kinds = {*plain["down_block_types"], *plain["up_block_types"]}
    if other := sorted(kinds - {"DownEncoderBlock2D", "UpDecoderBlock2D"}):
        raise ValueError(f"Blocks of the kind {other[0]} are not read. Those of DownEncoderBlock2D are.")
    widths = tuple(plain["block_out_channels"])
    if odd_width := [c for c in widths if c % plain["norm_num_groups"]]:
        raise ValueError(f"block_out_channels holds {odd_width[0]}, expected multiples of {plain['norm_num_groups']}.")
    if type(plain["scaling_factor"]) not in (int, float) or not plain["scaling_factor"] > 0:
        raise ValueError(f"scaling_factor is {plain['scaling_factor']!r}, expected a number above 0.")
    shape = KLShape(
        2, plain["in_channels"], plain["out_channels"], (plain["layers_per_block"],) * len(widths), widths,
        (False,) * len(widths), plain["latent_channels"], plain["norm_num_groups"], activated=True, more_decoded=1,
        together=True, mid_attention=bool(plain["mid_block_add_attention"]),
        quantised=(bool(plain["use_quant_conv"]), bool(plain["use_post_quant_conv"])),
    )  # fmt: skip
    return shape, float(plain["scaling_factor"])


def renamed_from_diffusers(state: Mapping[str, Tensor], shape: KLShape) -> dict[str, Tensor]:
    """Published tensors under the names of `AutoencoderKL` here; names that no rule knows stay."""
    places = {**_places("encoder", _encoder(shape)), **_places("decoder", _decoder(shape))}
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        block = next((b for b in places if key.startswith(f"{b}.")), None)
        found[key if block is None else places[block] + key[len(block) :]] = tensor
    return renamed(found, KEYS)


def _places(side: str, blocks: Sequence[str]) -> dict[str, str]:
    """Their block -> ours: they name what a block is, we count; its one convolution lies a name deeper here."""
    deeper = {"conv_in": ".conv", "conv_out": ".conv"}
    found = {}
    for k, name in enumerate(blocks):
        enlarges = ".upsamplers." in name
        inner, ours = (".conv", ".postconv") if enlarges else ("", deeper.get(name, ""))
        if name:  # an activation has no weights
            found[f"{side}.{name}{inner}"] = f"{side}.{k}{ours}"
    return found


def _encoder(shape: KLShape) -> list[str]:
    blocks = ["conv_in"]
    for level in range(len(shape.channels)):
        blocks += [f"down_blocks.{level}.resnets.{k}" for k in range(shape.num_res_blocks[level])]
        if level < len(shape.channels) - 1:
            blocks.append(f"down_blocks.{level}.downsamplers.0")
    return [*blocks, *_middle(shape), "conv_norm_out", "", "conv_out"]


def _decoder(shape: KLShape) -> list[str]:
    blocks, last = ["conv_in", *_middle(shape)], len(shape.channels) - 1
    for step in range(last + 1):
        count = shape.num_res_blocks[last - step] + shape.more_decoded
        blocks += [f"up_blocks.{step}.resnets.{k}" for k in range(count)]
        if step < last:
            blocks.append(f"up_blocks.{step}.upsamplers.0")
    return [*blocks, "conv_norm_out", "", "conv_out"]


def _middle(shape: KLShape) -> list[str]:
    between = ["mid_block.attentions.0"] if shape.mid_attention else []
    return ["mid_block.resnets.0", *between, "mid_block.resnets.1"]
