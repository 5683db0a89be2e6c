"""A published network gives here what it gives there: MONAI's own forward is the oracle."""

import itertools
from typing import Any

import pytest
import torch
from monai.networks.nets import AutoencoderKL as Published

from fabrica.networks.imported import MONAI_KL_KEYS, AutoencoderKL, kl_shape, renamed

VARIANTS: list[dict[str, Any]] = [
    {}, {"use_combined_linear": True}, {"include_fc": False}, {"attention_levels": [True, False, True]},
    {"with_encoder_nonlocal_attn": False, "with_decoder_nonlocal_attn": False, "num_res_blocks": 2}, {"norm_eps": 1e-3, "latent_channels": 5},
]  # fmt: skip
CONFIG = {
    "spatial_dims": 2, "in_channels": 1, "out_channels": 1, "num_res_blocks": [1, 2, 1], "channels": [8, 16, 16],
    "attention_levels": [False, True, False], "latent_channels": 3, "norm_num_groups": 8,
}  # fmt: skip


def published_net(config: dict[str, Any]) -> Published:
    """Every tensor random and distinct: an end that starts at zero would hide a wrong map."""
    torch.manual_seed(0)
    net = Published(**config).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.2)
    return net


def _gap(theirs: Published, ours: AutoencoderKL, dimensions: int) -> float:
    x = torch.randn(2, 1, *[16] * dimensions, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mean, deviation = theirs.encode(x)
        own_mean, own_log_variance = ours.encode(x)
        pairs = [(mean, own_mean), (deviation, (own_log_variance / 2).exp()), (theirs.decode(mean), ours.decode(mean))]
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_equal_to_monai(variant: dict[str, Any], dimensions: int) -> None:
    config = {**CONFIG, **variant, "spatial_dims": dimensions}
    theirs = published_net(config)
    ours = AutoencoderKL(kl_shape(config)).eval()
    ours.load_state_dict(renamed(theirs.state_dict(), MONAI_KL_KEYS))
    assert _gap(theirs, ours, dimensions) < 1e-5


def test_two_keys_of_one_shape_that_are_swapped_are_seen() -> None:
    theirs = published_net(CONFIG)
    ours, own = AutoencoderKL(kl_shape(CONFIG)).eval(), renamed(theirs.state_dict(), MONAI_KL_KEYS)
    shapes: dict[tuple[int, ...], list[str]] = {}
    for name, tensor in own.items():
        shapes.setdefault(tuple(tensor.shape), []).append(name)
    pairs = [(a, b) for names in shapes.values() for a, b in itertools.pairwise(names)]
    assert len(pairs) > 50
    # softmax forgets what is added to every key, and two biases of one sum are one: these alone are free
    free = ({"to_k.bias"}, {"conv2.bias", "skip.bias"})
    pairs = [p for p in pairs if not any(part <= {n.split(".", 2)[-1] for n in p} for part in free)]
    for one, other in pairs:
        ours.load_state_dict({**own, one: own[other], other: own[one]})
        assert _gap(theirs, ours, 2) > 1e-4, f"{one} and {other} may be swapped"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"depth": 3}, "Unknown key of an AutoencoderKL 'depth'"),
        ({"channels": [8, 16]}, "attention_levels and num_res_blocks need as many"),
        ({"channels": [8, 12, 16]}, "multiples of norm_num_groups, 8"),
        ({"spatial_dims": 1}, "expected 2 or 3"),
        ({"spatial_dims": "2"}, "spatial_dims is '2', expected whole number"),
        ({"use_convtranspose": True}, "use_convtranspose is not read"),
        ({"_target_": "monai.networks.nets.VQVAE"}, "is of a VQVAE"),
    ],
)
def test_configurations_that_fit_nothing(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kl_shape({**CONFIG, **change})
    with pytest.raises(ValueError, match="says no spatial_dims"):
        kl_shape({k: v for k, v in CONFIG.items() if k != "spatial_dims"})


def test_words_of_older_and_of_bundles_configurations() -> None:
    older = {("num_channels" if k == "channels" else k): v for k, v in CONFIG.items()}
    bundle = {**older, "_target_": "monai.apps.generation.AutoencoderKL", "use_checkpoint": True}
    assert kl_shape(bundle) == kl_shape(CONFIG)
    assert kl_shape({**CONFIG, "num_res_blocks": 2}).num_res_blocks == (2, 2, 2)
    assert kl_shape(CONFIG).factor == 4
