"""Derived series: what they say, where they lie, what validators find."""

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch

from fabrica import io
from fabrica.contracts import Field, Image
from fabrica.deliver.objects.images import derived_series, stored_pixels
from fabrica.deliver.objects.marking import Making
from fabrica.deliver.objects.source import read_headers
from fabrica.deliver.record import Record, check_sources

from .conftest import program
from .scanner import head, write_series

GRIDS = ["axial", "sagittal", "oblique", "reversed", "tilted", "single slice"]


def _affine(kind: str) -> np.ndarray:
    base = np.array([[0.0, 0, 1.2], [0, 0.9, 0], [3.5, 0, 0]])  # (x, y, z) rows of index (z, y, x)
    turned = base
    if kind == "sagittal":
        turned = np.array([[3.5, 0, 0], [0, 0, 1.2], [0, 0.9, 0.0]])
    if kind in ("oblique", "tilted"):
        a, b = 0.4, 0.25
        turn = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
        turned = turn @ np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]]) @ base
    if kind == "tilted":  # a gantry tilt: slices are moved along y
        turned[:, 0] += 0.4 * turned[:, 1]
    if kind == "reversed":
        turned = base * np.array([-1, 1, 1])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turned, (-60.123456789, 70.7, -33.000001234)
    return affine


def _image(kind: str, unit: str = "HU") -> Image:
    shape = (1 if kind == "single slice" else 5, 20, 24)
    values = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0)) * 2500 - 1000
    field = Field("CT" if unit == "HU" else "FLAIR", "intensity", 1, unit)
    return Image(values if unit == "HU" else values.clamp(min=0) / 500, "zyx", torch.from_numpy(_affine(kind)), field)


@pytest.mark.parametrize("unit", ["HU", "a.u."])
@pytest.mark.parametrize("kind", GRIDS)
def test_a_series_lies_where_it_was_drawn_and_holds_what_was_drawn(
    kind: str, unit: str, record: Record, tmp_path: Path
) -> None:
    """Written, read by our own reader: affine to 1e-3 mm, values within half a step."""
    image, drawn = _image(kind, unit), replace(record.images[0], unit=unit, contrast="CT" if unit == "HU" else "FLAIR")
    series = derived_series(Making(record, drawn, read_headers(check_sources(drawn))), image)
    for ds in series.datasets:
        ds.save_as(tmp_path / f"{ds.SOPInstanceUID}.dcm", enforce_file_format=True)
    back = io.read_image(tmp_path)
    data = back.data if back.axes == "zyx" else back.data[:, None]
    affine = back.affine.numpy()
    if (
        kind != "single slice" and np.dot(affine[:3, 0], image.affine[:3, 0].numpy()) < 0
    ):  # readers sort along the normal
        data, affine = data.flip(1), affine.copy()
        affine[:3, 3] += affine[:3, 0] * (data.shape[1] - 1)
        affine[:3, 0] *= -1
    factor = 1.0 if unit == "HU" else 2.0 ** np.floor(np.log2(32767 / float(image.data.max())))
    assert np.allclose(affine[:, 1:], image.affine.numpy()[:, 1:], atol=1e-3)
    if kind != "single slice":
        assert np.allclose(affine[:, 0], image.affine.numpy()[:, 0], atol=1e-3)
    assert float((data / factor - image.data).abs().max()) <= 0.51 * (1.0 if unit == "HU" else 1 / factor)
    assert back.meaning.unit == unit


@pytest.mark.parametrize("unit", ["HU", "a.u."])
@pytest.mark.parametrize("kind", GRIDS)
def test_validators_find_no_error(kind: str, unit: str, record: Record, tmp_path: Path) -> None:
    """`dciodvfy` on every file: the only Error line is the attribute that its tables are too old to know."""
    validator = program("dciodvfy")
    drawn = replace(record.images[0], unit=unit, contrast="CT" if unit == "HU" else "FLAIR")
    series = derived_series(Making(record, drawn, read_headers(check_sources(drawn))), _image(kind, unit))
    for ds in series.datasets:
        path = tmp_path / f"{ds.InstanceNumber}.dcm"
        ds.save_as(path, enforce_file_format=True)
        found = subprocess.run([validator, "-new", str(path)], capture_output=True, text=True, check=False)
        errors = [line for line in found.stderr.splitlines() if line.startswith("Error")]
        assert not [e for e in errors if "(0008,001c)" not in e], errors
        assert found.returncode == 0


def test_patient_and_study_agree_with_the_source(record: Record, tmp_path: Path) -> None:
    """`dcentvfy` over source and result has nothing to say."""
    validator = program("dcentvfy")
    drawn = record.images[0]
    sources = check_sources(drawn)
    series = derived_series(Making(record, drawn, read_headers(sources)), _image("axial"))
    for ds in series.datasets:
        ds.save_as(tmp_path / f"{ds.InstanceNumber}.dcm", enforce_file_format=True)
    files = [*map(str, sources), *map(str, sorted(tmp_path.glob("*.dcm")))]
    found = subprocess.run([validator, *files], capture_output=True, text=True, check=False)
    assert not (found.stdout + found.stderr).strip()


def test_it_says_what_it_is(record: Record) -> None:
    drawn = record.images[0]
    headers = read_headers(check_sources(drawn))
    ds = derived_series(Making(record, drawn, headers), _image("axial")).datasets[0]
    assert (ds.SyntheticData, ds.ContentQualification) == ("YES", "RESEARCH")
    assert list(ds.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
    assert ds.SeriesDescription == "SYNTHETIC CT from T1w"
    assert ds.SeriesNumber >= 9000
    assert record.weights in ds.DerivationDescription
    assert {i.ReferencedSOPInstanceUID for i in ds.SourceImageSequence} == {h.SOPInstanceUID for h in headers}
    assert [str(e.PurposeOfReferenceCodeSequence[0].CodeValue) for e in ds.ContributingEquipmentSequence] == [
        "109101",
        "109100",
    ]
    assert (str(ds.PatientName), ds.PatientID, ds.AccessionNumber) == ("Ünal^Zoë", "GEN-0001", "ACC7")
    assert ds.StudyInstanceUID == headers[0].StudyInstanceUID
    assert ds.FrameOfReferenceUID == headers[0].FrameOfReferenceUID
    assert ds.SeriesInstanceUID != headers[0].SeriesInstanceUID
    for name in (
        "ScanningSequence",
        "RepetitionTime",
        "AcquisitionDate",
        "ProtocolName",
    ):  # of the scanner, not of this
        assert name not in ds
    assert all(len(str(ds[n].value)) <= 16 for n in ("SliceThickness",))


def test_the_same_draw_is_the_same_bytes_and_another_is_another_series(record: Record) -> None:
    drawn, image = record.images[0], _image("axial")
    headers = read_headers(check_sources(drawn))
    one, two = (derived_series(Making(record, drawn, headers), image) for _ in range(2))
    assert one.uid == two.uid
    assert [d.PixelData for d in one.datasets] == [d.PixelData for d in two.datasets]
    changed = [replace(record, weights="0" * 64), replace(record, seed=7), replace(record, recipe="1" * 64)]
    others = {derived_series(Making(r, drawn, headers), image).uid for r in changed}
    others.add(derived_series(Making(record, drawn, headers), replace(image, data=image.data + 3)).uid)
    others.add(derived_series(Making(record, drawn, headers, "0"), image).uid)
    assert len(others | {one.uid}) == 6
    uids = [str(d.SOPInstanceUID) for d in one.datasets]
    assert len(set(uids)) == len(uids)
    assert all(u.startswith("2.25.") and len(u) <= 64 for u in uids)


def test_lossy_sources_stay_lossy_and_empty_ones_are_filled(record: Record, tmp_path: Path) -> None:
    lossy = {
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": "10",
        "LossyImageCompressionMethod": "ISO_10918_1",
    }
    headers = read_headers(write_series(tmp_path, *head(), **lossy))
    ds = derived_series(Making(record, record.images[0], headers), _image("axial")).datasets[0]
    assert (ds.LossyImageCompression, ds.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    bare = read_headers(write_series(tmp_path / "bare", *head()))
    for header in bare:
        for name in ("PatientSex", "FrameOfReferenceUID", "BodyPartExamined", "StudyID"):
            del header[name]
    ds = derived_series(Making(record, record.images[0], bare), _image("axial")).datasets[0]
    assert ds.PatientSex == ""
    assert ds.FrameOfReferenceUID.startswith("2.25.")


def test_what_does_not_fit_is_clipped_and_counted() -> None:
    values = np.array([[[-1e6, -1024.4, 0.4, 40000.0]]], np.float32)
    stored = stored_pixels(values, "HU")
    assert stored.pixels.tolist() == [[[-32768, -1024, 0, 32767]]]
    assert stored.clipped == 2
    with pytest.raises(ValueError, match="not finite"):
        stored_pixels(np.array([[[np.nan]]]), "HU")
    arbitrary = stored_pixels(np.array([[[-0.1, 0.5, 1.0]]]), "a.u.")
    assert arbitrary.clipped == 1
    assert arbitrary.pixels.tolist() == [[[0, 8192, 16384]]]


@pytest.mark.parametrize(
    ("change", "words"),
    [({"unit": "Gy"}, "is in Gy"), ({"kind": "label"}, "is a label map"), ({}, "different PatientID")],
)
def test_what_cannot_be_delivered_is_refused(change: dict[str, str], words: str, record: Record) -> None:
    drawn = record.images[0]
    headers = read_headers(check_sources(drawn))
    if not change:
        headers[1].PatientID = "SOMEBODY"
    with pytest.raises(ValueError, match=words):
        derived_series(Making(record, replace(drawn, **change), headers), _image("axial"))
    with pytest.raises(ValueError, match="--identity FILE.dcm"):
        derived_series(Making(record, drawn, []), _image("axial"))


def test_sheared_planes_are_refused(record: Record) -> None:
    image, drawn = _image("axial"), record.images[0]
    affine = image.affine.clone()
    affine[:3, 2] += 0.3 * affine[:3, 1]
    with pytest.raises(ValueError, match="right angle"):
        derived_series(Making(record, drawn, read_headers(check_sources(drawn))), replace(image, affine=affine))


def test_records_are_strict(record: Record, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no generated.json"):
        Record.read(tmp_path)
    text = (record.folder / "generated.json").read_text()
    for planted in (
        text.replace('"format": 2', '"format": 9'),
        text.replace(record.images[0].files[0], "../../etc/passwd"),
        "{",
    ):
        (tmp_path / "generated.json").write_text(planted)
        with pytest.raises(ValueError, match="is no record of draws"):
            Record.read(tmp_path)
    source = Path(record.images[0].sources[0].file)
    kept = source.read_bytes()
    try:
        ds = pydicom.dcmread(source)
        ds.PatientID = "OTHER"
        ds.save_as(source)
        with pytest.raises(ValueError, match="was changed after the draw"):
            check_sources(record.images[0])
    finally:
        source.write_bytes(kept)
    moved = tmp_path / "moved"
    moved.mkdir()
    for one in record.images[0].sources:
        (moved / Path(one.file).name).write_bytes(Path(one.file).read_bytes())
    assert len(check_sources(record.images[0], moved)) == len(record.images[0].sources)
    with pytest.raises(ValueError, match="Say where: --source"):
        check_sources(record.images[0], tmp_path / "nowhere")
