"""MetaImage against ITK's own reader and writer, and files that lie."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch

from fabrica.data.cohort import find
from fabrica.io import UnreadableError, read_image, scan_folder

KINDS = (np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64)


def _image(kind: type, shape: tuple[int, ...] = (4, 6, 5), channels: int = 1) -> SimpleITK.Image:
    rng = np.random.default_rng(0)
    sides = (*shape, channels) if channels > 1 else shape
    image = SimpleITK.GetImageFromArray((rng.random(sides) * 100).astype(kind), isVector=channels > 1)
    image.SetSpacing([0.7, 0.8, 3.0][: len(shape)])
    image.SetOrigin([-10.5, 20.25, 7.0][: len(shape)])
    if len(shape) == 3:
        a, b = np.cos(0.3), np.sin(0.3)
        image.SetDirection([a, -b, 0, b, a, 0, 0, 0, 1])
    return image


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@pytest.mark.parametrize("ending", [".mha", ".mhd"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_same_voxels_in_the_same_place(tmp_path: Path, kind: type, ending: str, packed: bool) -> None:
    image = _image(kind)
    SimpleITK.WriteImage(image, str(tmp_path / f"scan{ending}"), useCompression=packed)
    assert len(scan_folder(tmp_path).scans) == 1
    ours = read_image(tmp_path)
    np.testing.assert_array_equal(ours.data[0].numpy(), SimpleITK.GetArrayFromImage(image).astype(np.float32))
    for index in ((0, 0, 0), (3, 5, 4), (1, 2, 3)):
        place = ours.affine.numpy() @ np.array([*index, 1.0])
        np.testing.assert_allclose(place[:3], image.TransformIndexToPhysicalPoint(index[::-1]), atol=1e-5)


def test_pictures_and_channels(tmp_path: Path) -> None:
    SimpleITK.WriteImage(_image(np.float32, (7, 5)), str(tmp_path / "flat.mha"))
    assert read_image(tmp_path / "flat.mha").axes == "yx"
    two = _image(np.float32, channels=2)
    SimpleITK.WriteImage(two, str(tmp_path / "two.mha"))
    data = read_image(tmp_path / "two.mha").data
    np.testing.assert_array_equal(torch.movedim(data, 0, -1).numpy(), SimpleITK.GetArrayFromImage(two))


def _text(**change: str) -> bytes:
    lines = {
        "ObjectType": "Image", "NDims": "3", "DimSize": "2 2 2", "ElementType": "MET_UCHAR", "ElementDataFile": "LOCAL", **change,
    }  # fmt: skip
    lines["ElementDataFile"] = lines.pop("ElementDataFile")  # the last line, after which voxels begin
    return "".join(f"{k} = {v}\n" for k, v in lines.items() if v).encode()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_text() + bytes(7), "cut short or damaged"),
        (_text(CompressedData="True") + b"no zlib", "cut short or damaged"),
        (_text(ElementDataFile=""), "names no ElementDataFile"),
        (_text(ElementDataFile="../other.raw"), "outside its folder"),
        (_text(ElementDataFile="gone.raw"), "cannot be read"),
        (_text(ElementDataFile="LIST"), "in several files"),
        (_text(ElementType="MET_OTHER") + bytes(8), "its voxels are 'MET_OTHER'"),
        (_text(NDims="4") + bytes(8), "expected two or three"),
        (_text(ElementSpacing="1 1") + bytes(8), "other axes than its voxels"),
        (_text(ElementSpacing="a b c") + bytes(8), "expected numbers"),
        (_text(ElementSpacing="0 1 1") + bytes(8), "not invertible"),
        (_text(ElementType="MET_FLOAT") + np.full(8, np.nan, "<f4").tobytes(), "not finite"),
    ],
)  # fmt: skip
def test_files_that_lie(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "scan.mha").write_bytes(content)
    with pytest.raises(UnreadableError, match=words):
        read_image(tmp_path / "scan.mha")


def test_who_is_in_a_folder_of_them(tmp_path: Path) -> None:
    for patient in ("p01", "p02"):
        (tmp_path / patient).mkdir()
        SimpleITK.WriteImage(_image(np.int16), str(tmp_path / patient / "t2w.mha"))
        SimpleITK.WriteImage(_image(np.uint8), str(tmp_path / patient / "seg.mha"))
    cohort = find(tmp_path)
    assert [(m.patient, m.contrasts()) for m in cohort.members] == [(p, ("T2w", "label")) for p in ("p01", "p02")]
