"""Published denoisers as runs: the same noise is predicted, patients are drawn, a fitting card is needed."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import yaml
from diffusers import AutoencoderKL as DiffusersKL
from diffusers import DDPMScheduler, UNet2DModel
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler as MonaiScheduler
from safetensors.torch import save_file
from typer.testing import CliRunner

from fabrica.cli import app
from fabrica.contracts import Condition
from fabrica.families import ImportedDenoiser
from fabrica.generate.patients import draw_patients
from fabrica.recipe.text import RecipeError
from fabrica.run.family import trained_family
from fabrica.run.folder import RunFolder
from fabrica.run.imported import import_weights

from ..networks.test_imported_diffusion import DIFFUSERS, KL, MONAI, random_weights

CARD: dict[str, Any] = {
    "contrast": "CT", "spacing_mm": [4, 4], "intensities": {"unit": "HU", "range": [-1000, 1000], "to": [-1, 1]}, "licence": "Apache-2.0",
    "size": [16, 16],
}  # fmt: skip


def quiet(text: str) -> None:
    pass


def _imported(folder: Path, kind: str, config: dict[str, Any], net: torch.nn.Module, **card: Any) -> RunFolder:
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / "net.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "card.yaml").write_text(yaml.safe_dump({**CARD, **card}))
    return import_weights(
        folder / "net.safetensors", kind, folder / "config.json", folder / "card.yaml", folder / "RUN", quiet
    )


def _denoiser(run: RunFolder) -> ImportedDenoiser:
    stage = run.recipe.stage("model")
    family = trained_family(run, stage, run.trained(stage))
    assert isinstance(family, ImportedDenoiser)
    return family.eval()


SCHEDULES = [
    ({"schedule": "linear"}, {}, {}),
    ({"schedule": "scaled linear", "start": 0.0015, "end": 0.0195}, {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195}, {}),
    ({"schedule": "cosine", "prediction": "v"}, {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}, {}),
    ({"steps": 200, "prediction": "sample"}, {"num_train_timesteps": 200, "prediction_type": "sample"}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("noise", "theirs", "card"), SCHEDULES, ids=["epsilon", "scaled", "cosine, v", "sample"])
@torch.no_grad()
def test_the_clean_image_is_the_schedulers(
    tmp_path: Path, noise: dict[str, Any], theirs: dict[str, Any], card: dict[str, Any]
) -> None:
    """diffusers' own scheduler says what the network's answer means; we are asked in HU / 1024 + 1."""
    net = random_weights(UNet2DModel(**DIFFUSERS))
    family = _denoiser(_imported(tmp_path, "diffusers-unet-2d", DIFFUSERS, net, noise=noise, **card))
    scheduler = DDPMScheduler(**theirs, clip_sample=False)
    hu = torch.randint(-1000, 1000, (1, 1, 16, 16), generator=torch.Generator().manual_seed(0)).float()
    own, chance = hu / 1000, torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    for step in (3, len(scheduler.alphas_cumprod) // 2, len(scheduler.alphas_cumprod) - 20):
        noisy = scheduler.add_noise(own, chance, torch.tensor([step]))
        wanted = scheduler.step(net(noisy, step).sample, step, noisy).pred_original_sample
        kept = scheduler.alphas_cumprod[step]
        sigma = ((1 - kept) / kept).sqrt() * 1000 / 1024
        x = (hu + 1024) / 1024 + sigma * chance
        found = family.denoise(x, sigma[None], Condition()) * 1024 - 1024
        gap = (found - wanted * 1000).abs().max() / (wanted * 1000).abs().max()
        assert float(gap) < 1e-3  # float32 over noise that is up to a hundred times the image


@torch.no_grad()
def test_monais_denoiser_with_a_given_image_and_in_three_axes(tmp_path: Path) -> None:
    net = random_weights(DiffusionModelUNet(**MONAI))
    family = _denoiser(_imported(tmp_path, "monai-diffusion-unet", MONAI, net, given=["T1w"], contrast="FLAIR",
        intensities={"percentiles": [0, 99.5], "to": [0, 1]}))  # fmt: skip
    assert family.given == ("T1w",)
    scheduler = MonaiScheduler(1000, clip_sample=False)
    generator = torch.Generator().manual_seed(0)
    x, ct, chance = (torch.rand(2, 1, 16, 16, generator=generator) for _ in range(3))
    noisy = scheduler.add_noise(x, chance, torch.tensor([400, 400]))
    told = net(torch.cat([noisy, ct], 1), torch.tensor([400, 400]))
    _, wanted = scheduler.step(told[:1], 400, noisy[:1])
    kept = scheduler.alphas_cumprod[400]
    sigma = ((1 - kept) / kept).sqrt()
    found = family.denoise(x + sigma * chance, sigma.expand(2), Condition({"T1w": ct}))
    torch.testing.assert_close(found[:1], wanted, atol=2e-3, rtol=1e-3)


def test_patients_are_drawn_by_class_in_hounsfield_units(tmp_path: Path) -> None:
    config = {**DIFFUSERS, "num_class_embeds": 2}
    torch.manual_seed(0)
    run = _imported(tmp_path, "diffusers-unet-2d", config, UNet2DModel(**config), classes={"class": ["chest", "head"]})
    draw_patients(run.path, tmp_path / "out", 2, {}, say=quiet)
    files = sorted((tmp_path / "out").glob("*/CT.nii.gz"))
    assert len(files) == 2
    image = nibabel.load(files[0])
    assert image.shape[:2] == (16, 16)
    assert image.header.get_zooms()[:2] == (4.0, 4.0)
    assert np.isfinite(image.get_fdata()).all()


@torch.no_grad()
def test_diffusers_autoencoder_is_a_codec_of_unit_codes(tmp_path: Path) -> None:
    net = random_weights(DiffusersKL(**KL))
    run = _imported(tmp_path, "diffusers-autoencoder-kl", KL, net, size=[])
    stage = run.recipe.stage("codec")
    codec = trained_family(run, stage, run.trained(stage)).eval()
    hu = torch.randint(-1000, 1000, (2, 1, 16, 16)).float()
    mean = net.encode(hu / 1000).latent_dist.mean
    codes = codec.encode((hu + 1024) / 1024)
    torch.testing.assert_close(codes, mean * KL["scaling_factor"], atol=1e-5, rtol=1e-5)
    back = net.decode(mean).sample * 1000
    torch.testing.assert_close(codec.decode(codes, Condition()) * 1024 - 1024, back, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "card", "words"),
    [
        ({}, {"size": []}, "says no size"),
        ({}, {"size": [18, 16]}, "size holds 18, expected multiples of 4"),
        ({}, {"noise": {"schedule": "sigmoid"}}, "Unknown noise.schedule 'sigmoid'"),
        ({}, {"noise": {"beta": 3}}, "Unknown key of noise 'beta'"),
        ({}, {"noise": {"start": 0.5}}, "expected 1000 from 0.0001 to 0.02"),
        ({}, {"classes": {"class": ["a", "b"]}}, "know 0 classes, the job has 2"),
        ({"in_channels": 2}, {}, "take 2 channels and give 1; the job has 1 and 1"),
        ({"num_class_embeds": 3}, {}, "know 3 classes, the job has 0"),
    ],
)
def test_cards_that_do_not_fit(tmp_path: Path, config: dict[str, Any], card: dict[str, Any], words: str) -> None:
    net = UNet2DModel(**{**DIFFUSERS, **config})
    with pytest.raises((ValueError, RecipeError), match=words):
        _imported(tmp_path, "diffusers-unet-2d", {**DIFFUSERS, **config}, net, **card)
    assert not (tmp_path / "RUN").exists()


def test_the_verb_says_what_it_took(tmp_path: Path) -> None:
    torch.manual_seed(0)
    _imported(tmp_path, "diffusers-unet-2d", DIFFUSERS, UNet2DModel(**DIFFUSERS))
    words = ["import", str(tmp_path / "net.safetensors"), "--config", str(tmp_path / "config.json"), "--card"]
    words += [str(tmp_path / "card.yaml"), "--format", "diffusers-unet-2d", "--out", str(tmp_path / "again")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "are the stage model of" in result.output
