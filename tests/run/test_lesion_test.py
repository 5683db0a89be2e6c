"""Lesions put into what is measured, end to end: kept where data are many, lost where they are few."""

import json
from pathlib import Path
from typing import Any

import pytest

from fabrica.recipe.checks import from_plain
from fabrica.recipe.text import RecipeError
from fabrica.run.sequence import run_recipe


def _recipe(acceleration: float = 1.5, patients: int = 4, **lesions: Any) -> dict[str, Any]:
    acquisition = {"name": "mr", "coils": 6, "acceleration": acceleration, "calibration": 16, "deviation": 0.01}
    return {
        "cohorts": {"all": {"virtual": {"patients": patients, "spacing_mm": 3, "planes": [26, 27]}}},
        "split": {"train": 0.5, "test": 0.5}, "baseline": "none",
        "job": {"name": "reconstruction", "x": "T1w", "acquisition": acquisition},
        "family": {"name": "unrolled", "iterations": 2, "network": {"channels": [8, 16], "blocks": 1}},
        "train": {"steps": 3, "batch": 2, "precision": "fp32"},
        "evaluate": {"draws": 2, "evaluations": [], "realism": 0, "lesions": lesions},
    }  # fmt: skip


def _figures(run: Path) -> dict[tuple[str, str], dict[str, Any]]:
    report = json.loads((run / "report/report.json").read_text())
    return {(f["by"], f["name"]): f for f in report["stages"][0]["figures"]}


def test_lesions_are_kept_where_data_are_many_and_lost_where_they_are_few(tmp_path: Path) -> None:
    found = {}
    for acceleration in (1.5, 30.0):
        plain = _recipe(acceleration, slices=2, diameters_mm=[5, 18], contrast=-0.3)
        run_recipe(from_plain(plain), tmp_path / f"{acceleration}", say=lambda text: None)
        found[acceleration] = _figures(tmp_path / f"{acceleration}")
    many, few = found[1.5], found[30.0]
    for by in ("model", "total variation"):
        kept = many[by, "lesions of 18 mm: preserved"]
        assert kept["value"] == 1.0
        assert kept["n"] == 2
        assert kept["interval"][0] < 0.6 < kept["interval"][1]  # two lesions tell little
        assert many[by, "lesions of 18 mm: contrast kept"]["value"] == pytest.approx(1, abs=0.15)
        assert (
            few[by, "lesions of 5 mm: contrast kept"]["value"]
            < many[by, "lesions of 5 mm: contrast kept"]["value"] - 0.2
        )
        assert many[by, "lesions of 18 mm: false ones in 20 slices"]["value"] == 0
    assert "lesions of 5 mm: preserved" in (tmp_path / "1.5/report/index.html").read_text()


def test_the_same_run_says_the_same(tmp_path: Path) -> None:
    plain = _recipe(patients=2, slices=1, diameters_mm=[9])
    for name in ("one", "two"):
        run_recipe(from_plain(plain), tmp_path / name, say=lambda text: None)
    assert _figures(tmp_path / "one") == _figures(tmp_path / "two")


def test_what_cannot_be_asked_is_refused() -> None:
    for wrong in ({"slices": 0}, {"diameters_mm": []}, {"diameters_mm": [-1]}, {"contrast": 0.0}):
        with pytest.raises(RecipeError, match=r"lesions: \{slices: 20\}"):
            from_plain(_recipe(**wrong))
    with pytest.raises(RecipeError, match="Unknown key 'slice'"):
        from_plain(_recipe(slice=3))
    plain = _recipe(slices=2)
    plain["job"], plain["family"] = {"name": "synthesis", "x": ["T1w"]}, {"name": "flow"}
    with pytest.raises(RecipeError, match="Take lesions out"):
        from_plain(plain)
