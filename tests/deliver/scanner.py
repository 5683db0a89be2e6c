"""A scanner for tests: simulated heads as classic DICOM, of any orientation, as an archive would send them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

from fabrica.data.virtual import VirtualCohort

MR = "1.2.840.10008.5.1.4.1.1.4"


def head(first: int = 5, planes: tuple[int, int] = (18, 22)) -> tuple[np.ndarray, np.ndarray]:
    """((z, y, x) T1w of a simulated head, affine to LPS)."""
    cohort = VirtualCohort(1, first=first, spacing_mm=4, skull=True, planes=planes, disease="none").cohort()
    image = cohort.members[0].load(["T1w"]).images["T1w"]
    return image.data[0].numpy(), image.affine.numpy()


def write_series(
    folder: Path,
    volume: np.ndarray,
    affine: np.ndarray,
    *,
    reverse: bool = False,
    description: str = "T1w mprage",
    **more: Any,
) -> list[Path]:
    """A file for each slice, with identifiers that an archive has; `more` overrides attributes."""
    folder.mkdir(parents=True, exist_ok=True)
    study, series, frame = (generate_uid(entropy_srcs=[str(folder), name]) for name in ("study", "series", "frame"))
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    paths = []
    for z, plane in enumerate(volume):
        ds = Dataset()
        ds.SpecificCharacterSet = "ISO_IR 192"
        ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Ünal^Zoë", "GEN-0001", "19700101", "F"
        ds.StudyInstanceUID, ds.StudyDate, ds.StudyTime, ds.StudyID = study, "20260102", "101112", "S1"
        ds.AccessionNumber, ds.ReferringPhysicianName, ds.StudyDescription = "ACC7", "Doe^J", "Head"
        ds.PatientAge, ds.PatientWeight = "056Y", "70"
        ds.SeriesInstanceUID, ds.SeriesNumber, ds.SeriesDescription, ds.Modality = series, 3, description, "MR"
        ds.FrameOfReferenceUID, ds.PositionReferenceIndicator, ds.PatientPosition = frame, "", "HFS"
        ds.BodyPartExamined, ds.Manufacturer, ds.ManufacturerModelName = "HEAD", "Acme", "Scan 3T"
        ds.SOPClassUID, ds.SOPInstanceUID = MR, generate_uid(entropy_srcs=[series, str(z)])
        ds.ImageType, ds.InstanceNumber = ["ORIGINAL", "PRIMARY", "M"], len(volume) - z if reverse else z + 1
        ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "GR", "SP", "", "3D"
        ds.EchoTime, ds.RepetitionTime, ds.EchoTrainLength = "3", "2000", "1"
        ds.ImagePositionPatient = [format_number_as_ds(float(v)) for v in affine[:3, 3] + z * affine[:3, 0]]
        directions = (*(affine[:3, 2] / steps[2]), *(affine[:3, 1] / steps[1]))
        ds.ImageOrientationPatient = [format_number_as_ds(float(v)) for v in directions]
        ds.PixelSpacing, ds.SliceThickness = (
            [format_number_as_ds(float(v)) for v in steps[1:]],
            format_number_as_ds(float(steps[0])),
        )
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
        ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = *plane.shape, 16, 16, 15
        for name, value in more.items():
            setattr(ds, name, value)
        ds.PixelData = np.clip(np.rint(plane), 0, 65535).astype("<u2").tobytes()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"{z:03d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths
