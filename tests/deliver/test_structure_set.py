"""Label maps as contours: what validators find, what they say, read back to the same voxels on the source's images."""

import io as buffers
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from fabrica import io
from fabrica.deliver.objects.marking import Making, Series
from fabrica.deliver.objects.source import read_headers
from fabrica.deliver.objects.structure_set import structure_set
from fabrica.deliver.outbox import Outbox
from fabrica.deliver.record import Record, check_sources
from fabrica.generate.handover import hand_over

from .conftest import program
from .iod import missing


def _source(record: Record, folder: Path) -> Any:
    for path in check_sources(record.images[0]):
        shutil.copy(path, folder)
    return io.read_image(folder)


def _labels(shape: tuple[int, ...]) -> np.ndarray:
    """A ring of class 1 with an island of class 2 in it; class 3 is nowhere."""
    z, y, x = np.indices(shape)
    far = np.hypot(y - shape[1] / 2, x - shape[2] / 2) / min(shape[1:])
    labels = np.where((far < 0.4) & (far > 0.2), 1.0, 0.0)
    labels[far < 0.1] = 2
    labels[z == 0] = 0
    return labels


def _making(record: Record) -> Making:
    drawn = replace(record.images[0], contrast="lesion", unit="", kind="label", classes=4)
    return Making(record, drawn, read_headers(check_sources(record.images[0])))


def _made(record: Record, folder: Path) -> tuple[Series, np.ndarray]:
    image = _source(record, folder)
    labels = _labels(tuple(image.data.shape[1:]))
    return structure_set(_making(record), labels, image.affine.numpy(), classes=4), labels


def _bytes(ds: Any) -> bytes:
    buffer = buffers.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_what_is_read_back_is_what_was_drawn(record: Record, tmp_path: Path) -> None:
    series, labels = _made(record, tmp_path)
    (ds,) = series.datasets
    (tmp_path / "rs.dcm").write_bytes(_bytes(ds))
    found = io.scan_folder(tmp_path)
    scans = {s.description: s for s in found.scans if s.format == "contours"}
    assert set(scans) == {"SYNTHETIC lesion 1", "SYNTHETIC lesion 2"}
    assert [str(o) for o in found.oddities if "without contours" not in str(o)] == []
    assert any("'SYNTHETIC lesion 3'. They are missing" in str(o) for o in found.oddities)
    for k in (1, 2):
        np.testing.assert_array_equal(io.read(scans[f"SYNTHETIC lesion {k}"]).data[0].numpy() > 0, labels == k)
    ring = ds.ROIContourSequence[0].ContourSequence
    assert len(ring) == labels.shape[0] - 1  # the hole is joined to its outline


def test_validators_find_no_error(record: Record, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (ds,) = _made(record, folder)[0].datasets
    path = tmp_path / "rs.dcm"
    path.write_bytes(_bytes(ds))
    assert missing(pydicom.dcmread(path)) == []
    found = subprocess.run([program("dciodvfy"), "-new", str(path)], capture_output=True, text=True, check=False)
    errors = [line for line in found.stderr.splitlines() if line.startswith("Error")]
    assert not [e for e in errors if "(0008,001c)" not in e], errors


def test_it_says_what_it_is(record: Record, tmp_path: Path) -> None:
    series, _ = _made(record, tmp_path)
    (ds,) = series.datasets
    source = _making(record).template
    assert (ds.SyntheticData, ds.ContentQualification, ds.ApprovalStatus) == ("YES", "RESEARCH", "UNAPPROVED")
    assert ds.SeriesDescription.startswith("SYNTHETIC")
    assert ds.StructureSetROISequence[0].ROIGenerationAlgorithm == "AUTOMATIC"
    assert (ds.PatientID, ds.StudyInstanceUID) == (source.PatientID, source.StudyInstanceUID)
    again = tmp_path / "again"
    again.mkdir()
    assert _bytes(_made(record, again)[0].datasets[0]) == _bytes(ds)


def test_labels_on_other_planes_have_no_image_to_lie_on(record: Record, tmp_path: Path) -> None:
    image = _source(record, tmp_path)
    moved = image.affine.numpy().copy()
    moved[:3, 3] += 0.4 * moved[:3, 0]
    with pytest.raises(ValueError, match="contours have no image to lie on"):
        structure_set(_making(record), _labels(tuple(image.data.shape[1:])), moved, classes=4)
    with pytest.raises(ValueError, match="no class below 2"):
        structure_set(_making(record), _labels(tuple(image.data.shape[1:])), image.affine.numpy(), classes=2)


def test_contours_travel_beside_their_segments(record: Record, tmp_path: Path) -> None:
    place = tmp_path / "source"
    place.mkdir()
    image = _source(record, place)
    field = replace(image.meaning, kind="label", unit="")
    import torch

    labels = replace(image, data=torch.from_numpy(_labels(tuple(image.data.shape[1:])))[None].float(), meaning=field)
    io.write_nifti(labels, record.folder / "case" / "lesion-0.nii.gz")
    from fabrica.deliver.record import hash_of

    file = record.folder / "case" / "lesion-0.nii.gz"
    drawn = replace(
        record.images[0], contrast="lesion", unit="", kind="label", classes=4,
        files=(str(file.relative_to(record.folder)),), sha256=(hash_of(file),),
    )  # fmt: skip
    said: list[str] = []
    outbox = Outbox(tmp_path / "outbox")
    (uid,) = hand_over(replace(record, images=(drawn,)), outbox, structures=True, say=said.append)
    assert any("contours" in line for line in said)
    assert uid in {s.uid for s in outbox.series()}
