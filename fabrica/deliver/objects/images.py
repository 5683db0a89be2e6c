"""Derived CT, MR and PET series: drawn images as DICOM that says what it is (PS3.3 A.3, A.4, A.21, C.7, C.12.1)."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...contracts import Image
from ..record import Drawn
from .marking import FIRST_NUMBER, MARK, Making, Series, file_meta, mark, reference, uid_of
from .planes import directions
from .source import FRAME, REGION, taken_over

CT, MR, PET = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.128")
CLASSES = {"CT": CT, "MR": MR, "PT": PET}  # SOP classes
IMAGE_TYPES = {"CT": ["DERIVED", "SECONDARY", "AXIAL"], "MR": ["DERIVED", "SECONDARY", "OTHER"],
               "PT": ["DERIVED", "PRIMARY"]}  # fmt: skip  # PET knows no other (PS3.3 C.8.9.4.1.3)
MODALITIES = {"HU": "CT", "": "MR", "a.u.": "MR", "SUV": "PT", "Bq/ml": "PT"}  # of a unit
SKEW = 1e-3  # of direction cosines: rows and columns that are no right angle make no DICOM plane
OF_MR = {  # an MR object must say these; of an image that was drawn nothing true can be said
    "ScanningSequence": "RM", "SequenceVariant": "NONE", "ScanOptions": "", "MRAcquisitionType": "", "EchoTime": None,
    "RepetitionTime": None, "EchoTrainLength": None,
}  # fmt: skip
OF_PET = {  # the same of PET: what nobody acquired has no time, no tracer that was given and no correction
    "AcquisitionDate": "", "AcquisitionTime": "", "CountsSource": "EMISSION", "SeriesType": ["STATIC", "IMAGE"],
    "CorrectedImage": "", "DecayCorrection": "NONE", "CollimatorType": "", "FrameReferenceTime": "0",
    "ActualFrameDuration": None, "RadiopharmaceuticalInformationSequence": [], "PatientOrientationCodeSequence": [],
    "PatientGantryRelationshipCodeSequence": [],
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """Pixels as a file holds them: value = stored * slope + intercept."""

    pixels: NDArray[Any]  # (z, y, x) int16 or uint16
    slope: float
    intercept: float
    clipped: int  # voxels that did not fit


def derived_series(making: Making, image: Image, *, number: int = 0) -> Series:
    """An image (1, z, y, x), or a film (1, t, z, y, x), on its own grid as a series of the patient and study of its
    sources. Frames of a film are told apart by temporal positions (PS3.3 C.8.3.1), which MR alone has.

    `number` is added to the series number 9000. UIDs follow from sources, weights, recipe, seed and pixels: the same
    draw is the same bytes, other pixels are another series. Raises ValueError for a contrast that is neither CT, MR nor
    PET, for two patients or studies in one source, for a grid that no plane has, and for a film that is no MR.
    """
    drawn, modality = making.drawn, modality_of(making.drawn)
    values, moments = _moments(image, modality, drawn.case)
    stored = stored_pixels(values.reshape(-1, *values.shape[-2:]), drawn.unit)
    affine = image.affine.numpy()
    check_plane(affine, drawn.case)
    base = _common(making, modality, stored)
    known = {
        **making.known(), "pixels": hashlib.sha256(stored.pixels.tobytes()).hexdigest(),
        "affine": np.round(affine, 5).tolist(), "scale": [stored.slope, stored.intercept],
        **({"moments": [moments.count, moments.step_ms]} if moments else {}),
    }  # fmt: skip
    base.SeriesInstanceUID, base.SeriesNumber = uid_of(known), FIRST_NUMBER + number
    slices = [
        _slice(base, stored, affine, z, uid_of({**known, "slice": z}), moments) for z in range(len(stored.pixels))
    ]
    factor = 1 / stored.slope if modality == "MR" else 1.0  # what an MR object stores has no slope
    return Series(base.SeriesInstanceUID, tuple(slices), stored.clipped, factor)


@dataclass(frozen=True)
class Moments:
    """Frames of a film, evenly apart."""

    count: int
    step_ms: float


def _moments(image: Image, modality: str, case: str) -> tuple[NDArray[Any], Moments | None]:
    """(the values, with time first where it is a film; its moments)."""
    values = image.data[0].numpy()
    if image.axes != "tzyx":
        return values, None
    if modality != "MR":
        raise ValueError(f"{case}: a film in {image.meaning.unit} has no object here; films of MR have.")
    if image.times is None or len(image.times) < 2 or float(image.times[1] - image.times[0]) <= 0:
        raise ValueError(f"{case}: nothing says how far apart the frames of its film are.")
    return values, Moments(len(values), round(1000 * float(image.times[1] - image.times[0]), 4))  # NIfTI has 7 digits


def modality_of(drawn: Drawn) -> str:
    """CT, MR or PT; raises ValueError for what has another object."""
    if drawn.kind == "label" or drawn.unit not in MODALITIES:
        what = "a label map" if drawn.kind == "label" else f"in {drawn.unit}"
        raise ValueError(f"{drawn.case}: {drawn.contrast} is {what}, which is no series of CT, MR or PET.")
    return MODALITIES[drawn.unit]


def stored_pixels(values: NDArray[Any], unit: str) -> Stored:
    """HU as whole numbers; SUV and activity as 16 bits of their largest value; arbitrary units times the power of two
    that uses 15 bits; negative ones as 0.

    What an MR object stores has no slope: its numbers mean nothing between scans. The factor stands in the text.
    """
    if not np.isfinite(values).all():
        raise ValueError("The image holds values that are not finite: it is not delivered.")
    if unit == "HU":
        whole = np.rint(values)
        kept = np.clip(whole, -32768, 32767).astype(np.int16)
        return Stored(kept, 1.0, 0.0, int((whole != kept).sum()))
    top = float(values.max())
    if MODALITIES.get(unit) == "PT":
        slope = written(top / 32767 if top > 0 else 1.0)
        whole = np.rint(values.astype(np.float64) / slope)
        return Stored(np.clip(whole, 0, 32767).astype(np.int16), slope, 0.0, int((whole < 0).sum()))
    factor = 2.0 ** math.floor(math.log2(32767 / top)) if top > 0 else 1.0
    whole = np.rint(values.astype(np.float64) * factor)
    kept = np.clip(whole, 0, 65535).astype(np.uint16)
    return Stored(kept, 1 / factor, 0.0, int((whole < 0).sum()))


def written(value: float) -> float:
    """A number as sixteen letters of a file hold it, rounded up: what it scales fits below the top of its integers."""
    from pydicom.valuerep import format_number_as_ds

    found = float(format_number_as_ds(value))
    return found if found >= value else float(format_number_as_ds(value * (1 + 1e-8)))


def check_plane(affine: NDArray[np.float64], case: str) -> None:
    """Raises ValueError for rows and columns that are not at a right angle."""
    _, row, column = directions(affine)
    if abs(float(row @ column)) > SKEW:
        raise ValueError(f"{case}: its rows and columns are not at a right angle, which DICOM planes must be.")


def _common(making: Making, modality: str, stored: Stored) -> Any:
    """What all slices of a series say: patient and study of the source, and that this is no acquisition."""
    template, headers = making.template, making.headers
    ds = taken_over(template)
    for name in (*REGION, *FRAME):
        if name in template:
            ds[name] = template[name]
    for name in ("PatientPosition", "PositionReferenceIndicator"):
        if name not in ds:
            setattr(ds, name, "")
    if not ds.get("BodyPartExamined"):  # then laterality has to be said, though it is not known
        ds.Laterality = ds.get("Laterality", "")
    ds.FrameOfReferenceUID = frame_of(template)
    ds.SOPClassUID, ds.Modality = CLASSES[modality], modality
    mark(ds, making)
    ds.ImageType = IMAGE_TYPES[modality]
    ds.SeriesDescription = f"{MARK} {making.drawn.contrast} from {making.given}"[:64]
    factor = f" Stored = {1 / stored.slope:g} x drawn value." if modality == "MR" else ""
    ds.DerivationDescription = making.told(factor)
    ds.SourceImageSequence = [reference(h) for h in headers]
    ds.BurnedInAnnotation, ds.AcquisitionNumber = "NO", None
    ds.LossyImageCompression = "01" if any(h.get("LossyImageCompression") == "01" for h in headers) else "00"
    if ds.LossyImageCompression == "01":
        ratios = [h.LossyImageCompressionRatio for h in headers if "LossyImageCompressionRatio" in h]
        methods = [h.LossyImageCompressionMethod for h in headers if "LossyImageCompressionMethod" in h]
        ds.LossyImageCompressionRatio = ratios[0] if ratios else "1"
        if methods:
            ds.LossyImageCompressionMethod = methods[0]
    _pixel_module(ds, stored, modality, making.drawn.unit)
    return ds


def frame_of(template: Any) -> str:
    """The source's frame of reference; one of its own for a source that names none."""
    return str(template.get("FrameOfReferenceUID") or uid_of({"frame of": str(template.SeriesInstanceUID)}))


def _pixel_module(ds: Any, stored: Stored, modality: str, unit: str) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = stored.pixels.shape[1:]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelRepresentation = 1 if stored.pixels.dtype == np.int16 else 0
    if modality == "CT":
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType, ds.KVP = "0", "1", "HU", None
        ds.WindowCenter, ds.WindowWidth = "40", "400"
        return
    top = max(1, round(float(np.percentile(stored.pixels, 99.5))))
    if modality == "PT":
        _emission(ds, stored, unit)
        _window(ds, top * stored.slope)
        return
    for name, value in OF_MR.items():
        setattr(ds, name, value)
    ds.WindowCenter, ds.WindowWidth = str(top // 2), str(top)


def _emission(ds: Any, stored: Stored, unit: str) -> None:
    """Units of a PET series (PS3.3 C.8.9.1); standardised uptake is told by body weight."""
    from pydicom.valuerep import format_number_as_ds

    for name, value in OF_PET.items():
        setattr(ds, name, value)
    del ds.PatientPosition  # its module has codes in place of it
    ds.Units = "GML" if unit == "SUV" else "BQML"
    if unit == "SUV":
        ds.SUVType = "BW"
    ds.NumberOfSlices, ds.RescaleIntercept = len(stored.pixels), "0"
    ds.RescaleSlope = format_number_as_ds(stored.slope)


def _window(ds: Any, top: float) -> None:
    from pydicom.valuerep import format_number_as_ds

    ds.WindowCenter, ds.WindowWidth = format_number_as_ds(top / 2), format_number_as_ds(top)


def place_plane(ds: Any, affine: NDArray[np.float64], z: int) -> None:
    """Where plane z lies (PS3.3 C.7.6.2), from the matrix of index (z, y, x) to LPS mm."""
    from pydicom.valuerep import format_number_as_ds

    steps, row, column = directions(affine)
    ds.ImagePositionPatient = [format_number_as_ds(float(v)) for v in affine[:3, 3] + z * affine[:3, 0]]
    ds.ImageOrientationPatient = [format_number_as_ds(float(v)) for v in (*row, *column)]
    ds.PixelSpacing = [format_number_as_ds(float(v)) for v in (steps[1], steps[2])]
    ds.SliceThickness = format_number_as_ds(abs(float(np.cross(row, column) @ affine[:3, 0])))


def _slice(
    base: Any, stored: Stored, affine: NDArray[np.float64], number: int, uid: str, moments: Moments | None
) -> Any:
    from pydicom.dataset import Dataset
    from pydicom.valuerep import format_number_as_ds

    ds = Dataset()
    ds.update(base)
    ds.SOPInstanceUID, ds.InstanceNumber = uid, number + 1
    if ds.Modality == "PT":
        ds.ImageIndex = number + 1
    planes = len(stored.pixels) // (moments.count if moments else 1)
    place_plane(ds, affine, number % planes)
    if moments:
        ds.TemporalPositionIdentifier, ds.NumberOfTemporalPositions = number // planes + 1, moments.count
        ds.TemporalResolution = format_number_as_ds(moments.step_ms)
    pixels = stored.pixels[number].astype(stored.pixels.dtype.newbyteorder("<"))
    ds.add_new("PixelData", "OW", pixels.tobytes() + b"\0" * (pixels.nbytes % 2))
    ds.file_meta = file_meta(ds)
    return ds
