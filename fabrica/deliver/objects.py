"""Derived CT and MR series: drawn images as DICOM that says what it is (PS3.3 A.3, A.4, C.7, C.12.1)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contracts import Image
from .record import Drawn, Record

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"  # SOP classes
EXPLICIT = "1.2.840.10008.1.2.1"  # transfer syntax: readers that do not know an attribute still see its kind
IMPLEMENTATION = "2.25.289187543291340217365490221118733460112"
MARK = "SYNTHETIC"
SKEW = 1e-3  # of direction cosines: rows and columns that are no right angle make no DICOM plane
PATIENT = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientBirthTime", "PatientSex",
    "OtherPatientIDsSequence", "OtherPatientNames", "EthnicGroup", "PatientComments", "PatientSpeciesDescription",
    "PatientBreedDescription", "ResponsiblePerson", "PatientIdentityRemoved", "DeidentificationMethod",
    "DeidentificationMethodCodeSequence", "ClinicalTrialSponsorName", "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName", "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
)  # fmt: skip
STUDY = (
    "StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber",
    "IssuerOfAccessionNumberSequence", "StudyDescription", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy",
    "ReferencedStudySequence", "ProcedureCodeSequence", "PatientAge", "PatientSize", "PatientWeight", "Occupation",
    "AdditionalPatientHistory", "AdmittingDiagnosesDescription", "PatientSexNeutered", "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
)  # fmt: skip
FRAME = ("FrameOfReferenceUID", "PositionReferenceIndicator")
SERIES = ("BodyPartExamined", "Laterality", "PatientPosition", "LongitudinalTemporalInformationModified")
EMPTY = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
         "ReferringPhysicianName", "StudyID", "PatientPosition", "PositionReferenceIndicator")  # fmt: skip
OF_MR: Mapping[str, Any] = {  # an MR object must say these; of an image that was drawn nothing true can be said
    "ScanningSequence": "RM", "SequenceVariant": "NONE", "ScanOptions": "", "MRAcquisitionType": "", "EchoTime": None,
    "RepetitionTime": None, "EchoTrainLength": None,
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """Pixels as a file holds them: value = stored * slope + intercept."""

    pixels: NDArray[Any]  # (z, y, x) int16 or uint16
    slope: float
    intercept: float
    clipped: int  # voxels that did not fit


@dataclass(frozen=True)
class Series:
    """A derived series and what is known of it beside its files."""

    uid: str
    datasets: tuple[Any, ...]  # pydicom, one for each slice
    clipped: int


def derived_series(
    record: Record, drawn: Drawn, image: Image, headers: Sequence[Any], *, which: str = "mean", number: int = 0
) -> Series:
    """An image (1, z, y, x) on its own grid as a series of the patient and study of `headers` (without pixels).

    `which` names the draw, `number` is added to the series number 9000. UIDs follow from sources, weights, recipe, seed
    and pixels: the same draw is the same bytes, other pixels are another series. Raises ValueError for a contrast that
    is neither CT nor MR, for two patients or studies in one source, and for a grid that no plane has.
    """
    modality = modality_of(drawn)
    template = one_study(headers, drawn.case)
    stored = stored_pixels(image.data[0].numpy(), drawn.unit)
    affine = image.affine.numpy()
    check_plane(affine, drawn.case)
    known = {
        "sources": sorted(str(h.SOPInstanceUID) for h in headers), "weights": record.weights, "recipe": record.recipe,
        "seed": record.seed, "case": drawn.case, "contrast": drawn.contrast, "draw": which, "version": record.version,
        "pixels": hashlib.sha256(stored.pixels.tobytes()).hexdigest(), "affine": np.round(affine, 5).tolist(),
        "scale": [stored.slope, stored.intercept],
    }  # fmt: skip
    series = uid_of(known)
    base = _common(record, drawn, template, headers, modality, stored, which)
    base.SeriesInstanceUID, base.SeriesNumber = series, 9000 + number
    slices = [_slice(base, stored, affine, z, uid_of({**known, "slice": z})) for z in range(len(stored.pixels))]
    return Series(series, tuple(slices), stored.clipped)


def modality_of(drawn: Drawn) -> str:
    """CT or MR; raises ValueError for what has another object."""
    if drawn.kind == "label":
        raise ValueError(f"{drawn.case}: {drawn.contrast} is a label map; segmentation objects are not written yet.")
    if drawn.unit == "HU":
        return "CT"
    if drawn.unit in ("", "a.u."):
        return "MR"
    raise ValueError(f"{drawn.case}: {drawn.contrast} is in {drawn.unit}; CT and MR series are written yet, no others.")


def one_study(headers: Sequence[Any], case: str) -> Any:
    """The header that speaks for all; raises ValueError for several patients or studies, or none."""
    if not headers:
        raise ValueError(
            f"{case} was drawn of files that are no DICOM: nobody says whose it is. Say so: --identity FILE.dcm"
        )
    for name in ("PatientID", "PatientName", "StudyInstanceUID"):
        found = sorted({str(h.get(name, "")) for h in headers})
        if len(found) > 1:
            raise ValueError(f"{case}: its sources have {len(found)} different {name}. Deliver each by itself.")
    return headers[0]


def uid_of(known: Mapping[str, Any]) -> str:
    """2.25 and 128 bits of what is known (PS3.5 B.2): the same is the same on every machine."""
    text = json.dumps(known, sort_keys=True, separators=(",", ":"))
    return f"2.25.{int(hashlib.sha256(text.encode()).hexdigest()[:32], 16)}"


def stored_pixels(values: NDArray[Any], unit: str) -> Stored:
    """HU as whole numbers; arbitrary units times the power of two that uses 15 bits, negative ones as 0.

    What an MR object stores has no slope: its numbers mean nothing between scans. The factor stands in the text.
    """
    if not np.isfinite(values).all():
        raise ValueError("The image holds values that are not finite: it is not delivered.")
    if unit == "HU":
        whole = np.rint(values)
        kept = np.clip(whole, -32768, 32767).astype(np.int16)
        return Stored(kept, 1.0, 0.0, int((whole != kept).sum()))
    top = float(values.max())
    factor = 2.0 ** math.floor(math.log2(32767 / top)) if top > 0 else 1.0
    whole = np.rint(values.astype(np.float64) * factor)
    kept = np.clip(whole, 0, 65535).astype(np.uint16)
    return Stored(kept, 1 / factor, 0.0, int((whole < 0).sum()))


def check_plane(affine: NDArray[np.float64], case: str) -> None:
    """Raises ValueError for rows and columns that are not at a right angle."""
    x, y = (affine[:3, k] / np.linalg.norm(affine[:3, k]) for k in (2, 1))
    if abs(float(x @ y)) > SKEW:
        raise ValueError(f"{case}: its rows and columns are not at a right angle, which DICOM planes must be.")


def _common(
    record: Record, drawn: Drawn, template: Any, headers: Sequence[Any], modality: str, stored: Stored, which: str
) -> Any:
    """What all slices of a series say: patient and study of the source, and that this is no acquisition."""
    from pydicom.dataset import Dataset

    ds = Dataset()
    for name in (
        "SpecificCharacterSet",
        *PATIENT,
        *STUDY,
        *SERIES,
        "FrameOfReferenceUID",
        "PositionReferenceIndicator",
    ):
        if name in template:
            ds[name] = template[name]
    for name in EMPTY:
        if name not in ds:
            setattr(ds, name, "")
    if not ds.get("BodyPartExamined"):  # then laterality has to be said, though it is not known
        ds.Laterality = ds.get("Laterality", "")
    if not ds.get("FrameOfReferenceUID"):
        ds.FrameOfReferenceUID = uid_of({"frame of": str(template.SeriesInstanceUID)})
    ds.SOPClassUID, ds.Modality = (CT, "CT") if modality == "CT" else (MR, "MR")
    date, time = record.made[:10].replace("-", ""), record.made[11:19].replace(":", "")
    ds.InstanceCreationDate = ds.SeriesDate = ds.ContentDate = date
    ds.InstanceCreationTime = ds.SeriesTime = ds.ContentTime = time
    ds.SyntheticData, ds.ContentQualification = "YES", "RESEARCH"
    ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL" if modality == "CT" else "OTHER"]
    ds.SeriesDescription = f"{MARK} {drawn.contrast} from {', '.join(drawn.given)}"[:64]
    ds.DerivationDescription = derivation(record, drawn, stored, which)
    ds.SourceImageSequence = [_reference(h) for h in headers]
    ds.Manufacturer, ds.ManufacturerModelName, ds.SoftwareVersions = "Fabrica", record.family[:64], record.version[:64]
    ds.ContributingEquipmentSequence = _equipment(record, template)
    ds.BurnedInAnnotation, ds.AcquisitionNumber = "NO", None
    ds.LossyImageCompression = "01" if any(h.get("LossyImageCompression") == "01" for h in headers) else "00"
    if ds.LossyImageCompression == "01":
        ratios = [h.LossyImageCompressionRatio for h in headers if "LossyImageCompressionRatio" in h]
        methods = [h.LossyImageCompressionMethod for h in headers if "LossyImageCompressionMethod" in h]
        ds.LossyImageCompressionRatio = ratios[0] if ratios else "1"
        if methods:
            ds.LossyImageCompressionMethod = methods[0]
    _pixel_module(ds, stored, modality)
    return ds


def derivation(record: Record, drawn: Drawn, stored: Stored, which: str) -> str:
    """How it came to be, in one line of at most 1024 letters."""
    how = "mean of draws" if which == "mean" else f"draw {which}"
    factor = "" if drawn.unit == "HU" else f" Stored = {1 / stored.slope:g} x drawn value."
    return (
        f"Drawn by a model, not acquired: {record.job} by {record.family} from {', '.join(drawn.given)}, {how} of"
        f" {len(drawn.files)}, seed {record.seed}, weights sha256 {record.weights}. For research only.{factor}"
    )[:1024]


def _pixel_module(ds: Any, stored: Stored, modality: str) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = stored.pixels.shape[1:]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelRepresentation = 1 if stored.pixels.dtype == np.int16 else 0
    if modality == "CT":
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType, ds.KVP = "0", "1", "HU", None
        ds.WindowCenter, ds.WindowWidth = "40", "400"
        return
    for name, value in OF_MR.items():
        setattr(ds, name, value)
    top = max(1, round(float(np.percentile(stored.pixels, 99.5))))
    ds.WindowCenter, ds.WindowWidth = str(top // 2), str(max(1, top))


def _slice(base: Any, stored: Stored, affine: NDArray[np.float64], z: int, uid: str) -> Any:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID
    from pydicom.valuerep import format_number_as_ds

    ds = Dataset()
    ds.update(base)
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    row, column = affine[:3, 2] / steps[2], affine[:3, 1] / steps[1]
    thickness = abs(float(np.cross(row, column) @ affine[:3, 0]))
    ds.SOPInstanceUID, ds.InstanceNumber = uid, z + 1
    ds.ImagePositionPatient = [format_number_as_ds(float(v)) for v in affine[:3, 3] + z * affine[:3, 0]]
    ds.ImageOrientationPatient = [format_number_as_ds(float(v)) for v in (*row, *column)]
    ds.PixelSpacing = [format_number_as_ds(float(v)) for v in (steps[1], steps[2])]
    ds.SliceThickness = format_number_as_ds(thickness)
    pixels = stored.pixels[z].astype(stored.pixels.dtype.newbyteorder("<"))
    ds.add_new("PixelData", "OW", pixels.tobytes() + b"\0" * (pixels.nbytes % 2))
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, UID(uid)
    meta.TransferSyntaxUID, meta.ImplementationClassUID = UID(EXPLICIT), UID(IMPLEMENTATION)
    meta.ImplementationVersionName = "FABRICA"
    ds.file_meta = meta
    return ds


def _code(value: str, scheme: str, meaning: str) -> Any:
    from pydicom.dataset import Dataset

    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = value, scheme, meaning
    return ds


def _reference(header: Any) -> Any:
    from pydicom.dataset import Dataset

    ds = Dataset()
    ds.ReferencedSOPClassUID, ds.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    ds.PurposeOfReferenceCodeSequence = [_code("121322", "DCM", "Source image for image processing operation")]
    return ds


def _equipment(record: Record, template: Any) -> list[Any]:
    """The scanner that acquired, and the program that drew."""
    from pydicom.dataset import Dataset

    scanner, drawer = Dataset(), Dataset()
    scanner.PurposeOfReferenceCodeSequence = [_code("109101", "DCM", "Acquisition Equipment")]
    scanner.Manufacturer = template.get("Manufacturer") or "UNKNOWN"
    for name in ("ManufacturerModelName", "StationName", "DeviceSerialNumber", "SoftwareVersions"):
        if template.get(name):
            scanner[name] = template[name]
    drawer.PurposeOfReferenceCodeSequence = [_code("109100", "DCM", "Synthesizing Equipment")]
    drawer.Manufacturer, drawer.ManufacturerModelName = "Fabrica", record.family[:64]
    drawer.SoftwareVersions = record.version[:64]
    drawer.ContributionDescription = f"run {record.run}, stage {record.stage}, weights sha256 {record.weights}"[:1024]
    return [scanner, drawer]


def read_headers(paths: Sequence[Path]) -> list[Any]:
    """DICOM headers without pixels; raises ValueError for a file that is none."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    found = []
    for path in paths:
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except (InvalidDicomError, OSError) as error:
            raise ValueError(f"{path} is no DICOM file ({error}).") from error
        if not header.get("SOPInstanceUID") or not header.get("StudyInstanceUID"):
            raise ValueError(f"{path} does not say its study or its instance: nothing can refer to it.")
        found.append(header)
    return found
