"""Folders that one process of this machine works in at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HELD = ".running"  # a lock of this machine


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Whether this process has the file to itself, for as long as it is held; the system lets go of it with the
    process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


@contextmanager
def writing_into(out: Path) -> Iterator[None]:
    """Nobody else writes into the folder meanwhile; raises ValueError where somebody does."""
    with alone(out / HELD) as ours:
        if not ours:
            raise ValueError(f"{out} is being written into by another process. Wait for it, or name another folder.")
        yield
