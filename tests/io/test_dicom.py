"""Series written here, in every awkward way, read back; SimpleITK is the oracle for geometry and values."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from fabrica import io

ORIENTATION = [0.9848077530122081, 0.17364817766693033, 0, -0.17364817766693033, 0.9848077530122081, 0]


def write_series(
    folder: Path, count: int = 6, *, syntax: str = ExplicitVRLittleEndian, step: float = 2.5, seed: int = 0, **changes
) -> np.ndarray:
    """A small oblique CT series in shuffled file order; returns (z, y, x) HU."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    volume = rng.integers(0, 3000, (count, 12, 10)).astype(np.int16)
    series, study = generate_uid(), generate_uid()
    for z in range(count):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = (
            CTImageStorage,
            generate_uid(),
            syntax,
        )
        big, implicit = syntax == ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
        ds = FileDataset(
            None, {}, file_meta=meta, preamble=b"\0" * 128, is_implicit_VR=implicit, is_little_endian=not big
        )
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.FrameOfReferenceUID = series, study, generate_uid()
        ds.Modality, ds.PatientID, ds.PatientName, ds.InstanceNumber = "CT", "secret-7", "Doe^Jane", z
        ds.PatientAge, ds.PatientSex, ds.StudyDate = "061Y", "F", "20200102"
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [-20.5, 30.25, 7 + step * z], ORIENTATION
        ds.PixelSpacing, ds.SliceThickness = [0.7, 0.9], step
        ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 12, 10, 1, "MONOCHROME2"
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit, ds.PixelRepresentation, ds.RescaleSlope, ds.RescaleIntercept = 15, 1, 1, -1024
        for key, value in changes.items():
            setattr(ds, key, value)
        ds.PixelData = volume[z].astype(">i2" if big else "<i2").tobytes()
        if syntax == RLELossless:
            ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            ds.compress(RLELossless, generate_instance_uid=False)
        ds.save_as(folder / f"{(z * 5) % 7}{z}.dcm", enforce_file_format=True)
    return volume.astype(np.float32) - 1024


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_series_agrees_with_the_oracle(tmp_path: Path, syntax: str) -> None:
    expected = write_series(tmp_path, syntax=syntax)
    image = io.read_image(tmp_path)
    np.testing.assert_array_equal(image.data[0], expected)
    assert image.meaning.unit == "HU"
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    oracle = reader.Execute()
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(oracle), expected)
    for index in ((0, 0, 0), (5, 11, 9)):
        ours = (image.affine.numpy() @ [*index, 1.0])[:3]
        np.testing.assert_allclose(oracle.TransformIndexToPhysicalPoint(index[::-1]), ours, atol=1e-4)


def test_no_identifier_leaves_the_header(tmp_path: Path) -> None:
    write_series(tmp_path)
    (scan,) = io.scan_folder(tmp_path).scans
    text = repr(scan)
    assert "secret" not in text
    assert "Doe" not in text
    assert scan.values["age"] == 61
    assert scan.values["sex"] == "F"


def test_mixed_series_come_apart(tmp_path: Path) -> None:
    first = write_series(tmp_path / "mixed", 6)
    write_series(tmp_path / "other", 4, seed=1)
    for i, path in enumerate((tmp_path / "other").iterdir()):
        path.rename(tmp_path / "mixed" / f"x{i}.dcm")
    found = io.scan_folder(tmp_path / "mixed")
    assert sorted(s.shape[1] for s in found.scans) == [4, 6]
    big = max(found.scans, key=lambda s: s.shape[1])
    np.testing.assert_array_equal(io.read(big).data[0], first)
    with pytest.raises(io.UnreadableError, match="holds 2 images"):
        io.read_image(tmp_path / "mixed")


def test_lost_slices_and_damaged_files_are_said(tmp_path: Path) -> None:
    write_series(tmp_path, 8)
    files = sorted(tmp_path.iterdir(), key=lambda p: pydicom.dcmread(p).InstanceNumber)
    files[2].unlink()
    files[7].write_bytes(files[7].read_bytes()[:700])
    found = io.scan_folder(tmp_path)
    text = " ".join(map(str, found.oddities))
    assert "gap" in text or any(s.shape[1] < 6 for s in found.scans)


def test_truncated_pixels_are_one_line(tmp_path: Path) -> None:
    write_series(tmp_path, 1)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-50])
    (scan,) = io.scan_folder(tmp_path).scans
    with pytest.raises(io.UnreadableError, match="cannot be decoded"):
        io.read(scan)


def test_inverted_and_padded_pixels(tmp_path: Path) -> None:
    plain = write_series(tmp_path / "a", 1)
    write_series(tmp_path / "b", 1, PhotometricInterpretation="MONOCHROME1")  # how a screen shows HU is no matter of HU
    np.testing.assert_array_equal(io.read_image(tmp_path / "b").data[0], plain)
    value = int(plain[0, 0, 0] + 1024)
    write_series(tmp_path / "c", 1, PixelPaddingValue=value)
    padded = io.read_image(tmp_path / "c").data[0].numpy()
    assert padded[0, 0, 0] == plain[plain != plain[0, 0, 0]].min()


def test_a_folder_named_dl_breaks_nothing(tmp_path: Path) -> None:
    """gdcm asks for a module `dl`; a folder of that name in the working directory must not be taken for it."""
    write_series(tmp_path / "scan", 2)
    (tmp_path / "dl").mkdir()
    (tmp_path / "dl" / "__init__.py").touch()
    code = "from fabrica import io; print(tuple(io.read_image('scan').data.shape))"
    environment = {**os.environ, "PYTHONPATH": str(Path(io.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "(1, 2, 12, 10)" in done.stdout
