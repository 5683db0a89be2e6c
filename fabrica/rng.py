"""Random numbers that depend on what they are for, not on when they are drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def derive(key: int, *path: str | int) -> int:
    """A 128-bit key for a named purpose; the same path always gives the same key (blake2b of its repr)."""
    return int.from_bytes(hashlib.blake2b(repr((key, *path)).encode(), digest_size=16).digest(), "big")


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

    @property
    def streams(self) -> list[np.random.Generator]:
        """The numpy generators, one per row, made when first used: deriving children costs nothing."""
        if self._streams is None:
            self._streams = [np.random.Generator(np.random.Philox(key=derive(key))) for key in self.keys]
        return self._streams

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) float32, independent N(0, 1)."""
        return torch.stack([torch.from_numpy(np.asarray(s.standard_normal(shape, np.float32))) for s in self.streams])

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) float32 in [0, 1)."""
        return torch.stack([torch.from_numpy(np.asarray(s.random(shape, np.float32))) for s in self.streams])

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """(B, *shape) int64 in [low, high)."""
        return torch.stack([torch.from_numpy(np.asarray(s.integers(low, high, shape))) for s in self.streams])

    def child(self, *path: str | int) -> Rng:
        """Fresh streams for a named purpose, independent of what this one has already drawn."""
        return Rng([derive(key, *path) for key in self.keys])

    def rows(self, index: Tensor) -> Rng:
        """Fresh streams of some rows, from their beginning."""
        return Rng([self.keys[i] for i in index.tolist()])
