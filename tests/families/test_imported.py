"""Published networks as families: the laws of every family, and shapes that do not fit the job."""

from typing import Any

import pytest
import torch

from fabrica.contracts import Condition, Field, Problem, Signature
from fabrica.families import ImportedAutoencoder, ImportedDenoiser
from fabrica.networks.unet import UNetShape
from fabrica.rng import Rng
from fabrica.testing import check_family

UNET: dict[str, Any] = {
    "in_channels": 1, "out_channels": 1, "block_out_channels": [8, 8], "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "attention_head_dim": 8,
}  # fmt: skip
KL: dict[str, Any] = {
    "in_channels": 1, "out_channels": 1, "block_out_channels": [8, 8], "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
}  # fmt: skip
CT = (Field("CT", unit="HU"),)
KIND = Field("class", "class", 2, "", ("a", "b"))


def _denoiser(signature: Signature, **options: Any) -> ImportedDenoiser:
    torch.manual_seed(0)
    config = {**UNET, **options.pop("config", {})}
    return ImportedDenoiser(signature, UNetShape(), "fp32", config=config, by="diffusers", scale=[2.0, -1.0], **options)


def _problem(**given: torch.Tensor) -> Problem:
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Problem(("a", "b", "c"), (1, 8, 8), Condition(given), target=x)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_laws_of_a_denoiser(prediction: str) -> None:
    check_family(_denoiser(Signature(CT, "yx"), noise={"prediction": prediction, "steps": 200}), _problem())


def test_laws_of_a_denoiser_with_classes_and_images() -> None:
    check_family(
        _denoiser(Signature(CT, "yx", (KIND,)), config={"num_class_embeds": 2}),
        _problem(**{"class": torch.tensor([0, 1, 0])}),
    )
    given = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    check_family(
        _denoiser(Signature(CT, "yx", (Field("CBCT", unit="HU"),)), config={"in_channels": 2}), _problem(CBCT=given)
    )


def test_laws_of_an_autoencoder_of_diffusers() -> None:
    torch.manual_seed(0)
    family = ImportedAutoencoder(Signature(CT, "yx"), UNetShape(), "fp32", config=KL, by="diffusers")
    loss = family.train().loss(_problem(), "model", _rng(3), 0.0)
    assert {"KL"} < set(loss)
    check_family(family.eval(), _problem())
    with pytest.raises(ValueError, match="multiples of 2"):
        family.encode(torch.zeros(1, 1, 7, 8))
    with pytest.raises(ValueError, match="needs targets"):
        family.loss(Problem(("a",), (1, 8, 8), Condition({})), "model", _rng(), 0.0)
    with pytest.raises(ValueError, match="a side of 7"):
        family.sample(Problem(("a",), (1, 7, 8), Condition({})), _rng())


def _rng(rows: int = 1) -> Rng:
    return Rng(range(rows))


@pytest.mark.parametrize(
    ("signature", "words"),
    [
        (Signature(CT, "zyx"), "need 2 axes, the job has zyx"),
        (Signature((*CT, Field("T1w")), "yx"), "the job has 2 and 2|the job has 2"),
        (Signature(CT, "yx", (KIND,)), "the job has 2|encodes x alone"),
    ],
)
def test_jobs_that_do_not_fit(signature: Signature, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _denoiser(signature)
    with pytest.raises(ValueError, match="axes|channels|encodes x alone"):
        ImportedAutoencoder(signature, UNetShape(), "fp32", config=KL, by="diffusers")
    with pytest.raises(ValueError, match="expected a gain that is not 0"):
        ImportedDenoiser(Signature(CT, "yx"), UNetShape(), "fp32", config=UNET, by="diffusers", scale=[0.0, 1.0])
    with pytest.raises(ValueError, match=r"Unknown noise\.prediction"):
        _denoiser(Signature(CT, "yx"), noise={"prediction": "x"})
