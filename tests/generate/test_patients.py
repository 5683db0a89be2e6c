"""Synthetic patients from a trained synthesis: asked classes, a table that recipes read, the same patient whatever the batch."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fabrica import io
from fabrica.cli import app
from fabrica.data import cohort
from fabrica.generate import patients
from fabrica.generate.patients import draw_patients
from fabrica.machine.executors import Dask
from fabrica.recipe.checks import from_plain
from fabrica.recipe.text import RecipeError
from fabrica.run.sequence import run_recipe
from fabrica.study.downstream import Terms, compare_arms

from ..jobs.test_outcome import _pictures
from ..study.test_downstream import RECIPE


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    data = _pictures(tmp_path_factory.mktemp("pictures") / "data", 12, 0)
    folder = tmp_path_factory.mktemp("runs") / "0001"
    recipe = {
        "cohorts": {"all": {"path": str(data)}}, "split": {"train": 0.8, "test": 0.2}, "evaluate": {"draws": 1},
        "job": {"name": "synthesis", "x": ["image"], "by": {"class": ["0", "1"]}, "drop": 0.1},
        "family": {"name": "flow", "network": {"channels": [8, 16], "blocks": 1}},
        "sampler": {"name": "euler", "steps": 2}, "train": {"steps": 4, "batch": 4, "precision": "fp32"},
    }  # fmt: skip
    run_recipe(from_plain(recipe), folder, say=lambda text: None)
    return data, folder


def _quiet(text: str) -> None:
    pass


def test_patients_of_asked_classes_that_a_recipe_reads(trained: tuple[Path, Path], tmp_path: Path) -> None:
    table = draw_patients(trained[1], tmp_path / "new", 6, {}, say=_quiet)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [r["class"] for r in rows] == ["0", "1"] * 3
    found = cohort.find(tmp_path / "new", table)
    assert len(found.patients) == 6
    image = io.read_image(tmp_path / "new" / rows[0]["file"])
    assert image.data.shape[-2:] == (32, 32)
    assert image.data.isfinite().all()
    assert (image.meaning.unit, image.calibrated) == ("grey", False), "as the pictures that it was learned from"
    compared = compare_arms(RECIPE, trained[0], tmp_path / "new", tmp_path / "out", Terms(seeds=1), say=_quiet)
    assert len(compared.arms) == 4


def test_a_patient_is_the_same_in_any_number_and_another_with_another_seed(trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    def drawn(name: str, count: int, seed: int = 0) -> torch.Tensor:
        draw_patients(trained[1], tmp_path / name, count, {"class": "1"}, seed=seed, say=_quiet)
        return io.read_image(tmp_path / name / "synthetic-00001" / "image.nii.gz").data

    first = drawn("a", 2)
    monkeypatch.setattr("fabrica.generate.patients.ROWS", 1)
    torch.testing.assert_close(drawn("b", 3), first, rtol=1e-4, atol=1e-3)
    assert not torch.allclose(drawn("c", 2, 5), first)


def test_slices_of_a_patient(trained: tuple[Path, Path], tmp_path: Path) -> None:
    draw_patients(trained[1], tmp_path / "deep", 2, {"class": "0"}, depth=5, say=_quiet)
    image = io.read_image(tmp_path / "deep" / "synthetic-00000" / "image.nii.gz")
    assert image.data.shape == (1, 5, 32, 32)
    assert not np.allclose(image.data[0, 0], image.data[0, 1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--value", "class=2"], "class 2 is none of 0, 1"),
        (["--value", "age=50"], "knows no age"),
        (["--value", "class"], "gives no value"),
    ],
)
def test_what_cannot_be_asked(trained: tuple[Path, Path], tmp_path: Path, options: list[str], words: str) -> None:
    done = CliRunner().invoke(app, ["patients", str(trained[1]), "--out", str(tmp_path / "x"), *options])
    assert done.exit_code == 2
    assert words in done.output
    assert not (tmp_path / "x").exists()


def test_the_verb_and_a_folder_that_is_no_run(trained: tuple[Path, Path], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["patients", str(trained[1]), "--out", str(tmp_path / "y"), "--count", "2"])
    assert done.exit_code == 0, done.output
    assert "2 of 2 patients drawn." in done.output
    other = tmp_path / "translation"
    other.mkdir()
    text = (
        "cohorts: {all: {path: x}}\njob: {name: translation, from: [T1w], x: [T2w]}\nfamily: flow\ntrain: {steps: 1}\n"
    )
    (other / "recipe.yaml").write_text(text)
    assert (
        "0 stages that synthesise"
        in CliRunner().invoke(app, ["patients", str(other), "--out", str(tmp_path / "z")]).output
    )
    assert "is not a run" in CliRunner().invoke(app, ["patients", str(tmp_path), "--out", str(tmp_path / "z")]).output


def test_a_run_that_synthesises_says_how_its_set_compares(tmp_path: Path) -> None:
    """Realism, adherence and quality against cost stand in the report of the run itself."""
    import json

    data = _pictures(tmp_path / "data", 40, 0)
    recipe = {
        "cohorts": {"all": {"path": str(data)}}, "split": {"train": 0.5, "test": 0.5}, "baseline": "none",
        "evaluate": {"draws": 1, "realism": 16, "evaluations": [1, 3]},
        "job": {"name": "synthesis", "x": ["image"], "by": {"class": ["0", "1"]}},
        "family": {"name": "flow", "network": {"channels": [8, 16], "blocks": 1}},
        "train": {"steps": 4, "batch": 4, "precision": "fp32"},
    }  # fmt: skip
    result = run_recipe(from_plain(recipe), tmp_path / "run", say=_quiet)
    (stage,) = json.loads((tmp_path / "run" / "report" / "report.json").read_text())["stages"]
    assert {d["patients"] for d in stage["realism"]["distances"]} == {8}
    assert all(0 < t["p_value"] <= 1 for t in stage["realism"]["tests"] if t["embedding"] == "spectrum")
    assert {a["measure"].split(":")[0] for a in stage["adherence"]} == {"class"}
    assert [c["evaluations"] for c in stage["costs"]] == [1, 3, 17]
    assert [c["own"] for c in stage["costs"]] == [False, False, True]
    assert all(c["cases"] == 20 and "kernel distance, spectrum" in c["measures"] for c in stage["costs"])
    page = result.page.read_text()
    for words in (
        "Realism of model",
        "Adherence to what was asked",
        "Quality against cost: model",
        "17 (as the recipe draws)",
    ):
        assert words in page
    with pytest.raises(RecipeError, match="no number of pictures"):
        from_plain({**recipe, "evaluate": {"realism": -1}})
    with pytest.raises(RecipeError, match="expected at least 1"):
        from_plain({**recipe, "evaluate": {"evaluations": [0]}})


def test_workers_draw_the_same_and_nothing_twice(trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(patients, "ROWS", 2)  # three groups
    said: list[str] = []
    here = draw_patients(trained[1], tmp_path / "here", 5, {}, say=_quiet)
    there = draw_patients(trained[1], tmp_path / "there", 5, {}, say=said.append, executor=Dask(workers=2))
    assert here.read_bytes() == there.read_bytes()
    files = {p.relative_to(here.parent): p.read_bytes() for p in here.parent.rglob("*.nii.gz")}
    assert files == {p.relative_to(there.parent): p.read_bytes() for p in there.parent.rglob("*.nii.gz")}
    assert len(files) == 5
    assert said[-1] == "5 of 5 patients drawn."
    lost = tmp_path / "here" / "synthetic-00002" / "image.nii.gz"
    before = lost.read_bytes()
    lost.write_bytes(b"cut short")
    said.clear()
    draw_patients(trained[1], tmp_path / "here", 5, {}, say=said.append)
    assert [line for line in said if "kept" in line] == ["3 of 5 patients were drawn before from the same; kept."]
    assert lost.read_bytes() == before
    said.clear()
    draw_patients(trained[1], tmp_path / "here", 5, {"class": "1"}, say=said.append)
    assert not [line for line in said if "kept" in line]
