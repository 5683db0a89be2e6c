"""A folder of files, as archives are filled from or research is done on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import write_whole
from .destination import Destination, UnreachableError


class Folder(Destination):
    """Files below DIR/STUDY/SERIES."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, f"folder:{path.resolve()}"

    def store(self, files: Sequence[Path]) -> Mapping[str, str]:
        import pydicom

        errors = {}
        for file in files:
            header = pydicom.dcmread(file, stop_before_pixels=True)
            uid = str(header.SOPInstanceUID)
            target = self.path / str(header.StudyInstanceUID) / str(header.SeriesInstanceUID) / f"{uid}.dcm"
            content = file.read_bytes()
            if target.is_file() and target.read_bytes() != content:
                errors[uid] = f"{target} holds something else under this UID"
                continue
            try:
                write_whole(target, content)
            except OSError as error:
                raise UnreachableError(f"{self.path} cannot be written ({error.strerror}).") from error
        return errors

    def fetch(self, study: str, series: str) -> Iterator[Any]:
        import pydicom

        for file in sorted((self.path / study / series).glob("*.dcm")):
            yield pydicom.dcmread(file)
