"""What glibc does with memory that a worker process frees."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT = 64 << 20  # bytes free at the top of the heap before any goes back to the system
LARGEST = 32 << 20  # bytes of one array that are taken from the heap: glibc allows no more


@cache
def keep_freed_memory() -> bool:
    """Lets arrays use again what others freed, up to 64 MiB; whether this system's allocator can be told so.

    Dask starts workers with MALLOC_TRIM_THRESHOLD_=65536, and whoever sets that ends glibc's own adapting (mallopt(3),
    M_MMAP_THRESHOLD): every array above 128 KiB is then mapped anew and zeroed page by page, which doubled the time of
    a pair's metrics.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST) and mallopt(M_TRIM_THRESHOLD, KEPT))
