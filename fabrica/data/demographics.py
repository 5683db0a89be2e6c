"""What tables beside the images say of patients and visits: participants.tsv, sessions.tsv, lists of pictures.

Exact identifiers are joined first. A bare number is joined to a patient only where all patients are called alike
(patient07, patient19) and exactly one of them bears it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from .. import io
from ..io import Oddity, UnreadableError
from .identity import Row
from .tables import Line, Table, number_of, read_table, value_of

PATIENT = ("participant_id", "patient_id", "subject_id", "patient", "subject", "participant")
VISIT = ("session_id", "session", "visit", "visit_id", "timepoint")
IMAGE = ("image_id", "image", "file", "filename", "file_name")
OTHER_AGES = {"onset", "diagnosis", "death", "gestational", "menarche"}  # no ages at the scan
DAYS = ("days", "days_since_first", "day")
DATE = ("acq_time", "date", "study_date", "scan_date")

Values = dict[str, float | str]


@dataclass
class Demographics:
    """Values of patients, of visits and of single images, and days of visits."""

    patients: dict[str, Values] = field(default_factory=dict)
    visits: dict[tuple[str, str], Values] = field(default_factory=dict)
    # stem of a file -> (patient, values); "" where the table says nothing of patients, a caption alone
    images: dict[str, tuple[str, Values]] = field(default_factory=dict)
    days: dict[tuple[str, str], float] = field(default_factory=dict)
    oddities: list[Oddity] = field(default_factory=list)

    def of(self, patient: str, visit: str) -> Values:
        """What is known of a case; what is said of the visit wins."""
        return {**self.patients.get(patient, {}), **self.visits.get((patient, visit), {})}


def find_demographics(folder: Path, rows: Sequence[Row], reserved: Iterable[Path] = ()) -> Demographics:
    """All tables in the folder, and sessions tables of its patients. Raises UnreadableError for rows that contradict
    each other.
    """
    found = Demographics()
    if not folder.is_dir():
        return found
    every = [_stem(r.scan.files[0]) for r in rows if not r.scan.member]
    stems = {
        stem for stem, count in Counter(every).items() if count == 1
    }  # of two of one name nobody can say which is meant
    visits: dict[str, set[str]] = {}
    for row in rows:
        visits.setdefault(row.patient, set()).add(row.visit)
    tables = [p for pattern in ("*.csv", "*.tsv", "sub-*/*_sessions.tsv") for p in sorted(folder.glob(pattern))]
    for path in dict.fromkeys(p for p in tables if p not in set(reserved)):
        try:
            table = read_table(path, (*PATIENT, *VISIT, *IMAGE))
        except UnreadableError as error:
            found.oddities.append(Oddity(error.file or str(path), error.fault, error.next_step, "warning"))
            continue
        if table.remark:
            found.oddities.append(Oddity(str(path), table.remark, "Save it as UTF-8 to be sure.", "warning"))
        _take(found, table, visits, stems)
    return found


def _take(found: Demographics, table: Table, visits: Mapping[str, set[str]], stems: set[str]) -> None:
    """The rows of one table, where it is one of patients, visits or images."""
    of_patient = next((c for c in PATIENT if c in table.columns), "")
    of_visit = next((c for c in VISIT if c in table.columns), "")
    of_image = next((c for c in IMAGE if c in table.columns and _lists_files(table, c, stems)), "")
    sessions = re.fullmatch(r"(sub-[A-Za-z0-9]+)_sessions", table.path.stem)
    if "contrast" in table.columns or not (of_patient or of_image or sessions):
        return
    if of_image:
        for line in table.lines:
            stem, whose = _stem(Path(line.get(of_image))), line.get(of_patient) if of_patient else ""
            if stem in stems and (whose or not of_patient):
                before, known = found.images.get(stem, ("", {}))
                found.images[stem] = whose or before, {**known, **_values(line, (of_patient, of_image))}
        return
    said = [sessions[1] for _ in table.lines] if sessions else [line.get(of_patient) for line in table.lines]
    join = _joined(found, table, said, list(visits))
    dated: dict[str, list[tuple[str, Line]]] = {}
    for name, line in zip(said, table.lines, strict=True):
        patient = join.get(name)
        if patient is None:
            continue
        values, named = _values(line, (of_patient, of_visit)), line.get(of_visit) if of_visit else ""
        visit = _visit(named, visits[patient]) if named else ""
        if visit is None:
            continue
        _put(found, line, patient, visit, values, by_visit=bool(named))  # of no visit: of the patient
        if named or visits[patient] == {""}:
            dated.setdefault(patient, []).append((visit or "", line))
    for patient, lines in dated.items():
        found.days |= {(patient, visit): days for visit, days in _days(lines).items()}


def _put(found: Demographics, line: Line, patient: str, visit: str, values: Values, by_visit: bool) -> None:
    """Raises UnreadableError where a row says otherwise than an earlier one of the same patient (and visit)."""
    place = found.visits.setdefault((patient, visit), {}) if by_visit else found.patients.setdefault(patient, {})
    for name, value in values.items():
        if name in place and place[name] != value:
            whom = f"{patient}/{visit}" if visit else patient
            raise line.fault(
                f"says {name} {value} of {whom}, and an earlier row says {place[name]}.",
                "Name the visit of each row in a column visit, or take one out.",
            )
    place |= values


def _joined(found: Demographics, table: Table, said: Sequence[str], patients: Sequence[str]) -> dict[str, str]:
    """Identifier in the table -> patient; what cannot be told is an oddity with the line to type.

    A bare number names a patient where all are called alike but for their number; leading zeros do not matter then.
    """
    join: dict[str, str] = {}
    numbers = {p: m for p in patients if (m := re.fullmatch(r"(\D*)(\d+)", p))}
    alike = len(numbers) == len(set(patients)) and len({m[1] for m in numbers.values()}) == 1
    lost, known = [], _index(patients)
    for name in dict.fromkeys(n for n in said if n):
        exact = next((k[spelt(name)] for k, spelt in zip(known, _SPELLINGS, strict=True) if spelt(name) in k), [])
        if not exact and alike and name.isdigit():
            exact = [p for p, m in numbers.items() if int(m[2]) == int(name)]
            if len(exact) == 1:
                found.oddities.append(
                    Oddity(str(table.path), f"{name} is read as {exact[0]}.", "Write it so to be sure.", "note")
                )
        if len(exact) == 1:
            join[name] = exact[0]
        else:
            lost.append(name)
    if lost and len(lost) == len(set(said) - {""}) and patients:
        found.oddities.append(
            Oddity(
                str(table.path),
                f"names none of the patients here ({', '.join(lost[:3])}; here: {', '.join(patients[:3])}).",
                "Write patients as inspect shows them.",
                "warning",
            )
        )
    return join


def _same(name: str, known: Sequence[str]) -> list[str]:
    """Those that a table means: exactly so, else without `sub-`, `ses-` and case, else but for leading zeros."""
    return next((found for spelt in _SPELLINGS if (found := [k for k in known if spelt(k) == spelt(name)])), [])


def _bare(name: str) -> str:
    return re.sub(r"^(?:sub|ses)-", "", name.casefold())


def _unpadded(name: str) -> str:
    return re.sub(r"(?<!\d)0+(?=\d)", "", _bare(name))


_SPELLINGS: tuple[Callable[[str], str], ...] = (str, _bare, _unpadded)


def _index(patients: Sequence[str]) -> list[dict[str, list[str]]]:
    """By each spelling, whom it may mean."""
    found: list[dict[str, list[str]]] = [{} for _ in _SPELLINGS]
    for patient in patients:
        for known, spelt in zip(found, _SPELLINGS, strict=True):
            known.setdefault(spelt(patient), []).append(patient)
    return found


def _visit(said: str, known: Iterable[str]) -> str | None:
    """The visit of the cohort that a table means, ses- or not; None where there is no such visit."""
    found = _same(said, [v for v in known if v])
    return found[0] if len(found) == 1 else None


def _values(line: Line, keys: Iterable[str]) -> Values:
    """Named values of a row; an age by any usual name is `age`."""
    left_out = {*keys, *PATIENT, *DAYS, *DATE}
    found: Values = {}
    for column in line.cells:
        if column in left_out or not (text := line.get(column)):
            continue
        found[column] = value_of(text)
    ages = [c for c in found if "age" in c.split("_") and not set(c.split("_")) & OTHER_AGES]
    if "age" not in found and len(ages) == 1:
        found["age"] = found.pop(ages[0])
    return found


def _days(lines: Sequence[tuple[str, Line]]) -> dict[str, float]:
    """Days since the first visit: as a column says, else by dates."""
    stated = {visit: number for visit, line in lines for c in DAYS if (number := number_of(line.get(c))) is not None}
    if stated:
        return stated
    dates = {visit: when for visit, line in lines for c in DATE if (when := day_of(line.get(c))) is not None}
    first = min(dates.values(), default=None)
    return {visit: float((when - first).days) for visit, when in dates.items()} if first is not None else {}


def day_of(text: str) -> date | None:
    """A date as BIDS and DICOM write it: 2020-12-31, with a time or not, or 20201231."""
    plain = text[:10] if "-" in text[:10] else text[:8]
    try:
        return date.fromisoformat(plain)
    except ValueError:
        return None


def _lists_files(table: Table, column: str, stems: set[str]) -> bool:
    named = {_stem(Path(line.get(column))) for line in table.lines if line.get(column)}
    return bool(named & stems)


def _stem(path: Path) -> str:
    return io.stem(path.name)


def before_baseline(days: Mapping[str, float]) -> Iterator[Oddity]:
    """Cases whose days are below 0: visits are ordered by them, which is meant where they really came before."""
    for name, day in days.items():
        if day < 0:
            yield Oddity(
                name, f"lies {-day:g} days before its baseline, and is taken for the earlier visit.",
                "Where that is a slip, correct its days in the table.", "warning",
            )  # fmt: skip
