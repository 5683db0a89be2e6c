"""Figures of a dose with intervals: told on validation patients, judged on others, shown with lights."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from fabrica.recipe.checks import from_plain
from fabrica.run.sequence import run_recipe

from ..io.test_planning import plan

PARTS = {"train": (1, 2), "validate": (3, 4, 5), "test": (201, 202)}
CONSTRAINTS = ["SpinalCord D0.1cc <= 45 Gy", "PTV70 D95% >= 60 Gy"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bands")
    (folder / "data").mkdir()
    for numbers in PARTS.values():
        for number in numbers:
            np.savez_compressed(folder / "data" / f"pt_{number}.npz", **plan(number))
    plain = {
        "cohorts": {"all": {"path": str(folder / "data")}},
        "split": {part: [f"pt_{n}" for n in numbers] for part, numbers in PARTS.items()},
        "job": {"name": "dose", "table": 20},
        "family": {"name": "regression", "network": {"channels": [8, 16], "blocks": 1}, "losses": {"histogram": 0.5}},
        "baseline": "none", "train": {"steps": 4, "batch": 4, "precision": "fp32"},
        "evaluate": {"realism": 0, "evaluations": [], "coverage": 0.7, "constraints": CONSTRAINTS},
    }  # fmt: skip
    run_recipe(from_plain(plain), folder / "run", say=lambda _: None)
    return folder / "run" / "report"


def test_the_report_says_how_often_true_figures_lie_inside(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    (stage,) = report["stages"]
    figures = {f["name"]: f for f in stage["figures"] if f["name"].startswith("coverage of")}
    assert {"coverage of D95%", "coverage of mean", "coverage of D0.1cc"} <= set(figures)
    assert figures["coverage of D95%"]["n"] == 2
    assert "promised 70%; calibrated on 3 patients" in figures["coverage of mean"]["convention"]
    with (finished / "cases.csv").open(newline="") as file:
        rows = {(r["case"], r["metric"]): r for r in csv.DictReader(file) if r["contrast"] == "dose"}
    for case in ("pt_201", "pt_202"):
        assert float(rows[case, "PTV70 D95% width"]["value"]) > 0
        assert rows[case, "PTV70 D95% width"]["by"] == "model: intervals of 70%"
        inside = rows[case, "SpinalCord D0.1cc inside"]
        assert inside["value"] in ("0.0", "1.0")
        value, off, width = (float(rows[case, f"SpinalCord D0.1cc{end}"]["value"]) for end in ("", " off", " width"))
        assert value > 0
        assert (off <= width / 2 + 1e-6) == (inside["value"] == "1.0")


def test_constraints_are_shown_with_their_intervals(finished: Path) -> None:
    page = (finished / "index.html").read_text()
    assert page.count('<table class="daily"><tr><th>constraint</th><th>dose</th></tr>') == 2
    assert any(word in page for word in ("kept</td>", "broken</td>", "open</td>"))
    assert "no interval</td>" not in page
