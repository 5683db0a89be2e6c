"""Memory counted on small problems before the real one starts, and whether that fits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from .device import free_bytes, in_words, peak_bytes

PROBE_ROWS = (2, 4)  # none alone: a lone volume takes another path (networks.blocks.VolumeConv)


SLACK = 1.55  # scratch inside operations and memory that the allocator keeps: results/speed.md, section memory


ROOM = 0.85  # share of the free memory that may be planned for


class MemoryShortage(ValueError):  # noqa: N818
    """A run that would not fit: how much it needs, how much there is, and what to change."""


@dataclass(frozen=True)
class Need:
    """Bytes for weights and their companions, and for each row of a batch."""

    fixed: int
    row: int

    def total(self, rows: int) -> int:
        return self.fixed + rows * self.row

    def most_rows(self, free: int | None, most: int) -> int:
        """The largest power of two up to `most` that fits in `free`; 0 when not even one row does."""
        rows = most
        while rows and free is not None and self.total(rows) > ROOM * free:
            rows //= 2
        return rows


def bytes_a_row(work: Callable[[int], object], small: Sequence[int], whole: Sequence[int]) -> int:
    """Of `work(rows)` on a small grid, extended to the whole one: what grows with rows grows with voxels."""
    few, more = PROBE_ROWS
    counted = [peak_bytes(partial(work, rows)) for rows in PROBE_ROWS]
    return round(SLACK * (counted[1] - counted[0]) / (more - few) * math.prod(whole) / math.prod(small))


def check(what: str, need: Need, rows: int, device: str, advice: str) -> str:
    """A sentence for before the start; raises MemoryShortage when there is too little."""
    free = free_bytes(device)
    words = f"{what} needs about {in_words(need.total(rows))} of memory"
    if free is None:
        return f"{words}."
    if need.total(rows) > free:
        raise MemoryShortage(f"{words}, but {in_words(free)} are free. {advice}")
    return f"{words}; {in_words(free)} are free."
