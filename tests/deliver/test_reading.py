"""Objects read back: values and places of what was written, whatever kind it is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch

from fabrica.deliver.objects.marking import Making
from fabrica.deliver.objects.segmentation import segmentation
from fabrica.deliver.objects.source import read_headers
from fabrica.deliver.reading import stored_image
from fabrica.deliver.record import Record, check_sources

from .scanner import head, write_series
from .test_objects import GRIDS, _image
from .test_other_objects import _bytes, _made


def _written(kind: str, grid: str, record: Record, folder: Path) -> list[Path]:
    files = []
    for number, ds in enumerate(_made(kind, record, grid).datasets):
        path = folder / f"{number}.dcm"
        path.write_bytes(_bytes(ds))
        files.append(path)
    return files


@pytest.mark.parametrize(
    ("kind", "grid"),
    [(kind, grid) for kind in ("series", "spread", "segments", "dose", "PET") for grid in GRIDS if (kind, grid) != ("dose", "tilted")],  # refused when it is written
)  # fmt: skip
def test_what_is_read_back_lies_where_it_was_drawn(kind: str, grid: str, record: Record, tmp_path: Path) -> None:
    image = _image(grid, "a.u." if kind == "PET" else "HU")
    found = stored_image(_written(kind, grid, record, tmp_path))
    assert found is not None
    data, affine = found.data[0], found.affine.numpy()
    if grid != "single slice" and np.dot(affine[:3, 0], image.affine[:3, 0].numpy()) < 0:
        data, affine = data.flip(0), affine.copy()
        affine[:3, 3] += affine[:3, 0] * (data.shape[0] - 1)
        affine[:3, 0] *= -1
    wanted = {
        "series": image.data[0], "spread": image.data[0].abs() / 10, "segments": (image.data[0] > 0).float(), "dose": image.data[0].abs() / 20, "PET": 3.7 * image.data[0],
    }[kind]  # fmt: skip
    assert torch.allclose(data, wanted, atol=0.51 if kind == "series" else 1e-2, rtol=1e-4)
    assert np.allclose(affine[:, 1:], image.affine.numpy()[:, 1:], atol=1e-3)
    if grid != "single slice":
        assert np.allclose(affine[:, 0], image.affine.numpy()[:, 0], atol=1e-3)
    assert found.meaning.unit == {"series": "HU", "dose": "Gy", "PET": "SUV"}.get(kind, found.meaning.unit)


def test_what_has_no_planes_is_nothing_to_look_at(record: Record, tmp_path: Path) -> None:
    assert stored_image(_written("evidence", "axial", record, tmp_path)) is None


def test_a_label_map_of_one_class_is_read_too(record: Record, tmp_path: Path) -> None:
    """What all frames share is said once: lesions, brains."""
    image, drawn = _image("oblique"), replace(record.images[0], contrast="lesion", unit="", kind="label")
    labels = (image.data[0].numpy() > 0).astype(float)
    made = segmentation(
        Making(record, drawn, read_headers(check_sources(record.images[0]))), labels, image.affine.numpy(), classes=2
    )
    (tmp_path / "one.dcm").write_bytes(_bytes(made.datasets[0]))
    found = stored_image([tmp_path / "one.dcm"])
    assert found is not None
    assert np.array_equal(found.data[0].numpy(), labels) or np.array_equal(found.data[0].numpy()[::-1], labels)


@pytest.mark.parametrize("kind", ["series", "spread", "segments", "dose", "evidence", "withdrawal"])
@pytest.mark.parametrize(
    ("charset", "name"),
    [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
        ("ISO_IR 144", "Щукин^Пётр"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ("ISO_IR 100", "Müller^Jürgen"),
    ],
)
def test_names_of_every_script_are_kept(
    kind: str, charset: str | list[str], name: str, record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the source's character set: what is made of it is written in UTF-8."""
    written = write_series(tmp_path / "in", *head(), SpecificCharacterSet=charset, PatientName=name)
    monkeypatch.setattr("tests.deliver.test_other_objects.check_sources", lambda drawn: written)
    for ds in _made(kind, record).datasets[:1]:
        (tmp_path / "one.dcm").write_bytes(_bytes(ds))
        back = pydicom.dcmread(tmp_path / "one.dcm")
        assert str(back.PatientName) == name
        assert back.SpecificCharacterSet == "ISO_IR 192"
