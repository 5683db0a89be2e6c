"""A folder of DICOM files, de-identified into another; what cannot be made safe is named and left out."""

from __future__ import annotations

import io
import os
import secrets
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..files import write_whole
from ..record import check_inside
from .engine import Deidentifier, RefusedError

Say = Callable[[str], None]


@dataclass
class Pass:
    """What became of the files of a folder."""

    written: int = 0
    patients: set[str] = field(default_factory=set)
    births: dict[str, str] = field(default_factory=dict)  # patient -> birth date as its first file says it
    refused: Counter[str] = field(default_factory=Counter)  # why -> files


def deidentified(folder: Path, out: Path, by: Deidentifier, say: Say = print) -> Pass:
    """Files below OUT/PATIENT/STUDY/SERIES, named by their new UIDs. Raises ValueError for an output within the input,
    and where there is no file at all.
    """
    if out.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{out} lies within {folder}: a second pass would read its own answers. Give another --out.")
    files, found = sorted(p for p in folder.rglob("*") if p.is_file()), Pass()
    if not files:
        raise ValueError(f"{folder} holds no files.")
    for path in files:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pydicom: they print values
            _one(path, out, by, found)
    say(f"{found.written} of {len(files)} files of {len(found.patients)} patients written to {out}.")
    for action, count in sorted(by.done.items()):
        say(f"  {action}: {count} attributes")
    for why, count in found.refused.most_common():
        say(f"  left out, {count} files: {why}")
    return found


def _one(path: Path, out: Path, by: Deidentifier, found: Pass) -> None:
    import pydicom
    from pydicom.errors import InvalidDicomError

    buffer = io.BytesIO()
    try:
        ds = pydicom.dcmread(path)
        made = by.applied(ds)
        born, whose = str(ds.get("PatientBirthDate") or ""), str(made.PatientID)
        if born and found.births.setdefault(whose, born) != born:
            raise RefusedError("its Patient ID stands for persons of several birth dates")
        made.save_as(buffer, enforce_file_format=True)
    except InvalidDicomError:
        found.refused["it is no DICOM file"] += 1
        return
    except RefusedError as error:
        found.refused[str(error)] += 1
        return
    except Exception as error:  # whatever is wrong with one file, the others are done
        found.refused[f"it cannot be read and written whole ({type(error).__name__})"] += 1
        return
    study, series = (str(made.get(name) or "none") for name in ("StudyInstanceUID", "SeriesInstanceUID"))
    target = out / str(made.PatientID) / study / series / f"{made.SOPInstanceUID}.dcm"
    check_inside(out, str(target.relative_to(out)))
    if target.is_file() and target.read_bytes() != buffer.getvalue():
        found.refused["another file with its instance UID was written, and holds something else"] += 1
        return
    write_whole(target, buffer.getvalue())
    found.written += 1
    found.patients.add(str(made.PatientID))


def key_of(path: Path, say: Say = print) -> bytes:
    """The key of a file; made there, for its owner alone, where there is none. Raises ValueError for a file that
    others may read.
    """
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(opened, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
        say(f"Made the key {path}. With it the same patient gets the same name again; keep it apart from the files.")
    if path.stat().st_mode & 0o077:
        raise ValueError(f"{path} can be read by others. Type: chmod 600 {path}")
    text = path.read_text().strip()
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise ValueError(f"{path} is no key of hexadecimal digits. Name another file: --key FILE") from error
