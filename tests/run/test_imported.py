"""Published weights as a run: the card gives their numbers a meaning, what does not fit is refused, nothing runs."""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from monai.networks.nets import AutoencoderKL as Published
from safetensors.torch import save_file
from typer.testing import CliRunner

from fabrica.cli import app
from fabrica.contracts import Condition
from fabrica.families import ImportedAutoencoder
from fabrica.io import UnreadableError
from fabrica.recipe.checks import from_plain
from fabrica.recipe.text import RecipeError
from fabrica.run.family import trained_family
from fabrica.run.folder import RunFolder
from fabrica.run.imported import Card, import_weights
from fabrica.run.sequence import run_recipe

from ..networks.test_imported import published_net

CONFIG = {
    "spatial_dims": 2, "in_channels": 1, "out_channels": 1, "num_res_blocks": [1, 1], "channels": [8, 8],
    "attention_levels": [False, True], "latent_channels": 3, "norm_num_groups": 8,
}  # fmt: skip
CARD = {
    "contrast": "CT",
    "spacing_mm": [4, 4],
    "intensities": {"unit": "HU", "range": [-1000, 1000], "to": [-1, 1]},
    "licence": "Apache-2.0",
}


@pytest.fixture(scope="module")
def published() -> Published:
    return published_net(CONFIG)


@pytest.fixture
def files(tmp_path: Path, published: Published) -> Path:
    torch.save(published.state_dict(), tmp_path / "kl.pt")
    save_file(published.state_dict(), tmp_path / "kl.safetensors")
    (tmp_path / "kl.json").write_text(json.dumps(CONFIG))
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(CARD))
    return tmp_path


def _taken(folder: Path, file: str = "kl.pt", said: list[str] | None = None) -> RunFolder:
    lines = [] if said is None else said
    return import_weights(
        folder / file, "monai-autoencoder-kl", folder / "kl.json", folder / "card.yaml", folder / "RUN", lines.append
    )


def _codec(run: RunFolder) -> ImportedAutoencoder:
    stage = run.recipe.stage("codec")
    family = trained_family(run, stage, run.trained(stage))
    assert isinstance(family, ImportedAutoencoder)
    return family


@pytest.mark.parametrize("file", ["kl.pt", "kl.safetensors"])
def test_the_same_codes_and_images_in_hounsfield_units(files: Path, published: Published, file: str) -> None:
    codec = _codec(_taken(files, file))
    hu = torch.randint(-1000, 1000, (2, 1, 16, 16)).float()
    with torch.no_grad():
        mean, _ = published.encode(hu / 1000)  # as the card says: -1000 to 1000 HU are -1 to 1
        given_back = published.decode(mean) * 1000
        ours = codec.encode((hu + 1024) / 1024)  # as Fabrica's networks see HU
        images = codec.decode(ours, Condition()) * 1024 - 1024
    torch.testing.assert_close(ours, mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(images, given_back, atol=1e-2, rtol=1e-5)


def test_what_is_said_and_kept_of_it(files: Path) -> None:
    said: list[str] = []
    run = _taken(files, said=said)
    assert "Apache-2.0" in said[0]
    assert "not known" in said[1]
    plain = json.loads((run.home(run.recipe.stage("codec")) / "checkpoint.json").read_text())["facts"]
    assert plain["imported"]["licence"] == "Apache-2.0"
    assert len(plain["imported"]["sha256"]) == 64
    facts = run.trained(run.recipe.stage("codec"))
    assert facts.grid_preparation.spacing_mm == (4, 4, 4)
    assert facts.grid_preparation.units == {"CT": "HU"}
    with pytest.raises(ValueError, match="is there already"):
        _taken(files)


def test_the_layout_of_monai_generative_is_read(files: Path, published: Published) -> None:
    """Its keys of attention and of enlargement are other ones."""
    older = {
        k.replace(".attn.to_", ".to_").replace(".attn.out_proj.", ".proj_attn.").replace(".postconv.", ".conv."): v
        for k, v in published.state_dict().items()
    }
    assert older.keys() != published.state_dict().keys()
    torch.save({"state_dict": {f"module.{k}": v for k, v in older.items()}}, files / "older.pt")
    codec, x = _codec(_taken(files, "older.pt")), torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(codec.net.encode(x)[0], published.encode(x)[0], atol=1e-5, rtol=1e-5)
        z = torch.randn(1, 3, 4, 4)
        torch.testing.assert_close(codec.net.decode(z), published.decode(z), atol=1e-5, rtol=1e-5)


class _Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (Path("ran"), "code of others ran"))


def test_a_file_that_holds_code_is_refused_and_does_not_run(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    torch.save({"encoder": _Payload()}, files / "kl.pt")
    with pytest.raises(UnreadableError, match="more than tensors"):
        _taken(files)
    assert not (files / "ran").exists()
    (files / "kl.pt").write_bytes(pickle.dumps(_Payload()))
    with pytest.raises(UnreadableError, match="more than tensors|no file of weights"):
        _taken(files)
    assert not (files / "ran").exists()
    assert not (files / "RUN").exists()


def _without(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v for k, v in state.items() if not k.startswith("quant_conv_mu")}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without, r"missing: quant_conv_mu.weight, quant_conv_mu.bias \(2\)"),
        (lambda s: {**s, "extra.weight": torch.zeros(1)}, r"unknown: extra.weight \(1\)"),
        (lambda s: {**s, "quant_conv_mu.conv.bias": torch.zeros(9)}, r"of another shape: quant_conv_mu.bias \(1\)"),
        (lambda s: {**s, "quant_conv_mu.conv.bias": torch.full((3,), torch.nan)}, "numbers that are none"),
    ],
    ids=["missing", "unknown", "misshapen", "nan"],
)  # fmt: skip
def test_weights_that_do_not_fit_are_listed(files: Path, published: Published, change: Any, words: str) -> None:
    torch.save(change(dict(published.state_dict())), files / "kl.pt")
    with pytest.raises(ValueError, match=words):
        _taken(files)
    assert not (files / "RUN").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "no file of weights"), (b"PK\x03\x04 cut short", "no file of weights"), (None, "no such file")],
)
def test_files_that_are_none(files: Path, content: bytes | None, words: str) -> None:
    if content is None:
        (files / "kl.pt").unlink()
    else:
        (files / "kl.pt").write_bytes(content)
    with pytest.raises(UnreadableError, match=words):
        _taken(files)
    (files / "kl.safetensors").write_bytes(b"no header")
    with pytest.raises(UnreadableError, match="no safetensors file"):
        _taken(files, "kl.safetensors")
    buffer = io.BytesIO()
    torch.save([torch.zeros(2)], buffer)
    (files / "kl.pt").write_bytes(buffer.getvalue())
    with pytest.raises(UnreadableError, match="no state dict"):
        _taken(files)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spacing_mm": None}, "says no spacing_mm"),
        ({"intensities": None}, "says no intensities"),
        ({"licence": ""}, "says no licence"),
        ({"colour": 3}, "Unknown key of the card"),
        ({"size": [16, 16]}, "says size, which belongs to a denoiser"),
        ({"spacing_mm": [0, 1]}, "expected mm along"),
        ({"spacing_mm": "2 mm"}, "spacing_mm is '2 mm'"),
        ({"intensities": {"unit": "SUV", "range": [0, 10], "to": [0, 1]}}, "CT is in HU"),
        ({"intensities": {"percentiles": [0, 99.5], "to": [0, 1]}}, "cannot be had of CT"),
        ({"contrast": "T1w", "intensities": {"percentiles": [1, 99], "to": [0, 1]}}, "cannot be had of T1w"),
        ({"intensities": {"unit": "HU", "range": [-1000, 1000]}}, "intensities.to is None"),
    ],
)  # fmt: skip
def test_cards_that_leave_a_meaning_open(files: Path, change: dict[str, Any], words: str) -> None:
    (files / "card.yaml").write_text(yaml.safe_dump({**CARD, **change}))
    with pytest.raises(ValueError, match=words):
        _taken(files)


def test_arbitrary_units_are_those_of_the_percentile(tmp_path: Path) -> None:
    plain = {**CARD, "contrast": "T1w", "intensities": {"percentiles": [0, 99.5], "to": [-1, 1]}}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(plain))
    assert Card.read(tmp_path / "card.yaml").scale() == (2.0, -1.0)


def test_a_prior_is_trained_in_its_codes(files: Path) -> None:
    """From the verb to a report: the codec of others, a flow of ours, patients whom neither has seen."""
    words = ["import", str(files / "kl.pt"), "--config", str(files / "kl.json"), "--card", str(files / "card.yaml")]
    result = CliRunner().invoke(app, [*words, "--out", str(files / "RUN")])
    assert result.exit_code == 0, result.output
    recipe = {
        "cohorts": {"all": {"virtual": {"patients": 4, "spacing_mm": 4, "planes": [14, 18]}}},
        "split": {"train": 0.5, "test": 0.5}, "baseline": "none", "evaluate": {"draws": 1, "evaluations": [], "realism": 0},
        "stages": {
            "codec": {"job": {"name": "synthesis", "x": ["CT"], "place": False}, "family": {"run": str(files / "RUN"), "stage": "codec"}},
            "prior": {
                "job": {"name": "translation", "from": ["T1w"], "x": ["CT"]}, "prepare": {"spacing_mm": [4, 4]},
                "family": {"name": "flow", "in": {"stage": "codec"}, "network": {"channels": [8, 16], "patch": 1, "blocks": 1}},
                "train": {"steps": 2, "batch": 2, "precision": "fp32"},
            },
        },
    }  # fmt: skip
    flat = {k: v for k, v in recipe.items() if k != "stages"} | recipe["stages"]["prior"]
    flat["family"] = {**flat["family"], "in": {"run": str(files / "RUN"), "stage": "codec"}}
    short = from_plain(flat)
    assert [(s.name, s.codec) for s in short.stages] == [("codec", None), ("model", "codec")]
    assert short.stages[0].trained == from_plain(recipe).stages[0].trained
    with pytest.raises(RecipeError, match="has no stage 'x'"):
        from_plain({**flat, "family": {**flat["family"], "in": {"run": str(files / "RUN"), "stage": "x"}}})
    done = run_recipe(from_plain(recipe), files / "run", say=lambda text: None)
    assert [s.name for s in done.report.stages] == ["codec", "prior"]
    given_back = [f for f in done.report.stages[0].figures if isinstance(f.value, float)]
    assert given_back, "what the codec loses of test patients is measured"


def test_wrong_words_end_in_one_line(files: Path) -> None:
    words = ["import", str(files / "kl.pt"), "--config", str(files / "card.yaml"), "--card", str(files / "card.yaml")]
    result = CliRunner().invoke(app, [*words, "--out", str(files / "RUN")])
    assert result.exit_code != 0
    assert "is not JSON" in result.output
    assert "Traceback" not in result.output
    result = CliRunner().invoke(app, [*words, "--out", str(files / "RUN"), "--format", "onnx"])
    assert "Unknown format 'onnx'" in result.output
