"""The page: what must not be overlooked stands at its head."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from fabrica.evaluate.report.page import render
from fabrica.evaluate.report.pictures import framed
from fabrica.evaluate.report.results import Report


def test_answers_that_nobody_should_read_are_said_before_anything_else(tmp_path: Path) -> None:
    line = "model: p1: ABSTAIN: it explains what was measured 4.6 times worse than noise would <b>."
    report = Report("run", "2026-01-01", {}, remarks=["a remark"], abstained=[line])
    page = render(report, tmp_path).read_text()
    assert page.index("ABSTAIN") < page.index("a remark")
    assert "&lt;b&gt;." in page  # what comes from data is text
    assert json.loads((tmp_path / "report.json").read_text())["abstained"] == [line]
    assert "ABSTAIN" not in render(Report("run", "2026-01-01", {}), tmp_path / "other").read_text()


def _panel(pixels: np.ndarray, low: float = 0.0, high: float = 1.0, **more: object) -> dict[str, Any]:
    return {"title": "x", "pixels": pixels, "low": low, "high": high, **more}


def test_a_small_patient_in_a_wide_grid_is_seen_as_well() -> None:
    """All panels of a row are cut alike, to where any of them shows something; a CT's air is no patient."""
    ct, dose = np.full((96, 128), -1000.0), np.zeros((96, 128))
    ct[40:60, 50:80], dose[55:70, 60:70] = 40.0, 50.0
    error = np.zeros((96, 128))
    row = framed([_panel(ct, -160, 240), _panel(dose, 0, 70, under={"pixels": ct}), _panel(error, -20, 20)])
    assert {p["pixels"].shape for p in row} == {(38, 38)}  # four pixels around rows 40 to 69 and columns 50 to 79
    assert row[1]["under"]["pixels"].shape == (38, 38)
    assert (row[0]["pixels"] == ct[36:74, 46:84]).all()
    wide = _panel(np.pad(np.ones((90, 120)), ((3, 3), (4, 4))))
    for kept in ([wide, _panel(dose)], [_panel(error)], [_panel(ct, -160, 240), _panel(dose[:40])], []):
        assert [p["pixels"].shape for p in framed(kept)] == [p["pixels"].shape for p in kept]
