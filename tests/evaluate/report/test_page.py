"""The page: what must not be overlooked stands at its head."""

import json
from pathlib import Path

from fabrica.evaluate.report.page import render
from fabrica.evaluate.report.results import Report


def test_answers_that_nobody_should_read_are_said_before_anything_else(tmp_path: Path) -> None:
    line = "model: p1: ABSTAIN: it explains what was measured 4.6 times worse than noise would <b>."
    report = Report("run", "2026-01-01", {}, remarks=["a remark"], abstained=[line])
    page = render(report, tmp_path).read_text()
    assert page.index("ABSTAIN") < page.index("a remark")
    assert "&lt;b&gt;." in page  # what comes from data is text
    assert json.loads((tmp_path / "report.json").read_text())["abstained"] == [line]
    assert "ABSTAIN" not in render(Report("run", "2026-01-01", {}), tmp_path / "other").read_text()
