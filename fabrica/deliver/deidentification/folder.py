"""A folder of DICOM files, de-identified into another; what cannot be made safe is named and left out.

Twice through the files: first who and which each is, since one file says what becomes of another, then each on its own.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import os
import secrets
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...machine.executors import Executor, Local, SetAside
from ...machine.folders import HELD, writing_into
from ...machine.stores import named, place, sent
from ..files import write_whole
from ..record import check_inside
from .defacing import Faces, face_in, without_face
from .engine import Deidentifier, RefusedError
from .profile import Options

Say = Callable[[str], None]
EACH = 200  # files of a task
SEEN, WRITTEN = (f"fabrica.deliver.deidentification.folder:{name}" for name in ("seen_in", "written_of"))
_ASKED = ("PatientID", "PatientBirthDate", "SOPInstanceUID", "SeriesInstanceUID")
Facts = Mapping[str, tuple[str, str, str, str]]  # file -> what _ASKED says, under the key
NOTHING = ("", "", "", "")
TWO_PERSONS = "its Patient ID stands for persons of several birth dates"


@dataclass
class Pass:
    """What became of the files of a folder."""

    written: int = 0
    faceless: int = 0  # of them, files of series that a face was taken out of
    patients: set[str] = field(default_factory=set)
    refused: Counter[str] = field(default_factory=Counter)  # why -> files


@dataclass(frozen=True)
class Hands:
    """Who does it, and the file that they read the key from: a key itself is never sent."""

    executor: Executor
    key: Path


def deidentified(folder: Path, out: Path, by: Deidentifier, say: Say = print, hands: Hands | None = None) -> Pass:
    """Files below OUT/PATIENT/STUDY/SERIES, named by their new UIDs; the same by workers.

    Raises ValueError for an output within the input, and where there is no file at all.
    """
    if out.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{out} lies within {folder}: a second pass would read its own answers. Give another --out.")
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != HELD)
    if not files:
        raise ValueError(f"{folder} holds no files.")
    with writing_into(out):
        return _all_of(files, (folder, out), by, say, hands)


def _all_of(files: Sequence[str], places: tuple[Path, Path], by: Deidentifier, say: Say, hands: Hands | None) -> Pass:
    """Looked at, then written; `places`: where they lie, and where they go."""
    (folder, out), total, found = places, len(files), Pass()
    executor = Local() if hands is None else hands.executor
    secret = {"key": by.key.hex()} if hands is None else {"key_file": named(hands.key)}
    shared: dict[str, Any] = {
        **secret, "folder": named(folder), "out": named(out), "burned_in": by.burned_in,
        "keep": sorted(by.options.keep), "dates": by.options.dates, "descriptors": by.options.descriptors,
        "faces": by.options.faces,
    }  # fmt: skip
    tasks = [{**shared, "files": part} for part in _parts(files, EACH)]
    facts: dict[str, tuple[str, str, str, str]] = {}
    for number, result in executor.results(SEEN, tasks):
        if not isinstance(result, SetAside):
            facts |= dict(zip(tasks[number]["files"], result, strict=True))
    if by.options.faces and (unknown := [name for name in files if name not in facts]):
        found.refused["nobody could look whose series it is, and a face is told by the whole of one"] += len(unknown)
        files = [name for name in files if name in facts]
    two = _of_two_persons(files, facts)
    tasks = [
        {**shared, "files": part, "two": [n for n in part if n in two]}
        for part in _together(files, facts, by.options.faces)
    ]
    for number, result in executor.results(WRITTEN, tasks):
        if isinstance(result, SetAside):
            found.refused[f"of them one {result.reason.removeprefix('it ')}"] += len(tasks[number]["files"])
            continue
        found.written += result["written"]
        found.faceless += result["faceless"]
        found.patients |= set(result["patients"])
        found.refused.update(result["refused"])
        by.done.update(result["done"])
    say(f"{found.written} of {total} files of {len(found.patients)} patients written to {out}.")
    if by.options.faces:
        say(f"  faces taken out of {found.faceless} files")
    for action, count in sorted(by.done.items()):
        say(f"  {action}: {count} attributes")
    for why, count in found.refused.most_common():
        say(f"  left out, {count} files: {why}")
    return found


def _parts(files: Sequence[str], each: int) -> Iterator[list[str]]:
    for first in range(0, len(files), each):
        yield list(files[first : first + each])


def _of_two_persons(files: Sequence[str], facts: Facts) -> set[str]:
    """Files of a Patient ID whose birth date is not that of its first file."""
    births: dict[str, str] = {}
    two = set()
    for name in files:
        patient, born, *_ = facts.get(name, NOTHING)
        if patient and born and births.setdefault(patient, born) != born:
            two.add(name)
    return two


def _together(files: Sequence[str], facts: Facts, series: bool) -> list[list[str]]:
    """Tasks of about EACH files; those of one instance in one task, in order: the second must see the first. So are
    those of one series where asked for.
    """
    group_of: dict[str, list[str]] = {}  # by instance and by series
    groups: dict[int, list[str]] = {}
    for name in files:
        *_, instance, own = facts.get(name, NOTHING)
        keys = [key for key in (instance, own if series else "") if key]
        found = list({id(group_of[key]): group_of[key] for key in keys if key in group_of}.values())
        group = found[0] if found else []
        groups[id(group)] = group
        group.append(name)
        for other in found[1:]:  # an instance of one series that lies in another, too
            group += other
            del groups[id(other)]
            group_of |= {key: group for key, known in group_of.items() if known is other}
        group_of |= dict.fromkeys(keys, group)
    tasks: list[list[str]] = [[]]
    for group in map(sorted, groups.values()):
        if tasks[-1] and len(tasks[-1]) + len(group) > EACH:
            tasks.append([])
        tasks[-1] += group
    return tasks


def _deidentifier(task: Mapping[str, Any]) -> Deidentifier:
    key = bytes.fromhex(task["key"]) if "key" in task else key_of(place(task["key_file"]))
    options = Options(frozenset(task["keep"]), task["dates"], task["descriptors"], task["faces"])
    return Deidentifier(key, options, task["burned_in"])


def seen_in(task: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(patient, birth date, instance, series) of each file under the key, so that no identifier leaves it; "" where
    unknown.
    """
    import pydicom

    by, found = _deidentifier(task), list[tuple[str, str, str, str]]()

    def hidden(text: object) -> str:
        known = str(text or "").strip()
        return hmac.new(by.key, f"seen\0{known}".encode(), hashlib.sha256).hexdigest()[:32] if known else ""

    for name in task["files"]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pydicom: they print values
            try:
                ds = pydicom.dcmread(place(task["folder"]) / name, stop_before_pixels=True)
                patient, born, instance, series = (hidden(ds.get(word)) for word in _ASKED)
                found.append((patient, born, instance, series))
            except Exception:  # said when it is its turn to be written
                found.append(NOTHING)
    return found


def written_of(task: Mapping[str, Any]) -> dict[str, Any]:
    """De-identifies the files of a task; {"written", "faceless", "patients", "refused": why -> files, "done": action ->
    count}.
    """
    by, found, out, two = _deidentifier(task), Pass(), place(task["out"]), set(task["two"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        paths = {name: place(task["folder"]) / name for name in task["files"]}
        faces = _faces(list(paths.values())) if by.options.faces else {}
        for name, path in paths.items():
            _one(path, out, by, found, name in two, faces.get(path))
    for patient in sorted(found.patients):
        sent(out / patient)
    told = {"patients": sorted(found.patients), "refused": dict(found.refused), "done": dict(by.done)}
    return {"written": found.written, "faceless": found.faceless, **told}


def _faces(paths: Sequence[Path]) -> dict[Path, Faces | RefusedError]:
    """What is to be taken out of each file, by its series, or why nobody can say what."""
    import pydicom

    series: dict[str, list[Path]] = {}
    told: dict[Path, Faces | RefusedError] = {}
    for path in paths:
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
        except Exception as error:  # whatever is wrong with it, it is not written unlooked at
            told[path] = RefusedError(f"a face in it cannot be looked for ({type(error).__name__})")
        else:
            series.setdefault(str(header.get("SeriesInstanceUID") or path), []).append(path)
    for own in series.values():
        try:
            face = face_in(own)
        except RefusedError as error:
            told |= dict.fromkeys(own, error)
        except Exception as error:  # whatever is wrong with one series, the others are done
            told |= dict.fromkeys(own, RefusedError(f"a face in it cannot be looked for ({type(error).__name__})"))
        else:
            told |= {} if face is None else dict.fromkeys(own, face)
    return told


def _one(path: Path, out: Path, by: Deidentifier, found: Pass, of_two: bool, face: Faces | RefusedError | None) -> None:
    import pydicom
    from pydicom.errors import InvalidDicomError

    buffer = io.BytesIO()
    try:
        ds = pydicom.dcmread(path)
        if isinstance(face, Faces):
            without_face(ds, path, face)
        made = by.applied(ds, faceless=isinstance(face, Faces))
        if isinstance(face, RefusedError):
            raise face
        if of_two:
            raise RefusedError(TWO_PERSONS)
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
    found.faceless += isinstance(face, Faces)
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
