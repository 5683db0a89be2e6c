"""Runs side by side: ranks only where patients carry them, over shared patients, with what each cost."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fabrica.cli import app
from fabrica.evaluate.report.comparison import compare_runs


def _run(
    folder: Path, values: dict[str, float | str], family: str = "flow", draw_s: float = 1.0, metric: str = "psnr"
) -> Path:
    place = folder / "report"
    place.mkdir(parents=True)
    stage = {"name": "model", "job": "translation", "family": family, "plan": {}, "steps": 10, "seconds": 60.0}
    (place / "report.json").write_text(json.dumps({"stages": [stage]}))
    with (place / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["stage", "case", "patient", "contrast", "by", "metric", "value", "unit"])
        for patient, value in values.items():
            writer.writerow(["model", patient, patient, "T2w", "model", metric, value, "dB"])
            writer.writerow(["model", patient, patient, "T2w", "copy", metric, 99.0, "dB"])
            writer.writerow(["model", patient, patient, "", "model", "seconds a draw", draw_s, "s"])
    return folder


def _scores(mean: float, patients: int = 24, seed: int = 0) -> dict[str, float | str]:
    rng = np.random.default_rng(seed)
    own = np.random.default_rng(99).normal(size=patients)
    return {f"p{i}": mean + own[i] + 0.2 * rng.normal() for i in range(patients)}


def test_a_clear_order_and_its_sentence(tmp_path: Path) -> None:
    runs = [_run(tmp_path / n, _scores(m, seed=i)) for i, (n, m) in enumerate((("a", 20.0), ("b", 22.0), ("c", 18.0)))]
    page, standings, sentence = compare_runs(runs, "psnr", tmp_path / "out")
    assert [s.contender.name for s in standings] == ["b/model", "a/model", "c/model"]
    assert [s.tied for s in standings] == [True, False, False]
    assert standings[1].p_value is not None
    assert standings[1].p_value < 0.01
    assert "b/model is better than every other here, on 24 patients" in sentence
    assert "b/model has the best mean and the cheapest draws (1 s; trained for 60 s)" in sentence
    assert "b/model" in page.read_text()


def test_what_the_best_costs_beside_the_cheapest(tmp_path: Path) -> None:
    runs = [
        _run(tmp_path / "a", _scores(20.0, 24, 1), draw_s=0.2),
        _run(tmp_path / "b", _scores(22.0, 24, 2), draw_s=9.0),
    ]
    _, standings, sentence = compare_runs(runs, "psnr", tmp_path / "out")
    low, high = (f"{s.mean:.4g}" for s in reversed(standings))
    assert "A draw of b/model takes 9 s (trained for 60 s), one of a/model 0.2 s (60 s)" in sentence
    assert sentence.endswith(f"with a mean of {low} instead of {high}.")


def test_equals_are_not_ranked_and_the_cheaper_is_named(tmp_path: Path) -> None:
    runs = [
        _run(tmp_path / "a", _scores(20.0, seed=1), draw_s=9.0),
        _run(tmp_path / "b", _scores(20.01, seed=2), draw_s=0.1),
    ]
    _, standings, sentence = compare_runs(runs, "psnr", tmp_path / "out")
    assert all(s.tied for s in standings)
    assert "cannot be told apart" in sentence
    assert "b/model costs least" in sentence


def test_lower_is_better_and_few_patients_carry_nothing(tmp_path: Path) -> None:
    runs = [_run(tmp_path / n, _scores(m, 6), metric="mae") for n, m in (("a", 2.0), ("b", 1.0))]
    _, standings, sentence = compare_runs(runs, "mae", tmp_path / "out")
    assert standings[0].contender.name == "b/model"
    assert standings[1].p_value is None
    assert "6 shared patients carry no ranking" in sentence
    assert "b/model has the best mean and the cheapest draws" in sentence


def test_only_shared_patients_count(tmp_path: Path) -> None:
    one, other = _scores(20.0), _scores(20.0, 30)
    other |= {f"q{i}": 90.0 for i in range(5)}
    runs = [_run(tmp_path / "a", one), _run(tmp_path / "b", other)]
    _, standings, _ = compare_runs(runs, "psnr", tmp_path / "out")
    assert abs(standings[0].mean - standings[1].mean) < 0.5
    remarks = json.loads((tmp_path / "out" / "report.json").read_text())["remarks"]
    assert any("11 cases were tested in some runs only" in r for r in remarks)


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    a, b = _run(tmp_path / "a", _scores(1.0)), _run(tmp_path / "b", {"x": 1.0})
    with pytest.raises(ValueError, match="share no test patient"):
        compare_runs([a, b], "psnr", tmp_path / "out")
    with pytest.raises(ValueError, match="two are needed"):
        compare_runs([a], "psnr", tmp_path / "out")
    with pytest.raises(ValueError, match="no better direction"):
        compare_runs([a, b], "brightness", tmp_path / "out")
    done = CliRunner().invoke(app, ["compare", str(a), str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "has no report" in done.output


def test_failures_count_as_worst_and_equal_images_as_best(tmp_path: Path) -> None:
    good, lazy = _scores(20.0), _scores(20.5)
    for i in range(10):
        lazy[f"p{i}"] = "failed: is damaged"
    lazy["p20"] = "infinite: the images are equal"
    page, standings, _ = compare_runs(
        [_run(tmp_path / "a", good), _run(tmp_path / "b", lazy)], "psnr", tmp_path / "out"
    )
    assert standings[0].contender.name == "a/model"
    assert "10 failed cases count as the worst value" in page.read_text()


def test_runs_of_one_name_in_different_folders_and_of_different_jobs(tmp_path: Path) -> None:
    runs = [_run(tmp_path / x / "0", _scores(m, seed=i)) for i, (x, m) in enumerate((("real", 20.0), ("both", 25.0)))]
    _, standings, _ = compare_runs(runs, "psnr", tmp_path / "out")
    assert [s.contender.name for s in standings] == ["both/0/model", "real/0/model"]
    assert standings[0].mean > standings[1].mean + 4
    with pytest.raises(ValueError, match="named twice"):
        compare_runs([runs[0], runs[0]], "psnr", tmp_path / "out")
    table = runs[0] / "report" / "cases.csv"
    table.write_text(table.read_text().replace("T2w", "FLAIR"))
    with pytest.raises(ValueError, match="answer different things"):
        compare_runs(runs, "psnr", tmp_path / "out")


def test_many_equal_runs_have_no_winner(tmp_path: Path) -> None:
    runs = [_run(tmp_path / f"r{i}", _scores(20.0, 30, seed=i)) for i in range(8)]
    _, standings, sentence = compare_runs(runs, "psnr", tmp_path / "out")
    assert all(s.tied for s in standings)
    assert "cannot be told apart" in sentence


def test_standings_stand_openly_and_costs_come_along(tmp_path: Path) -> None:
    from fabrica.evaluate.report.page import render
    from fabrica.evaluate.report.results import Cost, Report, StageResult
    from fabrica.evaluate.result import Row

    for number, shift in enumerate((0.0, -3.0)):
        rows = [Row(f"c{i}", f"p{i}", "FLAIR", "model", "psnr", 30 + shift + 0.1 * i, "dB") for i in range(24)]
        report = Report.start({}, f"r{number}")
        costs = [Cost(1, 0.5, 24, {"psnr": 29.0}), Cost(17, 2.0, 24, {"psnr": 30.0}, own=True)]
        report.stages = [
            StageResult("model", "translation", "flow", {}, 10, 5.0, [], rows, costs=costs if number == 0 else [])
        ]
        render(report, tmp_path / f"r{number}" / "report")
    page, _, _ = compare_runs([tmp_path / "r0", tmp_path / "r1"], "psnr", tmp_path / "out")
    plain = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [s["stage"] for s in plain["standings"]] == ["r0/model", "r1/model"]
    assert plain["standings"][1]["from the best"].startswith("-3")
    assert "[" in plain["standings"][1]["from the best"]
    text = page.read_text()
    assert text.index("Who is ahead") < text.index("Measured")
    assert "Quality against cost: r0/model" in text
    assert "Quality against cost: r1/model" not in text
