"""Who is in a folder: patients, visits, contrasts, from BIDS names, plain folders, DICOM headers or a table."""

from __future__ import annotations

import csv
import math
import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Literal

from .. import io
from ..contracts import Case, Image
from ..io import RAW, VOLUMES, Oddity, Scan, UnreadableError
from ..machine.device import writing
from . import vocabulary
from .demographics import Demographics, before_baseline, day_of, find_demographics
from .identity import Row, guess
from .layouts import recognised
from .measured import measurement_of
from .stacks import places_of, stacked
from .tables import Line, lacking, number_of, read_table, value_of
from .units import check_by_values, check_unit, with_unit


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

    def scans_of(self, contrasts: Iterable[str]) -> tuple[Scan, ...]:
        """The files that these contrasts are read from, or computed from; none of simulated patients."""
        return ()

    @property
    def name(self) -> str:
        """patient, or patient_visit: the name of the case in every table and folder."""
        return re.sub(r"[^\w.-]+", "-", f"{self.patient}_{self.visit}" if self.visit else self.patient)


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

    def scans_of(self, contrasts: Iterable[str]) -> tuple[Scan, ...]:
        return tuple(self.scans[name] for name in dict.fromkeys(contrasts) if name in self.scans)

    def load(self, contrasts: Iterable[str]) -> Case:
        wanted = [name for name in contrasts if name in self.scans]
        raw = {name: measurement_of(self.scans[name]) for name in wanted if self.scans[name].format in RAW}
        images = {name: self._image(name) for name in wanted if name not in raw}
        return Case(self.patient, images, self.values, self.visit, self.days, self.site, raw)

    def _image(self, name: str) -> Image:
        scan = self.scans[name]
        image = io.read(scan)
        label = scan.kind == "label" or image.meaning.kind == "label" or vocabulary.field_of(name).kind == "label"
        unit = image.meaning.unit if scan.unit == "a.u." else scan.unit  # of pictures the pixels say that they are grey
        kind: Literal["label", "intensity"] = "label" if label else "intensity"
        image = replace(image, meaning=replace(image.meaning, name=name, kind=kind, unit="" if label else unit))
        check_by_values(image, scan)
        return image


@dataclass(frozen=True)
class Derived(Member):
    """A case made of others: the patient and visit that it is of, and what is said of it."""

    patient: str
    visit: str
    site: str
    days: float
    values: Mapping[str, float | str]


Origin = tuple[str, str, str, float, Mapping[str, float | str]]


def origin(member: Member, values: Mapping[str, float | str] | None = None) -> Origin:
    """The fields of a case derived from one member."""
    return member.patient, member.visit, member.site, member.days, member.values if values is None else values


@dataclass(frozen=True)
class Cohort:
    """Members in a stable order, and everything odd that was met on the way."""

    members: tuple[Member, ...]
    oddities: tuple[Oddity, ...] = ()
    name: str = ""
    doubts: tuple[str, ...] = ()  # names with two readings: who is whose patient
    looks_like: str = ""  # the public data set whose names it has, with its terms

    @property
    def patients(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(member.patient for member in self.members))

    def with_contrasts(self, needed: Iterable[str]) -> Cohort:
        """Only members that have all of these."""
        names = set(needed)
        return replace(self, members=tuple(m for m in self.members if names <= set(m.contrasts())))


@dataclass(frozen=True)
class Source:
    """Where scans lie, and what somebody knows that their files leave open."""

    folder: Path
    units: Mapping[str, str] = field(default_factory=dict)  # contrast -> unit

    @staticmethod
    def of(data: Path | Source) -> Source:
        return data if isinstance(data, Source) else Source(data)

    def find(self) -> Cohort:
        """As `find`."""
        return find(self.folder, None, self.units)


def find(folder: Path, table: Path | None = None, units: Mapping[str, str] | None = None) -> Cohort:
    """The cohort in a folder; with a table (columns file, patient, visit, contrast, unit, ...) names are not guessed.

    `units`: contrast -> unit, by somebody who knows. Raises UnreadableError when the folder is missing or empty, or the
    table cannot be used; ValueError for a unit that is not known.
    """
    said = {name: check_unit(name, unit) for name, unit in (units or {}).items()}
    listing = io.scan_folder(folder)
    oddities = list(listing.oddities)
    looks, rows = "", list[Row]()
    if table:
        rows = _from_table(folder, table, listing.scans, oddities)
    else:
        rows, looks = _named(listing.scans, folder)
    known = find_demographics(folder, rows, [table] if table else ())
    oddities += known.oddities
    if not table:
        rows = [_listed(row, known) for row in rows]
    rows = [replace(row, scan=with_unit(row.scan, row.contrast, said)) for row in rows]
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.patient, row.visit].append(row)
    members = [_member(key, found, known, oddities) for key, found in sorted(groups.items())]
    _check_names(members)
    if lost := sorted(set(said) - {row.contrast for row in rows}):
        oddities.append(
            Oddity(
                str(folder),
                f"no image is called {', '.join(lost)}.",
                "Name contrasts as inspect shows them.",
            )
        )
    doubts = tuple(dict.fromkeys(row.doubt for row in rows if row.doubt))
    dated = _with_days(members)
    return Cohort(
        dated, (*oddities, *before_baseline({m.name: m.days for m in dated})), doubts=doubts, looks_like=looks
    )


def _named(scans: Sequence[Scan], folder: Path) -> tuple[list[Row], str]:
    """(a row an image, which public data set the folder looks like): read as that set's names mean, where they do."""
    base = folder if folder.is_dir() else folder.parent
    found = recognised([scan.files[0] for scan in scans], base)
    if found is None:
        return guess(scans, folder), ""
    layout, rows, others = found.layout, list[Row](), list[Scan]()
    for scan in scans:
        named = found.files.get(scan.files[0])
        if named is None or layout.proposed or not named.contrast or scan.format not in (*VOLUMES, "raster"):
            others.append(scan)
        elif not layout.skipped(f"{base.resolve().name}/{scan.files[0].relative_to(base).as_posix()}"):
            kind: Literal["label", "intensity"] = "label" if named.label else scan.kind
            row = Row(named.patient, named.visit, named.contrast, replace(scan, kind=kind), scan.values, named.site)
            rows.append(replace(row, days=named.days, doubt=layout.doubtful))
    return [*rows, *guess(others, folder)], found.words


def _check_names(members: Sequence[Member]) -> None:
    """Raises UnreadableError where two cases would lie in one folder: one would overwrite the other."""
    seen: dict[str, Member] = {}
    for m in members:
        if (first := seen.setdefault(m.name, m)) is not m:
            whom = " and ".join(repr("/".join(k for k in (o.patient, o.visit) if k)) for o in (first, m))
            raise UnreadableError(
                f"{whom} would share the name {m.name}.", "Rename one in a table: --write-table files.csv."
            )


def _listed(row: Row, known: Demographics) -> Row:
    """A picture that a table names belongs to the patient that stands there, and is a visit of its own; where no
    patient stands there it stays whose it was, and has what is said of it.
    """
    stem = io.stem(row.scan.files[0].name)
    if row.scan.member or stem not in known.images:
        return row
    patient, values = known.images[stem]
    if not patient:
        return replace(row, values={**row.values, **values})
    own = {name: value for name, value in row.values.items() if name != "class"}  # guessed from a folder's name
    return replace(row, patient=patient, visit=stem, values={**own, **values}, doubt="")


def _with_days(members: Sequence[ScannedMember]) -> tuple[ScannedMember, ...]:
    """Visits that are dates say how far apart they are, where nothing else does."""
    dates: dict[str, list[date]] = {m.patient: [] for m in members}
    for m in members:
        if (when := _dated(m.visit)) is not None:
            dates[m.patient].append(when)
    first = {patient: min(found) for patient, found in dates.items() if found}
    return tuple(
        replace(m, days=float((when - first[m.patient]).days))
        if m.days == 0 and m.patient in first and (when := _dated(m.visit) or day_of(m.visit)) is not None
        else m
        for m in members
    )


def _dated(visit: str) -> date | None:
    """The day of a visit that is a date, 20261102, or of one in a folder today/: today-2026-11-02."""
    bare = visit.removeprefix("today-")
    if bare != visit:
        return day_of(bare)
    return day_of(visit) if visit.isdigit() and len(visit) == 8 else None


def with_added(cohort: Cohort, of: str, made: str, make: Callable[[Member], Member]) -> Cohort:
    """Every case that has an image `of` but none called `made` as `make` has it; others as they are."""
    members = (make(m) if of in m.contrasts() and made not in m.contrasts() else m for m in cohort.members)
    return replace(cohort, members=tuple(members))


def write_table(cohort: Cohort, path: Path, folder: Path) -> int:
    """What was understood, one row a file, to be corrected and given back with `table:`; returns the rows written."""
    count = 0
    with writing(path), path.open("w", newline="", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for member in cohort.members:
            if not isinstance(member, ScannedMember):
                continue
            for contrast, scan in member.scans.items():
                about = [member.patient, member.visit, contrast, member.site, member.days, _stated_unit(scan)]
                for one, place in places_of(scan):
                    relative = one.relative_to(folder) if folder.is_dir() else one.name
                    writer.writerow([relative, scan.member, *about, *place])
                    count += 1
    return count


def _stated_unit(scan: Scan) -> str:
    """What the table's column `unit` says of it: what somebody stated, not what its own header says again."""
    if scan.kind == "label":
        return "label"
    return scan.unit if scan.unit_from in ("table", "said", "sidecar") else ""


def _member(
    key: tuple[str, str], rows: list[Row], known: Demographics, oddities: list[Oddity]
) -> ScannedMember:  # fmt: skip
    scans: dict[str, Scan] = {}
    values: dict[str, float | str] = known.of(*key)
    told: dict[str, float | str] = {}
    for row in sorted(rows, key=lambda r: -math.prod(r.scan.shape)):
        if row.contrast in scans:
            text = f"is a second {row.contrast} of {'/'.join(k for k in key if k)}; the larger or first one is used."
            step = "Say which file is which: fabrica inspect DIR --write-table files.csv."
            oddities.append(Oddity(row.scan.name, text, step, "warning"))
            continue
        scans[row.contrast] = row.scan
        if two := sorted(n for n, v in row.values.items() if n in told and told[n] != v):
            name = two[0]
            text = f"says {name} {row.values[name]}, another image of its case {told[name]}; the last one counts."
            oddities.append(Oddity(row.scan.name, text, "Say in a table whose value it is.", "warning"))
        told |= row.values
        values |= row.values
    stated = next((row.days for row in rows if row.days is not None), known.days.get(key, 0.0))
    ordered = {name: scans[name] for name in sorted(scans)}
    return ScannedMember(key[0], key[1], ordered, values, rows[0].site, stated)


_COLUMNS = ("file", "member", "patient", "visit", "contrast", "site", "days", "unit", "slice", "frame")


def _from_table(folder: Path, path: Path, scans: Sequence[Scan], oddities: list[Oddity]) -> list[Row]:
    base = folder if folder.is_dir() else folder.parent
    known = {(str(s.files[0].relative_to(base)), s.member): s for s in scans}
    table = read_table(path, _COLUMNS)
    if table.remark:
        oddities.append(Oddity(str(path), table.remark, "Save it as UTF-8 to be sure.", "warning"))
    if missing := lacking(table, ("file", "patient", "contrast")):
        raise UnreadableError(
            f"lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}.",
            "Write a table to start from: fabrica inspect DIR --write-table files.csv.", str(path),
        )  # fmt: skip
    rows: list[Row] = []
    seen: dict[tuple[str, str], int] = {}
    for line in table.lines:
        key = (line.get("file"), line.get("member"))
        if (scan := known.get(key)) is None:
            raise line.fault(
                f"names {key[0]!r}, which is not a readable image in {folder}.", "Correct the row, or take it out."
            )
        if key in seen:
            raise line.fault(
                f"names {key[0]} again, as row {seen[key]} does.", "A file shows one patient: keep one row."
            )
        seen[key] = line.number
        rows.append(_row_of(line, scan))
    return stacked(rows, table.lines)


def _row_of(line: Line, scan: Scan) -> Row:
    """One row of a table; raises UnreadableError naming it where something is missing or no number."""
    for needed in ("patient", "contrast"):
        if not line.get(needed):
            raise line.fault(f"has no {needed}.", "Fill it, or take the row out.")
    days, unit = line.get("days"), line.get("unit")
    if days and number_of(days) is None:
        raise line.fault(f"has the days {days!r}, expected a number.", "Write 3.5 for three and a half.")
    if unit == "label" or vocabulary.field_of(line.get("contrast")).kind == "label":
        scan = replace(scan, kind="label")
    elif unit:
        try:
            scan = replace(scan, unit=check_unit(line.get("contrast"), unit), unit_from="table")
        except ValueError as error:
            raise line.fault(str(error), "Correct the column unit, or leave it empty.") from error
    values = {c: value_of(text) for c in line.cells if c not in _COLUMNS and (text := line.get(c))}
    return Row(
        line.get("patient"), line.get("visit"), line.get("contrast"), scan, values, line.get("site"),
        number_of(days) if days else None,
    )  # fmt: skip


def overlaid(member: Member, images: Mapping[str, Image], values: Mapping[str, float | str] | None = None) -> Member:
    """The same patient and visit with some images or values replaced or added: what an earlier stage has drawn, or
    somebody asks.
    """
    return _Overlaid(*origin(member, {**member.values, **(values or {})}), member, images)


@dataclass(frozen=True)
class _Overlaid(Derived):
    under: Member
    over: Mapping[str, Image]

    def scans_of(self, contrasts: Iterable[str]) -> tuple[Scan, ...]:
        return self.under.scans_of([name for name in contrasts if name not in self.over])

    def contrasts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.under.contrasts(), *self.over)))

    def load(self, contrasts: Iterable[str]) -> Case:
        wanted = list(contrasts)
        case = self.under.load([n for n in wanted if n not in self.over])
        shown = {**case.images, **{n: i for n, i in self.over.items() if n in wanted}}
        return replace(case, images=shown, values=self.values)


def one_each(members: Iterable[Member]) -> list[Member]:
    """The first visit of each patient, in their order."""
    found: dict[str, Member] = {}
    for member in members:
        found.setdefault(member.patient, member)
    return list(found.values())


def unreadable(cohort: Cohort, most: int = 5) -> list[str]:
    """A line for each file that cannot be read, the first few."""
    faults = [str(o) for o in cohort.oddities if o.severity == "fault"]
    more = len(faults) - most
    return [*faults[:most], *([f"... and {more} more files that cannot be read: fabrica inspect"] if more > 0 else [])]
