"""Checkpoints: tensors in safetensors, facts in JSON, each write atomic, each read checked by its hash.

`checkpoint.json` names the tensor file and its SHA-256; replacing it is the moment at which a new checkpoint counts, so
a kill at any moment leaves the old pair or the new one. While a training goes on, a thread writes.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import struct
import threading
from collections.abc import Callable, Collection, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from torch import Tensor, nn

from ..networks.adapters import merged

FORMAT = 2  # 1: contrasts had a unit only where it was HU or grey, all others the scale of each case
READABLE = (1, 2)
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class CheckpointError(Exception):
    """A checkpoint that cannot be written or trusted: what happened, and what to do next."""


def save(folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write both files; raises CheckpointError when the disk refuses, the last good checkpoint stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for cut_short in folder.glob("*.part"):
        cut_short.unlink(missing_ok=True)
    try:
        name, digest = _write_tensors(folder, tensors)
        own = {key: value for key, value in facts.items() if key != "format"}
        plain = {"format": FORMAT, "tensors": name, "sha256": digest, "facts": own}
        index = json.dumps(plain, indent=1).encode()
        _write(folder / "checkpoint.json", lambda file: file.write(index))
    except OSError as error:
        raise CheckpointError(
            f"The checkpoint could not be written to {folder} ({error.strerror}). Free some space and run the same "
            f"command again: the last good checkpoint is kept."
        ) from error
    for old in folder.glob("checkpoint-*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)


class Writer:
    """Saves in the background: a thread copies to memory that is kept for the next time, then writes.

    Whoever saves may compute meanwhile, but must call `copied` before it changes the tensors.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._kept: dict[str, Tensor] = {}
        self._copied = threading.Event()
        self._thread: threading.Thread | None = None
        self._fault: Exception | None = None

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], at_once: Collection[str] = ()) -> None:
        """Start a save; raises CheckpointError when the one before it failed. Tensors named `at_once` may change right
        after.
        """
        self.wait()
        self._make_room(tensors)
        self._copy({n: t for n, t in tensors.items() if n in at_once})
        self._copied.clear()
        later = {n: t.detach() for n, t in tensors.items() if n not in at_once}
        self._thread = threading.Thread(target=self._write, args=(later, copy.deepcopy(dict(facts))))
        self._thread.start()

    def copied(self) -> None:
        """Until the tensors of the last save may change."""
        if self._thread is not None:
            self._copied.wait()

    def wait(self) -> None:
        """Until the last save lies on the disk; raises CheckpointError when it could not."""
        self.finish()
        self.check()

    def finish(self) -> None:
        """Until the last save has ended, well or not."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def check(self) -> None:
        """Raise, once, what went wrong in the background."""
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault

    def _make_room(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            kept = self._kept.get(name)
            if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
                self._kept[name] = torch.empty_like(tensor, device="cpu", requires_grad=False)
        self._kept = {name: self._kept[name] for name in tensors}

    def _copy(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in tensors.items():
                self._kept[name].copy_(tensor)

    def _write(self, tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> None:
        try:
            self._copy(tensors)
            self._copied.set()
            save(self.folder, self._kept, facts)
        except Exception as error:  # whatever it is, the thread that trains must hear of it
            self._fault = error
        finally:
            self._copied.set()


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and facts, or None when there is no checkpoint; raises CheckpointError when it was cut short or
    changed.
    """
    index = folder / "checkpoint.json"
    if not index.exists():
        return None
    try:
        plain = json.loads(index.read_text())
        name, digest, facts = plain["tensors"], plain["sha256"], {**plain["facts"], "format": int(plain["format"])}
        if Path(name).name != name:
            raise ValueError("a path instead of a name")
        content = (folder / name).read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"The checkpoint in {folder} is incomplete ({error}). Delete that folder to start the stage again."
        ) from error
    if facts["format"] not in READABLE:
        raise CheckpointError(
            f"The checkpoint in {folder} has format {facts['format']}, "
            f"and this version reads {READABLE[0]} to {READABLE[-1]}. "
            "Use the version of Fabrica that wrote it: see commit and packages in the run's environment.json."
        )
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


def load_weights(family: nn.Module, folder: Path) -> dict[str, Any]:
    """Averaged weights of a finished stage into a family; returns the facts. Raises CheckpointError."""
    slow, facts = weights_in(folder)
    into(family, slow, f"The checkpoint in {folder} is of another network. Undo the change, or start a new run.")
    return facts


def weights_in(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(averaged weights, facts) of a stage; of an adapter, the weights that it was made for with what it changes of
    them. Raises CheckpointError, also where those are gone or are others now.
    """
    found = load(folder)
    if found is None:
        raise CheckpointError(f"{folder} holds no checkpoint. Train first: fabrica run RECIPE")
    tensors, facts = found
    if (beside := facts.get("adapter")) is None:
        return {k.removeprefix("average/"): v for k, v in tensors.items() if k.startswith("average/")}, facts
    start = Path(beside["start"])
    if not (start / "checkpoint.json").is_file() or tensors_hash(start) != beside["sha256"]:
        raise CheckpointError(
            f"The adapter in {folder} changes the weights in {start}, which are gone or were trained again. Put them"
            " back, or adapt those that there are: fabrica adapt RUN --data DIR --out RUN2"
        )
    try:
        return merged(weights_in(start)[0], tensors), facts
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"The adapter in {folder} does not fit the weights in {start} ({error}).") from error


def tensors_hash(folder: Path) -> str:
    """SHA-256 of the tensors, as the checkpoint says it; raises CheckpointError where there is none."""
    try:
        return str(json.loads((folder / "checkpoint.json").read_text())["sha256"])
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder} holds no checkpoint. Train first: fabrica run RECIPE") from error


def into(module: nn.Module, tensors: Mapping[str, Tensor], fault: str) -> None:
    """load_state_dict with an error that says what to do."""
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise CheckpointError(f"{fault} ({str(error).splitlines()[-1].strip()[:120]})") from error


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """A fused optimiser walks memory: its state must have the strides of its parameter."""
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape and value.ndim else value


def _write_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    """The safetensors format, one tensor after the other, hashed on the way: (name, SHA-256).

    The library would hold all of it in memory once more, and every other thread meanwhile.
    """
    order = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))  # so that all are aligned
    header, end = dict[str, Any](), 0
    for name, tensor in order:
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    packed = json.dumps(header).encode()
    packed += b" " * (-len(packed) % 8)
    digest = hashlib.sha256()

    def fill(file: BinaryIO) -> None:
        for part in chain((struct.pack("<Q", len(packed)), packed), (_bytes(t) for _, t in order)):
            digest.update(part)
            file.write(part)

    temporary = folder / "checkpoint.safetensors"
    _write(temporary, fill)
    name = f"checkpoint-{digest.hexdigest()[:12]}.safetensors"
    os.replace(temporary, folder / name)
    return name, digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes | memoryview[int]:
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().data if len(plain) else b""


def _write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Write beside the target, flush to disk, rename over it."""
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
