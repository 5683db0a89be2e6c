"""What arrived: on disk before it is acknowledged, with one SQLite database that says how far each series is."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..deliver.database import transaction
from ..deliver.files import class_of, sync, write_whole
from ..deliver.outbox import now

State = Literal["arriving", "refused", "waiting", "drawing", "failed", "prepared"]
STATES: tuple[State, ...] = ("arriving", "refused", "waiting", "drawing", "failed", "prepared")
UID = re.compile(r"[0-9]+(\.[0-9]+)*")
SCHEMA = """
CREATE TABLE IF NOT EXISTS series (uid TEXT PRIMARY KEY, study TEXT NOT NULL, state TEXT NOT NULL,
  reason TEXT NOT NULL DEFAULT '', since TEXT NOT NULL,
  tries INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS instances (uid TEXT PRIMARY KEY, series TEXT NOT NULL REFERENCES series (uid),
  sha256 TEXT NOT NULL, arrived TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS instances_series ON instances (series);
CREATE TABLE IF NOT EXISTS made (uid TEXT PRIMARY KEY, series TEXT NOT NULL REFERENCES series (uid),
  place TEXT NOT NULL, unreviewed INTEGER NOT NULL);
"""


class ClashError(Exception):
    """An instance that is known with other content, or belongs to a series that is no longer open."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A series and how far it is; `made`: UIDs of what was prepared of it, in the outbox."""

    uid: str
    study: str
    state: State
    reason: str
    instances: int
    made: tuple[str, ...]
    tries: int
    since: str = ""  # when the first image came, ISO 8601


class Intake:
    """A folder: `studies/STUDY/SERIES/INSTANCE.dcm` and `node.sqlite`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        db = sqlite3.connect(folder / "node.sqlite", timeout=30)
        try:
            db.executescript(SCHEMA)
        finally:
            db.close()
        with self._open() as db:
            db.execute("UPDATE series SET state = 'waiting' WHERE state = 'drawing'")  # a process that is gone

    def _open(self) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self.folder / "node.sqlite")

    def where(self, study: str, series: str) -> Path:
        """The folder of a series; raises ValueError for UIDs that are none, which never become paths."""
        for uid in (study, series):
            if len(uid) > 64 or not UID.fullmatch(uid):
                raise ValueError(f"{uid[:70]!r} is no UID.")
        return self.folder / "studies" / study / series

    def keep(self, study: str, series: str, instance: str, content: bytes) -> bool:
        """On disk, then in the database; False where the same was there. Raises ClashError, ValueError for UIDs that
        are none, OSError where the disk takes no more: nothing of it is left then.
        """
        path = self.where(study, series) / f"{instance}.dcm"
        if len(instance) > 64 or not UID.fullmatch(instance):
            raise ValueError(f"{instance[:70]!r} is no UID.")
        digest = hashlib.sha256(content).hexdigest()
        with self._open() as db:
            known = db.execute("SELECT sha256 FROM instances WHERE uid = ?", (instance,)).fetchone()
            if known is not None:
                if known[0] != digest:
                    raise ClashError("an instance of this UID is known with other content")
                if not path.is_file():  # lost since: what is acknowledged is on disk
                    self._write(path, content)
                db.execute(  # sent again is asked again, where it was refused or had failed
                    "UPDATE series SET state = 'arriving', reason = '', tries = 0 WHERE uid = ?"
                    " AND state IN ('refused', 'failed')",
                    (series,),
                )
                return False
            row = db.execute("SELECT state, study FROM series WHERE uid = ?", (series,)).fetchone()
            if row is not None and row[1] != study:
                raise ClashError("its series is known in another study")
            if row is not None and row[0] not in ("arriving", "refused", "failed"):
                raise ClashError("its series was taken as whole and is being answered")
            self._write(path, content)
            db.execute(
                "INSERT INTO series (uid, study, state, since) VALUES (?, ?, 'arriving', ?)"
                " ON CONFLICT (uid) DO UPDATE SET state = 'arriving', reason = '', tries = 0",
                (series, study, now()),
            )
            db.execute("INSERT INTO instances VALUES (?, ?, ?, ?)", (instance, series, digest, now()))
        return True

    def _write(self, path: Path, content: bytes) -> None:
        """With the names of new folders, which a power cut would take as well."""
        new = [folder for folder in (path.parent, path.parent.parent) if not folder.is_dir()]
        write_whole(path, content)
        for folder in new:
            sync(folder.parent)

    def series(self, *states: State) -> list[Arrived]:
        """Those in some states, or all, in the order in which they came."""
        wanted = states or STATES
        with self._open() as db:
            rows = db.execute(
                "SELECT s.uid, s.study, s.state, s.reason, count(i.uid), s.tries,"
                " (SELECT coalesce(group_concat(m.uid, char(10)), '') FROM made m WHERE m.series = s.uid), s.since"
                " FROM series s"
                " LEFT JOIN instances i ON i.series = s.uid"
                f" WHERE s.state IN ({','.join('?' * len(wanted))}) GROUP BY s.uid ORDER BY s.since, s.uid",
                wanted,
            ).fetchall()
        return [
            Arrived(uid, study, state, reason, count, tuple(filter(None, made.split("\n"))), tries, since)
            for uid, study, state, reason, count, tries, made, since in rows
        ]

    def files(self, one: Arrived) -> list[Path]:
        """Of a series, as they arrived; raises ValueError where one is gone or was changed."""
        with self._open() as db:
            rows = db.execute("SELECT uid, sha256 FROM instances WHERE series = ? ORDER BY uid", (one.uid,)).fetchall()
        found = []
        for uid, digest in rows:
            path = self.where(one.study, one.uid) / f"{uid}.dcm"
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                raise ValueError("a file of it is gone or was changed after it arrived")
            found.append(path)
        return found

    def move(self, series: str, state: State, reason: str = "") -> None:
        """A series is further now."""
        with self._open() as db:
            db.execute("UPDATE series SET state = ?, reason = ? WHERE uid = ?", (state, reason[:1000], series))

    def begin(self, series: str) -> bool:
        """A series that waits is drawn from now on, which is a try; False where somebody cancelled it meanwhile."""
        with self._open() as db:
            begun = db.execute(
                "UPDATE series SET state = 'drawing', tries = tries + 1 WHERE uid = ? AND state = 'waiting'", (series,)
            )
            return begun.rowcount > 0

    def cancel(self, series: str) -> bool:
        """Nothing is drawn of a series that waits to be; False where it does not: images still arrive, or it has begun.
        Sent again it is asked again.
        """
        with self._open() as db:
            done = db.execute(
                "UPDATE series SET state = 'refused', reason = 'cancelled by request'"
                " WHERE uid = ? AND state = 'waiting'",
                (series,),
            )
            return done.rowcount > 0

    def instances(self, series: str) -> list[tuple[str, str]]:
        """(SOP class, UID) of what arrived of a series, in the order of UIDs; the class is that of the first file."""
        with self._open() as db:
            rows = db.execute(
                "SELECT i.uid, s.study FROM instances i JOIN series s ON s.uid = i.series WHERE s.uid = ? ORDER BY 1",
                (series,),
            ).fetchall()
        kind = class_of(self.where(rows[0][1], series) / f"{rows[0][0]}.dcm") if rows else ""
        return [(kind, uid) for uid, _ in rows]

    def put_back(self, series: str) -> None:
        """A drawing that was stopped by whoever stopped the node: it waits again, and that was no try."""
        with self._open() as db:
            db.execute("UPDATE series SET state = 'waiting', tries = tries - 1 WHERE uid = ?", (series,))

    def prepared(self, series: str, made: Sequence[str], place: str, *, unreviewed: bool = False) -> None:
        """What was made of a series, in the outbox, and where it is to go; `unreviewed`: before anybody accepts it."""
        with self._open() as db:
            for uid in made:
                db.execute("INSERT OR REPLACE INTO made VALUES (?, ?, ?, ?)", (uid, series, place, unreviewed))
            db.execute("UPDATE series SET state = 'prepared', reason = '' WHERE uid = ?", (series,))

    def places(self) -> list[str]:
        """Where anything is to go."""
        with self._open() as db:
            return [place for (place,) in db.execute("SELECT DISTINCT place FROM made ORDER BY 1").fetchall()]

    def made(self, only: str = "") -> list[tuple[str, str, bool]]:
        """(UID, where it is to go, before anybody accepts it) of what was made here, all of it or one."""
        with self._open() as db:
            rows = db.execute("SELECT uid, place, unreviewed FROM made WHERE ? IN ('', uid)", (only,)).fetchall()
        return [(uid, place, bool(unreviewed)) for uid, place, unreviewed in rows]
