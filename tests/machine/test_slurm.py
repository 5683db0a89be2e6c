"""Workers that Slurm starts: a queue of this machine stands for it, and what a description may not say."""

import os
import sys
from pathlib import Path

import pytest
import yaml

from fabrica.cli.options import fixed
from fabrica.machine.executors import Dask, executor, is_description
from fabrica.machine.slurm import Slurm
from fabrica.run.cluster import Cluster

SHIPPED = Path(__file__).parents[2] / "docs" / "cluster.yaml"
PLAIN = {"jobs": 2, "cores": 1, "memory": "1 GB", "walltime": "00:10:00"}
SBATCH = f"""#!{sys.executable}
import subprocess, sys
script = sys.argv[-1]
log = open(script + ".log", "w")
started = subprocess.Popen(["bash", script], stdout=log, stderr=log, start_new_session=True)
print("Submitted batch job", started.pid)
"""
SCANCEL = "#!/bin/sh\nkill -- -$1\n"


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """sbatch and scancel that run a job at once, here."""
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return tmp_path


def _described(folder: Path, **changes: object) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump({"workers": 2, "speed": 1, "slurm": {**PLAIN, "shared": str(folder), **changes}}))
    return path


@pytest.mark.slow
def test_tasks_are_done_by_jobs_of_the_queue(queue: Path) -> None:
    made = executor("dask", str(_described(queue, prologue=["export FABRICA_JOB=yes"], directives=["--gres=gpu:0"])))
    assert isinstance(made, Dask)
    tasks = [{"x": k} for k in range(6)]
    assert dict(made.results("tests.machine.test_executors:doubled", tasks)) == {k: 2 * k for k in range(6)}
    scripts = [p.read_text() for p in queue.rglob("*.sh")]
    assert all("tls://" in text and "#SBATCH --gres=gpu:0" in text for text in scripts)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"jobs": 0}, "slurm.jobs is 0, expected int"),
        ({"jobs": True}, "slurm.jobs is True"),
        ({"memory": 32}, "slurm.memory is 32, expected str"),
        ({"prologue": "module load x"}, "slurm.prologue is"),
        ({"nodes": 3}, "knows no 'nodes'"),
        ({"patience_min": -1}, "slurm.patience_min is -1"),
    ],
)
def test_what_a_description_may_not_say(changes: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        executor("dask", str(_described(tmp_path, **changes)))


def test_files_that_describe_nothing(tmp_path: Path) -> None:
    for text, words in (
        ("workers: 2\n", "has no block slurm"),
        ("[", "is no YAML"),
        ("slurm: {jobs: 1}", "slurm says no cores"),
    ):
        (tmp_path / "a.yaml").write_text(text)
        with pytest.raises(ValueError, match=words):
            Dask(str(tmp_path / "a.yaml"))
    with pytest.raises(ValueError, match="cannot be read"):
        Dask(str(tmp_path / "none.yml"))
    assert not is_description("tcp://127.0.0.1:8786")


def test_what_ships_is_both_a_plan_and_a_queue() -> None:
    assert Slurm.read(SHIPPED).jobs == 4
    assert Cluster.of(yaml.safe_load(SHIPPED.read_text()), "it").workers == 4
    assert fixed(None) == {}


def test_a_queue_that_starts_nothing_is_given_up(queue: Path) -> None:
    (queue / "bin" / "sbatch").write_text("#!/bin/sh\necho Submitted batch job 1\n")
    (queue / "bin" / "scancel").write_text("#!/bin/sh\n")
    with pytest.raises(ValueError, match="No job of .* ran within"):
        list(
            Dask(str(_described(queue, patience_min=0.05))).results("tests.machine.test_executors:doubled", [{"x": 1}])
        )
