"""Files that are whole or not there, also after a power cut."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import yaml


def write_whole(target: Path, content: bytes, *, folder_too: bool = True) -> None:
    """Under its name only when all of it is on disk; raises OSError where it cannot be. `folder_too`: its name as well,
    which whoever writes many makes sure of once.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if folder_too:
        sync(target.parent)


def plain_yaml(path: Path, how: str) -> Any:
    """What a file says; raises ValueError where it is not there or is no YAML. `how`: what to write, in words."""
    if not path.is_file():
        raise ValueError(f"There is no file {path}. {how}")
    try:
        return yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML ({str(error).splitlines()[0]}).") from error


def sync(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_private(path: Path, content: bytes) -> None:
    """A new file that nobody but its owner could ever read; raises FileExistsError for one that is there."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def class_of(path: Path) -> str:
    """SOP Class UID of a DICOM file, "" where it is gone or cannot be read."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        return str(pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"]).SOPClassUID)
    except (OSError, InvalidDicomError, AttributeError):  # what arrived was read once: the disk lost it since
        return ""
