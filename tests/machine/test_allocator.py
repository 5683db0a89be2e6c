"""Memory that worker processes use again instead of having it mapped and zeroed anew."""

import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from fabrica.machine import allocator
from fabrica.machine.executors import Dask

TIMES, PAGES = 100, 256  # arrays of 1 MiB, which the dynamic threshold of malloc would come to take from the heap
LOOK = "from tests.machine.test_allocator import faults; print(faults({}))"

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")


def faults(_: Mapping[str, Any]) -> int:
    """Pages that the system hands out while arrays come and go."""
    for _warm in range(3):
        np.ones(PAGES * 512)
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for _k in range(TIMES):
        np.ones(PAGES * 512)
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before


@linux
def test_arrays_of_a_worker_use_again_what_others_freed() -> None:
    ((_, found),) = Dask(workers=1).results("tests.machine.test_allocator:faults", [{"x": 1}])
    assert found < TIMES * PAGES / 4


@linux
def test_as_dask_starts_it_a_process_would_not() -> None:
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"}
    told = subprocess.run([sys.executable, "-c", LOOK], env=environment, capture_output=True, text=True, check=True)
    assert int(told.stdout) > TIMES * PAGES / 2


@linux
def test_it_is_told_where_the_system_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    told = list[tuple[int, int]]()

    class Library:
        def mallopt(self, name: int, value: int) -> int:
            told.append((name, value))
            return 1

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: Library())
    asked = allocator.keep_freed_memory.__wrapped__
    assert asked() is True
    assert told == [(-3, 32 << 20), (-1, 64 << 20)]
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: object())  # musl has none
    assert asked() is False
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert asked() is False
