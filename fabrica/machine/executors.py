"""Where independent tasks are done: one after the other here, or by worker processes of a Dask scheduler.

A task is plain data, and so is its result; what does it is named, so that workers import it themselves.
"""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .addresses import is_loopback
from .allocator import keep_freed_memory
from .slurm import Slurm
from .stores import is_place
from .workers import LocalWorkers

Task = Mapping[str, Any]
EXTRA = 'Install it: pip install -e ".[cluster]" -c constraints.txt'
READ_FROM = ("run", "folder", "key_file")  # what tasks call places that must be there
PATIENCE_S = 30  # until a scheduler answers
DEATHS = 3  # workers that a task ends before it is set aside, when it is asked alone


@dataclass(frozen=True, slots=True)
class SetAside:
    """A task that was given up, and why."""

    reason: str


def call(name: str, task: Task) -> Any:
    """`module:function` of a task, imported where it is done."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)(task)


def plain(task: Task) -> dict[str, Any]:
    """The task as it travels; raises TypeError for what is no plain data: no object of ours leaves this process."""
    return dict(json.loads(json.dumps(task)))


def call_in_worker(name: str, task: Task) -> Any:
    """`call` in a process that a scheduler asks."""
    keep_freed_memory()
    return call(name, task)


def nothing(task: Task) -> int:
    """A task that does nothing: what doing it costs is what asking costs."""
    return len(task)


class Executor(ABC):
    """Does tasks; results come as they are ready, each with the number of its task."""

    device: str  # that tasks compute on: auto, cpu or cuda

    @abstractmethod
    def results(self, name: str, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        """(number, result or SetAside). An exception of a task is raised here, when nothing else is lost by it."""


class Local(Executor):
    """In this process, in order."""

    def __init__(self, device: str = "auto") -> None:
        self.device = device

    def results(self, name: str, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        for number, task in enumerate(tasks):
            yield number, call(name, task)


class Dask(Executor):
    """By the workers of a scheduler, or by `workers` processes of this machine that live as long as the call.

    A worker that dies takes its own task with it, which another does again. Dask blames whatever waited on that worker
    as well: a task that it gives up is asked again when nothing else is, and set aside where it ends workers alone.
    """

    def __init__(self, scheduler: str | None = None, workers: int = 2, device: str = "auto") -> None:
        self.slurm = Slurm.read(Path(scheduler)) if scheduler is not None and is_description(scheduler) else None
        if scheduler is not None and self.slurm is None:
            check_address(scheduler)
        if workers < 1:
            raise ValueError(f"--workers is {workers}, expected at least 1.")
        self.scheduler, self.workers, self.device = scheduler, workers, device

    def results(self, name: str, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        try:
            from concurrent.futures import CancelledError

            import dask
            from distributed import as_completed
            from distributed.scheduler import KilledWorker
        except ImportError as error:
            raise ValueError(f"Dask is not installed. {EXTRA}") from error
        with dask.config.set({"distributed.scheduler.allowed-failures": DEATHS - 1}):
            client, close, own = self._opened()
            futures: dict[Any, int] = {}
            suspects: list[int] = []

            def asked(number: int) -> Any:
                future = client.submit(call_in_worker, name, plain(tasks[number]), pure=False, retries=0)
                futures[future] = number
                return future

            try:
                if self.scheduler is not None and tasks:
                    _check_places(client, tasks[0])
                if own is not None:  # whatever is asked by then
                    own.watch(lambda: client.cancel(list(futures), force=True))
                for future in as_completed([asked(number) for number in range(len(tasks))]):
                    try:
                        yield futures[future], future.result()
                    except KilledWorker:
                        suspects.append(futures[future])
                    if own is not None:
                        own.progressed()
                    future.release()
                for number in suspects:
                    try:
                        yield number, asked(number).result()
                    except KilledWorker:
                        yield number, SetAside(f"it ended {DEATHS} workers when it was alone")
            except CancelledError as error:
                raise ValueError(
                    "Workers end as soon as they start: is there memory for them? See: dmesg. Or use fewer: --workers 1"
                ) from error
            finally:
                close()

    def _opened(self) -> tuple[Any, Callable[[], None], LocalWorkers | None]:
        """(client, what ends it, the workers of this machine that it talks to)."""
        from distributed import Client

        if self.slurm is not None:
            return *self._asked_for(self.slurm), None
        if self.scheduler is None:
            own = LocalWorkers(self.workers)
            return own.client, own.close, own
        try:
            client = Client(self.scheduler, timeout=PATIENCE_S)
        except (OSError, TimeoutError) as error:
            raise ValueError(f"{self.scheduler} does not answer. Start it: dask scheduler") from error
        self._check_versions(client)
        return client, client.close, None

    def _asked_for(self, slurm: Slurm) -> tuple[Any, Callable[[], None]]:
        """Jobs of a cluster: whoever waits in its queue longer than is said gives up."""
        from distributed import Client

        cluster = slurm.cluster()
        client = Client(cluster)

        def close() -> None:
            with suppress(Exception):
                client.close()
            cluster.close()

        try:
            client.wait_for_workers(1, timeout=60 * slurm.patience_min)
        except TimeoutError as error:
            close()
            raise ValueError(
                f"No job of {self.scheduler} ran within {slurm.patience_min:g} min. See: squeue; raise patience_min"
            ) from error
        self._check_versions(client)
        return client, close

    def _check_versions(self, client: Any) -> None:
        """Raises ValueError where a worker runs another Fabrica: its bytes would be others."""
        from .. import __version__

        found = client.run(installed)
        if not found:
            raise ValueError(f"{self.scheduler} has no workers. Start one: dask worker {self.scheduler}")
        for worker, version in found.items():
            if version != __version__:
                raise ValueError(
                    f"Worker {worker} has Fabrica {version}, this is {__version__}. Install the same there."
                )


def _check_places(client: Any, task: Task) -> None:
    """Raises ValueError where a worker does not see what a task reads: another machine has other disks."""
    asked = [task[name] for name in READ_FROM if isinstance(task.get(name), str)]
    for worker, missing in client.run(unseen, asked).items():
        if missing:
            raise ValueError(
                f"Worker {worker} does not see {missing[0]}. Put it on a disk that all workers see, or in a store:"
                " s3://BUCKET/FOLDER"
            )


def unseen(places: Sequence[str]) -> list[str]:
    """Of these places, the paths that are not here; what lies in a store is fetched when it is asked for."""
    return [one for one in places if not is_place(one) and not Path(one).exists()]


def installed() -> str:
    """The version of Fabrica where this is asked."""
    from .. import __version__

    return __version__


def is_description(scheduler: str) -> bool:
    """Whether it names a file that describes a cluster, and no address."""
    return scheduler.lower().endswith((".yaml", ".yml"))


def check_address(scheduler: str) -> None:
    """Raises ValueError for an address that is none, or that would send patients unencrypted."""
    parts = urlsplit(scheduler)
    if parts.scheme not in ("tcp", "tls") or not parts.hostname or not parts.port:
        raise ValueError(
            f"--scheduler {scheduler!r} is no address. Write tcp://127.0.0.1:8786, tls://HOST:8786 or cluster.yaml"
        )
    if parts.scheme == "tcp" and not is_loopback(parts.hostname):
        raise ValueError(f"{parts.hostname} would be spoken to unencrypted. Write tls://{parts.hostname}:{parts.port}")


def executor(name: str, scheduler: str | None = None, workers: int = 2, device: str = "auto") -> Executor:
    """From the command line's words; raises ValueError for one that is not known."""
    if name == "local":
        if scheduler is not None:
            raise ValueError("--scheduler belongs to dask. Write: --executor dask")
        return Local(device)
    if name == "dask":
        return Dask(scheduler, workers, device)
    raise ValueError(f"--executor {name!r} is none. Write local or dask.")
