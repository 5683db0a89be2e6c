"""Runs that synthesise, side by side: multiples of the null, what they cost, and what may not be read from them."""

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fabrica.cli import app
from fabrica.evaluate.report.set_comparison import compare_sets


def _run(folder: Path, multiples: dict[str, float], draw_s: float = 1.0, patients: int = 12, few: bool = False) -> Path:
    """As a run writes it: kernel distances that are `multiples` of their null."""
    place = folder / "report"
    place.mkdir(parents=True)
    distances = [
        {"embedding": e, "measure": m, "value": v * null, "null": 0.0, "null_range": [-null, null], "few": few}
        for e, v in multiples.items()
        for m, null in (("kernel distance", 0.02), ("Fréchet distance", 3.0), ("recall", 0.5))
    ]
    stage = {"name": "model", "job": "synthesis", "family": "flow", "plan": {}, "steps": 10, "seconds": 60.0}
    stages = [{**stage, "realism": {"distances": distances} if multiples else None}]
    (place / "report.json").write_text(json.dumps({"stages": stages}))
    with (place / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["stage", "case", "patient", "contrast", "by", "metric", "value", "unit"])
        for p in range(patients):
            writer.writerow(["model", f"c{p}", f"p{p}", "", "model", "seconds a draw", draw_s, "s"])
    return folder


def test_the_nearest_to_real_patients_comes_first_with_its_cost(tmp_path: Path) -> None:
    near = _run(tmp_path / "near", {"radiomics": 2.0, "spectrum": 4.0, "thumbnail": 3.0}, draw_s=2.0)
    far = _run(tmp_path / "far", {"radiomics": 20.0, "spectrum": 10.0, "thumbnail": 3.5}, draw_s=0.1)
    page, found, sentence = compare_sets([far, near], ["far", "near"], "kernel distance", tmp_path / "out")
    assert [(s.name, s.middle) for s in found] == [
        ("near/model", pytest.approx(3.0)),
        ("far/model", pytest.approx(10.0)),
    ]
    assert (
        "near/model lies nearest to real patients, 3 times as far as 19 of 20 halves of them lie apart (60 s of training, 2 s a draw)"
        in sentence
    )
    assert "far/model draws in less than half the time and lies 10 times as far" in sentence
    assert "disagree" not in sentence
    assert "Distances bear no test between generators" in sentence
    text = page.read_text()
    assert "by radiomics" in text
    assert "less is nearer" in text
    assert "paired by patient" not in text
    assert "near/model" in text


def test_embeddings_that_disagree_and_few_cases_are_said(tmp_path: Path) -> None:
    a = _run(tmp_path / "a", {"radiomics": 2.0, "spectrum": 3.0, "thumbnail": 9.0}, few=True)
    b = _run(tmp_path / "b", {"radiomics": 5.0, "spectrum": 6.0, "thumbnail": 1.0}, few=True)
    _, _, sentence = compare_sets([a, b], ["a", "b"], "Fréchet distance", tmp_path / "out")
    assert "By thumbnail another one does: the embeddings disagree" in sentence
    assert "mostly bias" in sentence


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    a = _run(tmp_path / "a", {"radiomics": 2.0})
    none = _run(tmp_path / "none", {})
    with pytest.raises(ValueError, match=r"1 stages of these runs have a kernel distance.*realism: 60"):
        compare_sets([a, none], ["a", "none"], "kernel distance", tmp_path / "out")
    other = _run(tmp_path / "other", {"radiomics": 2.0}, patients=11)
    with pytest.raises(ValueError, match="tested on different patients"):
        compare_sets([a, other], ["a", "other"], "kernel distance", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no report. Finish it"):
        compare_sets([a, tmp_path / "empty"], ["a", "empty"], "kernel distance", tmp_path / "out")


def test_the_verb_takes_sets_and_names_them(tmp_path: Path) -> None:
    for name, multiple in (("a", 2.0), ("b", 5.0)):
        _run(tmp_path / name, {"radiomics": multiple})
    runs = [str(tmp_path / n) for n in ("a", "b")]
    done = CliRunner().invoke(app, ["compare", *runs, "--out", str(tmp_path / "out"), "--metric", "kernel distance"])
    assert done.exit_code == 0, done.output
    assert "a/model (flow): kernel distance 2 times its null" in done.output
    wrong = CliRunner().invoke(app, ["compare", *runs, "--out", str(tmp_path / "x"), "--metric", "recall"])
    assert wrong.exit_code == 2
    assert "of synthesis: kernel distance, Fréchet distance" in wrong.output.replace("\n", " ")
