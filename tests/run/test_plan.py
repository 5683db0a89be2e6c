"""A plan tells what a run then takes, and throws away what it made."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from fabrica.cli import app
from fabrica.recipe.checks import from_plain
from fabrica.run.cluster import Cluster
from fabrica.run.plan import StagePlan, on_cluster, plan_recipe
from fabrica.run.sequence import run_recipe

PLAIN: dict[str, Any] = {
    "cohorts": {"all": {"virtual": {"patients": 4, "spacing_mm": 4, "planes": [14, 20]}}}, "split": {"train": 0.5, "test": 0.5},
    "baseline": "none", "job": {"name": "translation", "from": ["T1w"], "x": ["FLAIR"]},
    "family": {"name": "flow", "network": {"channels": [16, 32], "blocks": 1}}, "sampler": {"name": "euler", "steps": 4},
    "train": {"steps": 60, "batch": 4, "precision": "fp32"}, "evaluate": {"draws": 2, "realism": 0, "evaluations": []},
}  # fmt: skip


def quiet(text: str) -> None:
    pass


def test_a_plan_is_near_what_a_run_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    said = list[str]()
    (plan,) = plan_recipe(from_plain(PLAIN), device="cpu", say=said.append)
    assert "60 steps of 4" in said[0]
    began = time.process_time()
    done = run_recipe(from_plain(PLAIN), tmp_path / "run", say=quiet, device="cpu")
    took = time.process_time() - began
    assert plan.steps == done.report.stages[0].steps
    assert 0.2 * took < plan.cpu_s < 3 * took  # other work may run beside; benchmarks tell it closer
    checkpoint = next((tmp_path / "run/stages/model").glob("*.safetensors")).stat().st_size
    assert plan.disk_bytes > checkpoint
    assert not list(tmp_path.glob("fabrica-plan-*"))  # nothing is left of it


def test_on_a_cluster(tmp_path: Path) -> None:
    one = StagePlan("model", 10, 100, 8, 0, 0, 0, 0, 36_000.0, 8_000_000_000, 1)
    (line,) = on_cluster([one], Cluster(workers=4, speed=5.0, straggling=0.0, overhead=0.0))
    assert line == "model: 0.50 h on 4 workers (0.50 h of work), saved at its end."
    (line,) = on_cluster([one], Cluster(workers=4, speed=5.0, memory_gb=1.0))
    assert "2 of 8 rows a worker do not fit into 1 GB" in line
    (line,) = on_cluster([one], Cluster(workers=4, speed=0.05, hours_between_failures=50.0))
    assert "failures" in line


def test_the_verb(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**PLAIN, "train": {"minutes": 1, "batch": 4}}))
    (tmp_path / "cluster.yaml").write_text("workers: 2\nspeed: 10\n")
    words = [
        "plan",
        str(tmp_path / "recipe.yaml"),
        "--on",
        str(tmp_path / "cluster.yaml"),
        "--out",
        str(tmp_path / "plan.json"),
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    (plan,) = json.loads((tmp_path / "plan.json").read_text())
    assert plan["training_wall_s"] == pytest.approx(60, rel=0.2)
    assert "on 2 workers" in result.output
    (tmp_path / "cluster.yaml").write_text("workers: 2\n")
    result = CliRunner().invoke(app, words)
    assert "says no workers and speed" in result.output
