"""Atomic, hashed, never a pickle; what is cut short, changed or foreign is refused."""

import errno
import json
from pathlib import Path

import pytest
import torch

from fabrica import checkpoint
from fabrica.checkpoint import CheckpointError, load, save

TENSORS = {"model/a": torch.randn(3, 4), "b": torch.arange(5)}


def test_round_trip_and_replacement(tmp_path: Path) -> None:
    assert load(tmp_path) is None
    for step in (1, 2):
        save(tmp_path, {**TENSORS, "step": torch.tensor(step)}, {"step": step})
    tensors, facts = load(tmp_path) or ({}, {})
    assert facts == {"step": 2}
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
    assert facts == {"step": 1}
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
