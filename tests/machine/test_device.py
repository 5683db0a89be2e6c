"""What the machine has is asked of the machine; what work takes is counted, and counted right."""

from mmap import PAGESIZE, mmap
from pathlib import Path

import numpy as np
import pytest
import torch

from fabrica.machine import device
from fabrica.machine import device as machine
from fabrica.machine.device import find_device, free_bytes, in_words, peak_bytes, resident_bytes
from fabrica.physics.sparse import csr


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device() == find_device("cpu") == "cpu"
    with pytest.raises(ValueError, match="--device cpu"):
        find_device("cuda")
    with pytest.raises(ValueError, match="no device 'tpu'.*auto, cpu, cuda"):
        find_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (find_device(), find_device("cuda"), find_device("cpu")) == ("cuda", "cuda", "cpu")


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CONTROL_GROUP", tmp_path)
    whole = free_bytes()
    assert whole is not None
    assert whole > 0
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert free_bytes() == 600_000
    (tmp_path / "memory.current").write_text("1400000\n")
    assert free_bytes() == 0
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes() is not None
    assert free_bytes() != 0


def test_resident_memory_grows_with_what_is_touched() -> None:
    before = resident_bytes()
    with mmap(-1, 120_000_000) as held:  # of the system itself: an allocator may hand out what it holds already
        for page in range(0, len(held), PAGESIZE):
            held[page] = 1
        assert 100e6 < resident_bytes() - before < 200e6


def test_live_tensors_are_counted_at_their_peak() -> None:
    given = torch.ones(1000)

    def work() -> torch.Tensor:
        a = given * 2  # 4,000 bytes
        a += 1
        view = a.reshape(10, 100)[2:]
        b = torch.cat([view.flatten(), given])  # 7,200
        del a, view
        return b.double().sum()  # 14,400 more: with b alone the peak

    assert peak_bytes(work) == 7_200 + 14_400 + 8
    assert peak_bytes(lambda: given.view(10, 100)) == 0
    assert peak_bytes(lambda: given.add_(1)) == 0


def test_what_a_backward_pass_keeps_is_counted() -> None:
    weight = torch.ones(100, 100, requires_grad=True)
    weight.grad = torch.zeros_like(weight)
    x = torch.ones(50, 100)

    def work() -> None:
        torch.autograd.backward((x @ weight).exp().sum())

    kept = 2 * 50 * 100 * 4  # the product may be freed, its exponential is kept, and its gradient appears
    assert kept <= peak_bytes(work) <= 2 * kept + weight.nbytes


def test_words() -> None:
    assert in_words(2_340_000_000) == "2.3 GB"
    assert in_words(640_400_000) == "640 MB"


def test_sparse_matrices_are_counted_by_what_they_hold() -> None:
    """Projections are sparse: a training that makes their matrix on the way is foretold too."""

    def work() -> torch.Tensor:
        matrix = csr(np.array([0, 0, 1]), np.array([0, 1, 2]), np.ones(3, np.float32), (3, 4))
        return (matrix @ torch.ones(4, 8)).sum()

    assert peak_bytes(work) >= 4 * 4 + 3 * 4 + 3 * 4 + 3 * 8 * 4


def test_a_system_that_says_nothing_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere than on Linux there is no /proc."""

    def missing(self: Path, *rest: object, **more: object) -> str:
        raise FileNotFoundError(str(self))

    monkeypatch.setattr(Path, "read_text", missing)
    assert device.processor_name()
    assert device.free_bytes() is None
    assert device.resident_bytes() == 0
