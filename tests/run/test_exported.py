"""Stages as ONNX: onnxruntime answers as the family does, for any number of rows; the rest is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

from fabrica.cli import app
from fabrica.contracts import Condition, Denoiser
from fabrica.recipe.checks import from_plain
from fabrica.run.exported import export_stage
from fabrica.run.family import trained_family
from fabrica.run.folder import RunFolder
from fabrica.run.sequence import run_recipe

SHARED: dict[str, Any] = {
    "cohorts": {"all": {"virtual": {"patients": 3, "spacing_mm": 4, "planes": [14, 18]}}}, "split": {"train": 0.7, "test": 0.3},
    "baseline": "none", "evaluate": {"draws": 1, "evaluations": [], "realism": 0},
}  # fmt: skip
TRAIN = {"steps": 2, "batch": 2, "precision": "fp32"}
NETWORK = {"channels": [8, 16], "blocks": 1}
SMALL = {"channels": [8], "blocks": 1}  # one example of every part: exporting takes time by operations
JOB = {"name": "translation", "from": ["T1w"], "x": ["FLAIR"], "drop": 0.2, "values": {"covariates": ["age"]}}
HOW: dict[str, dict[str, Any]] = {
    "flow": {"job": JOB, "family": {"name": "flow", "network": NETWORK}},
    "diffusion transformer": {
        "job": JOB, "family": {"name": "diffusion", "network": {"channels": [48], "blocks": 1, "kind": "transformer"}},
    },
    "regression": {"job": {"name": "segmentation", "from": ["T1w"], "x": ["lesion"]}, "family": {"name": "regression", "network": SMALL}},
    "by class and word": {
        "job": {"name": "synthesis", "x": ["FLAIR"], "by": {"sex": ["F", "M"]}, "text": {"findings": 16}, "drop": 0.2},
        "family": {"name": "flow", "network": SMALL},
    },
    "vae": {
        "job": {"name": "synthesis", "x": ["T1w"], "place": False}, "family": {"name": "vae", "network": NETWORK, "rungs": 0, "kl": 0.01},
    },
}  # fmt: skip


def quiet(text: str) -> None:
    pass


@pytest.mark.parametrize("name", list(HOW))
def test_onnxruntime_answers_as_the_family_does(name: str, tmp_path: Path) -> None:
    run_recipe(from_plain({**SHARED, **HOW[name], "train": TRAIN}), tmp_path / "run", say=quiet)
    said = list[str]()
    files = export_stage(tmp_path / "run", tmp_path / "onnx", size=(16, 32), say=said.append)
    assert all(float(line.split("by ")[1].split()[0]) < 1e-4 for line in said)
    plain = json.loads(files[-1].read_text())
    assert plain["axes"] == "yx"
    assert [p.stem for p in files[:-1]] == list(plain["parts"])
    run = RunFolder.open(tmp_path / "run")
    stage = run.recipe.stage("model")
    family = trained_family(run, stage, run.trained(stage)).eval()
    if isinstance(family, Denoiser) and "T1w" in HOW[name]["job"].get("from", ()):
        generator = torch.Generator().manual_seed(5)
        given = {"T1w": torch.rand(4, 1, 16, 32, generator=generator), "age": torch.rand(4), "position": torch.rand(4)}
        has = {n: torch.tensor([1.0, 0.0, 1.0, 0.0]) for n in given}
        x, sigma = torch.rand(4, 1, 16, 32, generator=generator), torch.tensor([0.05, 0.4, 1.0, 8.0])
        inputs = {"x": x, "sigma": sigma, **given, **{f"has_{n}": t for n, t in has.items()}}
        session = onnxruntime.InferenceSession(str(files[0]))
        (found,) = session.run(None, {n: t.numpy() for n, t in inputs.items()})
        with torch.no_grad():
            wanted = family.denoise(x, sigma, Condition(given, {n: t > 0.5 for n, t in has.items()})).numpy()
        assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_what_is_no_part_of_onnx_is_refused(tmp_path: Path) -> None:
    plain = {
        **SHARED,
        "train": TRAIN,
        "job": {"name": "synthesis", "x": ["T1w"]},
        "family": {"name": "gan", "network": NETWORK},
    }
    run_recipe(from_plain(plain), tmp_path / "run", say=quiet)
    with pytest.raises(ValueError, match="is a Gan, which is not exported"):
        export_stage(tmp_path / "run", tmp_path / "onnx", say=quiet)
    result = CliRunner().invoke(app, ["export", str(tmp_path / "run"), "--out", str(tmp_path / "o"), "--size", "a,b"])
    assert result.exit_code != 0
    assert "is no grid" in result.output
    result = CliRunner().invoke(app, ["export", str(tmp_path / "run"), "--out", str(tmp_path / "o"), "--size", "17,16"])
    assert "expected multiples of" in result.output


def test_texts_and_what_draws_no_images_are_refused(tmp_path: Path) -> None:
    text = {"findings": {"of": "lesion", "words": 96, "length": 20}}
    plain = {
        **SHARED, "train": TRAIN, "job": {"name": "synthesis", "x": ["FLAIR", "lesion"], "text": text}, "family": {"name": "flow", "network": NETWORK},
    }  # fmt: skip
    run_recipe(from_plain(plain), tmp_path / "words", say=quiet)
    with pytest.raises(ValueError, match="is a text, which is not exported"):
        export_stage(tmp_path / "words", tmp_path / "o", say=quiet)
    job = {"name": "outcome", "from": ["T1w"], "x": "age", "centre": 50, "width": 20, "unit": "year"}
    value = {**SHARED, "train": TRAIN, "job": job, "family": {"name": "regression", "network": NETWORK}}
    run_recipe(from_plain(value), tmp_path / "value", say=quiet)
    with pytest.raises(ValueError, match="more or less than images"):
        export_stage(tmp_path / "value", tmp_path / "o", say=quiet)
    with pytest.raises(ValueError, match="--size has 3 sides"):
        export_stage(tmp_path / "words", tmp_path / "o", size=(1, 16, 16), say=quiet)
