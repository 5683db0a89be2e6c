"""Published denoisers and diffusers' autoencoder give here what they give there; their own forwards are the oracle."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersKL
from diffusers import UNet2DModel
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn

from fabrica.networks.imported import (
    DIFFUSERS_KEYS,
    MONAI_KEYS,
    AutoencoderKL,
    DiffusionUNet,
    diffusers_kl_shape,
    diffusers_shape,
    monai_diffusion_shape,
    renamed,
    renamed_from_diffusers,
)

MONAI: dict[str, Any] = {
    "spatial_dims": 2, "in_channels": 2, "out_channels": 1, "num_res_blocks": [1, 2, 1], "channels": [8, 16, 16],
    "attention_levels": [False, True, True], "norm_num_groups": 4, "num_head_channels": [8, 8, 4],
}  # fmt: skip
MONAI_VARIANTS: list[dict[str, Any]] = [
    {}, {"spatial_dims": 3}, {"resblock_updown": True}, {"resblock_updown": True, "spatial_dims": 3},
    {"num_class_embeds": 3}, {"include_fc": False}, {"use_combined_linear": True},
    {"num_res_blocks": 1, "num_head_channels": 4, "attention_levels": [False, False, False], "norm_eps": 1e-4},
]  # fmt: skip
DIFFUSERS: dict[str, Any] = {
    "in_channels": 1, "out_channels": 1, "block_out_channels": [8, 16, 16], "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"], "attention_head_dim": 8,
}  # fmt: skip
DIFFUSERS_VARIANTS: list[dict[str, Any]] = [
    {}, {"flip_sin_to_cos": False, "freq_shift": 1, "downsample_padding": 0}, {"attention_head_dim": None, "layers_per_block": 2},
    {"num_class_embeds": 4, "center_input_sample": True}, {"add_attention": False, "time_embedding_dim": 24},
    {"up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"]},
]  # fmt: skip
KL: dict[str, Any] = {
    "in_channels": 1, "out_channels": 1, "block_out_channels": [8, 16], "layers_per_block": 2, "norm_num_groups": 4, "latent_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2, "scaling_factor": 0.5,
}  # fmt: skip


def random_weights(net: nn.Module) -> nn.Module:
    """Every tensor random and distinct: an end that starts at zero would hide a wrong map."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.2)
    return net.eval()


def _asked(shape: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, shape.in_channels, *[16] * shape.spatial_dims, generator=generator).double()
    return x, torch.tensor([3, 700]), torch.tensor([1, 2]) if shape.classes else None


def _of_monai(config: dict[str, Any]) -> tuple[nn.Module, Callable[[], Tensor], DiffusionUNet, dict[str, Tensor]]:
    theirs, shape = random_weights(DiffusionModelUNet(**config)), monai_diffusion_shape(config)
    x, step, classes = _asked(shape)
    return (
        theirs,
        lambda: theirs(x.to(next(theirs.parameters())), step, class_labels=classes),
        DiffusionUNet(shape).eval(),
        renamed(theirs.state_dict(), MONAI_KEYS),
    )


def _of_diffusers(config: dict[str, Any]) -> tuple[nn.Module, Callable[[], Tensor], DiffusionUNet, dict[str, Tensor]]:
    theirs, shape = random_weights(UNet2DModel(**config)), diffusers_shape(config)
    x, step, classes = _asked(shape)
    own = renamed(theirs.state_dict(), DIFFUSERS_KEYS)
    return (
        theirs,
        lambda: theirs(x.to(next(theirs.parameters())), step, classes).sample,
        DiffusionUNet(shape).eval(),
        own,
    )


@torch.no_grad()
def _gap(wanted: Tensor, ours: DiffusionUNet) -> float:
    x, step, classes = _asked(ours.shape)
    found = ours(x.to(ours.conv_in.weight), step, classes)
    return float((found - wanted).abs().max() / wanted.abs().max())


CASES = [(_of_monai, {**MONAI, **v}) for v in MONAI_VARIANTS] + [
    (_of_diffusers, {**DIFFUSERS, **v}) for v in DIFFUSERS_VARIANTS
]


@pytest.mark.parametrize(("build", "config"), CASES, ids=lambda one: one.__name__ if callable(one) else "")
@torch.no_grad()
def test_equal_to_the_published_network(build: Callable[..., Any], config: dict[str, Any]) -> None:
    _, wanted, ours, own = build(config)
    ours.load_state_dict(own)
    assert _gap(wanted(), ours) < 1e-5


@pytest.mark.parametrize(
    ("build", "config"), [(_of_monai, MONAI), (_of_diffusers, DIFFUSERS)], ids=["monai", "diffusers"]
)
@torch.no_grad()
def test_two_keys_of_one_shape_that_are_swapped_are_seen(build: Callable[..., Any], config: dict[str, Any]) -> None:
    theirs, wanted, ours, own = build(config)
    theirs.double()
    ours.double()
    own, answer = {name: tensor.double() for name, tensor in own.items()}, wanted()
    ours.load_state_dict(own)
    assert _gap(answer, ours) < 1e-9
    shapes: dict[tuple[int, ...], list[str]] = {}
    for name, tensor in own.items():
        shapes.setdefault(tuple(tensor.shape), []).append(name)
    pairs = [(a, b) for names in shapes.values() for a, b in itertools.pairwise(names)]
    assert len(pairs) > 50
    # softmax forgets what is added to every key; two biases that are added to one another are one
    free = ({"to_k.bias"}, {"conv2.bias", "skip.bias"}, {"conv1.bias", "time.bias"})
    for one, other in pairs:
        ends = {".".join(n.split(".")[-2:]) for n in (one, other)}
        same_block = one.rsplit(".", 2)[0] == other.rsplit(".", 2)[0]
        if any(ends <= part for part in free) and (same_block or ends == {"to_k.bias"}):
            continue
        ours.load_state_dict({**own, one: own[other], other: own[one]})
        assert _gap(answer, ours) > 1e-6, f"{one} and {other} may be swapped"


@pytest.mark.parametrize(
    "variant", [{}, {"mid_block_add_attention": False}, {"use_quant_conv": False, "use_post_quant_conv": False}, {"block_out_channels": [8, 8]}]
)  # fmt: skip
@torch.no_grad()
def test_diffusers_autoencoder_is_the_same(variant: dict[str, Any]) -> None:
    config = {**KL, **variant}
    theirs = random_weights(DiffusersKL(**config))
    shape, factor = diffusers_kl_shape(config)
    ours = AutoencoderKL(shape).eval()
    ours.load_state_dict(renamed_from_diffusers(theirs.state_dict(), shape))
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    told = theirs.encode(x).latent_dist
    mean, log_variance = ours.encode(x)
    assert factor == 0.5
    for a, b in ((told.mean, mean), (told.logvar, log_variance), (theirs.decode(told.mean).sample, ours.decode(mean))):
        assert float((a - b).abs().max() / a.abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("read", "config", "words"),
    [
        (monai_diffusion_shape, {**MONAI, "depth": 3}, "Unknown key of a DiffusionModelUNet 'depth'"),
        (monai_diffusion_shape, {k: v for k, v in MONAI.items() if k != "spatial_dims"}, "says no spatial_dims"),
        (monai_diffusion_shape, {**MONAI, "with_conditioning": True, "cross_attention_dim": 8}, "needs a context"),
        (monai_diffusion_shape, {**MONAI, "channels": [8, 10, 16]}, "multiples of norm_num_groups, 4"),
        (monai_diffusion_shape, {**MONAI, "num_head_channels": 5}, "no whole heads of 5"),
        (monai_diffusion_shape, {**MONAI, "channels": [8, 16]}, "need as many"),
        (monai_diffusion_shape, {**MONAI, "in_channels": "1"}, "in_channels is '1'"),
        (monai_diffusion_shape, {**MONAI, "_target_": "monai.networks.nets.VQVAE"}, "is of a VQVAE"),
        (diffusers_shape, {**DIFFUSERS, "time_embedding_type": "fourier"}, "which is not read. 'positional' are"),
        (diffusers_shape, {**DIFFUSERS, "down_block_types": ["SkipDownBlock2D"] * 3}, "kind SkipDownBlock2D are not read"),
        (diffusers_shape, {**DIFFUSERS, "_class_name": "UNet2DConditionModel"}, "is of a UNet2DConditionModel"),
        (diffusers_kl_shape, {**KL, "shift_factor": 0.1}, "shift_factor is 0.1, which is not read"),
        (diffusers_kl_shape, {**KL, "down_block_types": ["AttnDownEncoderBlock2D"] * 2}, "kind AttnDownEncoderBlock2D"),
        (diffusers_kl_shape, {**KL, "layers": 2}, "Unknown key of an AutoencoderKL of diffusers 'layers'"),
    ],
)  # fmt: skip
def test_configurations_that_fit_nothing(read: Callable[..., Any], config: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read(config)
