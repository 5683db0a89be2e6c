"""A place that keeps objects: what it is asked to keep, what it says of it, and what it gives back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

EXTRA = 'Install what talks to it: pip install -e ".[clinic]" -c constraints.txt'
TIMEOUT_S = 60
KEY = ("SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "SyntheticData", "ContentQualification",
       "ImageType", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope",
       "RescaleIntercept", "PixelRepresentation", "Rows", "Columns", "InstanceNumber", "SeriesDescription",
       "FrameOfReferenceUID", "ContentSequence", "SegmentSequence", "SharedFunctionalGroupsSequence",
       "PerFrameFunctionalGroupsSequence", "GridFrameOffsetVector", "DoseGridScaling")  # fmt: skip


class UnreachableError(Exception):
    """A destination that does not answer, in words."""


class Destination(ABC):
    """A place that keeps objects."""

    name: str  # as the queue knows it
    witness = "read back, equal"  # what makes an object delivered there
    parts = True  # whether maps and reports that go with a series have a place there

    @abstractmethod
    def store(self, files: Sequence[Path]) -> Mapping[str, str]:
        """SOP instance UID -> why it was not taken, for those that were not; raises UnreachableError."""

    def commit(self, files: Sequence[Path]) -> Mapping[str, str]:
        """The same of whether it promises to keep what it took; places that are not asked promise nothing."""
        return {}

    @abstractmethod
    def fetch(self, study: str, series: str) -> Iterator[Any]:
        """What it keeps of a series, as data sets; nothing where it knows none. Raises UnreachableError."""

    def arrived(self, files: Mapping[str, Path], wanted: Sequence[str]) -> dict[str, str]:
        """Of a series' instances (UID -> file) those wanted ones that are there: what differs, in words, or nothing."""
        import pydicom

        first = pydicom.dcmread(next(iter(files.values())), stop_before_pixels=True)
        found = {}
        for ds in self.fetch(str(first.StudyInstanceUID), str(first.SeriesInstanceUID)):
            uid = str(ds.SOPInstanceUID)
            if uid in wanted:
                found[uid] = difference(pydicom.dcmread(files[uid]), ds)
        return found


def difference(ours: Any, theirs: Any) -> str:
    """What of an instance came back changed, or nothing."""
    for name in KEY:
        if ours.get(name) != theirs.get(name):
            return f"its {name} came back changed"
    return "" if _pixels(ours) == _pixels(theirs) else "its pixels came back changed"


def _pixels(ds: Any) -> bytes:
    """As they are meant, in whatever syntax they came; nothing of an object that has none."""
    return ds.pixel_array.tobytes() if "PixelData" in ds or "FloatPixelData" in ds else b""
