"""Prepared images as sharded, compressed Zarr (version 3): less disk than a memory map, more work to read."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNKS = {"zyx": (32, 64, 64), "yx": (1, 128, 128)}  # (z, y, x) that are read and decompressed together
ENDING = ".zarr"
EXTRA = 'Zarr is not installed. Install it: pip install -e ".[zarr]" -c constraints.txt'


def check_installed() -> None:
    """Raises ValueError where Zarr is not."""
    if importlib.util.find_spec("zarr") is None:
        raise ValueError(EXTRA)


def write_sharded(path: Path, values: NDArray[np.float32], axes: str = "zyx") -> None:
    """(C, z, y, x) into a file of zstd-compressed chunks a channel. `axes`: what is read at a time, yx for slices."""
    import zarr

    chunks = (1, *(min(c, n) for c, n in zip(CHUNKS[axes], values.shape[1:], strict=True)))
    shards = (1, *(-(-n // c) * c for c, n in zip(chunks[1:], values.shape[1:], strict=True)))
    array = zarr.create_array(
        store=str(path), shape=values.shape, dtype="float32", chunks=chunks, shards=shards, overwrite=True
    )
    array[:] = values


class Sharded:
    """(C, z, y, x) on disk, read chunk by chunk: answers what loaders and judges ask of an array."""

    def __init__(self, path: Path) -> None:
        import zarr

        self._array: Any = zarr.open_array(store=str(path), mode="r")
        self.shape: tuple[int, ...] = tuple(self._array.shape)
        self.dtype: np.dtype[np.float32] = np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return (self[k] for k in range(len(self)))

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        """Of numbers and slices; of planes by their numbers, in any order, as loaders ask for neighbours."""
        keys = key if isinstance(key, tuple) else (key,)
        at = next((k for k, one in enumerate(keys) if isinstance(one, np.ndarray)), None)
        if at is None:
            found: NDArray[np.float32] = np.asarray(self._array[key])
            return found
        planes = keys[at]
        first = int(planes.min())
        span = (*keys[:at], slice(first, int(planes.max()) + 1), *keys[at + 1 :])
        around: NDArray[np.float32] = np.take(np.asarray(self._array[span]), planes - first, axis=at)
        return around

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self._array[:], dtype)


def files_of(path: Path) -> list[Path]:
    """What lies on disk for it, in a fixed order."""
    return sorted(p for p in path.rglob("*") if p.is_file())
