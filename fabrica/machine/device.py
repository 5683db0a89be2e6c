"""The machine a run is on: which device computes, how much memory is free, and how much a piece of work takes."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICES = ("auto", "cpu", "cuda")
_CONTROL_GROUP = Path("/sys/fs/cgroup")


def find_device(asked: str = "auto") -> str:
    """The device that a run computes on: a CUDA card where there is one. Raises ValueError when there is not what was
    asked.
    """
    if asked not in DEVICES:
        raise ValueError(f"There is no device {asked!r}. Devices: {', '.join(DEVICES)}.")
    present = torch.cuda.is_available()
    if asked == "cuda" and not present:
        raise ValueError("No CUDA card can be used here. Write --device cpu, or install a CUDA build of PyTorch.")
    return "cuda" if present and asked != "cpu" else "cpu"


def cache_folder() -> Path:
    """Where this user's machine keeps what is measured once: $XDG_CACHE_HOME/fabrica, else ~/.cache/fabrica."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fabrica"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system refuses inside names this file: writers of arrays and images leave the name out."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        cut_short = error.errno is None and "written" in str(error)  # numpy says how much it could write, and not why
        code = errno.ENOSPC if cut_short else error.errno or errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from error


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads of torch within, as many as before afterwards: bytes depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def processor_name() -> str:
    """The processor's name and a short hash of its instructions: processors of one name differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}".strip()
    said = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines) if v}
    instructions = said.get("flags") or said.get("Features") or ""
    own = hashlib.blake2b(" ".join(sorted(instructions.split())).encode(), digest_size=4).hexdigest()
    return f"{platform.machine()} {said.get('model name', platform.processor())} {own}"


def free_bytes(device: str = "cpu") -> int | None:
    """Memory that may still be taken, a container's limit included; None where the system does not say."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    found = [n for n in (_available(), _left_in_container()) if n is not None]
    return min(found, default=None)


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _left_in_container() -> int | None:
    """Of control group version 2; the files do not exist, or say "max", outside a limited container."""
    try:
        limit, used = ((_CONTROL_GROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return None if limit == "max" else max(0, int(limit) - int(used))
    except (OSError, ValueError):
        return None


def resident_bytes() -> int:
    """What this process holds now; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def peak_bytes(work: Callable[[], object]) -> int:
    """The most that tensors made by `work` hold at one moment, backward passes included; nothing made before counts.

    Counted by watching every operation, so it is the same on every machine; scratch memory inside operations is not
    seen.
    """
    with _Live() as live:
        work()
    peak: int = live.peak
    return peak


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operations return, and takes them off when they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = [t for t in tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)]
        before = {part.untyped_storage()._cdata for t in given for part in _parts(t)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                for part in _parts(tensor):
                    self._see(part, before)
        return result

    def _see(self, tensor: Tensor, before: set[int]) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in before or key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _parts(tensor: Tensor) -> Sequence[Tensor]:
    """What has a storage: of a sparse matrix its indices and values."""
    if tensor.layout == torch.strided:
        return (tensor,)
    if tensor.layout == torch.sparse_csr:
        return (tensor.crow_indices(), tensor.col_indices(), tensor.values())
    return ()


def in_words(count: int) -> str:
    """2.3 GB, 640 MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
