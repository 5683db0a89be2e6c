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

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as pack_tensors
from torch import Tensor, nn

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


def pack(family: nn.Module, average: nn.Module, optimisers: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights, averages and optimiser states under model/, average/ and optimiser/GROUP/INDEX/."""
    tensors = {f"model/{k}": v for k, v in family.state_dict().items()}
    tensors |= {f"average/{k}": v for k, v in average.state_dict().items()}
    for name, optimiser in optimisers.items():
        for i, state in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{name}/{i}/{k}": torch.as_tensor(v) for k, v in state.items()}
    return tensors


def unpack(
    tensors: Mapping[str, Tensor], family: nn.Module, average: nn.Module, optimisers: Mapping[str, Any], folder: Path
) -> None:
    """The inverse of `pack`; raises CheckpointError when the tensors are of another network."""
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimiser": {}}
    for key, value in tensors.items():
        kind, _, name = key.partition("/")
        parts[kind][name] = value
    fault = f"The checkpoint in {folder} is of another network. Undo the change, or start a new run."
    into(family, parts["model"], fault)
    into(average, parts["average"], fault)
    for name, optimiser in optimisers.items():
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in parts["optimiser"].items():
            group, i, what = key.split("/")
            if group == name:
                states.setdefault(int(i), {})[what] = _laid_out_like(parameters[int(i)], value)
        optimiser.load_state_dict({**optimiser.state_dict(), "state": states})


def into(module: nn.Module, tensors: Mapping[str, Tensor], fault: str) -> None:
    """load_state_dict with an error that says what to do."""
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise CheckpointError(f"{fault} ({str(error).splitlines()[-1].strip()[:120]})") from error


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """A fused optimiser walks memory: its state must have the strides of its parameter."""
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape and value.ndim else value


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
