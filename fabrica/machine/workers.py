"""Worker processes of this machine: started for a call, and started again when they end before they can begin."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

EVERY_S = 2.0  # between looks at who is there
ENDED = ("failed", "closed")
RESTARTS = 15  # without a result in between, until the call is given up


class LocalWorkers:
    """A Dask cluster of processes of one thread each. Dask gives up a worker that is killed while it starts; this does
    not, until nothing comes of it.
    """

    def __init__(self, count: int) -> None:
        from distributed import Client, LocalCluster

        self.count, self.restarts, self._done = count, 0, threading.Event()
        # Port 0: no address at all means dask's own port, which another cluster on this machine may hold.
        self._cluster: Any = LocalCluster(
            n_workers=count, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0",
            silence_logs=50,
        )  # fmt: skip
        self.client: Any = Client(self._cluster)

    def watch(self, give_up: Callable[[], None]) -> None:
        """From now on; `give_up` is called once where workers end as soon as they start."""

        def look() -> None:
            while not self._done.wait(EVERY_S):
                if self._there() >= self.count:
                    continue
                self.restarts += 1
                if self.restarts > RESTARTS:
                    give_up()
                    return
                with suppress(Exception):  # it is closing
                    self._cluster.scale(self.count)

        threading.Thread(target=look, daemon=True).start()

    def _there(self) -> int:
        """How many are alive or starting; those that failed to start are forgotten, so that others take their names."""
        for name, worker in list(self._cluster.workers.items()):
            if worker.status.name in ENDED:
                self._cluster.workers.pop(name, None)
        return len(self._cluster.workers)

    def progressed(self) -> None:
        """A result has come: whoever ends now did not end for nothing."""
        self.restarts = 0

    def close(self) -> None:
        self._done.set()
        with suppress(Exception):  # workers that died have nothing to close
            self.client.close()
        self._cluster.close()
