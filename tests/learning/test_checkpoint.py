"""Atomic, hashed, never a pickle; what is cut short, changed or foreign is refused."""

import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fabrica.learning import checkpoint
from fabrica.learning.checkpoint import CheckpointError, Writer, load, save

TENSORS = {"model/a": torch.randn(3, 4), "b": torch.arange(5)}


def test_round_trip_and_replacement(tmp_path: Path) -> None:
    assert load(tmp_path) is None
    for step in (1, 2):
        save(tmp_path, {**TENSORS, "step": torch.tensor(step)}, {"step": step})
    tensors, facts = load(tmp_path) or ({}, {})
    assert facts == {"step": 2, "format": 2}
    assert torch.equal(tensors["model/a"], TENSORS["model/a"])
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_truncated_and_tampered_files_are_refused(tmp_path: Path) -> None:
    save(tmp_path, TENSORS, {"step": 1})
    (file,) = tmp_path.glob("*.safetensors")
    content = file.read_bytes()
    for wrong in (content[:-7], content[:-1] + bytes([content[-1] ^ 1])):
        file.write_bytes(wrong)
        with pytest.raises(CheckpointError, match="does not match its hash"):
            load(tmp_path)
    file.unlink()
    with pytest.raises(CheckpointError, match="incomplete"):
        load(tmp_path)


def test_a_path_in_the_index_is_not_followed(tmp_path: Path) -> None:
    save(tmp_path / "a", TENSORS, {})
    index = json.loads((tmp_path / "a" / "checkpoint.json").read_text())
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "checkpoint.json").write_text(json.dumps({**index, "tensors": "../a/" + index["tensors"]}))
    with pytest.raises(CheckpointError, match="a path instead of a name"):
        load(tmp_path / "b")
    (tmp_path / "b" / "checkpoint.json").write_text("{}")
    with pytest.raises(CheckpointError, match="incomplete"):
        load(tmp_path / "b")


def test_a_full_disk_keeps_the_last_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, TENSORS, {"step": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device.*last good checkpoint is kept"):
        save(tmp_path, {"other": torch.zeros(3)}, {"step": 2})
    monkeypatch.undo()
    _, facts = load(tmp_path) or ({}, {})
    assert facts == {"step": 1, "format": 2}
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
     torch.uint8, torch.bool],
)  # fmt: skip
def test_the_library_reads_what_is_streamed(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {
        "odd": (torch.arange(7) % 2).to(dtype), "none": torch.zeros(0, 3, dtype=dtype), "one": torch.ones((), dtype=dtype),
        "laid out": torch.arange(24).reshape(2, 3, 2, 2).to(dtype).contiguous(memory_format=torch.channels_last),
        "byte": torch.tensor([3], dtype=torch.uint8), "ä/\"": torch.arange(3).double(),
    }  # fmt: skip
    save(tmp_path, tensors, {})
    (file,) = tmp_path.glob("*.safetensors")
    read = load_file(file)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


def test_in_the_background_the_moment_of_the_call_counts(tmp_path: Path) -> None:
    writer, weights, buffer = Writer(tmp_path), torch.zeros(300_000), torch.zeros(3)
    facts = {"step": 1, "curve": [1]}
    for value in (1.0, 2.0):  # the second time memory is used again
        weights.fill_(value)
        buffer.fill_(value)
        writer.save({"w": weights, "buffer": buffer}, facts, at_once=["buffer"])
        buffer.fill_(-1.0)
        writer.copied()
        weights.fill_(-1.0)
        facts["curve"].append(9)  # type: ignore[attr-defined]
        writer.wait()
        tensors, found = load(tmp_path) or ({}, {})
        assert torch.equal(tensors["w"], torch.full((300_000,), value))
        assert torch.equal(tensors["buffer"], torch.full((3,), value))
        assert found["curve"] == [1] + [9] * (int(value) - 1)
    writer.save({"w": torch.ones(3, dtype=torch.int32), "v": torch.ones(2)}, {})
    writer.save({"v": torch.ones(2)}, {})
    writer.wait()
    tensors, _ = load(tmp_path) or ({}, {})
    assert set(tensors) == {"v"}


def test_a_fault_in_the_background_is_raised_once_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path)
    writer.save(TENSORS, {"step": 1})
    writer.wait()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    writer.save({"other": torch.zeros(3)}, {"step": 2})
    with pytest.raises(CheckpointError, match="No space left on device"):
        writer.wait()
    writer.check()
    monkeypatch.undo()
    assert (load(tmp_path) or ({}, {}))[1] == {"step": 1, "format": 2}


def test_any_fault_in_the_background_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(tmp_path)
    writer.save({"complex": torch.zeros(2, dtype=torch.complex64)}, {})  # a kind that the format does not know
    writer.copied()
    with pytest.raises(KeyError):
        writer.wait()
    monkeypatch.setattr(
        writer, "_copy", lambda tensors: (_ for _ in ()).throw(MemoryError("none left")) if tensors else None
    )
    writer.save({"w": torch.zeros(2)}, {})
    writer.copied()
    with pytest.raises(MemoryError):
        writer.wait()


def test_what_a_kill_left_half_written_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors.part").write_bytes(b"half")
    save(tmp_path, TENSORS, {})
    assert not list(tmp_path.glob("*.part"))


def test_another_network_is_refused(tmp_path: Path) -> None:
    one, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 4)
    optimiser = torch.optim.AdamW(one.parameters())
    one(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    packed = checkpoint.pack(one, one, {"model": optimiser})
    assert any(k.startswith("optimiser/model/0/") for k in packed)
    with pytest.raises(CheckpointError, match="another network"):
        checkpoint.unpack(packed, other, other, {}, tmp_path)
