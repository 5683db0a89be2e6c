"""Whose an object is: what it takes over from the DICOM files that it was drawn from, by name (PS3.3 C.7.1, C.7.2)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

UID = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")  # PS3.5 9.1
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
REGION = ("BodyPartExamined", "Laterality", "PatientPosition", "LongitudinalTemporalInformationModified")
EMPTY = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
         "ReferringPhysicianName", "StudyID")  # fmt: skip


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
        header.decode()  # whatever its character set: what is made of it is written in UTF-8
        header.SpecificCharacterSet = "ISO_IR 192"
        if not header.get("SOPInstanceUID") or not header.get("StudyInstanceUID"):
            raise ValueError(f"{path} does not say its study or its instance: nothing can refer to it.")
        for name in ("StudyInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
            if header.get(name) and (len(str(header[name].value)) > 64 or not UID.fullmatch(str(header[name].value))):
                raise ValueError(f"{path}: its {name} is no UID, so that no archive can file what refers to it.")
        found.append(header)
    return found


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


def taken_over(template: Any) -> Any:
    """Patient and study as the source says them, in UTF-8; what must be there and is not known is empty."""
    from pydicom.dataset import Dataset

    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    for name in (*PATIENT, *STUDY):
        if name in template:
            ds[name] = template[name]
    for name in EMPTY:
        if name not in ds:
            setattr(ds, name, "")
    return ds
