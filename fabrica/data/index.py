"""An index of studies, series and hashes: 10^5 studies are looked at once, and later only what is new or changed.

SQLite in a file, or PostgreSQL by the same models. It knows pseudonyms, UIDs and paths, no name and no pixel.
"""

from __future__ import annotations

import csv
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from ..io import Oddity, UnreadableError, walked
from ..io.headers import Header, header_of
from ..machine.databases import at_server, in_file, reason, shown
from ..machine.device import in_words, writing
from ..machine.executors import Executor, Local, SetAside

READ = "fabrica.data.index:read_files"
EACH = 250  # files that one task reads
ROUND = 256  # tasks that are known at once: as many names as are held in memory
IN_FEW_WRITES = ("journal_mode = WAL", "synchronous = NORMAL")
EXAMPLE = "Write --index index.sqlite, or postgresql://USER@HOST/DATABASE"
Say = Callable[[str], None]

_MODELS = sql.MetaData()
STUDY = sql.Table(
    "study", _MODELS,
    sql.Column("key", sql.String(64), primary_key=True),
    sql.Column("uid", sql.String(64), nullable=False),
    sql.Column("patient", sql.String(64), nullable=False, index=True),
    sql.Column("visit", sql.String(64), nullable=False),
)  # fmt: skip
SERIES = sql.Table(
    "series", _MODELS,
    sql.Column("key", sql.String(64), primary_key=True),
    sql.Column("study", sql.ForeignKey("study.key"), nullable=False, index=True),
    sql.Column("uid", sql.String(64), nullable=False),
    sql.Column("modality", sql.String(16), nullable=False),
    sql.Column("format", sql.String(32), nullable=False),
)  # fmt: skip
FILE = sql.Table(
    "file", _MODELS,
    sql.Column("path", sql.Text, primary_key=True),  # below the folder
    sql.Column("root", sql.Text, primary_key=True),
    sql.Column("series", sql.ForeignKey("series.key"), nullable=True, index=True),
    sql.Column("size", sql.BigInteger, nullable=False),
    sql.Column("changed", sql.BigInteger, nullable=False),  # nanoseconds
    sql.Column("sha256", sql.String(64), nullable=False, index=True),
    sql.Column("grid", sql.String(64), nullable=False),
    sql.Column("images", sql.Integer, nullable=False),
    sql.Column("fault", sql.Text, nullable=False),
    sql.Column("note", sql.Boolean, nullable=False),
    sql.Column("seen", sql.BigInteger, nullable=False),  # the last look that found it
)  # fmt: skip


@dataclass(frozen=True)
class Looked:
    """What a look at a folder found beside what was known."""

    new: int
    changed: int
    kept: int
    gone: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.new} new, {self.changed} changed, {self.kept} as they were, {self.gone} gone ({self.seconds:.1f} s)"
        )


class Index:
    """Studies of any number of folders in one database."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @staticmethod
    @contextmanager
    def open(place: str) -> Iterator[Index]:
        """A file, or postgresql://USER@HOST/DATABASE; raises ValueError where it cannot be used."""
        engine = _engine(place)
        try:
            _MODELS.create_all(engine)
            yield Index(engine)
        except SQLAlchemyError as error:
            raise ValueError(f"{shown(place)} cannot be used as an index ({reason(error)}). {EXAMPLE}") from error
        finally:
            engine.dispose()

    def look(self, folder: Path, executor: Executor | None = None, say: Say | None = None) -> Looked:
        """Reads what is new or changed below a folder, forgets what is gone.

        Raises UnreadableError for a folder that is none or may not be opened: its files are not gone.
        """
        began, number = time.monotonic(), time.time_ns()
        root, by, counts = str(folder.resolve()), executor or Local(), {"new": 0, "changed": 0, "kept": 0}
        if not folder.is_dir():
            raise UnreadableError(f"{folder} is no folder.", "Give the folder that holds the scans.")
        tasks = _tasks(self._waiting(folder, root, number, counts))
        while part := list(islice(tasks, ROUND)):
            for k, rows in by.results(READ, part):
                if isinstance(rows, SetAside):
                    raise UnreadableError(
                        f"{part[k]['files'][0][0]} or one of the {EACH - 1} after it ended its worker.",
                        "Look at it with less: fabrica inspect on its folder.",
                    )
                with self.engine.begin() as db:
                    _keep(db, root, number, rows)
            if say is not None and sum(counts.values()) >= EACH * ROUND:
                say(f"{sum(counts.values())} files looked at.")
        with self.engine.begin() as db:
            gone = db.execute(sql.delete(FILE).where(FILE.c.root == root, FILE.c.seen != number)).rowcount
            _prune(db)
        return Looked(counts["new"], counts["changed"], counts["kept"], gone, time.monotonic() - began)

    def _waiting(self, folder: Path, root: str, number: int, counts: dict[str, int]) -> Iterator[tuple[str, str]]:
        """(path, path below the folder) of files that must be read; of the others it is noted that they are there."""
        flow = _files(folder)
        while names := list(islice(flow, 1000)):
            with self.engine.begin() as db:
                known = {
                    row.path: (row.size, row.changed)
                    for row in db.execute(
                        sql.select(FILE.c.path, FILE.c.size, FILE.c.changed).where(
                            FILE.c.root == root, FILE.c.path.in_([name for name, _ in names])
                        )
                    )
                }
                kept = [name for name, state in names if known.get(name) == (state.st_size, state.st_mtime_ns)]
                if kept:
                    update = sql.update(FILE).where(FILE.c.root == root, FILE.c.path.in_(kept))
                    db.execute(update.values(seen=number))
            counts["kept"] += len(kept)
            same = set(kept)
            for name, _ in names:
                if name not in same:
                    counts["changed" if name in known else "new"] += 1
                    yield str(folder / name), name

    def lines(self, most: int = 12) -> Iterator[str]:
        """What is in it, in words."""
        with self.engine.connect() as db:
            patients = db.scalar(sql.select(sql.func.count(sql.distinct(STUDY.c.patient))).where(STUDY.c.patient != ""))
            studies, series = (db.scalar(sql.select(sql.func.count()).select_from(t)) for t in (STUDY, SERIES))
            images, size = db.execute(sql.select(sql.func.sum(FILE.c.images), sql.func.sum(FILE.c.size))).one()
            amount = in_words(int(size or 0))
            yield f"{patients} patients, {studies} studies, {series} series, {images or 0} images, {amount}"
            kinds = sql.select(SERIES.c.modality, SERIES.c.format, sql.func.count()).group_by(
                SERIES.c.modality, SERIES.c.format
            )
            for modality, form, count in sorted(db.execute(kinds), key=lambda r: -r[2]):
                yield f"  {modality or 'no modality said'} ({form}): {count} series"
            again = sql.select(FILE.c.sha256).where(FILE.c.fault == "").group_by(FILE.c.sha256)
            same = again.having(sql.func.count() > 1).subquery()
            if doubled := db.scalar(sql.select(sql.func.count()).select_from(same)):
                yield f"  {doubled} file{'s' * (doubled > 1)} more than once, byte by byte"
            odd = sql.select(FILE.c.root, FILE.c.path, FILE.c.fault).where(FILE.c.fault != "", ~FILE.c.note)
            count = db.scalar(sql.select(sql.func.count()).select_from(odd.subquery())) or 0
            for root, path, fault in db.execute(odd.order_by(FILE.c.path).limit(most)):
                yield f"  {Path(root) / path}: {fault}"
            if count > most:
                yield f"  ... and {count - most} more that cannot be read"

    def write_series(self, path: Path) -> int:
        """A CSV row a series, with a hash over those of its files; returns how many."""
        query = (
            sql.select(
                STUDY.c.patient, STUDY.c.visit, STUDY.c.uid, SERIES.c.uid, SERIES.c.modality, SERIES.c.format,
                FILE.c.grid, FILE.c.root, FILE.c.path, FILE.c.images, FILE.c.size, FILE.c.sha256, SERIES.c.key,
            )
            .join_from(STUDY, SERIES).join(FILE, FILE.c.series == SERIES.c.key)
            .order_by(STUDY.c.patient, STUDY.c.key, SERIES.c.key, FILE.c.sha256)
        )  # fmt: skip
        count = 0
        with writing(path), path.open("w", newline="") as file, self.engine.connect() as db:
            writer = csv.writer(file)
            writer.writerow(_COLUMNS)
            rows = db.execution_options(yield_per=1000).execute(query)
            for _, found in groupby(rows, key=lambda row: row[-1]):
                own = list(found)
                total = hashlib.sha256("".join(row[11] for row in own).encode()).hexdigest()
                first = min(str(Path(row[7]) / row[8]) for row in own)
                sums = [len(own), sum(row[9] for row in own), sum(row[10] for row in own)]
                writer.writerow([*own[0][:7], first, *sums, total])
                count += 1
        return count


_COLUMNS = (
    "patient", "visit", "study", "series", "modality", "format", "grid", "first_file", "files", "images", "bytes",
    "sha256",
)  # fmt: skip


def read_files(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a file: what it says of itself, and its hash. A file that is gone meanwhile is left out."""
    rows = []
    for full, name in task["files"]:
        path = Path(full)
        try:
            state = path.stat()
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            continue
        except OSError as error:
            closed = Header(fault=f"cannot be opened ({error.strerror}). Check its permissions.")
            rows.append({"path": name, "size": 0, "changed": 0, "sha256": "", **asdict(closed)})
            continue
        head = header_of(path)
        found = {"path": name, "size": state.st_size, "changed": state.st_mtime_ns, "sha256": digest}
        rows.append({**found, **asdict(head)})
    return rows


def _tasks(waiting: Iterator[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    while part := list(islice(waiting, EACH)):
        yield {"files": [list(one) for one in part]}


def _files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every file that a cohort would be read from; raises UnreadableError for a folder that may not be opened."""
    odd: list[Oddity] = []
    for path in walked(folder, odd):
        _check_open(odd)
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path.stat()
    _check_open(odd)


def _check_open(odd: list[Oddity]) -> None:
    """A folder that was read before under another name is no fault; one that is closed is not empty."""
    for one in odd:
        if one.severity == "fault":
            raise UnreadableError(one.fault, one.next_step, one.file)
    odd.clear()


def _keep(db: Connection, root: str, number: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of one task: studies and series that are not known yet, then the files in place of what they were."""
    if not rows:
        return
    studies: dict[str, dict[str, Any]] = {}
    series: dict[str, dict[str, Any]] = {}
    files = []
    for row in rows:
        key = None
        if not row["fault"]:
            where = "" if row["study"] else f"{root}/{Path(row['path']).parent}"
            of = _key(row["patient"], row["study"], where)
            key = _key(of, row["series"] or row["path"])
            studies[of] = {"key": of, "uid": row["study"], "patient": row["patient"], "visit": row["visit"]}
            series[key] = {"key": key, "study": of, "uid": row["series"], "modality": row["modality"],
                           "format": row["format"]}  # fmt: skip
        own = {k: row[k] for k in ("path", "size", "changed", "sha256", "grid", "images", "fault", "note")}
        files.append({**own, "root": root, "series": key, "seen": number})
    for table, found in ((STUDY, studies), (SERIES, series)):
        if found:
            known = set(db.scalars(sql.select(table.c.key).where(table.c.key.in_(list(found)))))
            if fresh := [one for key, one in found.items() if key not in known]:
                db.execute(sql.insert(table), fresh)
    db.execute(sql.delete(FILE).where(FILE.c.root == root, FILE.c.path.in_([f["path"] for f in files])))
    db.execute(sql.insert(FILE), files)


def _prune(db: Connection) -> None:
    """Series without files and studies without series are gone with them."""
    db.execute(sql.delete(SERIES).where(~sql.exists().where(FILE.c.series == SERIES.c.key)))
    db.execute(sql.delete(STUDY).where(~sql.exists().where(SERIES.c.study == STUDY.c.key)))


def _key(*parts: str) -> str:
    """Anonymisers give one UID to several patients: the patient is part of what tells studies apart."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]


def _engine(place: str) -> Engine:
    return at_server(place, EXAMPLE) if "://" in place else in_file(Path(place), IN_FEW_WRITES)
