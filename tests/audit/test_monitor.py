"""A model watched in use: charts, an alert, its stop, and back to the last approved model."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fabrica.audit.models import decide
from fabrica.audit.monitor import keep, stop, watch
from fabrica.cli import app
from fabrica.deliver.approvals import Approvals
from fabrica.deliver.outbox import Outbox
from fabrica.generate.scans import generate_images
from fabrica.run.sequence import run_recipe
from fabrica.safeguards.gate import Check, Gate

from .conftest import PLAIN, quiet, recipe_of


def _seen(
    folder: Path, number: int, shifted: bool | None, seconds: float = 1.0, why: str = "", weights: str = "w"
) -> None:
    place = folder / "out" / (".refused" if why else ".done")
    place.mkdir(parents=True, exist_ok=True)
    score = None if shifted is None else 1.0 + shifted
    plain = {
        "made": f"2026-01-01T00:{number // 60:02d}:{number % 60:02d}",
        "weights": weights,
        "shift": {"score": score, "shifted": bool(shifted)},
    }
    (place / f"c{number}.json").write_text(json.dumps({**plain, "why": why} if why else {**plain, "seconds": seconds}))


def test_cases_are_charted_in_the_order_in_which_they_were_drawn(tmp_path: Path) -> None:
    for k in range(80):
        _seen(tmp_path, k, k >= 50, why="shift" if k in (60, 70) else "")
    watched = watch(tmp_path)
    assert len(watched.cases) == 80
    by_name = {c.name: c for c in watched.charts}
    assert set(by_name) == {"shift", "refusals", "time of a case"}
    assert by_name["shift"].alarm is not None
    assert 50 <= by_name["shift"].alarm < 60
    assert by_name["refusals"].alarm is None
    metrics, page = keep(watched, tmp_path)
    text = metrics.read_text()
    assert 'fabrica_monitor_alert{chart="shift"} 1' in text
    assert 'fabrica_monitor_alert{chart="refusals"} 0' in text
    assert "fabrica_monitor_cases 80" in text
    assert "Alert." in page.read_text()
    assert "c51" not in page.read_text() + text  # nobody is named


def test_what_was_not_assessed_is_no_flag_and_odd_files_are_passed_over(tmp_path: Path) -> None:
    for k in range(30):
        _seen(tmp_path, k, None)
    (tmp_path / "out/.done/old.json").write_text('{"files": {}}')
    (tmp_path / "out/.done/torn.json").write_text("{")
    watched = watch(tmp_path)
    assert len(watched.cases) == 30
    assert watched.charts[0].values == ()
    assert watched.alerts == ()
    with pytest.raises(ValueError, match="Nothing that fabrica generate wrote"):
        watch(tmp_path / "elsewhere")


def test_models_are_charted_each_by_itself(tmp_path: Path) -> None:
    """The one whose scans changed is stopped; what drew before it is what is gone back to."""
    approvals = Approvals(tmp_path / "registry")
    for name in ("a", "b"):
        approvals.decide(name * 64, tmp_path / name, "approved", "Dr A", "audited")
    for k in range(100):
        _seen(tmp_path / "use", k, k >= 60 and k % 2 == 0, weights=("a" if k < 60 else "b") * 64)
    watched = watch(tmp_path / "use")
    assert [len(m.cases) for m in watched.models] == [60, 40]
    assert [bool(m.alerts) for m in watched.models] == [False, True]
    assert "shift of bbbbbbbb" in {c.name for c in watched.charts}
    retired, current = stop(watched, approvals)
    assert [d.weights[0] for d in retired] == ["b"]
    assert current is not None
    assert current.weights[0] == "a"
    approvals.decide("b" * 64, tmp_path / "b", "approved", "Dr A", "mended")
    again = watch(tmp_path / "use", approvals=approvals)  # what was before its last approval is past
    assert again.alerts == ()


def test_rejections_of_a_store_are_charted(tmp_path: Path) -> None:
    _seen(tmp_path, 0, False)
    Outbox(tmp_path / "store")
    charts = watch(tmp_path, tmp_path / "store").charts
    assert charts[-1].name == "rejections"
    assert "0 of 0 series were rejected" in charts[-1].words
    with pytest.raises(ValueError, match="is no store"):
        watch(tmp_path, tmp_path / "typo")


def test_the_drill_an_alert_stops_a_model_and_the_last_approved_one_is_gone_back_to(
    finished: Path, tmp_path: Path
) -> None:
    registry, out, other = tmp_path / "registry", tmp_path / "out", tmp_path / "other"
    run_recipe(recipe_of(finished, {**PLAIN, "seed": 5, "train": {"steps": 2, "batch": 8}}), other, say=quiet)
    new = str(finished / "new")

    def cli(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, [*words])
        return result.exit_code, result.output

    code, said = cli("generate", str(finished / "run"), "--data", new, "--out", str(out), "--registry", str(registry))
    assert code != 0
    assert "nobody approved it" in said
    for run in (other, finished / "run"):
        code, said = cli("models", str(registry), "--approve", str(run), "--by", "Dr A", "--reason", "audited")
        assert code == 0, said
    assert f"In use: {finished / 'run'}" in said
    for k in range(12):  # a scanner that changed
        for place in ("noisy",):
            generate_images(finished / "run", finished / place, out / f"{place}-{k}", say=quiet, registry=str(registry))
    code, said = cli("monitor", str(out), "--registry", str(registry), "--stop")
    assert code == 1
    assert "ALERT" in said
    assert "Retired: the model of" in said
    assert f"Go back to {other}" in said
    with pytest.raises(ValueError, match=r"retired by fabrica monitor .* Approved: .*other"):
        generate_images(finished / "run", finished / "new", tmp_path / "x", say=quiet, registry=str(registry))
    assert generate_images(other, finished / "new", tmp_path / "y", say=quiet, registry=str(registry))
    code, said = cli("monitor", str(tmp_path / "y"))
    assert code == 0, said
    assert cli("monitor", str(out), "--stop")[0] != 0
    assert cli("models", str(registry), "--retire", str(other), "--by", "", "--reason", "x")[0] != 0


def test_a_run_that_its_audit_refuses_is_not_approved(finished: Path, tmp_path: Path) -> None:
    weights = json.loads((finished / "run/stages/model/checkpoint.json").read_text())["sha256"]
    path = finished / "run/audit/gate.json"
    before = path.read_text() if path.is_file() else None
    Gate(weights, {"copies": Check("REFUSED", 0.001, None, 0.05, "why")}).write(finished / "run")
    try:
        with pytest.raises(ValueError, match="was audited and REFUSED"):
            decide(Approvals(tmp_path), finished / "run", "approved", "Dr A", "why")
    finally:
        path.write_text(before) if before else path.unlink()
