"""Executors: the same results in order of their tasks, workers that die, addresses that are none."""

import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from fabrica.machine.executors import Dask, Executor, Local, SetAside, check_address, executor, plain

NAMES = ("doubled", "killed_once", "fails", "full")
DOUBLED, KILLED, FAILS, FULL = (f"tests.machine.test_executors:{name}" for name in NAMES)


def doubled(task: Mapping[str, Any]) -> Any:
    return 2 * task["x"]


def killed_once(task: Mapping[str, Any]) -> Any:
    """The first worker that does task 3 is killed in the middle of it; those that come later are not."""
    mark = Path(task["mark"])
    with (mark / f"{task['x']}.log").open("a") as log:
        log.write("begun\n")
    if task["x"] == 3 and (task["always"] or not (mark / "killed").exists()):
        (mark / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * task["x"]


def slow(task: Mapping[str, Any]) -> Any:
    time.sleep(0.5 if task["x"] else 0)
    return 2 * task["x"]


def forever(task: Mapping[str, Any]) -> Any:
    time.sleep(0 if task["x"] == 1 else 600)
    return 2 * task["x"]


def fails(task: Mapping[str, Any]) -> Any:
    raise ValueError(f"task {task['x']} cannot be done")


def full(task: Mapping[str, Any]) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device", f"/there/{task['x']}.nii.gz")


@pytest.mark.parametrize("made", [Local(), Dask(workers=2)], ids=["local", "dask"])
def test_results_are_those_of_their_tasks(made: Executor) -> None:
    assert dict(made.results(DOUBLED, [{"x": k} for k in range(7)])) == {k: 2 * k for k in range(7)}
    assert list(made.results(DOUBLED, [])) == []
    with pytest.raises(ValueError, match="task 1 cannot be done"):
        list(made.results(FAILS, [{"x": 1}]))
    with pytest.raises(OSError, match="No space left") as told:  # of whoever's disk: the file is named
        list(made.results(FULL, [{"x": 1}]))
    assert (told.value.errno, told.value.filename) == (errno.ENOSPC, "/there/1.nii.gz")


@pytest.fixture
def dask_port_taken() -> Iterator[None]:
    """Dask's own port is held, as by a cluster that somebody else started on this machine."""
    with socket.socket() as held:
        try:
            held.bind(("127.0.0.1", 8787))
            held.listen()
        except OSError:
            pass  # another process has it already, which is the case that is asked for
        yield


@pytest.mark.filterwarnings("error")
@pytest.mark.usefixtures("dask_port_taken")
def test_another_cluster_on_this_machine_is_no_trouble() -> None:
    assert dict(Dask(workers=1).results(DOUBLED, [{"x": 3}])) == {0: 6}


def test_a_worker_that_is_killed_costs_its_own_task_alone(tmp_path: Path) -> None:
    tasks = [{"x": k, "mark": str(tmp_path), "always": False} for k in range(6)]
    assert dict(Dask(workers=2).results(KILLED, tasks)) == {k: 2 * k for k in range(6)}
    begun = {k: (tmp_path / f"{k}.log").read_text().count("begun") for k in range(6)}
    assert begun[3] == 2
    assert sum(begun.values()) <= 6 + 1 + 2  # a task that waited beside it on that worker may be begun again


def test_a_task_that_ends_every_worker_is_set_aside(tmp_path: Path) -> None:
    tasks = [{"x": k, "mark": str(tmp_path), "always": True} for k in range(5)]
    found = dict(Dask(workers=2).results(KILLED, tasks))
    assert isinstance(found.pop(3), SetAside)
    assert found == {k: 2 * k for k in (0, 1, 2, 4)}


def test_a_task_that_waited_beside_a_deadly_one_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask gives up whatever waits on a worker that dies once too often; here the first death is."""
    monkeypatch.setattr("fabrica.machine.executors.DEATHS", 0)
    tasks = [{"x": 3, "mark": str(tmp_path), "always": True}, *({"x": k, "mark": str(tmp_path)} for k in range(10, 16))]
    found = dict(Dask(workers=1).results(KILLED, tasks))
    assert isinstance(found.pop(0), SetAside)
    assert found == {k - 9: 2 * k for k in range(10, 16)}


@pytest.mark.parametrize(
    ("address", "words"),
    [("127.0.0.1:8786", "is no address"), ("http://x:1", "is no address"), ("tcp://node7:8786", "unencrypted")],
)
def test_addresses_that_are_none(address: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_address(address)
    check_address("tls://node7:8786")


def test_names_of_executors() -> None:
    assert isinstance(executor("local"), Local)
    assert isinstance(executor("dask", "tcp://127.0.0.1:8786"), Dask)
    with pytest.raises(ValueError, match="Write local or dask"):
        executor("slurm")
    with pytest.raises(ValueError, match="belongs to dask"):
        executor("local", "tcp://127.0.0.1:1")
    with pytest.raises(ValueError, match="expected at least 1"):
        Dask(workers=0)


def test_a_scheduler_that_runs_already_is_used() -> None:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, host="127.0.0.1", protocol="tcp", dashboard_address="127.0.0.1:0",
        silence_logs=50,
    ) as cluster:  # fmt: skip
        assert dict(Dask(cluster.scheduler_address).results(DOUBLED, [{"x": k} for k in range(3)])) == {
            0: 0,
            1: 2,
            2: 4,
        }


class _Answers:
    def __init__(self, versions: Mapping[str, str]) -> None:
        self.versions = versions

    def run(self, function: object) -> Mapping[str, str]:
        return self.versions


@pytest.mark.parametrize(
    ("versions", "words"), [({}, "has no workers"), ({"tcp://a": "0.0.0"}, "has Fabrica 0.0.0, this is")]
)
def test_workers_that_would_give_other_bytes_are_refused(versions: Mapping[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Dask("tcp://127.0.0.1:8786")._check_versions(_Answers(versions))


def test_a_scheduler_that_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fabrica.machine.executors.PATIENCE_S", 0.5)
    with pytest.raises(ValueError, match="does not answer. Start it: dask scheduler"):
        list(Dask("tcp://127.0.0.1:9").results(DOUBLED, [{"x": 1}]))


def test_a_worker_that_does_not_see_the_data_is_named(tmp_path: Path) -> None:
    from distributed import LocalCluster

    tasks = [{"x": 1, "run": str(tmp_path), "folder": str(tmp_path / "only-there")}]
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, host="127.0.0.1", protocol="tcp", dashboard_address="127.0.0.1:0",
        silence_logs=50,
    ) as cluster:  # fmt: skip
        with pytest.raises(ValueError, match=r"Worker tcp://.* does not see .*only-there. Put it on a disk"):
            list(Dask(cluster.scheduler_address).results(DOUBLED, tasks))
        (tmp_path / "only-there").mkdir()
        assert dict(Dask(cluster.scheduler_address).results(DOUBLED, tasks)) == {0: 2}
        stored = [{"x": 1, "folder": "s3://bucket/cohort"}]  # fetched where it is read
        assert dict(Dask(cluster.scheduler_address).results(DOUBLED, stored)) == {0: 2}


def test_workers_that_are_killed_while_they_start_are_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask gives such workers up, and tasks would wait for ever."""
    monkeypatch.setattr("fabrica.machine.executors.DEATHS", 1000)
    made, killed = Dask(workers=2), list[int]()
    done = threading.Event()

    def kill() -> None:
        until = time.monotonic() + 4
        while time.monotonic() < until and not done.wait(0.3):
            for one in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if "spawn_main" in " ".join(one.cmdline()):
                        one.kill()
                        killed.append(one.pid)

    killer = threading.Thread(target=kill)
    found = {}
    for number, result in made.results("tests.machine.test_executors:slow", [{"x": k} for k in range(4)]):
        if not found and not killer.is_alive() and not killed:
            killer.start()
        found[number] = result
    done.set()
    killer.join()
    assert found == {k: 2 * k for k in range(4)}
    assert killed


@pytest.mark.parametrize("deaths", [1000, 0])  # asked once, or again as one that may have ended its worker
def test_workers_that_never_live_are_given_up(deaths: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fabrica.machine.workers.RESTARTS", 2)
    monkeypatch.setattr("fabrica.machine.workers.EVERY_S", 0.5)
    monkeypatch.setattr("fabrica.machine.executors.DEATHS", deaths)
    done = threading.Event()

    def kill() -> None:
        while not done.wait(0.2):
            for one in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if "spawn_main" in " ".join(one.cmdline()):
                        one.kill()

    killer = threading.Thread(target=kill)

    def ask() -> None:
        for _ in Dask(workers=1).results("tests.machine.test_executors:forever", [{"x": 1}, {"x": 2}]):
            killer.start()

    with pytest.raises(ValueError, match="Workers end as soon as they start"):
        ask()
    done.set()
    killer.join()


def test_tasks_are_plain_data() -> None:
    """No object of ours leaves the process: what is none is refused before it is sent."""
    with pytest.raises(TypeError, match="not JSON serializable"):
        list(Dask(workers=1).results(DOUBLED, [{"x": Path("a")}]))
    assert plain({"x": (1, [2.5, None])}) == {"x": [1, [2.5, None]]}
