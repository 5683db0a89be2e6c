"""The fast path for plain DICOM files against pydicom: on real files, on written ones, on damaged ones."""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from fabrica import io
from fabrica.io import dicom, explicit

from .test_dicom import write_series


def _one(tmp_path: Path, **changes: Any) -> Path:
    plain = {"ImageOrientationPatient": [0.8, 0.6, 0, -0.6, 0.8, 0]}  # the series' own has too many digits to be plain
    write_series(tmp_path, count=1, **(plain | changes))
    (path,) = tmp_path.glob("*.dcm")
    return path


def _edited(path: Path, **changes: Any) -> Path:
    ds = pydicom.dcmread(path)
    for key, value in changes.items():
        setattr(ds, key, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.save_as(path, enforce_file_format=True)
    return path


def _same_elements(found: explicit.PlainHeader, oracle: pydicom.Dataset) -> None:
    for keyword, value in found.elements.items():
        other = oracle.get(keyword)
        if value is None:
            assert not other, keyword
        elif isinstance(value, list):
            assert [type(v)(o) for v, o in zip(value, other, strict=True)] == value, keyword
        else:
            assert type(value)(other) == value, keyword


def test_a_plain_file_reads_as_pydicom_reads_it(tmp_path: Path) -> None:
    path = _one(tmp_path)
    found, oracle = explicit.header(path), pydicom.dcmread(path)
    assert found is not None
    assert {"Rows", "ImagePositionPatient", "PatientID", "RescaleSlope", "StudyDate"} <= set(found.elements)
    _same_elements(found, oracle)
    assert found.Columns == 10
    assert "Columns" in found
    assert found.get("EchoTime", 3) == 3
    with pytest.raises(AttributeError, match="EchoTime"):
        _ = found.EchoTime
    read = explicit.pixels(path)
    assert read is not None
    np.testing.assert_array_equal(read[1], oracle.pixel_array)


def _agree(path: Path) -> tuple[bool, bool]:
    """Were header and pixels taken? What is taken must be what pydicom says, without a warning."""
    found = explicit.header(path)
    if found is None:
        return False, False
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        oracle = pydicom.dcmread(path)
        _same_elements(found, oracle)
    assert not caught, f"{path}: pydicom warns of {caught[0].message}; the fast path must leave such files to it"
    read = explicit.pixels(path)
    if read is not None:
        np.testing.assert_array_equal(read[1], oracle.pixel_array, err_msg=str(path))
    return True, read is not None


def test_every_real_file_that_is_taken_agrees_with_pydicom(real_data: Path) -> None:
    folders = [real_data / "dicom_samples", real_data / "radiotherapy" / "dicom_rt"]
    answers = [_agree(path) for f in folders for path in sorted(f.rglob("*")) if path.is_file()]
    assert sum(header for header, _ in answers) >= 6
    assert sum(pixels for _, pixels in answers) >= 4
    assert sum(not header for header, _ in answers) >= 20


def test_real_slices_of_a_scanner_are_taken_once_their_age_is_mended(real_data: Path, tmp_path: Path) -> None:
    """Private elements and nested sequences of a Philips scanner; the age "42" breaks the standard and goes to pydicom."""
    for path in sorted((real_data / "cine" / "fmri_bold_dicom").glob("MR.*"))[::25]:
        assert explicit.header(path) is None
        ds = pydicom.dcmread(path)
        ds.PatientAge = "042Y"
        ds.save_as(tmp_path / "mended.dcm")
        assert _agree(tmp_path / "mended.dcm") == (True, True)


@pytest.mark.parametrize(
    "changes",
    [
        {"PixelRepresentation": 0},
        {"RescaleSlope": 0.37, "RescaleIntercept": -3.5},
        {"RescaleSlope": 2, "RescaleIntercept": 0},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"BitsStored": 13, "HighBit": 12},
        {"Columns": 20, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0},
    ],
)
def test_values_are_those_of_the_slow_path(
    tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _one(tmp_path, **changes)
    assert explicit.pixels(path) is not None
    fast = io.read_image(path)
    monkeypatch.setattr(explicit, "header", lambda path: None)
    monkeypatch.setattr(explicit, "pixels", lambda path: None)
    slow = io.read_image(path)
    np.testing.assert_array_equal(fast.data, slow.data)
    np.testing.assert_array_equal(fast.affine, slow.affine)
    assert fast.meaning == slow.meaning


@pytest.mark.parametrize("signed", [0, 1])
def test_bits_that_are_not_stored_are_left_to_pydicom(tmp_path: Path, signed: int) -> None:
    path = _one(tmp_path, BitsStored=11, HighBit=10, PixelRepresentation=signed)
    assert explicit.header(path) is not None
    assert explicit.pixels(path) is None
    assert io.read_image(path).data.shape == (1, 1, 12, 10)


def test_padding_is_handled_as_in_the_slow_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _one(tmp_path)
    stored = int(pydicom.dcmread(path).pixel_array[3, 4])
    ds = pydicom.dcmread(path)
    ds.add_new("PixelPaddingValue", "SS", stored)
    ds.save_as(path)
    assert (explicit.header(path) or {}).get("PixelPaddingValue") == stored
    fast = io.read_image(path).data
    monkeypatch.setattr(explicit, "pixels", lambda path: None)
    np.testing.assert_array_equal(fast, io.read_image(path).data)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_other_transfer_syntaxes_are_left_to_pydicom(tmp_path: Path, syntax: str) -> None:
    path = _one(tmp_path, syntax=syntax)
    assert explicit.header(path) is None
    assert explicit.pixels(path) is None
    assert io.read_image(path).data.shape == (1, 1, 12, 10)


@pytest.mark.parametrize(
    "changes",
    [
        {"NumberOfFrames": 2},
        {"PatientID": "Jörg", "SpecificCharacterSet": "ISO_IR 100"},
        {"SeriesDescription": "x" * 65},
        {"SeriesInstanceUID": "1.02.3"},
        {"SequenceName": "y" * 17},
        {"Modality": "ct"},
        {
            "ImageOrientationPatient": [
                0.9848077530122081,
                0.17364817766693033,
                0,
                -0.17364817766693033,
                0.9848077530122081,
                0,
            ]
        },
        {"PatientAge": "61"},
        {"ModalityLUTSequence": Sequence([pydicom.Dataset()])},
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value|The value length")
def test_what_is_not_plain_is_left_to_pydicom(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = _one(tmp_path)
    assert explicit.header(path) is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _edited(path, **changes)
    assert explicit.header(path) is None


def _with_sequence(path: Path, undefined_sequence: bool, undefined_item: bool) -> Path:
    ds = pydicom.dcmread(path)
    inner, outer = pydicom.Dataset(), pydicom.Dataset()
    inner.Rows = 99
    outer.PurposeOfReferenceCodeSequence = Sequence([inner, inner])
    ds.ReferencedImageSequence = Sequence([outer])
    for owner, name in ((ds, "ReferencedImageSequence"), (outer, "PurposeOfReferenceCodeSequence")):
        owner[name].is_undefined_length = undefined_sequence
    for item in (inner, outer):
        item.is_undefined_length_sequence_item = undefined_item
    ds.save_as(path)
    return path


@pytest.mark.parametrize("undefined_item", [True, False])
@pytest.mark.parametrize("undefined_sequence", [True, False])
def test_sequences_are_stepped_over(tmp_path: Path, undefined_sequence: bool, undefined_item: bool) -> None:
    """Elements inside a sequence are not the image's; lengths may be stated or not."""
    path = _with_sequence(_one(tmp_path), undefined_sequence, undefined_item)
    assert (b"\xfe\xff\xdd\xe0" in path.read_bytes()) == undefined_sequence
    assert (b"\xfe\xff\x0d\xe0" in path.read_bytes()) == undefined_item
    found = explicit.header(path)
    assert found is not None
    assert found.Rows == 12
    _same_elements(found, pydicom.dcmread(path))


def test_damaged_sequences_are_left_to_pydicom(tmp_path: Path) -> None:
    path = _with_sequence(_one(tmp_path), True, True)
    whole = path.read_bytes()
    for broken in (
        whole.replace(b"\xfe\xff\xdd\xe0", b"\xfe\xff\xdd\xe1"),
        whole.replace(b"\xfe\xff\x00\xe0", b"\xfe\xff\x01\xe0"),
        whole.replace(b"\xfe\xff\x0d\xe0", b"\xfe\xff\x0d\xe2"),
    ):
        path.write_bytes(broken)
        assert explicit.header(path) is None


def test_a_deflated_file_is_left_to_pydicom(tmp_path: Path) -> None:
    path = _one(tmp_path)
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)
    assert explicit.header(path) is None


def test_a_long_header_is_read_to_its_end(tmp_path: Path) -> None:
    path = _edited(_one(tmp_path), ImageComments="z" * 9000)
    found = explicit.header(path)
    assert found is not None
    assert found.Rows == 12


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = _one(tmp_path)
    first = explicit.header(path)
    assert explicit.header(path) is first
    _edited(path, PatientAge="033Y")
    assert (explicit.header(path) or {}).get("PatientAge") == "033Y"


def test_pixels_that_are_cut_short_are_refused(tmp_path: Path) -> None:
    path = _one(tmp_path)
    path.write_bytes(path.read_bytes()[:-30])
    assert explicit.header(path) is not None
    assert explicit.pixels(path) is None
    with pytest.raises(io.UnreadableError, match="cannot be decoded"):
        io.read_image(path)


def test_a_file_cut_anywhere_never_crashes_and_never_lies(tmp_path: Path) -> None:
    path = _one(tmp_path)
    whole, short = path.read_bytes(), tmp_path / "short.dcm"
    for length in range(0, len(whole), 7):
        short.write_bytes(whole[:length])
        assert explicit.pixels(short) is None
    for place in (0, 100, 128, 140, 200, 300, 400, 600):
        short.write_bytes(whole[:place] + b"\xff\xff" + whole[place + 2 :])
        explicit.header(short)


def test_flipped_bytes_are_read_as_pydicom_reads_them(tmp_path: Path) -> None:
    """A changed byte in the header: the fast path leaves the file, or says what pydicom says without a warning."""
    path = _with_sequence(_one(tmp_path), True, True)
    whole = path.read_bytes()
    end = (explicit.header(path) or explicit.PlainHeader({}, 0, 0, 0)).offset
    rng = np.random.default_rng(0)
    taken = 0
    for _ in range(600):
        place = int(rng.integers(132, end))
        path.write_bytes(whole[:place] + bytes([int(rng.integers(256))]) + whole[place + 1 :])
        found = explicit.header(path)
        if found is None:
            continue
        taken += 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            _same_elements(found, pydicom.dcmread(path))
    assert taken > 100


def test_slices_of_two_sizes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path)
    (scan,) = io.scan_folder(tmp_path).scans
    sizes = iter([(1, 12, 10, 1), (1, 12, 10, 3)])
    monkeypatch.setattr(dicom, "pixels_of", lambda path: np.zeros(next(sizes), np.float32))
    with pytest.raises(io.UnreadableError, match="differ in size or colour"):
        io.read(scan)


def test_values_that_overflow_are_refused(tmp_path: Path) -> None:
    path = _one(tmp_path, RescaleSlope=1e300)
    assert explicit.pixels(path) is not None
    with pytest.raises(io.UnreadableError, match="not finite"):
        io.read_image(path)


def test_a_pipe_among_the_files_is_said_and_does_not_block(tmp_path: Path) -> None:
    _one(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    listing = io.scan_folder(tmp_path)
    assert len(listing.scans) == 1
    assert any("pipe: is a pipe" in str(oddity) for oddity in listing.oddities)
