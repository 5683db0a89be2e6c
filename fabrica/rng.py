"""Random numbers that depend on what they are for, not on when they are drawn."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Draw = Callable[[np.random.Generator], NDArray[Any]]
HALF = 2**64 - 1  # of a key's bits


def derive(key: int, *path: str | int) -> int:
    """A 128-bit key for a named purpose; the same path always gives the same key (blake2b of its repr)."""
    return int.from_bytes(hashlib.blake2b(repr((key, *path)).encode(), digest_size=16).digest(), "big")


class _Shared(threading.local):
    """One generator a thread, set to the beginning of any stream: to make one takes ten times as long as to set it."""

    def __init__(self) -> None:
        self.bits = np.random.Philox(key=0)
        self.beginning: Any = self.bits.state
        self.generator = np.random.Generator(self.bits)

    def at(self, key: int) -> np.random.Generator:
        """As `Generator(Philox(key))` before it has drawn anything."""
        self.beginning["state"]["key"] = np.array([key & HALF, key >> 64], np.uint64)
        self.bits.state = self.beginning
        return self.generator


_shared = _Shared()


class Rng:
    """One stream per row: a draw depends on its own key, never on the batch, the process or an earlier step.

    Streams are counter-based (Philox, Salmon et al. 2011) with a full 128-bit key: torch's CPU generator keeps only
    32 bits of a seed. Numbers are made on the CPU, so that machines agree.
    """

    def __init__(self, keys: Sequence[int]) -> None:
        if not keys:
            raise ValueError("Rng got no keys, expected one per row; write Rng([seed]).")
        self.keys = tuple(int(key) for key in keys)
        self._streams: list[np.random.Generator] | None = None
        self._drawn: Draw | None = None  # the first draw, by the shared generator

    @property
    def streams(self) -> list[np.random.Generator]:
        """The numpy generators, one per row, behind what was drawn of them."""
        if self._streams is None:
            self._streams = [np.random.Generator(np.random.Philox(key=derive(key))) for key in self.keys]
            if self._drawn is not None:
                for stream in self._streams:
                    self._drawn(stream)
        return self._streams

    def _rows(self, draw: Draw) -> Tensor:
        """A draw of every stream; the first, after which most are not used again, without making them."""
        if self._streams is None and self._drawn is None:
            self._drawn = draw
            return torch.from_numpy(np.stack([draw(_shared.at(derive(key))) for key in self.keys]))
        return torch.from_numpy(np.stack([draw(stream) for stream in self.streams]))

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) float32, independent N(0, 1)."""
        return self._rows(lambda stream: np.asarray(stream.standard_normal(shape, np.float32)))

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) float32 in [0, 1)."""
        return self._rows(lambda stream: np.asarray(stream.random(shape, np.float32)))

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """(B, *shape) int64 in [low, high)."""
        return self._rows(lambda stream: np.asarray(stream.integers(low, high, shape)))

    def child(self, *path: str | int) -> Rng:
        """Fresh streams for a named purpose, independent of what this one has already drawn."""
        return Rng([derive(key, *path) for key in self.keys])

    def rows(self, index: Tensor) -> Rng:
        """Fresh streams of some rows, from their beginning."""
        return Rng([self.keys[i] for i in index.tolist()])
