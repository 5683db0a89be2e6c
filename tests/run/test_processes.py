"""Several processes of one run: every structure of groups, a share of the store each, and going on with as many."""

import json
import subprocess
import time
import uuid
from pathlib import Path

import pytest
import yaml

from fabrica.learning import checkpoint
from fabrica.learning.checkpoint import CheckpointError
from fabrica.machine.folders import HELD, alone
from fabrica.machine.processes import Processes
from fabrica.run.sequence import continue_run

from ..torchrun import environment, two_processes, words

PLAIN = {
    "cohorts": {"all": {"virtual": {"patients": 6, "spacing_mm": 4, "planes": [16, 20], "disease": "none"}}},
    "split": {"train": 0.7, "test": 0.3}, "baseline": "none", "evaluate": {"draws": 1, "realism": 0},
    "stages": {
        "codec": {
            "job": {"name": "synthesis", "x": ["T1w"], "place": False}, "family": {"name": "vae", "network": {"channels": [8, 8], "blocks": 1}},
            "train": {"steps": 4, "batch": 2, "precision": "fp32"},
        },
        "latent": {
            "job": {"name": "synthesis", "x": ["T1w"]}, "family": {"name": "flow", "in": {"stage": "codec"}, "network": {"channels": [8, 8], "patch": 1}},
            "sampler": {"name": "euler", "steps": 2}, "train": {"steps": 4, "batch": 2, "precision": "fp32"},
        },
        "rivals": {
            "job": {"name": "translation", "from": ["T1w"], "x": ["T2w"]}, "family": {"name": "gan", "network": {"channels": [8, 8], "blocks": 1}},
            "train": {"steps": 24, "batch": 2, "precision": "fp32", "checkpoint_minutes": 0.0},
        },
    },
}  # fmt: skip
STEPS = {"codec": 4, "latent": 4, "rivals": 24}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run of two processes in runs/0001."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(PLAIN))
    said = two_processes(folder, "-m", "fabrica", "run", "recipe.yaml", "--device", "cpu")
    assert said.count("Report: ") == 1
    return folder


@pytest.mark.slow
def test_every_structure_of_groups(made: Path) -> None:
    """A codec, what works in its codes, and rivals that take turns: each trained whole and judged; one folder."""
    assert [p.name for p in (made / "runs").iterdir()] == ["0001"]
    run = made / "runs" / "0001"
    report = json.loads((run / "report" / "report.json").read_text())
    assert [stage["name"] for stage in report["stages"]] == ["codec", "latent", "rivals"]
    for name in ("codec", "latent", "rivals"):
        tensors, facts = checkpoint.load(run / "stages" / name) or ({}, {})
        assert (facts["step"], facts["processes"]) == (STEPS[name], 2)
        assert all(bool(t.isfinite().all()) for t in tensors.values() if t.is_floating_point())
    index = json.loads((run / "store" / "rivals" / "index.json").read_text())
    assert len(index) == 4
    assert not list((run / "store").glob("process-*"))
    assert {p.parent.name for p in (run / "store" / "rivals").rglob("*.npy")} == {one["name"] for one in index}


@pytest.mark.slow
def test_killed_and_gone_on_with_by_as_many_it_ends_the_same(made: Path, tmp_path: Path) -> None:
    plain = {**PLAIN, "stages": {"rivals": PLAIN["stages"]["rivals"]}}  # seeds are of the stage: others change nothing
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(plain))
    own = f"cut-{uuid.uuid4().hex}"  # by which its processes are found: torchrun gives each a session of its own
    state = tmp_path / own / "0001" / "stages" / "rivals" / "checkpoint.json"
    process = subprocess.Popen(
        words("-m", "fabrica", "run", "recipe.yaml", "--runs", own, "--device", "cpu"), cwd=tmp_path, env=environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 200
    while _step(state) < 3 and time.monotonic() < until:
        time.sleep(0.05)
    subprocess.run(["pkill", "-KILL", "-f", own], check=False)
    process.wait()
    while not _free(tmp_path / own / "0001" / HELD) and time.monotonic() < until:
        time.sleep(0.05)  # the system lets go of what killed processes held a moment later
    assert 3 <= _step(state) < 24
    with pytest.raises(CheckpointError, match="begun by 2 processes, this is 1.*torchrun --nproc-per-node 2"):
        continue_run(tmp_path / own / "0001", say=lambda _: None, device="cpu")
    two_processes(tmp_path, "-m", "fabrica", "run", f"{own}/0001", "--device", "cpu")
    runs = (made / "runs", tmp_path / own)
    whole, cut = (checkpoint.load(run / "0001/stages/rivals") or ({}, {}) for run in runs)
    assert whole[0].keys() == cut[0].keys()
    assert all(bool((whole[0][k] == cut[0][k]).all()) for k in whole[0])


def _free(path: Path) -> bool:
    with alone(path) as ours:
        return ours


def _step(state: Path) -> int:
    return int(json.loads(state.read_text())["facts"]["step"]) if state.is_file() else -1


def test_one_process_has_what_it_gathers() -> None:
    assert Processes(0, 1).gathered({"a": 1}) == [{"a": 1}]
