"""Spread maps, segments, dose, PET, evidence and withdrawals: what they say, where they lie, what validators find."""

import io as buffers
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import torch

from fabrica import io
from fabrica.deliver.objects.dose import planned_dose
from fabrica.deliver.objects.images import derived_series
from fabrica.deliver.objects.marking import Making, Series
from fabrica.deliver.objects.parametric_map import prior_map, spread_map
from fabrica.deliver.objects.rejection import person_name, rejection
from fabrica.deliver.objects.report import evidence_report
from fabrica.deliver.objects.segmentation import segmentation
from fabrica.deliver.objects.source import read_headers
from fabrica.deliver.reading import stored_image
from fabrica.deliver.record import Evidence, Record, check_sources

from .conftest import program
from .iod import missing
from .test_objects import GRIDS, _image

FIGURES = (
    Evidence("CT", "model: one draw", "psnr", "dB", 27.84, 24, (26.1, 29.3)),
    Evidence("CT", "model", "mae", "HU", 81.0, 3, None),
    Evidence("CT", "model", "lesion contrast kept", "", 0.8, 3, None),
)
KINDS = ["series", "PET", "spread", "prior", "segments", "dose", "evidence", "no evidence", "withdrawal"]


def _made(kind: str, record: Record, grid: str = "axial") -> Series:
    drawn, image = record.images[0], _image(grid)
    headers = read_headers(check_sources(drawn))
    values, affine = image.data[0].numpy(), image.affine.numpy()
    series = derived_series(Making(record, drawn, headers), image)
    making = Making(record, drawn, headers)
    made: dict[str, Callable[[], Series]] = {
        "series": lambda: series,
        "PET": lambda: _pet(record, grid),
        "spread": lambda: spread_map(replace(making, which="spread"), np.abs(values) / 10, series),
        "prior": lambda: prior_map(replace(making, which="prior"), values / 10, series),
        "segments": lambda: segmentation(
            Making(record, replace(drawn, contrast="lesion", unit="", kind="label"), headers),
            values > 0,
            affine,
            classes=3,
        ),
        "dose": lambda: planned_dose(
            Making(record, replace(drawn, contrast="dose", unit="Gy"), headers), np.abs(values) / 20, affine
        ),
        "evidence": lambda: evidence_report(replace(making, record=replace(record, evidence=FIGURES)), series),
        "no evidence": lambda: evidence_report(replace(making, record=replace(record, evidence=())), series),
        "withdrawal": lambda: rejection(
            series.datasets, "Bone is missing: über", "Zoë Ünal", "2026-03-04T05:06:07.123+00:00"
        ),
    }
    return made[kind]()


def _pet(record: Record, grid: str) -> Series:
    drawn, image = replace(record.images[0], contrast="PET", unit="SUV"), _image(grid, "a.u.")
    headers = read_headers(check_sources(record.images[0]))
    return derived_series(Making(record, drawn, headers), replace(image, data=image.data * 3.7))


def _bytes(ds: Any) -> bytes:
    buffer = buffers.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", KINDS)
def test_validators_find_no_error(kind: str, grid: str, record: Record, tmp_path: Path) -> None:
    """`dciodvfy` and the tables of the standard: nothing but the attribute that the old tables do not know."""
    if kind == "dose" and grid == "tilted":
        with pytest.raises(ValueError, match="planes are tilted"):
            _made(kind, record, grid)
        return
    validator = program("dciodvfy")
    for ds in _made(kind, record, grid).datasets[:2]:
        path = tmp_path / "one.dcm"
        path.write_bytes(_bytes(ds))
        found = subprocess.run([validator, "-new", str(path)], capture_output=True, text=True, check=False)
        errors = [line for line in found.stderr.splitlines() if line.startswith("Error")]
        assert not [e for e in errors if "(0008,001c)" not in e], errors
        assert found.returncode == 0
        assert missing(pydicom.dcmread(path)) == []


def test_the_table_check_finds_what_is_planted(record: Record) -> None:
    ds = pydicom.dcmread(buffers.BytesIO(_bytes(_made("series", record).datasets[0])))
    del ds.PatientID, ds.SamplesPerPixel
    ds.SourceImageSequence[0].ReferencedSOPInstanceUID = ""
    assert {m.split(": ")[1] for m in missing(ds)} >= {"PatientID", "SamplesPerPixel"}


@pytest.mark.parametrize("kind", KINDS)
def test_everything_says_whose_it_is_and_that_it_is_synthetic(kind: str, record: Record) -> None:
    ds = pydicom.dcmread(buffers.BytesIO(_bytes(_made(kind, record).datasets[0])))
    assert ds.SyntheticData == ("NO" if kind == "withdrawal" else "YES")
    assert ds.ContentQualification == "RESEARCH"
    assert "SYNTHETIC" in ds.SeriesDescription
    (source, *_) = read_headers(check_sources(record.images[0]))
    for name in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "AccessionNumber", "StudyID"):
        assert ds[name].value == source[name].value, name
    assert str(ds.SeriesInstanceUID).startswith("2.25.")
    assert str(ds.SOPInstanceUID).startswith("2.25.")
    assert b"1.2.826.0.1.3680043.10.511.3." not in _bytes(ds)  # no UID by chance
    if "FrameOfReferenceUID" in ds:
        assert ds.FrameOfReferenceUID == source.FrameOfReferenceUID


@pytest.mark.parametrize("kind", KINDS)
def test_made_again_it_is_the_same_bytes(kind: str, record: Record) -> None:
    one, two = (_made(kind, record) for _ in range(2))
    assert [_bytes(d) for d in one.datasets] == [_bytes(d) for d in two.datasets]
    other = _made(kind, replace(record, seed=record.seed + 1))
    assert other.uid != one.uid


@pytest.mark.parametrize("kind", ["series", "spread", "prior", "segments", "dose", "PET"])
def test_patient_and_study_agree_with_the_source(kind: str, record: Record, tmp_path: Path) -> None:
    validator = program("dcentvfy")
    sources = check_sources(record.images[0])
    for k, ds in enumerate(_made(kind, record).datasets):
        (tmp_path / f"{k}.dcm").write_bytes(_bytes(ds))
    files = [*map(str, sources), *map(str, sorted(tmp_path.glob("*.dcm")))]
    found = subprocess.run([validator, *files], capture_output=True, text=True, check=False)
    assert not (found.stdout + found.stderr).strip()


@pytest.mark.parametrize("grid", [g for g in GRIDS if g != "single slice"])
def test_frames_lie_on_the_planes_and_hold_the_values(grid: str, record: Record) -> None:
    """Read by highdicom: each frame's place and values are those of the image's plane."""
    image = _image(grid)
    affine, spread = image.affine.numpy(), np.abs(image.data[0].numpy()) / 10
    ds = pydicom.dcmread(buffers.BytesIO(_bytes(_made("spread", record, grid).datasets[0])))
    places = [f.PlanePositionSequence[0].ImagePositionPatient for f in ds.PerFrameFunctionalGroupsSequence]
    for place, pixels in zip(places, ds.pixel_array, strict=True):
        z = int(
            np.argmin([np.linalg.norm(np.array(place, float) - (affine[:3, 3] + k * affine[:3, 0])) for k in range(5)])
        )
        assert np.allclose(np.array(place, float), affine[:3, 3] + z * affine[:3, 0], atol=1e-3)
        assert np.array_equal(pixels, spread[z].astype(np.float32))
    segments = highdicom.seg.segread(buffers.BytesIO(_bytes(_made("segments", record, grid).datasets[0])))
    assert segments.number_of_segments == 2  # the empty one too
    for frame, pixels in zip(segments.PerFrameFunctionalGroupsSequence, segments.pixel_array, strict=True):
        place = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        (z,) = (k for k in range(5) if np.allclose(place, affine[:3, 3] + k * affine[:3, 0], atol=1e-3))
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        assert np.array_equal(
            pixels > 0, (image.data[0, z].numpy() > 0) if number == 1 else np.zeros_like(pixels, bool)
        )


@pytest.mark.parametrize("unit", ["HU", "a.u.", "SUV"])
def test_a_map_is_in_the_numbers_of_its_series(unit: str, record: Record, tmp_path: Path) -> None:
    """What is read of map and series stands in the relation that was drawn: an MR series stores a multiple."""
    contrast = {"HU": "CT", "a.u.": "FLAIR", "SUV": "PET"}[unit]
    drawn, image = (
        replace(record.images[0], unit=unit, contrast=contrast),
        _image("axial", "HU" if unit == "HU" else "a.u."),
    )
    image = replace(image, data=image.data.abs())
    making = Making(record, drawn, read_headers(check_sources(record.images[0])))
    series = derived_series(making, image)
    made = spread_map(replace(making, which="spread"), image.data[0].numpy() / 4, series)
    read = []
    for name, one in (("series", series), ("map", made)):
        (tmp_path / name).mkdir()
        files = [tmp_path / name / f"{k}.dcm" for k in range(len(one.datasets))]
        for path, ds in zip(files, one.datasets, strict=True):
            path.write_bytes(_bytes(ds))
        found = stored_image(files)
        assert found is not None
        read.append(
            found.data if np.dot(found.affine[:3, 0].numpy(), image.affine[:3, 0].numpy()) > 0 else found.data.flip(1)
        )
    assert float((read[0] / 4 - read[1]).abs().max()) < 1e-3 * float(read[1].max())


@pytest.mark.parametrize("grid", [g for g in GRIDS if g not in ("single slice", "tilted")])
def test_dose_is_read_back_in_gray_where_it_was_drawn(grid: str, record: Record) -> None:
    image = _image(grid)
    dose, affine = np.abs(image.data[0].numpy()) / 20, image.affine.numpy()
    ds = pydicom.dcmread(buffers.BytesIO(_bytes(_made("dose", record, grid).datasets[0])))
    assert (
        np.abs(ds.pixel_array * float(ds.DoseGridScaling) - dose).max()
        <= 0.51 * float(ds.DoseGridScaling)
        < 1e-5 * dose.max()
    )
    row, column = np.array(ds.ImageOrientationPatient[:3], float), np.array(ds.ImageOrientationPatient[3:], float)
    normal = np.cross(row, column)
    for z, offset in enumerate(ds.GridFrameOffsetVector):
        assert np.allclose(
            np.array(ds.ImagePositionPatient, float) + float(offset) * normal,
            affine[:3, 3] + z * affine[:3, 0],
            atol=1e-3,
        )
    assert (ds.DoseSummationType, ds.DoseUnits, ds.DoseType) == ("PLAN_OVERVIEW", "GY", "PHYSICAL")
    assert "ReferencedRTPlanSequence" not in ds


@pytest.mark.parametrize("grid", GRIDS)
def test_uptake_is_read_back_as_uptake(grid: str, record: Record, tmp_path: Path) -> None:
    """By our own reader, in SUV by body weight, within half a step of 15 bits."""
    image = _image(grid, "a.u.")
    for ds in _pet(record, grid).datasets:
        (tmp_path / f"{ds.InstanceNumber}.dcm").write_bytes(_bytes(ds))
    back = io.read_image(tmp_path)
    data = back.data if back.axes == "zyx" else back.data[:, None]
    if grid != "single slice" and np.dot(back.affine[:3, 0].numpy(), image.affine[:3, 0].numpy()) < 0:
        data = data.flip(1)
    assert back.meaning.unit == "SUV"
    assert float((data - 3.7 * image.data).abs().max()) <= 0.51 * 3.7 * float(image.data.max()) / 32767


def test_evidence_says_what_was_measured_and_that_nothing_was(record: Record) -> None:
    """Read by DCMTK: figures, units, patients; unverified and partial."""
    reader = program("dsrdump")
    told = {}
    for kind in ("evidence", "no evidence"):
        run = subprocess.run(
            [reader, "-Ee", "+Pl", "-"], input=_bytes(_made(kind, record).datasets[0]), capture_output=True, check=False
        )
        told[kind] = run.stdout.decode()
    assert "UNVERIFIED" in told["evidence"]
    for words in (
        '"27.84" (dB,UCUM,"dB")',
        "24 patients",
        "95 % 26.1 to 29.3",
        "no interval",
        '"0.8" (1,UCUM,"no units")',
        f"weights sha256 {record.weights}",
    ):
        assert words in told["evidence"], words
    assert "NOT MEASURED" in told["no evidence"]
    assert "NUM:" not in told["no evidence"]


def test_a_withdrawal_names_every_file_the_person_and_the_reason(record: Record) -> None:
    series = _made("series", record)
    ds = _made("withdrawal", record).datasets[0]
    assert {
        str(r.ReferencedSOPInstanceUID)
        for s in ds.CurrentRequestedProcedureEvidenceSequence
        for t in s.ReferencedSeriesSequence
        for r in t.ReferencedSOPSequence
    } == {str(d.SOPInstanceUID) for d in series.datasets}
    assert ds.ConceptNameCodeSequence[0].CodeValue == "113001"
    assert [str(i.PersonName) for i in ds.ContentSequence if "PersonName" in i] == ["Ünal^Zoë"]
    assert [i.TextValue for i in ds.ContentSequence if "TextValue" in i] == ["Bone is missing: über"]
    assert (ds.ContentDate, ds.ContentTime) == ("20260304", "050607")


@pytest.mark.parametrize(
    ("name", "person"),
    [("Zoë Ünal", "Ünal^Zoë"), ("Dr. A B", "B^Dr. A"), ("Unal", "Unal"), ("  ", "UNKNOWN"), ("a\\b=c^d", "d^a b c")],
)
def test_names_of_persons(name: str, person: str) -> None:
    assert person_name(name) == person


@pytest.mark.parametrize("planted", [float("nan"), 3.0, 0.5, -1.0])
def test_labels_that_are_no_class_are_refused(planted: float, record: Record) -> None:
    drawn = replace(record.images[0], contrast="lesion", unit="", kind="label")
    labels = np.zeros((2, 4, 4))
    labels[0, 0, 0] = planted
    making = Making(record, drawn, read_headers(check_sources(record.images[0])))
    with pytest.raises(ValueError, match="no class below 3"):
        segmentation(making, labels, np.eye(4)[:, [2, 1, 0, 3]], classes=3)


def test_what_is_not_finite_is_refused(record: Record) -> None:
    drawn, image = record.images[0], _image("axial")
    headers = read_headers(check_sources(drawn))
    making, wrong = Making(record, drawn, headers), np.full((5, 20, 24), np.inf, np.float32)
    with pytest.raises(ValueError, match="not finite"):
        spread_map(making, wrong, derived_series(Making(record, drawn, headers), image))
    with pytest.raises(ValueError, match="not finite"):
        planned_dose(making, wrong, image.affine.numpy())


def test_without_the_library_it_says_what_to_install(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "highdicom", None)
    with pytest.raises(ValueError, match=r"\.\[clinic\]"):
        _made("spread", record)


def test_a_single_plane_has_no_offsets(record: Record) -> None:
    ds = _made("dose", record, "single slice").datasets[0]
    assert "NumberOfFrames" not in ds
    assert "GridFrameOffsetVector" not in ds


def test_negative_uptake_is_counted(record: Record) -> None:
    drawn, image = replace(record.images[0], contrast="PET", unit="SUV"), _image("axial", "a.u.")
    data = image.data.clone()
    data[0, 0, 0, :3] = -1.0
    series = derived_series(
        Making(record, drawn, read_headers(check_sources(record.images[0]))), replace(image, data=data)
    )
    assert series.clipped == 3
    assert torch.isfinite(data).all()
