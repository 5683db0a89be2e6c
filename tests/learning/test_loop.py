"""One loop: exact resume after SIGKILL, budgets, averages, faults that stop it loudly."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fabrica.contracts import Batch, Family, Problem
from fabrica.data.store import Entry, Layout, Loader, Store
from fabrica.families import Flow
from fabrica.jobs import Translation
from fabrica.learning import checkpoint
from fabrica.learning import loop as train
from fabrica.learning.checkpoint import load_weights
from fabrica.learning.gradients import TrainingError
from fabrica.learning.loop import Interrupted, fit
from fabrica.networks.unet import UNetShape
from fabrica.recipe.values import TrainPlan
from fabrica.rng import Rng

from ..torchrun import two_processes

JOB = Translation(["T1w"], ["FLAIR"])


class MemoryLoader(Loader):
    """Two blobs of noise as a store: everything else is the real loader."""

    def __init__(self, batch: int = 2, seed: int = 3) -> None:
        import numpy as np

        entries = [
            Entry(
                f"p{i}",
                f"p{i}",
                {"T1w": Path(f"a{i}"), "FLAIR": Path(f"b{i}")},
                (4, 16, 16),
                tuple(map(tuple, np.eye(4))),
                (0, 1, 2, 3),
            )
            for i in range(3)
        ]
        store = Store(entries)
        for entry in entries:
            for path in entry.files.values():
                store._open[path] = np.random.default_rng(len(str(path)) + int(entry.name[1])).random(
                    (1, 4, 16, 16), np.float32
                )
        super().__init__(store, Layout(("T1w", "FLAIR"), "yx", (1, 16, 16)), batch, seed)


def _family() -> Flow:
    torch.manual_seed(0)
    return Flow(JOB.signature(), UNetShape((8, 16), 1), "fp32")


def _digest(module: nn.Module) -> str:
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in module.state_dict().values())).hexdigest()


def _plan(**changes: object) -> TrainPlan:
    return TrainPlan(**{"steps": 12, "batch": 2, **changes})  # type: ignore[arg-type]


class Stop(Exception):
    pass


def _stop_at(step: int):
    def watch(progress, average) -> None:
        if progress.step == step:
            raise Stop

    return watch


def test_a_run_that_stopped_ends_like_one_that_did_not(tmp_path: Path) -> None:
    whole = fit(_family(), JOB, MemoryLoader(), _plan(), tmp_path / "whole", {})
    with pytest.raises(Stop):
        fit(_family(), JOB, MemoryLoader(), _plan(checkpoint_minutes=0.0), tmp_path / "cut", {}, _stop_at(7))
    resumed = fit(_family(), JOB, MemoryLoader(), _plan(), tmp_path / "cut", {})
    assert resumed.resumed_at == 6
    assert _digest(resumed.family) == _digest(whole.family)
    finished = [checkpoint.load(tmp_path / name) for name in ("whole", "cut")]
    assert finished[0] is not None
    assert finished[1] is not None
    for key, value in finished[0][0].items():
        assert torch.equal(value, finished[1][0][key]), key


SCRIPT = """
import sys; from pathlib import Path; import torch; torch.set_num_threads(1)
from tests.learning.test_loop import JOB, MemoryLoader, _digest, _family, _plan; from fabrica.learning.loop import fit
def watch(p, average): print(p.step, flush=True)
done = fit(_family(), JOB, MemoryLoader(), _plan(steps=30, checkpoint_minutes=0.0), Path(sys.argv[1]), {}, watch)
print(f"digest {_digest(done.family)} {done.resumed_at}\\n", end="", flush=True)  # at once: two write into one pipe
"""


def _run(folder: Path, kill_at: int | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "COVERAGE_PROCESS_START": ""}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    last = ""
    with process.stdout:
        for line in process.stdout:
            last = line
            if kill_at is not None and line.strip() == str(kill_at):
                time.sleep(0.02)
                process.send_signal(signal.SIGKILL)
                break
    process.wait()
    return last


def test_sigkill_leaves_no_trace(tmp_path: Path) -> None:
    """Killed twice at arbitrary moments, the run ends bit-identical to the one that was left alone."""
    alone = _run(tmp_path / "alone").split()
    _run(tmp_path / "killed", kill_at=5)
    _run(tmp_path / "killed", kill_at=17)
    killed = _run(tmp_path / "killed").split()
    assert alone[0] == killed[0] == "digest"
    assert int(killed[2]) >= 15
    assert killed[1] == alone[1]


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    """torchrun with two processes: gradients are averaged, so both end with the same weights; one of them writes."""
    (tmp_path / "script.py").write_text(SCRIPT.replace("steps=30", "steps=4"))
    stdout = two_processes(tmp_path, str(tmp_path / "script.py"), str(tmp_path / "run"))
    digests = {line.split()[1] for line in stdout.splitlines() if line.startswith("digest")}
    assert len(digests) == 1, stdout
    assert len(list((tmp_path / "run").glob("*.safetensors"))) == 1


def test_minutes_become_steps_once(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        fit(_family(), JOB, MemoryLoader(), _plan(steps=None, minutes=0.02), tmp_path, {}, _stop_at(1))
    _, facts = checkpoint.load(tmp_path) or ({}, {})
    assert facts["total"] >= 1
    assert facts["step"] == 0
    done = fit(_family(), JOB, MemoryLoader(), _plan(steps=None, minutes=99.0), tmp_path, {})
    assert done.steps == facts["total"]


def test_minutes_are_counted_again_once_the_first_slow_steps_are_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    advance = train._Loop.advance

    def two_seconds(self: train._Loop) -> float:
        clock[0] += 2.0
        return advance(self)

    monkeypatch.setattr(train._Loop, "_steps_in", lambda self, minutes: 20)
    monkeypatch.setattr(train._Loop, "advance", two_seconds)
    monkeypatch.setattr("fabrica.learning.loop.time.perf_counter", lambda: clock[0])
    done = fit(_family(), JOB, MemoryLoader(), _plan(steps=None, minutes=1.0), tmp_path, {})
    assert done.steps == 30  # not the 20 that were foretold
    _, facts = checkpoint.load(tmp_path) or ({}, {})
    assert facts["total"] == 30


def test_timing_steps_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train._Loop, "count_again", lambda self, began: None)  # it would change the learning rate
    fit(_family(), JOB, MemoryLoader(), _plan(steps=None, minutes=0.01), tmp_path / "timed", {})
    _, facts = checkpoint.load(tmp_path / "timed") or ({}, {})
    by_steps = fit(_family(), JOB, MemoryLoader(), _plan(steps=facts["total"]), tmp_path / "counted", {})
    timed = _family()
    load_weights(timed, tmp_path / "timed")
    assert _digest(timed) == _digest(by_steps.family)


def test_draws_use_the_average(tmp_path: Path) -> None:
    done = fit(_family(), JOB, MemoryLoader(), _plan(), tmp_path, {})
    tensors, _ = checkpoint.load(tmp_path) or ({}, {})
    name = "net.stem.weight"
    assert torch.equal(done.family.state_dict()[name], tensors[f"average/{name}"])
    assert not torch.equal(tensors[f"model/{name}"], tensors[f"average/{name}"])


class Exploding(Family):
    """A loss that is not finite for one case from step 3 on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.calls = nn.Parameter(torch.ones(1)), 0

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return {"model": [self.weight]}

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        self.calls += 1
        values = self.weight * torch.ones(len(problem.cases))
        if self.calls > 3:
            values = values * torch.tensor([1.0, float("nan")])
        return {"explosion": values}

    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        return torch.zeros(len(problem.cases), *problem.shape)


def test_a_loss_that_is_not_finite_names_the_case_and_keeps_the_last_state(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"'explosion' is not finite for p\d/\d.*last good checkpoint is kept"):
        fit(Exploding(), JOB, MemoryLoader(), _plan(checkpoint_minutes=0.0), tmp_path, {})
    _, facts = checkpoint.load(tmp_path) or ({}, {})
    assert facts["step"] == 3


def test_ctrl_c_saves_where_it_was(tmp_path: Path) -> None:
    def interrupt(progress, average) -> None:
        if progress.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="step 5 of 12"):
        fit(_family(), JOB, MemoryLoader(), _plan(), tmp_path, {}, interrupt)
    assert json.loads((tmp_path / "checkpoint.json").read_text())["facts"]["step"] == 5


def test_weights_of_another_run_are_a_start(tmp_path: Path) -> None:
    first = fit(_family(), JOB, MemoryLoader(), _plan(), tmp_path / "first", {})
    start = _digest(first.family)
    with pytest.raises(Stop):
        fit(_family(), JOB, MemoryLoader(), _plan(start=str(tmp_path / "first")), tmp_path / "second", {}, _stop_at(1))
    tensors, _ = checkpoint.load(tmp_path / "second") or ({}, {})
    begun = _family()
    begun.load_state_dict({k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")})
    assert _digest(begun) == start
    torch.manual_seed(0)
    other = Flow(JOB.signature(), UNetShape((8, 24), 1), "fp32")
    with pytest.raises(checkpoint.CheckpointError, match="do not fit"):
        fit(other, JOB, MemoryLoader(), _plan(start=str(tmp_path / "first")), tmp_path / "third", {})
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint"):
        load_weights(_family(), tmp_path / "nothing")


def test_batches_reach_the_loss_by_name() -> None:
    batch = MemoryLoader().load(0)
    assert isinstance(batch, Batch)
    assert all(name.count("/") == 1 for name in batch.cases)


@pytest.mark.parametrize("seconds", [(1.0, 1.0), (1.0, 3.0), (3.0, 1.0), (0.5, 2.5)])
def test_minutes_are_kept_where_a_machine_grows_slower_or_faster(
    seconds: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes the first time for 200 steps and the second ever after; the first guess was a second."""
    now = [0.0]
    monkeypatch.setattr(train.time, "perf_counter", lambda: now[0])
    loop = train._Loop.__new__(train._Loop)
    loop.step, loop.total, loop.before, loop.recounts, loop.plan = (
        0,
        600,
        0.0,
        train.RECOUNTS,
        _plan(steps=None, minutes=10.0),
    )
    loop.fabric = type("Alone", (), {"broadcast": staticmethod(lambda value: value)})()
    while loop.step < loop.total:
        now[0] += seconds[loop.step >= 200]
        loop.step += 1
        loop.count_again(0.0)
    assert now[0] == pytest.approx(600, rel=0.07)
    assert not loop.recounts
