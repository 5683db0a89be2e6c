"""Several processes of one run (torchrun): all train, the first one alone talks, draws, judges and writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
_PATIENCE = timedelta(days=2)  # the others wait while the first one draws and judges


@dataclass(frozen=True)
class Processes:
    """Which one this is, and how many there are."""

    rank: int
    count: int

    @property
    def first(self) -> bool:
        return self.rank == 0

    def agree(self, value: T) -> T:
        """What the first process has, in all of them."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gathered(self, value: T) -> list[T]:
        """What each process has, in all of them, in the order of their ranks."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            dist.barrier()


ALONE = Processes(0, 1)


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that torchrun has started, or the only one."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    ours = count > 1 and not dist.is_initialized()
    if ours:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(int(os.environ.get("RANK", "0")) if count > 1 else 0, count)
    finally:
        if ours:
            dist.destroy_process_group()
