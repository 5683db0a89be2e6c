"""Intervals of a run: asked for in the recipe, calibrated on validation patients, judged on others, kept for new scans."""

import csv
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from fabrica.data.cohort import Source
from fabrica.data.virtual import VirtualCohort
from fabrica.data.virtual.export import write_cohort
from fabrica.generate.scans import generate_images
from fabrica.recipe.checks import from_plain
from fabrica.recipe.text import RecipeError
from fabrica.run.sequence import run_recipe
from fabrica.safeguards.uncertainty import read_intervals


def _recipe(**more: Any) -> dict[str, Any]:
    return {
        "cohorts": {"all": {"virtual": {"patients": 12, "spacing_mm": 4, "planes": [16, 18], "disease": "ms"}}},
        "split": {"train": 0.25, "validate": 0.4, "test": 0.35}, "baseline": "none",
        "job": {"name": "translation", "from": ["T1w"], "x": ["FLAIR"]},
        "family": {"name": "flow", "network": {"channels": [8, 16], "blocks": 1}}, "sampler": {"name": "dpm", "steps": 2},
        "train": {"steps": 20, "batch": 2, "precision": "fp32"},
        "evaluate": {"draws": 3, "evaluations": [], "realism": 0, "coverage": 0.75, **more},
    }  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("coverage") / "run"
    run_recipe(from_plain(_recipe()), run, say=lambda text: None)
    return run


def test_the_report_says_how_often_the_truth_lies_inside(finished: Path) -> None:
    rows = list(csv.DictReader((finished / "report/cases.csv").read_text().splitlines()))
    own = [r for r in rows if r["by"] == "model: intervals of 75%"]
    assert {r["metric"] for r in own} == {"coverage", "mean width", "coverage in lesions"}
    assert all(0 <= float(r["value"]) <= 1 for r in own if r["metric"] == "coverage")
    report = json.loads((finished / "report/report.json").read_text())
    figures = {f["name"]: f for f in report["stages"][0]["figures"]}
    assert "promised 75%" in figures["mean coverage"]["convention"]
    assert figures["coverage of the worst patient"]["value"] <= figures["mean coverage"]["value"]
    assert any(name.startswith("mean coverage, s") for name in figures)  # by sex or by site
    assert "model, intervals of 75%" in (finished / "report/index.html").read_text()


def test_new_scans_come_with_their_intervals(finished: Path, tmp_path: Path) -> None:
    write_cohort(VirtualCohort(1, seed=7, spacing_mm=4, disease="ms"), tmp_path / "in", lambda text: None)
    (known,) = read_intervals(finished / "stages/model").values()
    said: list[str] = []
    files = generate_images(finished, Source(tmp_path / "in"), tmp_path / "out", draws=3, say=said.append)
    names = sorted(p.name for p in files)
    assert names == ["FLAIR-0.nii.gz", "FLAIR-1.nii.gz", "FLAIR-2.nii.gz"]
    folder = files[0].parent
    low, high = (np.asarray(nibabel.load(folder / f"FLAIR-{end}.nii.gz").dataobj) for end in ("low", "high"))
    draws = np.stack([np.asarray(nibabel.load(p).dataobj) for p in files])
    assert low.shape == draws[0].shape
    assert bool((low <= high).all())
    middle = (low + high) / 2
    np.testing.assert_allclose(middle, draws.mean(0), atol=2e-2 * draws.max())
    width = (high - low)[draws.mean(0) > 0.1 * draws.max()]
    assert float(width.min()) > 0
    assert known.draws == 3
    generate_images(finished, Source(tmp_path / "in"), tmp_path / "two", draws=2, say=said.append)
    assert not list((tmp_path / "two").rglob("*low*"))
    assert any("intervals hold for 3 draws" in line for line in said)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"evaluate": {"coverage": 1.5}}, "no share of voxels to hold"),
        ({"split": {"train": 0.5, "test": 0.5}}, "need validation patients"),
    ],
)
def test_promises_that_nobody_can_check_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        from_plain({**_recipe(), **change})


def test_too_few_validation_patients_are_said_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot promise 95%: it takes 19"):
        run_recipe(from_plain(_recipe(coverage=0.95)), tmp_path / "run", say=lambda text: None)
    assert not list((tmp_path / "run").rglob("checkpoint.json"))
