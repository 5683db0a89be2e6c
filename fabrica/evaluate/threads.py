"""Cases measured side by side: most of the time passes in compiled filters, which let other threads run."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

One = TypeVar("One")
Found = TypeVar("Found")


def side_by_side(work: Callable[[One], Found], items: Sequence[One]) -> list[Found]:
    """`work` of every item, in their order, on as many cores as this process may use. The first error is raised.

    Items are asked for when their turn comes, and not kept.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(cores) as pool:
        return list(pool.map(lambda index: work(items[index]), range(len(items))))
