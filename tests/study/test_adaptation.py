"""A finished run taught a new scanner: what its checkpoint holds, what is told, merged, and refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from fabrica.cli import app
from fabrica.data.virtual import VirtualCohort
from fabrica.data.virtual.export import write_cohort
from fabrica.learning import checkpoint
from fabrica.learning.checkpoint import CheckpointError
from fabrica.recipe.checks import from_plain
from fabrica.recipe.text import RecipeError
from fabrica.run.answering import Answering
from fabrica.run.folder import RunFolder
from fabrica.run.sequence import continue_run, run_recipe
from fabrica.study.adaptation import Few, adapt_run, merge_run

PLAIN = {
    "cohorts": {"all": {"virtual": {"patients": 6, "spacing_mm": 4, "planes": [14, 20], "scanners": ["A"]}}},
    "split": {"train": 0.5, "test": 0.5}, "baseline": "none",
    "job": {"name": "translation", "from": ["T1w"], "x": ["FLAIR"]},
    "family": {"name": "regression", "network": {"channels": [16, 32], "blocks": 1}},
    "train": {"steps": 60, "batch": 8, "precision": "fp32"},
    "evaluate": {"draws": 1, "realism": 0, "evaluations": []},
}  # fmt: skip


def quiet(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adaptation")
    run_recipe(from_plain(PLAIN), folder / "run", say=quiet)
    few = VirtualCohort(4, first=500, spacing_mm=4, planes=(14, 20), scanners=("B",))
    write_cohort(few, folder / "few", quiet)
    return folder


@pytest.fixture(scope="module")
def adapted(place: Path) -> Path:
    said = list[str]()
    adapt_run(place / "run", Few(place / "few", {}, rank=2, steps=30), place / "adapted", device="cpu", say=said.append)
    assert any("An adapter of rank 2" in line for line in said)
    return place / "adapted"


def test_the_checkpoint_holds_thin_factors_alone(place: Path, adapted: Path) -> None:
    home, base = adapted / "stages/model", place / "run/stages/model"
    found = checkpoint.load(home)
    assert found is not None
    assert {name.rpartition(".")[2] for name in found[0]} == {"up", "down"}
    own, whole = (next(p.glob("*.safetensors")).stat().st_size for p in (home, base))
    assert own < whole / 4
    weights, facts = checkpoint.weights_in(home)
    assert facts["adapter"]["rank"] == 2
    former, _ = checkpoint.weights_in(base)
    assert weights.keys() == former.keys()
    changed = [name for name, value in weights.items() if not torch.equal(value, former[name])]
    assert changed
    assert all(name.endswith("weight") for name in changed)


def test_gains_and_losses_are_told_of_new_and_former_patients(adapted: Path) -> None:
    told = json.loads((adapted / "adaptation.json").read_text())
    names = [f["name"] for f in told["figures"]]
    assert [n.partition(":")[0] for n in names] == [
        f"{metric} of FLAIR, {who} patients" for who in ("new", "former") for metric in ("psnr", "ssim", "mae")
    ]
    assert [f["n"] for f in told["figures"]] == [2] * 3 + [3] * 3
    page = (adapted / "report/index.html").read_text()
    assert "former patients: after minus before" in page
    again = continue_run(adapted, say=quiet)  # a finished adapter draws as it did
    assert again.report.stages[0].steps == 30


def test_merged_it_needs_no_other_run_and_answers_alike(adapted: Path, tmp_path: Path) -> None:
    merged = merge_run(adapted, tmp_path / "merged", quiet)
    stage = merged.recipe.stage("model")
    assert stage.train.rank is None
    with_other = RunFolder.open(adapted)
    one, other = (Answering(r, r.recipe.stage("model")) for r in (merged, with_other))
    for a, b in zip(one.family.parameters(), other.family.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="has no adapter to merge"):
        merge_run(tmp_path / "merged", tmp_path / "twice", quiet)
    with pytest.raises(ValueError, match="is there already"):
        merge_run(adapted, tmp_path / "merged", quiet)


def test_weights_that_are_gone_or_trained_again_are_missed(place: Path, adapted: Path, tmp_path: Path) -> None:
    shutil.copytree(adapted, tmp_path / "run")
    home = tmp_path / "run/stages/model"
    plain = json.loads((home / "checkpoint.json").read_text())
    plain["facts"]["adapter"]["sha256"] = "0" * 64
    (home / "checkpoint.json").write_text(json.dumps(plain))
    with pytest.raises(CheckpointError, match="gone or were trained again"):
        checkpoint.weights_in(home)


def test_wrong_words_end_in_one_line(place: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    result = run(app, ["adapt", str(place / "run"), "--out", str(tmp_path / "a")])
    assert result.exit_code != 0
    assert "Whose scans are to be learned is not said" in result.output
    result = run(app, ["adapt", str(place / "few"), "--data", str(place / "few"), "--out", str(tmp_path / "a")])
    assert "is not a run" in result.output
    with pytest.raises(RecipeError, match="fabrica adapt RUN"):
        from_plain({**PLAIN, "train": {**PLAIN["train"], "rank": 4}})


@pytest.fixture(scope="module")
def in_codes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codes") / "run"
    family = {"name": "flow", "in": "vae", "network": {"channels": [8, 16], "blocks": 1}}
    run_recipe(
        from_plain({**PLAIN, "family": family, "train": {"steps": 6, "batch": 4, "precision": "fp32"}}),
        folder,
        say=quiet,
    )
    return folder


def test_a_model_in_codes_is_adapted_and_its_codec_stays(in_codes: Path, place: Path, tmp_path: Path) -> None:
    words = [
        "adapt",
        str(in_codes),
        "--data",
        str(place / "few"),
        "--steps",
        "2",
        "--rank",
        "2",
        "--out",
        str(tmp_path / "a"),
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "Report: " in result.output
    found = checkpoint.load(tmp_path / "a/stages/model")
    assert found is not None
    assert not any(name.startswith("codec.") for name in found[0])
    said = list[str]()
    merge_run(tmp_path / "a", tmp_path / "m", said.append)
    assert "its codec stays in codec's run" in said[0]


def test_what_cannot_be_adapted_is_said(in_codes: Path, place: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    words = ["adapt", str(in_codes), "--data", str(place / "few"), "--out", str(tmp_path / "a")]
    result = run(app, [*words, "--stage", "nothing"])
    assert "There is no stage 'nothing'" in result.output
    shutil.copytree(in_codes, tmp_path / "begun")
    file = tmp_path / "begun/stages/model/checkpoint.json"
    plain = json.loads(file.read_text())
    plain["facts"]["total"] = 99
    file.write_text(json.dumps(plain))
    result = run(app, ["adapt", str(tmp_path / "begun"), *words[2:]])
    assert "is not trained to its end" in result.output
    plain["facts"]["total"], plain["facts"]["privacy"] = plain["facts"]["step"], {"epsilon": 1}
    file.write_text(json.dumps(plain))
    result = run(app, ["adapt", str(tmp_path / "begun"), *words[2:]])
    assert "with a promise of privacy" in result.output
    result = run(app, ["export", str(in_codes), "--out", str(tmp_path / "o")])
    assert "draws in the codes of codec" in result.output
    result = run(app, ["adapt", str(place / "adapted-not"), "--merge", "--out", str(tmp_path / "m")])
    assert "is not a run" in result.output


def test_forgetting_is_not_told_where_nobody_is_left(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "run", tmp_path / "run")
    recipe = yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())
    recipe["cohorts"] = {"all": {"path": str(tmp_path / "gone")}}
    (tmp_path / "run/recipe.yaml").write_text(yaml.safe_dump(recipe))
    said = list[str]()
    few = Few(place / "few", {}, rank=1, steps=1)
    adapt_run(tmp_path / "run", few, tmp_path / "out", device="cpu", say=said.append)
    assert any("What is forgotten of former patients is not told" in line for line in said)
    synthesis = {
        **PLAIN,
        "job": {"name": "synthesis", "x": ["FLAIR"]},
        "family": {"name": "flow", "network": {"channels": [8], "blocks": 1}},
    }
    run_recipe(
        from_plain({**synthesis, "train": {"steps": 2, "batch": 4, "precision": "fp32"}}), tmp_path / "s", say=quiet
    )
    adapt_run(tmp_path / "s", few, tmp_path / "s2", device="cpu", say=said.append)
    assert any("its answers are no images of patients" in line for line in said)
