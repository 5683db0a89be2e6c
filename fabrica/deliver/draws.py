"""Draws that a mean was made of, kept beside the objects of an outbox: who judges flips through them, nobody is sent
them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .files import write_whole
from .record import hash_of

FOLDER = "draws"
LIST = "draws.json"


@dataclass(frozen=True)
class Kept:
    """The draws of a series as they were drawn; what is stored of them = `factor` x what their files hold."""

    files: tuple[Path, ...]
    sha256: tuple[str, ...]
    factor: float

    def unchanged(self, number: int) -> Path:
        """The file of a draw; raises ValueError where it is gone or was changed."""
        path = self.files[number]
        if not path.is_file() or hash_of(path) != self.sha256[number]:
            raise ValueError(f"{path} is gone or was changed after it was drawn: it is not shown.")
        return path


def keep(outbox: Path, series: str, files: Sequence[Path], factor: float) -> str:
    """Copies draws (NIfTI) below draws/SERIES; the sha256 of their list, which the ledger is to hold."""
    folder = outbox / FOLDER / series
    contents = [file.read_bytes() for file in files]
    for number, content in enumerate(contents):
        write_whole(folder / _name(number), content)
    plain = {"factor": factor, "sha256": [hashlib.sha256(content).hexdigest() for content in contents]}
    told = json.dumps(plain).encode()
    write_whole(folder / LIST, told)
    return hashlib.sha256(told).hexdigest()


def kept(outbox: Path, series: str, digest: str) -> Kept | None:
    """The draws of a series whose list has this sha256; None where the ledger knows of none, or their folder was
    cleared. Raises ValueError where their list is gone or is another.
    """
    folder = outbox / FOLDER / series
    if not digest or not folder.exists():
        return None
    path = folder / LIST
    if not path.is_file() or hash_of(path) != digest:
        raise ValueError(f"{path} is gone or was changed after it was made: the draws are not shown.")
    plain = json.loads(path.read_text())
    hashes = tuple(map(str, plain["sha256"]))
    return Kept(tuple(folder / _name(k) for k in range(len(hashes))), hashes, float(plain["factor"]))


def _name(number: int) -> str:
    return f"{number}.nii.gz"
