"""Checkpoints: tensors in safetensors, facts in JSON, each write atomic, each read checked by its hash.

`checkpoint.json` names the tensor file and its SHA-256; replacing it is the moment at which a new checkpoint counts, so
a kill at any moment leaves the old pair or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as pack_tensors
from torch import Tensor

FORMAT = 1


class CheckpointError(Exception):
    """A checkpoint that cannot be written or trusted: what happened, and what to do next."""


def save(folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write both files; raises CheckpointError when the disk refuses, the last good checkpoint stays."""
    folder.mkdir(parents=True, exist_ok=True)
    content = pack_tensors({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    digest = hashlib.sha256(content).hexdigest()
    name = f"checkpoint-{digest[:12]}.safetensors"
    try:
        _write(folder / name, content)
        plain = {"format": FORMAT, "tensors": name, "sha256": digest, "facts": dict(facts)}
        _write(folder / "checkpoint.json", json.dumps(plain, indent=1).encode())
    except OSError as error:
        raise CheckpointError(
            f"The checkpoint could not be written to {folder} ({error.strerror}). Free some space and run the same "
            f"command again: the last good checkpoint is kept."
        ) from error
    for old in folder.glob("checkpoint-*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and facts, or None when there is no checkpoint; raises CheckpointError when it was cut short or changed."""
    index = folder / "checkpoint.json"
    if not index.exists():
        return None
    try:
        plain = json.loads(index.read_text())
        name, digest, facts = plain["tensors"], plain["sha256"], plain["facts"]
        if Path(name).name != name:
            raise ValueError("a path instead of a name")
        content = (folder / name).read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"The checkpoint in {folder} is incomplete ({error}). Delete that folder to start the stage again."
        ) from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise CheckpointError(
            f"The checkpoint in {folder} does not match its hash: it was cut short or changed. Delete that folder to "
            "start the stage again, or restore it from a copy."
        )
    try:
        return parse_tensors(content), facts
    except SafetensorError as error:
        raise CheckpointError(
            f"The checkpoint in {folder} cannot be parsed ({error}). Delete that folder to start again."
        ) from error


def _write(path: Path, content: bytes) -> None:
    """Write beside the target, flush to disk, rename over it."""
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
