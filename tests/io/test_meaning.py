"""What DICOM's numbers mean: units, real-world values, MONOCHROME1, padding; and which frame is which, of whom, and when."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from fabrica import io
from fabrica.data import cohort

CLASSES = {"CT": "2", "MR": "4", "PT": "128", "NM": "20", "CR": "1", "SEG": "66.4"}
PIXELS = np.random.default_rng(0).integers(0, 1000, (6, 8, 8)).astype(np.int16)


def write(
    path: Path, pixels: np.ndarray, place: Any, modality: str = "CT", syntax: str = ExplicitVRLittleEndian, **more: Any
):
    """One file as scanners and anonymisers write them; returns its data set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = f"1.2.840.10008.5.1.4.1.1.{CLASSES[modality]}"
    meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = generate_uid(), syntax
    ds = FileDataset(
        str(path), {}, file_meta=meta, preamble=b"\0" * 128, is_implicit_VR=syntax == ImplicitVRLittleEndian
    )
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
        modality,
    )
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientID, ds.StudyDate = "1.2", "1.2.3", "A", "20200101"
    ds.Rows, ds.Columns = pixels.shape[-2:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelSpacing, ds.SliceThickness = 1, "MONOCHROME2", [1, 1], 1
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    if place is not None:
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [float(v) for v in place], [1, 0, 0, 0, 1, 0]
    if modality in ("CT", "PT"):
        ds.RescaleSlope, ds.RescaleIntercept = 1, 0
    if pixels.ndim == 3:
        ds.NumberOfFrames = len(pixels)
    ds.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    for key, value in more.items():
        if value is None:
            del ds[key]
        else:
            setattr(ds, key, value)
    ds.save_as(path, enforce_file_format=True)
    return ds


def series(folder: Path, modality: str = "CT", pixels: np.ndarray = PIXELS, **more: Any) -> None:
    for z, plane in enumerate(pixels):
        own = {k: v(z) if callable(v) else v for k, v in more.items()}
        write(folder / f"{z}", plane, (0, 0, z), modality, InstanceNumber=z + 1, **own)


def group(**values: Any) -> Sequence:
    item = Dataset()
    for key, value in values.items():
        setattr(item, key, value)
    return Sequence([item])


def a_map(code: str, slope: float, intercept: float) -> Sequence:
    unit = group(CodeValue=code, CodingSchemeDesignator="UCUM", CodeMeaning=code)
    return group(RealWorldValueSlope=slope, RealWorldValueIntercept=intercept, MeasurementUnitsCodeSequence=unit)


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("modality", ["CT", "PT"])
def test_how_a_screen_shows_values_does_not_change_them(
    tmp_path: Path, modality: str, slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    series(tmp_path, modality, PhotometricInterpretation="MONOCHROME1", RescaleIntercept=-1024, Units="BQML")
    if slow:
        monkeypatch.setattr(io.dicom.explicit, "pixels", lambda path: None)
    image = io.read_image(tmp_path)
    assert image.meaning.unit == {"CT": "HU", "PT": "Bq/ml"}[modality]
    np.testing.assert_array_equal(image.data[0], PIXELS - 1024.0)


def test_radiographs_are_turned_round_within_their_bits(tmp_path: Path) -> None:
    """Not within each file's own range: two pictures of one film stay comparable."""
    for k in range(2):
        pixels = (PIXELS[k] * (k + 1)).astype(np.uint16)
        write(
            tmp_path / f"{k}",
            pixels,
            None,
            "CR",
            PhotometricInterpretation="MONOCHROME1",
            BitsStored=12,
            HighBit=11,
            SeriesInstanceUID=f"1.2.{k}",
        )
        np.testing.assert_array_equal(io.read_image(tmp_path / f"{k}").data[0], 4095.0 - pixels)


@pytest.mark.parametrize(
    ("modality", "header", "unit"),
    [
        ("PT", {"Units": "CNTS"}, "a.u."), ("PT", {}, "a.u."), ("PT", {"Units": "BQML"}, "Bq/ml"), ("PT", {"Units": "GML"}, "SUV"),
        ("PT", {"Units": "GML", "SUVType": "BW"}, "SUV"), ("PT", {"Units": "GML", "SUVType": "LBM"}, "a.u."), ("PT", {"Units": "PROPCPS"}, "a.u."),
        ("CT", {}, "HU"), ("CT", {"RescaleType": "HU"}, "HU"), ("CT", {"RescaleType": "US"}, "a.u."), ("CT", {"RescaleType": "MGML"}, "mg/ml"),
        ("CT", {"RescaleSlope": None, "RescaleIntercept": None}, "a.u."), ("MR", {}, "a.u."), ("MR", {"RescaleType": "normalized"}, "a.u."),
        ("PT", {"Units": "BQML", "RealWorldValueMappingSequence": a_map("g/ml{SUVbw}", 0.5, 0)}, "SUV"),
        ("MR", {"RealWorldValueMappingSequence": a_map("ms", 2.0, 5)}, "ms"), ("MR", {"RealWorldValueMappingSequence": a_map("1", 2.0, 5)}, "a.u."),
    ],
)  # fmt: skip
def test_the_unit_is_what_the_header_states(tmp_path: Path, modality: str, header: dict, unit: str) -> None:
    series(tmp_path, modality, **header)
    (member,) = cohort.find(tmp_path).members
    (name,) = member.contrasts()
    image = member.load([name]).images[name]
    assert image.meaning.unit == unit
    slope, intercept = (
        {"SUV": (0.5, 0), "ms": (2.0, 5)}.get(unit, (1, 0)) if "RealWorldValueMappingSequence" in header else (1, 0)
    )
    np.testing.assert_allclose(image.data[0], PIXELS * slope + intercept)


def test_several_real_world_maps_leave_the_modality_transform(tmp_path: Path) -> None:
    both = Sequence([*a_map("g/ml{SUVbw}", 0.5, 0), *a_map("kBq/ml", 2.0, 0)])
    series(tmp_path, "PT", Units="BQML", RescaleSlope=3, RealWorldValueMappingSequence=both)
    image = io.read_image(tmp_path)
    assert image.meaning.unit == "Bq/ml"
    np.testing.assert_allclose(image.data[0], PIXELS * 3.0)


@pytest.mark.parametrize("kind", ["US", "SS"])
def test_padding_is_of_the_pixels_sign(tmp_path: Path, kind: str) -> None:
    pixels = PIXELS.copy()
    pixels[:, :2] = -2000
    series(tmp_path, pixels=pixels, RescaleIntercept=-24)
    for path in tmp_path.iterdir():
        ds = pydicom.dcmread(path)
        ds.add_new(0x00280120, kind, 63536 if kind == "US" else -2000)
        ds.save_as(path)
    assert float(io.read_image(tmp_path).data.min()) >= -24


def test_a_range_of_padding_is_left_out_whole(tmp_path: Path) -> None:
    pixels = PIXELS.copy()
    pixels[:, 0], pixels[:, 1] = -2000, -1990
    series(tmp_path, pixels=pixels, RescaleIntercept=-24)
    for path in tmp_path.iterdir():
        ds = pydicom.dcmread(path)
        ds.add_new(0x00280120, "SS", -2000)
        ds.add_new(0x00280121, "SS", -1985)
        ds.save_as(path)
    assert float(io.read_image(tmp_path).data.min()) >= -24


@pytest.mark.parametrize("noise", [1e-7, 1e-5, 5e-4])
def test_directions_that_rounding_made_differ_are_one_volume(tmp_path: Path, noise: float) -> None:
    series(tmp_path, ImageOrientationPatient=lambda z: [1, 0, 0.0005 + (noise if z % 2 else -noise), 0, 1, 0])
    assert [s.shape for s in io.scan_folder(tmp_path).scans] == [(1, 6, 8, 8)]


def test_one_series_number_of_two_patients_is_two_patients(tmp_path: Path) -> None:
    for k, patient in enumerate("AB"):
        series(tmp_path / patient, pixels=PIXELS + np.int16(500 * k), PatientID=patient, AcquisitionTime=f"10{k}000")
    found = cohort.find(tmp_path)
    assert len(found.patients) == 2
    assert [m.load(["CT"]).images["CT"].data.shape for m in found.members] == [(1, 6, 8, 8)] * 2


@pytest.mark.parametrize(
    ("header", "times"),
    [
        ({"TemporalResolution": 60000.0, "RepetitionTime": 4.0}, [0, 60, 120, 180]),
        ({"AcquisitionTime": lambda t: f"10{t:02}30.000000", "RepetitionTime": 4.0}, [0, 60, 120, 180]),
        ({"AcquisitionTime": "100000", "RepetitionTime": 2000.0}, [0, 2, 4, 6]),
        ({"RepetitionTime": 4.0}, [0, 1, 2, 3]),
    ],
)
def test_temporal_positions_are_apart_by_what_states_it(tmp_path: Path, header: dict, times: list[float]) -> None:
    for t in range(4):
        own = {k: v(t) if callable(v) else v for k, v in header.items()}
        write(tmp_path / f"{t}", PIXELS[t], (0, 0, 0), "MR", TemporalPositionIdentifier=t + 1, **own)
    (scan,) = (found := io.scan_folder(tmp_path)).scans
    assert io.read(scan).times.tolist() == times
    assert any("counted as 1 s apart" in o.fault for o in found.oddities) == (
        set(header) == {"RepetitionTime"} and times[1] == 1
    )


def test_frames_behind_one_position_have_their_places_or_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a/x", PIXELS, (1, 2, 3), "MR", SpacingBetweenSlices=2)
    image = io.read_image(tmp_path / "a")
    assert (image.axes, tuple(image.data.shape)) == ("zyx", (1, 6, 8, 8))
    np.testing.assert_allclose(image.affine[:3, [0, 3]], [[0, 1], [0, 2], [2, 3]])
    np.testing.assert_array_equal(image.data[0], PIXELS)
    write(tmp_path / "b/x", PIXELS, (1, 2, 3), "MR", FrameTime=40)
    film = io.read_image(tmp_path / "b")
    assert film.times.tolist() == pytest.approx([0, 0.04, 0.08, 0.12, 0.16, 0.2])
    write(tmp_path / "c/x", PIXELS, (1, 2, 3), "MR")
    found = io.scan_folder(tmp_path / "c")
    assert not found.scans
    assert "states one position for 6 frames" in found.oddities[0].fault


def test_nuclear_medicine_lies_where_its_detector_says(tmp_path: Path) -> None:
    head = group(ImagePositionPatient=[-10, -20, -30], ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    kind = ["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"]
    write(tmp_path / "x", PIXELS, None, "NM", SpacingBetweenSlices=2, DetectorInformationSequence=head, ImageType=kind)
    image = io.read_image(tmp_path)
    assert (image.axes, image.spacing_mm) == ("zyx", (2, 1, 1))
    assert image.affine[:3, 3].tolist() == [-10, -20, -30]


def test_a_dose_without_its_class_is_a_dose(tmp_path: Path) -> None:
    """One frame of 77 was shown as an image; what is not understood whole is refused."""
    write(tmp_path / "x", PIXELS, (0, 0, 0), "CT", Modality="RTDOSE", SOPClassUID=None)
    found = io.scan_folder(tmp_path)
    assert not found.scans
    assert "is a dose in no stated units" in found.oddities[0].fault


def _segmentation(path: Path, places: tuple[float, ...], segment: np.ndarray) -> None:
    ds = write(path, np.zeros((8, 8), np.int16), None, "SEG")
    ds.SegmentationType, ds.NumberOfFrames = "BINARY", len(places)
    ds.BitsAllocated = ds.BitsStored = 1
    ds.HighBit = ds.PixelRepresentation = 0
    ds.PixelData = np.packbits(np.stack([segment] * len(places)).ravel(), bitorder="little").tobytes()
    shared = Dataset()
    shared.PixelMeasuresSequence = group(PixelSpacing=[1, 1], SliceThickness=1, SpacingBetweenSlices=1)
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for z in places:
        frame = Dataset()
        frame.PlanePositionSequence = group(ImagePositionPatient=[0.0, 0.0, float(z)])
        frame.SegmentIdentificationSequence = group(ReferencedSegmentNumber=1)
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = Sequence(frames)
    ds.save_as(path)


@pytest.mark.parametrize("places", [(1, 2, 3, 7, 8), (1, 4, 7), (8, 2, 1), (5,)])
def test_a_segmentation_may_leave_empty_frames_out(tmp_path: Path, places: tuple[float, ...]) -> None:
    square = np.zeros((8, 8), np.uint8)
    square[2:5, 2:5] = 1
    _segmentation(tmp_path / "s", places, square)
    image = io.read_image(tmp_path)
    assert image.meaning.kind == "label"
    marked = [int(z + image.affine[2, 3]) for z in np.flatnonzero(image.data[0].sum((1, 2)))]
    assert marked == sorted(places)
    assert float(image.data.sum()) == 9 * len(places)
    assert image.spacing_mm[0] == 1


@pytest.mark.parametrize(("modality", "turned"), [("PT", False), ("NM", False), ("MR", False), ("CR", True)])
def test_counts_and_signals_are_never_turned_round(tmp_path: Path, modality: str, turned: bool) -> None:
    pixels = PIXELS[0].astype(np.uint16)
    write(tmp_path / "x", pixels, (0, 0, 0), modality, PhotometricInterpretation="MONOCHROME1", Units="CNTS")
    np.testing.assert_array_equal(io.read_image(tmp_path / "x").data.squeeze(), 65535.0 - pixels if turned else pixels)


def test_slices_of_two_units_are_refused(tmp_path: Path) -> None:
    series(tmp_path, "PT", Units=lambda z: "BQML" if z < 3 else "CNTS")
    found = io.scan_folder(tmp_path)
    assert not found.scans
    assert "a series whose slices are in different units (Bq/ml, a.u.)" in found.oddities[0].fault


def test_a_density_is_no_uptake(tmp_path: Path) -> None:
    series(tmp_path, "CT", RealWorldValueMappingSequence=a_map("g/ml", 0.001, 0))
    assert io.read_image(tmp_path).meaning.unit == "HU"


@pytest.mark.parametrize(
    ("header", "times"),
    [
        ({"TriggerTime": lambda t: 50.0 * t, "AcquisitionTime": "120000"}, [0, 0.05, 0.1]), ({"AcquisitionTime": lambda t: ("235950", "000000", "000010")[t]}, [0, 10, 20]),
        ({"AcquisitionTime": lambda t: ("060000", "120000", "210000")[t]}, [0, 21600, 54000]), ({"FrameReferenceTime": lambda t: 5000.0 + 10000 * t, "AcquisitionTime": "120000"}, [0, 10, 20]),
    ],
)  # fmt: skip
def test_moments_begin_at_zero_and_go_past_midnight(tmp_path: Path, header: dict, times: list[float]) -> None:
    for t in range(3):
        own = {k: v(t) if callable(v) else v for k, v in header.items()}
        write(tmp_path / f"{t}", PIXELS[t], (0, 0, 0), "MR", InstanceNumber=t + 1, **own)
    image = io.read_image(tmp_path)
    assert image.times.tolist() == pytest.approx(times)
    np.testing.assert_array_equal(image.data[0, :, 0], PIXELS[:3])


@pytest.mark.parametrize(
    ("modality", "header", "words"),
    [
        ("MR", {"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "is a mosaic"), ("NM", {"NumberOfEnergyWindows": 2}, "holds energy windows one behind the other"),
        ("NM", {"NumberOfTimeSlots": 8}, "holds time slots"), ("SEG", {"SegmentationType": "FRACTIONAL"}, "is a fractional segmentation"),
    ],
)  # fmt: skip
def test_what_would_be_understood_in_part_is_refused(tmp_path: Path, modality: str, header: dict, words: str) -> None:
    write(tmp_path / "x", PIXELS, (0, 0, 0), modality, SpacingBetweenSlices=2, **header)
    found = io.scan_folder(tmp_path)
    assert not found.scans
    assert words in found.oddities[0].fault


def test_a_header_that_states_a_unit_is_not_overruled(tmp_path: Path) -> None:
    series(tmp_path, "PT", Units="BQML")
    with pytest.raises(ValueError, match=r"states Bq/ml, and --unit says PET=SUV"):
        cohort.find(tmp_path, units={"PET": "SUV"})


def _enhanced(path: Path, modality: str, frames: list[dict], **shared: Any) -> None:
    ds = write(path, PIXELS[: len(frames)], None, modality)
    common = Dataset()
    common.PixelMeasuresSequence = group(PixelSpacing=[1, 1], SliceThickness=1, SpacingBetweenSlices=1)
    common.PlaneOrientationSequence = group(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    for key, value in shared.items():
        setattr(common, key, value)
    ds.SharedFunctionalGroupsSequence = Sequence([common])
    own = []
    for z, more in enumerate(frames):
        frame = Dataset()
        frame.PlanePositionSequence = group(ImagePositionPatient=[0.0, 0.0, float(z)])
        for key, value in more.items():
            setattr(frame, key, value)
        own.append(frame)
    ds.PerFrameFunctionalGroupsSequence = Sequence(own)
    for word in ("RescaleSlope", "RescaleIntercept"):
        if word in ds:
            del ds[word]
    ds.save_as(path)


def test_enhanced_frames_have_their_own_maps_or_are_refused(tmp_path: Path) -> None:
    maps = [{"RealWorldValueMappingSequence": a_map("g/ml{SUVbw}", k + 1.0, 0)} for k in range(3)]
    _enhanced(tmp_path / "a/x", "PT", maps)
    image = io.read_image(tmp_path / "a")
    assert image.meaning.unit == "SUV"
    np.testing.assert_allclose(image.data[0], PIXELS[:3] * np.array([1, 2, 3])[:, None, None])
    _enhanced(tmp_path / "b/x", "PT", [maps[0], {}, maps[2]])
    with pytest.raises(io.UnreadableError, match="its frames are in SUV and in no unit. Export them"):
        io.read_image(tmp_path / "b")


@pytest.mark.parametrize(("kind", "unit"), [("HU", "HU"), ("US", "a.u."), ("MGML", "mg/ml"), (None, "a.u.")])
def test_enhanced_ct_says_its_unit_in_its_frames(tmp_path: Path, kind: str | None, unit: str) -> None:
    told = (
        {"PixelValueTransformationSequence": group(RescaleSlope=1, RescaleIntercept=-1000, RescaleType=kind)}
        if kind
        else {}
    )
    _enhanced(tmp_path / "x", "CT", [{}, {}], **told)
    assert io.read_image(tmp_path / "x").meaning.unit == unit


def test_segments_have_their_own_names(tmp_path: Path) -> None:
    """Two segments of one object reach the case, each as what it is."""
    square = np.zeros((8, 8), np.uint8)
    square[2:5, 2:5] = 1
    _segmentation(tmp_path / "s", (1, 2, 3, 5), square)
    ds = pydicom.dcmread(tmp_path / "s")
    for frame, number in zip(ds.PerFrameFunctionalGroupsSequence, (1, 1, 2, 2), strict=True):
        frame.SegmentIdentificationSequence = group(ReferencedSegmentNumber=number)
    ds.SegmentSequence = Sequence(
        [*group(SegmentNumber=1, SegmentLabel="Liver"), *group(SegmentNumber=2, SegmentLabel="Tumour, left")]
    )
    ds.save_as(tmp_path / "s")
    (member,) = cohort.find(tmp_path).members
    assert member.contrasts() == ("liver", "tumour_left")
    case = member.load(member.contrasts())
    assert {n: float(i.data.sum()) for n, i in case.images.items()} == {"liver": 18, "tumour_left": 18}
    assert all(i.meaning.kind == "label" for i in case.images.values())
