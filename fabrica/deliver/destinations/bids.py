"""Derivatives of the Brain Imaging Data Structure: a NIfTI file of a series, and beside it what it is (BIDS 1.10)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import write_whole
from .destination import Destination, UnreachableError

VERSION = "1.10.0"
FOLDERS = {"PT": "pet", "CT": "ct"}  # others are anatomy
WITHOUT = ("KO", "SR", "SEG", "RTDOSE")  # modalities that have no place here


class Bids(Destination):
    """DIR/sub-ID/ses-STUDY/anat/sub-ID_ses-STUDY_desc-synthetic_T2w.nii.gz of series of planes; other objects have no
    place in it. What is rejected later has to be taken out by hand.

    The label of a patient is the letters and digits of its Patient ID (and a digest, where it holds others):
    de-identify before, where that names somebody.
    """

    witness = "read back, voxels equal"
    parts = False

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, f"bids:{path.resolve()}"

    def store(self, files: Sequence[Path]) -> Mapping[str, str]:
        """All files of a series; raises UnreachableError where nothing can be written."""
        import pydicom

        headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
        first = headers[0]
        if first.Modality in WITHOUT or (len(files) == 1 and "NumberOfFrames" in first):
            return {str(h.SOPInstanceUID): f"{first.Modality} objects have no place in BIDS" for h in headers}
        target = self._file(first)
        told = self._told(first)
        if (
            target.is_file()
            and json.loads(_beside(target).read_text())["SeriesInstanceUID"] != told["SeriesInstanceUID"]
        ):
            return {str(h.SOPInstanceUID): "another series of this contrast lies in its place" for h in headers}
        try:
            write_whole(self.path / "dataset_description.json", _text(_description()))
            write_whole(_beside(target), _text(told))
            write_whole(target, _nifti(files))
        except OSError as error:
            raise UnreachableError(f"{self.path} cannot be written ({error.strerror}).") from error
        return {}

    def fetch(self, study: str, series: str) -> Iterator[Any]:
        """Nothing: what lies there is no DICOM."""
        yield from ()

    def arrived(self, files: Mapping[str, Path], wanted: Sequence[str]) -> dict[str, str]:
        """Voxel by voxel, of the whole series."""
        import pydicom

        target = self._file(pydicom.dcmread(next(iter(files.values())), stop_before_pixels=True))
        if not target.is_file():
            return {}
        first = pydicom.dcmread(next(iter(files.values())), stop_before_pixels=True)
        if json.loads(_beside(target).read_text())["SeriesInstanceUID"] != str(first.SeriesInstanceUID):
            return dict.fromkeys(wanted, "another series lies there")
        wrong = "" if target.read_bytes() == _nifti(list(files.values())) else "its voxels came back changed"
        return dict.fromkeys(wanted, wrong)

    def _file(self, header: Any) -> Path:
        subject = _label(str(header.PatientID))
        session = hashlib.sha256(str(header.StudyInstanceUID).encode()).hexdigest()[:8]
        contrast = re.sub(r"[^A-Za-z0-9]", "", str(header.SeriesDescription).split(" ")[1])
        folder = FOLDERS.get(str(header.Modality), "anat")
        name = f"sub-{subject}_ses-{session}_desc-synthetic_{contrast}.nii.gz"
        return self.path / f"sub-{subject}" / f"ses-{session}" / folder / name

    def _told(self, header: Any) -> dict[str, Any]:
        return {
            "SyntheticData": str(header.SyntheticData), "ContentQualification": str(header.ContentQualification),
            "SeriesInstanceUID": str(header.SeriesInstanceUID), "Description": str(header.DerivationDescription),
            "Sources": sorted(str(r.ReferencedSOPInstanceUID) for r in header.SourceImageSequence),
            "SkullStripped": False,
        }  # fmt: skip


def _label(identity: str) -> str:
    """Letters and digits; two identities never have one label."""
    bare = re.sub(r"[^A-Za-z0-9]", "", identity)
    return bare if bare == identity else f"{bare}{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def _beside(target: Path) -> Path:
    return target.with_name(target.name.removesuffix(".nii.gz") + ".json")


def _description() -> dict[str, Any]:
    from ... import __version__

    return {
        "Name": "Images drawn by Fabrica, not acquired", "BIDSVersion": VERSION, "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "Fabrica", "Version": __version__}],
    }  # fmt: skip


def _text(plain: Mapping[str, Any]) -> bytes:
    return (json.dumps(plain, indent=1, sort_keys=True) + "\n").encode()


def _nifti(files: Sequence[Path]) -> bytes:
    """The series as our reader reads it, the same bytes each time: no time in its gzip header."""
    import gzip

    import nibabel
    import numpy as np

    from ...io import dicom, read

    scans, _ = dicom.listing(list(files))
    image = read(scans[0])
    values = image.data[0].numpy()
    values = values[None] if image.axes == "yx" else values
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine.numpy()[:, [2, 1, 0, 3]]  # LPS (z, y, x) to RAS (x, y, z)
    ordered = np.transpose(values).astype(np.float32)  # (x, y, z), and time behind
    made = nibabel.Nifti1Image(ordered, affine)  # type: ignore[no-untyped-call]
    if image.times is not None and len(image.times) > 1:
        made.header.set_xyzt_units("mm", "sec")  # type: ignore[no-untyped-call]
        made.header["pixdim"][4] = float(image.times[1] - image.times[0])
    return gzip.compress(made.to_bytes(), mtime=0)
