"""Whole gzip files at once: by ISA-L where the extra `fast` is installed (faster), else by zlib."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import cast

from .scan import UnreadableError

_failures: tuple[type[Exception], ...] = (zlib.error, EOFError, OSError)
try:
    from isal import igzip, isal_zlib

    _decompress = igzip.decompress
    _failures = (*_failures, cast(type[Exception], isal_zlib.error))
    FAST = True
except ImportError:
    _decompress, FAST = gzip.decompress, False


def content(path: Path) -> bytes:
    """What is inside; raises UnreadableError when the file is cut short or damaged."""
    try:
        inside: bytes = _decompress(path.read_bytes())
    except _failures as error:
        raise UnreadableError("its voxel data is cut short or damaged.", "Copy the file again.") from error
    return inside
