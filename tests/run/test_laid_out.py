"""A run judged as folders are: its test cases, its baseline as competitor, and claims that were made before or after."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from fabrica import io
from fabrica.cli.app import app
from fabrica.recipe.checks import from_plain
from fabrica.run.folder import RunFolder
from fabrica.run.laid_out import lay_out
from fabrica.run.sequence import run_recipe

PLAIN: dict[str, Any] = {
    "cohorts": {
        "all": {"virtual": {"patients": 6, "spacing_mm": 4, "skull": True, "planes": [18, 20], "disease": "none"}}
    },
    "split": {"train": 0.5, "test": 0.5},
    "job": {"name": "translation", "from": ["T1w"], "x": ["T2w", "CT"]},
    "family": {"name": "flow", "network": {"channels": [8, 16], "blocks": 1}},
    "sampler": {"name": "euler", "steps": 2},
    "train": {"steps": 10, "batch": 4, "precision": "fp32"},
    "evaluate": {"draws": 1, "realism": 0, "evaluations": []},
}
CLAIM = {
    "claim": "Draws are nearer than the baseline's.", "endpoint": "mae", "verb": "superiority", "population": "heads",
}  # fmt: skip


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A claim, declared in a run before its report was there."""
    folder = tmp_path_factory.mktemp("laid")
    (folder / "claim.yaml").write_text(yaml.safe_dump(CLAIM))
    run, elsewhere = folder / "run", folder / "elsewhere"
    run_recipe(from_plain(PLAIN), elsewhere, say=lambda _: None)
    run.mkdir()  # as it was before anything was drawn
    shutil.copy(elsewhere / "recipe.yaml", run)
    told = _evaluated(run, folder / "none", "--claim", str(folder / "claim.yaml"))
    assert "There is nothing to judge yet" in told
    assert not (folder / "none").exists()
    shutil.copytree(elsewhere, run, dirs_exist_ok=True)
    return folder


def _evaluated(run: Path, out: Path, *more: str) -> str:
    words = ["evaluate", str(run), "--out", str(out), "--quick", *more]
    told = CliRunner().invoke(app, words, terminal_width=300)
    assert told.exception is None or isinstance(told.exception, SystemExit), told.exception
    return told.output


def test_the_cases_are_those_of_the_report(begun: Path) -> None:
    _evaluated(begun / "run", begun / "out", "--stage", "model")
    report = json.loads((begun / "out" / "report.json").read_text())
    own, rival = (
        {c["case"]: c for c in stage["cases"] if c["metric"] == "mae" and c["by"] == "model"}
        for stage in report["stages"][:2]
    )
    assert all(isinstance(c["value"], float) for c in report["stages"][0]["cases"] if c["metric"] == "psnr")
    run = json.loads((begun / "run" / "report" / "report.json").read_text())
    stage = next(s for s in run["stages"] if s["name"] == "model")
    told = [c["case"] for c in stage["cases"] if (c["metric"], c["by"], c["contrast"]) == ("mae", "model", "T2w")]
    assert sorted(Path(case).parts[0] for case in own) == sorted(told)
    assert own.keys() == rival.keys()
    assert (begun / "out" / "images" / "competitor").is_dir()
    assert len(list((begun / "out" / "images" / "training").rglob("*.nii.gz"))) == 3


def test_truths_of_arbitrary_units_come_on_the_scale_of_draws(begun: Path, tmp_path: Path) -> None:
    run = RunFolder.open(begun / "run")
    laid = lay_out(run, run.recipe.stage("model"), None, tmp_path / "T2w", lambda _: None)
    scale = run.trained(run.recipe.stage("model")).grid_preparation.draw_scale("T2w", "a.u.")
    assert laid.data_range > 0.9 * scale.width
    (real, *_) = sorted(laid.folders.reference.rglob("*.nii.gz"))
    drawn = io.read_image(laid.folders.generated / real.relative_to(laid.folders.reference))
    truth = io.read_image(real)
    assert torch.allclose(drawn.affine, truth.affine, atol=1e-3)
    assert float(truth.data.max()) < 2 * (scale.width + scale.offset)
    laid = lay_out(run, run.recipe.stage("model"), "CT", tmp_path / "CT", lambda _: None)
    assert laid.data_range > 1500
    (real, *_) = sorted(laid.folders.reference.rglob("*.nii.gz"))
    assert float(io.read_image(real).data.min()) <= -1000  # HU stay as they are


def test_a_claim_made_before_counts_and_one_made_afterwards_is_explored(begun: Path, tmp_path: Path) -> None:
    run = begun / "run"
    _evaluated(run, tmp_path / "before", "--claim", str(begun / "claim.yaml"))
    verdict = json.loads((tmp_path / "before" / "report.json").read_text())["verdict"]
    assert "EXPLORATORY" not in json.dumps(verdict)
    (tmp_path / "late.yaml").write_text(yaml.safe_dump({**CLAIM, "endpoint": "rmse"}))
    told = _evaluated(run, tmp_path / "after", "--claim", str(tmp_path / "late.yaml"))
    assert "EXPLORATORY" in told
    checks = json.loads((tmp_path / "after" / "report.json").read_text())["checks"]
    assert [c["status"] for c in checks if c["number"] == 17] != ["passed"]
    again = CliRunner().invoke(app, ["evaluate", "--recompute", str(tmp_path / "after")], terminal_width=300)
    assert "The same bytes" in again.output
    before = (run / "report" / "report.json").read_bytes()
    assert "whose own report stays as it is" in _evaluated(run, run / "report")
    assert (run / "report" / "report.json").read_bytes() == before


def test_what_cannot_be_laid_out(begun: Path, tmp_path: Path) -> None:
    run = RunFolder.open(begun / "run")
    stage = run.recipe.stage("model")
    with pytest.raises(ValueError, match=r"draws no PET. It draws: T2w, CT"):
        lay_out(run, stage, "PET", tmp_path, lambda _: None)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").write_text("x")
    with pytest.raises(ValueError, match="holds something"):
        lay_out(run, stage, None, tmp_path / "full", lambda _: None)
    told = _evaluated(begun / "run", tmp_path / "x", "--generated", str(tmp_path), "--reference", str(tmp_path))
    assert "Of a run its own images are judged" in told


def test_other_kinds_of_runs(begun: Path, tmp_path: Path) -> None:
    """Those that draw no image, that hide what they are given, and one that was stopped before it drew."""
    run = RunFolder.open(begun / "run")
    for job, words in (
        ({"name": "segmentation", "from": ["T1w"], "x": ["lesion"]}, "draws no images"),
        ({"name": "translation", "from": ["T1w", "T2w"], "x": ["T2w"]}, "hides T2w in turn"),
    ):
        plain = {key: value for key, value in PLAIN.items() if key != "sampler"}
        stage = from_plain({**plain, "job": job, "baseline": "none", "family": {"name": "regression"}}).stages[0]
        with pytest.raises(ValueError, match=words):
            lay_out(run, stage, None, tmp_path / "x", lambda _: None)
    shutil.copytree(begun / "run", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "stages" / "model" / "draws")
    stopped = RunFolder.open(tmp_path / "stopped")
    with pytest.raises(ValueError, match="has drawn no test case yet"):
        lay_out(stopped, stopped.recipe.stage("model"), None, tmp_path / "y", lambda _: None)
