"""A CT series with a structure set, a plan and a dose, written with pydicom alone: what the readers have to understand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT, STRUCTURES, PLAN, DOSE = "1.2.840.10008.5.1.4.1.1.2", *(f"1.2.840.10008.5.1.4.1.1.481.{n}" for n in (3, 5, 2))
FRAME, STUDY, SERIES, SET = "1.2.826.0.1.1", "1.2.826.0.1.2", "1.2.826.0.1.3", "1.2.826.0.1.4"
ORIGIN = (-30.0, -40.0, -50.0)
SPACING = (3.0, 2.0, 1.5)  # z, y, x
SHAPE = (20, 48, 56)


def image_uid(k: int) -> str:
    return f"{SERIES}.{k + 1}"


def write_ct(folder: Path, hounsfield: NDArray[Any], shape: Sequence[int] = SHAPE, frame: str = FRAME) -> None:
    for k in range(shape[0]):
        ds = _common(CT, "CT", image_uid(k), SERIES, frame)
        ds.ImageType, ds.RescaleType = ["ORIGINAL", "PRIMARY", "AXIAL"], "HU"
        ds.InstanceNumber, ds.SliceThickness, ds.RescaleSlope, ds.RescaleIntercept = k + 1, SPACING[0], 1, -1024
        _pixels(ds, (hounsfield[k] + 1024).astype("<u2"), k * SPACING[0])
        _save(ds, folder / f"ct_{k:02d}.dcm")


def write_structures(
    path: Path, regions: Mapping[str, Sequence[NDArray[np.float64]]], *, series: str | None = SERIES,
    frame: str = FRAME, images: bool = True, kinds: Mapping[str, str] | None = None,
    geometry: str = "CLOSED_PLANAR", instance: str = SET,
) -> None:  # fmt: skip
    """Regions: name -> contours (N, 3) in LPS mm."""
    ds = _common(STRUCTURES, "RTSTRUCT", instance, SERIES + ".77", "")
    ds.StructureSetLabel = "TEST"
    on = Dataset()
    on.FrameOfReferenceUID = frame
    if series is not None:
        one, study = Dataset(), Dataset()
        one.SeriesInstanceUID, one.ContourImageSequence = series, []
        study.RTReferencedSeriesSequence = [one]
        on.RTReferencedStudySequence = [study]
    ds.ReferencedFrameOfReferenceSequence = [on]
    ds.StructureSetROISequence, ds.ROIContourSequence, ds.RTROIObservationsSequence = [], [], []
    for number, (name, contours) in enumerate(regions.items(), 1):
        named, drawn, kind = Dataset(), Dataset(), Dataset()
        named.ROINumber, named.ROIName, named.ReferencedFrameOfReferenceUID = number, name, frame
        drawn.ReferencedROINumber, drawn.ContourSequence = number, [_contour(c, geometry, images) for c in contours]
        kind.ObservationNumber = kind.ReferencedROINumber = number
        kind.RTROIInterpretedType = (kinds or {}).get(name, "ORGAN")
        ds.StructureSetROISequence.append(named)
        ds.ROIContourSequence.append(drawn)
        ds.RTROIObservationsSequence.append(kind)
    _save(ds, path)


def _contour(points: NDArray[np.float64], geometry: str, images: bool) -> Dataset:
    ds = Dataset()
    ds.ContourGeometricType, ds.NumberOfContourPoints = geometry, len(points)
    ds.ContourData = [f"{v:.4f}" for v in points.ravel()]
    if images:
        on = Dataset()
        on.ReferencedSOPClassUID = CT
        on.ReferencedSOPInstanceUID = image_uid(round((points[0, 2] - ORIGIN[2]) / SPACING[0]))
        ds.ContourImageSequence = [on]
    return ds


def write_plan(path: Path, levels: Mapping[int, float], *, fractions: int = 35, of: str = SET) -> None:
    ds = _common(PLAN, "RTPLAN", SERIES + ".88", SERIES + ".89", FRAME)
    ds.RTPlanLabel, ds.RTPlanGeometry, ds.DoseReferenceSequence = "TEST", "PATIENT", []
    for k, (number, level) in enumerate(levels.items(), 1):
        one = Dataset()
        one.DoseReferenceNumber, one.DoseReferenceStructureType, one.DoseReferenceType = k, "VOLUME", "TARGET"
        one.ReferencedROINumber, one.TargetPrescriptionDose = number, level
        ds.DoseReferenceSequence.append(one)
    group, whole, beam, point = Dataset(), Dataset(), Dataset(), Dataset()
    group.FractionGroupNumber, group.NumberOfFractionsPlanned = 1, fractions
    ds.FractionGroupSequence = [group]
    whole.ReferencedSOPClassUID, whole.ReferencedSOPInstanceUID = STRUCTURES, of
    ds.ReferencedStructureSetSequence = [whole]
    point.NominalBeamEnergy, point.GantryAngle, point.IsocenterPosition = 6, 40, [1, 2, 3]
    beam.BeamName, beam.RadiationType, beam.ControlPointSequence = "1", "PHOTON", [point]
    ds.BeamSequence = [beam]
    _save(ds, path)


def write_dose(
    path: Path, dose: NDArray[np.float64], *, corner: Sequence[float] = ORIGIN, spacing: Sequence[float] = SPACING,
    offsets: Sequence[float] | None = None, units: str = "GY", summation: str = "PLAN", frame: str = FRAME,
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0), kind: str = "PHYSICAL", more: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    ds = _common(DOSE, "RTDOSE", generate_uid(), SERIES + ".99", frame)
    scaling = float(dose.max()) / 60_000 or 1.0
    ds.DoseUnits, ds.DoseType, ds.DoseGridScaling = units, kind, f"{scaling:.10g}"
    if summation:
        ds.DoseSummationType = summation
    ds.NumberOfFrames, ds.FrameIncrementPointer = len(dose), 0x3004000C
    ds.GridFrameOffsetVector = list(offsets if offsets is not None else spacing[0] * np.arange(len(dose)))
    _pixels(ds, np.round(dose / scaling).astype("<u2"), 0.0)
    ds.ImagePositionPatient, ds.ImageOrientationPatient = list(corner), list(orientation)
    ds.PixelSpacing = list(spacing[1:])
    for name, value in (more or {}).items():
        setattr(ds, name, value)
    _save(ds, path)


def _common(kind: str, modality: str, instance: str, series: str, frame: str) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = kind, instance, modality
    ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "planned", "Test^Plan", "", ""
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.StudyDate = STUDY, series, "20240102"
    if frame:
        ds.FrameOfReferenceUID = frame
    return ds


def _pixels(ds: Dataset, stored: NDArray[Any], z: float) -> None:
    ds.Rows, ds.Columns = stored.shape[-2:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.ImagePositionPatient = [ORIGIN[0], ORIGIN[1], ORIGIN[2] + z]
    ds.ImageOrientationPatient, ds.PixelSpacing = [1, 0, 0, 0, 1, 0], list(SPACING[1:])
    ds.PixelData = stored.tobytes()


def _save(ds: Dataset, path: Path) -> None:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)


def circle(radius_mm: float, z: float, centre: tuple[float, float] = (12.0, 8.0), count: int = 200) -> NDArray[Any]:
    """(N, 3) in LPS mm."""
    turn = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.column_stack(
        [centre[0] + radius_mm * np.cos(turn), centre[1] + radius_mm * np.sin(turn), np.full(count, z)]
    )


def slice_z(k: float) -> float:
    return ORIGIN[2] + SPACING[0] * k


def body() -> NDArray[np.float64]:
    """HU of a cylinder of water in air."""
    _, y, x = np.indices(SHAPE)
    far = np.hypot(ORIGIN[1] + SPACING[1] * y - 8, ORIGIN[0] + SPACING[2] * x - 12)
    return np.where(far < 36, 0.0, -1000.0)
