"""Pictures, arrays and archives; nothing of them is trusted."""

import io as buffers
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from fabrica import io
from fabrica.io import raster


def _png(pixels: np.ndarray) -> bytes:
    buffer = buffers.BytesIO()
    Picture.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_grey_colour_and_sixteen_bit(tmp_path: Path) -> None:
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    colour = np.stack([grey, grey // 2, grey * 0], -1)
    deep = (grey.astype(np.uint16) * 500).astype(np.uint16)
    for name, pixels in (("grey", grey), ("equal", np.stack([grey] * 3, -1)), ("colour", colour), ("deep", deep)):
        (tmp_path / f"{name}.png").write_bytes(_png(pixels))
    read = {p.stem: io.read_image(p) for p in tmp_path.iterdir()}
    assert torch.equal(read["grey"].data[0], torch.tensor(grey).float())
    assert torch.equal(read["equal"].data, read["grey"].data)
    assert read["colour"].data.shape == (3, 6, 8)
    assert float(read["deep"].data.max()) == 47 * 500
    assert not read["grey"].calibrated
    assert {n: i.meaning.unit for n, i in read.items()} == {
        "grey": "grey", "equal": "grey", "colour": "grey", "deep": "a.u."
    }  # fmt: skip


def test_archives(tmp_path: Path) -> None:
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    with zipfile.ZipFile(tmp_path / "Hand.zip", "w") as archive:
        archive.writestr("Hand/1.png", _png(grey))
        archive.writestr("Hand/2.png", b"not a picture")
        archive.writestr("../../escape.png", _png(grey))
    found = io.scan_folder(tmp_path)
    assert len(found.scans) == 2
    assert "2.png" in found.oddities[0].file
    assert all(torch.equal(io.read(s).data[0], torch.tensor(grey).float()) for s in found.scans)
    assert not (tmp_path.parent.parent / "escape.png").exists()


def test_arrays(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (5, 7, 9)).astype(np.uint8)
    np.savez(tmp_path / "set.npz", train_images=images, train_labels=np.arange(5)[:, None])
    scans = io.scan_folder(tmp_path).scans
    assert [s.values["class"] for s in scans] == list("01234")
    assert scans[0].values["part"] == "train"
    assert torch.equal(io.read(scans[3]).data[0], torch.tensor(images[3]).float())
    assert io.read(scans[3]).meaning.unit == "grey"
    np.savez(tmp_path / "set.npz", images=images.astype(np.float32))
    assert io.read(io.scan_folder(tmp_path).scans[0]).meaning.unit == "a.u."


def test_objects_and_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "objects.npz", images=np.array([{"a": 1}], dtype=object))
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w") as archive:
        archive.writestr("1.png", _png(np.zeros((4, 4), np.uint8)))
    monkeypatch.setattr(raster, "LARGEST_BYTES", 10)
    faults = {Path(o.file.split("#")[0]).name: o.fault for o in io.scan_folder(tmp_path).oddities}
    assert "not a plain npz" in faults["objects.npz"]
    assert "unpacks" in faults["bomb.zip"]


def test_what_is_no_picture_is_one_line_each(tmp_path: Path) -> None:
    whole = _png(np.random.default_rng(0).integers(0, 255, (40, 40)).astype(np.uint8))
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "no.zip").write_bytes(b"PK\3\4 and then nothing")
    with zipfile.ZipFile(tmp_path / "words.zip", "w") as archive:
        archive.writestr("folder/", "")
        archive.writestr("folder/readme.txt", "about")
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("readme.txt", "about")
        archive.writestr("1.png", _png(np.zeros((4, 4), np.uint8)))
    np.savez(tmp_path / "numbers.npz", a=np.float32(3), b=np.zeros(7))
    found = io.scan_folder(tmp_path)
    faults = {Path(o.file.split("#")[0]).name: o.fault for o in found.oddities}
    assert len(found.scans) == 1
    assert "not a readable picture" in faults["cut.png"]
    assert "not a readable picture" in faults["text.jpg"]
    assert "not a readable zip" in faults["no.zip"]
    assert "holds no PNG or JPEG" in faults["words.zip"]
    assert "holds no pictures (arrays: a, b)" in faults["numbers.npz"]
    assert set(faults) == {"cut.png", "text.jpg", "no.zip", "words.zip", "numbers.npz"}
