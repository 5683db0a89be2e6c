"""Who is in a folder: patients, visits, contrasts, from BIDS names, plain folders, DICOM headers or a table."""

from __future__ import annotations

import csv
import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from .. import io
from ..contracts import Case, Image
from ..io import Oddity, Scan, UnreadableError
from ..machine import writing
from . import vocabulary


class Member(ABC):
    """One patient at one visit, before any pixel is read."""

    patient: str
    visit: str
    site: str
    days: float
    values: Mapping[str, float | str]

    @abstractmethod
    def contrasts(self) -> tuple[str, ...]: ...

    @abstractmethod
    def load(self, contrasts: Iterable[str]) -> Case:
        """The case with those of these contrasts that it has; raises UnreadableError for damaged files."""

    @property
    def name(self) -> str:
        """patient, or patient_visit: the name of the case in every table and folder."""
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{self.patient}_{self.visit}" if self.visit else self.patient)


@dataclass(frozen=True)
class ScannedMember(Member):
    """A member whose images are files."""

    patient: str
    visit: str
    scans: Mapping[str, Scan]  # contrast -> file
    values: Mapping[str, float | str] = field(default_factory=dict)
    site: str = ""
    days: float = 0.0

    def contrasts(self) -> tuple[str, ...]:
        return tuple(self.scans)

    def load(self, contrasts: Iterable[str]) -> Case:
        images = {name: self._image(name) for name in contrasts if name in self.scans}
        return Case(self.patient, images, self.values, self.visit, self.days, self.site)

    def _image(self, name: str) -> Image:
        image = io.read(self.scans[name])
        meaning = vocabulary.field_of(name)
        label = meaning.kind == "label" or image.meaning.kind == "label"
        unit = image.meaning.unit if image.meaning.unit != "a.u." else meaning.unit
        kind: Literal["label", "intensity"] = "label" if label else "intensity"
        return replace(image, meaning=replace(image.meaning, name=name, kind=kind, unit="" if label else unit))


@dataclass(frozen=True)
class Cohort:
    """Members in a stable order, and everything odd that was met on the way."""

    members: tuple[Member, ...]
    oddities: tuple[Oddity, ...] = ()
    name: str = ""

    @property
    def patients(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(member.patient for member in self.members))

    def with_contrasts(self, needed: Iterable[str]) -> Cohort:
        """Only members that have all of these."""
        names = set(needed)
        return replace(self, members=tuple(m for m in self.members if names <= set(m.contrasts())))


def find(folder: Path, table: Path | None = None) -> Cohort:
    """The cohort in a folder; with a table (columns file, patient, visit, contrast, ...) names are not guessed.

    Raises UnreadableError when the folder is missing or empty, or the table names a file that is not there.
    """
    listing = io.scan_folder(folder)
    oddities = list(listing.oddities)
    rows = _from_table(folder, table, listing.scans) if table else [_guess(scan, folder) for scan in listing.scans]
    groups: dict[tuple[str, str], list[_Row]] = defaultdict(list)
    for row in rows:
        groups[row.patient, row.visit].append(row)
    demographics = _demographics(folder)
    members = tuple(_member(key, found, demographics, oddities) for key, found in sorted(groups.items()))
    return Cohort(members, tuple(oddities))


def write_table(cohort: Cohort, path: Path, folder: Path) -> int:
    """What was understood, one row a file, to be corrected and given back with `table:`; returns the rows written."""
    count = 0
    with writing(path), path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "member", "patient", "visit", "contrast", "site", "days"])
        for member in cohort.members:
            if not isinstance(member, ScannedMember):
                continue
            for contrast, scan in member.scans.items():
                relative = scan.files[0].relative_to(folder) if folder.is_dir() else scan.files[0].name
                row = [relative, scan.member, member.patient, member.visit, contrast, member.site, member.days]
                writer.writerow(row)
                count += 1
    return count


@dataclass(frozen=True)
class _Row:
    patient: str
    visit: str
    contrast: str
    scan: Scan
    values: Mapping[str, float | str] = field(default_factory=dict)
    site: str = ""
    days: float = 0.0


def _guess(scan: Scan, root: Path) -> _Row:
    base = root if root.is_dir() else root.parent
    folders = list(scan.files[0].relative_to(base).parts[:-1])
    if scan.format == "dicom":
        return _guess_dicom(scan, folders)
    stem = Path(scan.member).stem if scan.member and not scan.recipe else scan.files[0].name
    words = vocabulary.tokens(stem)
    folder_words = [w for f in folders for w in vocabulary.tokens(f)]
    contrast, label = vocabulary.contrast_of(words, folder_words)
    contrast = contrast or scan.modality or "image"
    if label:
        scan = replace(scan, kind="label")
    values = dict(scan.values)
    if scan.format == "raster":
        return _guess_picture(scan, folders, stem, contrast, values)
    full = "_".join([*folders, stem])
    subject, session = re.search(r"sub-([A-Za-z0-9]+)", full), re.search(r"ses-([A-Za-z0-9]+)", full)
    visits = [v for w in folder_words + words if (v := vocabulary.visit_of(w))]
    visit = session.group(1) if session else visits[0] if visits else ""
    own = [f for f in folders if not _is_plain(f)]
    if subject:
        return _Row("sub-" + subject.group(1), visit, contrast, scan, values)
    if own:
        return _Row(own[0], visit, contrast, scan, values)
    rest = [w for w in words if not vocabulary.is_contrast(w) and not vocabulary.visit_of(w)]
    return _Row("_".join(rest) or base.name, visit, contrast, scan, values)


def _guess_dicom(scan: Scan, folders: list[str]) -> _Row:
    description = vocabulary.tokens(scan.description)
    contrast, label = vocabulary.contrast_of(description, [])
    if scan.kind == "label" or (label and scan.modality == "SEG"):
        contrast = contrast if label else "label"
    elif label or not contrast:
        contrast = {"CT": "CT", "PT": "PET"}.get(scan.modality, scan.modality or "image")
    return _Row(scan.patient or (folders[0] if folders else "unknown"), scan.visit, contrast, scan, scan.values)


def _guess_picture(scan: Scan, folders: list[str], stem: str, contrast: str, values: dict[str, float | str]) -> _Row:
    """Pictures: a folder or archive named with letters only is a class, one with digits is a patient."""
    own = [f for f in folders if not _is_plain(f)]
    if scan.member and not scan.recipe:
        own.append(scan.files[0].stem)
    name = scan.member.replace("/", "_") if scan.recipe else re.sub(r"\.(dcm\.)?[a-z]+$", "", stem)
    if own and not re.search(r"\d", own[-1]):
        values["class"] = own[-1]
        return _Row(f"{own[-1]}_{name}" if not name.startswith(own[-1]) else name, "", contrast, scan, values)
    if own:
        return _Row(own[-1], name, contrast, scan, values)
    return _Row(name, "", contrast, scan, values)


def _is_plain(folder: str) -> bool:
    """Does a folder name say nothing about the patient (images, labels, anat, train, t1)?"""
    words = vocabulary.tokens(folder)
    return all(w in vocabulary.PARTS or vocabulary.is_contrast(w) or vocabulary.visit_of(w) for w in words)


def _member(
    key: tuple[str, str],
    rows: list[_Row],
    demographics: Mapping[str, Mapping[str, float | str]],
    oddities: list[Oddity],
) -> Member:
    scans: dict[str, Scan] = {}
    values: dict[str, float | str] = dict(demographics.get(_number(key[0]), {}))
    for row in sorted(rows, key=lambda r: -_voxels(r.scan)):
        if row.contrast in scans:
            text = f"is a second {row.contrast} of {'/'.join(k for k in key if k)}; the larger or first one is used."
            step = "Say which file is which: fabrica inspect DIR --write-table files.csv."
            oddities.append(Oddity(row.scan.name, text, step, "warning"))
            continue
        scans[row.contrast] = row.scan
        values |= row.values
    ordered = {name: scans[name] for name in sorted(scans)}
    return ScannedMember(key[0], key[1], ordered, values, rows[0].site, rows[0].days)


def _voxels(scan: Scan) -> int:
    count = 1
    for n in scan.shape:
        count *= n
    return count


def _from_table(folder: Path, table: Path, scans: Iterable[Scan]) -> list[_Row]:
    base = folder if folder.is_dir() else folder.parent
    known = {(str(s.files[0].relative_to(base)), s.member): s for s in scans}
    rows = []
    with table.open(newline="") as file:
        reader = csv.DictReader(file)
        lacking = {"file", "patient", "contrast"} - set(reader.fieldnames or ())
        if lacking:
            raise UnreadableError(
                f"{table} lacks the column{'s' * (len(lacking) > 1)} {', '.join(sorted(lacking))}.",
                "Write a table to start from: fabrica inspect DIR --write-table files.csv.",
            )
        for line, entry in enumerate(reader, 2):
            scan = known.get((entry["file"], entry.get("member") or ""))
            if scan is None:
                raise UnreadableError(
                    f"{table}:{line} names {entry['file']!r}, which is not a readable image in {folder}.",
                    "Correct the row, or take it out.",
                )
            label = vocabulary.field_of(entry["contrast"]).kind == "label"
            plain = {"file", "member", "patient", "visit", "contrast", "site", "days"}
            values = {k: _plain(v) for k, v in entry.items() if k and k not in plain and v}
            rows.append(
                _Row(
                    entry["patient"], entry.get("visit") or "", entry["contrast"],
                    replace(scan, kind="label") if label else scan, values,
                    entry.get("site") or "", float(entry.get("days") or 0),
                )
            )  # fmt: skip
    return rows


def _plain(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _number(patient: str) -> str:
    """patient07 and 7 are one patient when a demographics table says so."""
    digits = re.findall(r"\d+", patient)
    return str(int(digits[-1])) if digits else patient


def _demographics(folder: Path) -> dict[str, dict[str, float | str]]:
    """Values per patient from a BIDS participants.tsv or a csv with a patient column beside the images."""
    found: dict[str, dict[str, float | str]] = {}
    if not folder.is_dir():
        return found
    for path in [*sorted(folder.glob("*.csv")), *sorted(folder.glob("participants.tsv"))]:
        with path.open(newline="", errors="replace") as file:
            for entry in csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","):
                key = next((entry[k] for k in ("patient_id", "participant_id", "patient") if entry.get(k)), None)
                if key is None or "contrast" in entry:
                    break
                named = {
                    ("age" if "age" in k.lower().split("_") else k.lower()): _plain(v)
                    for k, v in entry.items()
                    if k and v
                }
                keep = {k: v for k, v in named.items() if not k.endswith("_id") and k != "patient"}
                found.setdefault(_number(key), {}).update(keep)
    return found


def overlaid(member: Member, images: Mapping[str, Image], values: Mapping[str, float | str] | None = None) -> Member:
    """The same patient and visit with some images or values replaced or added: what an earlier stage has drawn, or somebody asks."""
    known = {**member.values, **(values or {})}
    return _Overlaid(member.patient, member.visit, member.site, member.days, known, member, images)


@dataclass(frozen=True)
class _Overlaid(Member):
    patient: str
    visit: str
    site: str
    days: float
    values: Mapping[str, float | str]
    under: Member
    over: Mapping[str, Image]

    def contrasts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.under.contrasts(), *self.over)))

    def load(self, contrasts: Iterable[str]) -> Case:
        wanted = list(contrasts)
        case = self.under.load([n for n in wanted if n not in self.over])
        shown = {**case.images, **{n: i for n, i in self.over.items() if n in wanted}}
        return replace(case, images=shown, values=self.values)
