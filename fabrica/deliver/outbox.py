"""Objects that wait, go out and have arrived: files and one SQLite database that a power cut does not harm."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from . import decisions, heads, ledger
from .database import transaction
from .decisions import Waiting
from .files import class_of, sync, write_whole
from .objects.marking import Series

SCHEMA = """
CREATE TABLE IF NOT EXISTS series (uid TEXT PRIMARY KEY, study TEXT NOT NULL, description TEXT NOT NULL,
  instances INTEGER NOT NULL, sources TEXT NOT NULL, added TEXT NOT NULL, part_of TEXT NOT NULL,
  withdraws INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS instances (uid TEXT PRIMARY KEY, series TEXT NOT NULL REFERENCES series (uid),
  number INTEGER NOT NULL, sha256 TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS verdicts (series TEXT NOT NULL REFERENCES series (uid), verdict TEXT NOT NULL,
  reason TEXT NOT NULL, person TEXT NOT NULL, time TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS queue (instance TEXT NOT NULL REFERENCES instances (uid), destination TEXT NOT NULL,
  state TEXT NOT NULL DEFAULT 'waiting', attempts INTEGER NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '',
  unreviewed INTEGER NOT NULL DEFAULT 1, PRIMARY KEY (instance, destination));
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
Verdict = Literal["accept", "reject"]
ANNULLED = 2  # in place of whether a part withdraws: it goes with its series no longer


@dataclass(frozen=True, slots=True)
class Prepared:
    """A series as the outbox knows it."""

    uid: str
    description: str
    instances: int
    sources: tuple[str, ...]
    verdict: str  # "accept", "reject" or "" where nobody has decided
    reason: str = ""
    person: str = ""
    time: str = ""


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Outbox:
    """A folder: `objects/SERIES/INSTANCE.dcm` and `delivery.sqlite`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        db = sqlite3.connect(folder / "delivery.sqlite", timeout=30)
        try:
            db.executescript(SCHEMA + ledger.SCHEMA)
            _brought_up(db)
        finally:
            db.close()

    def _open(self) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self.folder / "delivery.sqlite")

    def file(self, series: str, instance: str) -> Path:
        return self.folder / "objects" / series / f"{instance}.dcm"

    def add(
        self, series: Series, sources: Sequence[Path], event: Mapping[str, Any], *, part_of: str = "",
        withdraws: bool = False,
    ) -> bool:  # fmt: skip
        """Files first, then the rows that say so; False where it was there. `part_of`: the series that it goes with,
        whose verdict is its own; `withdraws`: it goes out where that is a rejection. Raises ValueError for a UID with
        other content.
        """
        written = {str(ds.SOPInstanceUID): _bytes(ds) for ds in series.datasets}
        hashes = {uid: hashlib.sha256(content).hexdigest() for uid, content in written.items()}
        with self._open() as db:  # held while files are written: what lies there without a row is left of a crash
            known = dict(db.execute("SELECT uid, sha256 FROM instances WHERE series = ?", (series.uid,)).fetchall())
            if known:
                if known != hashes:
                    raise ValueError(f"Series {series.uid} is known with other content: it is not written again.")
                return False
            for uid, content in written.items():
                write_whole(self.file(series.uid, uid), content, folder_too=False)
            sync(self.folder / "objects" / series.uid)
            first = series.datasets[0]
            db.execute(
                "INSERT INTO series (uid, study, description, instances, sources, added, part_of, withdraws)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (series.uid, str(first.StudyInstanceUID), str(first.SeriesDescription), len(series.datasets),
                 "\n".join(map(str, sources)), now(), part_of, withdraws),
            )  # fmt: skip
            for number, (uid, h) in enumerate(hashes.items()):
                db.execute("INSERT INTO instances VALUES (?, ?, ?, ?)", (uid, series.uid, number, h))
                ledger.add(db, now(), uid, {"what": "made", "series": series.uid, **event, "sha256": h})
        return True

    def drawn(self, series: str) -> str:
        """When a known series was drawn, as the ledger says it; nothing of one that is not known."""
        with self._open() as db:
            row = db.execute(
                "SELECT l.event FROM ledger l JOIN instances i ON i.uid = l.about WHERE i.series = ? ORDER BY l.number"
                " LIMIT 1",
                (series,),
            ).fetchone()
        return str(json.loads(row[0]).get("drawn", "")) if row else ""

    def series(self, only: str = "") -> list[Prepared]:
        """Those that a person judges, in the order in which they were made, or one of them; not what goes with them."""
        with self._open() as db:
            rows = db.execute(
                "SELECT uid, description, instances, sources FROM series WHERE part_of = '' AND ? IN ('', uid)"
                " ORDER BY added, uid",
                (only,),
            ).fetchall()
            found = []
            for uid, description, count, sources in rows:
                last = db.execute(
                    "SELECT verdict, reason, person, time FROM verdicts WHERE series = ? ORDER BY rowid DESC LIMIT 1",
                    (uid,),
                ).fetchone() or ("", "", "", "")
                last = (decisions.standing(db, uid), *last[1:])
                found.append(Prepared(uid, description, count, tuple(filter(None, sources.split("\n"))), *last))
        return found

    def parts(self, series: str) -> list[str]:
        """UIDs of the series that go with one: its spread, its evidence; not what withdraws it."""
        with self._open() as db:
            rows = db.execute(
                "SELECT uid FROM series WHERE part_of = ? AND NOT withdraws ORDER BY added, uid", (series,)
            ).fetchall()
        return [uid for (uid,) in rows]

    def main_of(self, series: str) -> str:
        """The series that a person judges: itself, or the one that it goes with."""
        with self._open() as db:
            row = db.execute("SELECT part_of FROM series WHERE uid = ?", (series,)).fetchone()
        return str(row[0]) if row and row[0] else series

    def places(self, *series: str) -> list[str]:
        """Destinations that have any instance of some series, or to which one was sent."""
        with self._open() as db:
            rows = db.execute(
                "SELECT DISTINCT q.destination FROM queue q JOIN instances i ON i.uid = q.instance"
                f" WHERE i.series IN ({','.join('?' * len(series))}) AND q.attempts > 0 ORDER BY 1",
                series,
            ).fetchall()
        return [place for (place,) in rows]

    def files(self, series: str) -> list[Path]:
        """A series as it is stored, in order; raises ValueError where a file is gone or was changed."""
        from .record import hash_of

        with self._open() as db:
            rows = db.execute(
                "SELECT uid, sha256 FROM instances WHERE series = ? ORDER BY number", (series,)
            ).fetchall()
        found = []
        for uid, digest in rows:
            path = self.file(series, uid)
            if not path.is_file() or hash_of(path) != digest:
                raise ValueError(f"{path} is gone or was changed after it was made: the series is not used.")
            found.append(path)
        return found

    def instances(self, series: str) -> list[tuple[str, str]]:
        """(SOP class, UID) of each instance of a series, in order; the class is that of the first."""
        with self._open() as db:
            rows = db.execute("SELECT uid FROM instances WHERE series = ? ORDER BY number", (series,)).fetchall()
        kind = class_of(self.file(series, rows[0][0])) if rows else ""
        return [(kind, uid) for (uid,) in rows]

    def verdicts(self) -> list[tuple[str, str]]:
        """(time, accept or reject) of every decision, in their order."""
        with self._open() as db:
            return [
                (str(t), str(v)) for t, v in db.execute("SELECT time, verdict FROM verdicts ORDER BY rowid").fetchall()
            ]

    def verdicts_after(self, number: int) -> list[tuple[int, str]]:
        """(number, series) of decisions since one, in their order; 0 gives all."""
        with self._open() as db:
            rows = db.execute("SELECT rowid, series FROM verdicts WHERE rowid > ? ORDER BY rowid", (number,)).fetchall()
        return [(int(row), str(series)) for row, series in rows]

    def readers(self) -> int:
        """How many persons have to accept a series."""
        with self._open() as db:
            return decisions.readers(db)

    def ask_readers(self, count: int) -> None:
        """From now on so many persons have to accept; raises ValueError for none."""
        if count < 1:
            raise ValueError(f"--readers is {count}, expected at least 1.")
        with self._open() as db:
            db.execute("INSERT OR REPLACE INTO settings VALUES ('readers', ?)", (str(count),))
            ledger.add(db, now(), "", {"what": "readers", "count": count})

    def accepted_by(self, series: str) -> list[str]:
        """Persons who accept a series as it stands: a rejection starts anew."""
        with self._open() as db:
            return decisions.accepting(db, series)

    def acceptances(self, series: str) -> list[tuple[str, str]]:
        """(person, when) of those."""
        with self._open() as db:
            return decisions.acceptances(db, series)

    def annul(self, part: str) -> None:
        """What goes with a series no longer does: it stays here, and goes nowhere where it has not arrived yet."""
        with self._open() as db:
            db.execute("UPDATE series SET withdraws = ? WHERE uid = ?", (ANNULLED, part))
            db.execute(
                "DELETE FROM queue WHERE state != 'delivered'"
                " AND instance IN (SELECT uid FROM instances WHERE series = ?)",
                (part,),
            )
            ledger.add(db, now(), part, {"what": "annulled"})

    def judge(self, series: str, verdict: Verdict, reason: str, person: str) -> None:
        """A person's decision; the last one counts, all are kept. Raises ValueError without a reason or a name."""
        if verdict not in ("accept", "reject") or not reason.strip() or not person.strip():
            raise ValueError("A decision is accept or reject, with a reason and the name of who decides.")
        with self._open() as db:
            if db.execute("SELECT 1 FROM series WHERE uid = ?", (series,)).fetchone() is None:
                raise ValueError("There is no such series.")
            db.execute("INSERT INTO verdicts VALUES (?, ?, ?, ?, ?)", (series, verdict, reason, person, now()))
            ledger.add(db, now(), series, {"what": "judged", "verdict": verdict, "reason": reason, "person": person})

    def note(self, what: str, **more: Any) -> None:
        """A line of the ledger about no series: who came in, what was set."""
        with self._open() as db:
            ledger.add(db, now(), "", {"what": what, **more})

    def enqueue(self, series: str, destination: str, *, parts: bool = True, unreviewed: bool = False) -> None:
        """All instances of a series, and of what goes with it, are to go there; what is on its way stays as it is.

        `unreviewed`: before anybody has accepted it.
        """
        with self._open() as db:
            db.execute(
                "INSERT INTO queue (instance, destination, unreviewed) SELECT i.uid, ?, ? FROM instances i"
                " JOIN series s ON s.uid = i.series WHERE s.uid = ? OR (s.part_of = ? AND ? AND NOT s.withdraws)"
                " ON CONFLICT (instance, destination) DO UPDATE SET unreviewed = max(unreviewed, excluded.unreviewed)",
                (destination, unreviewed, series, series, parts),
            )

    def queued(self, series: str) -> bool:
        """Whether it was ever to go anywhere."""
        with self._open() as db:
            row = db.execute(
                "SELECT 1 FROM queue q JOIN instances i ON i.uid = q.instance WHERE i.series = ? LIMIT 1", (series,)
            ).fetchone()
        return row is not None

    def standing(self, series: str) -> str:
        """accept, reject, or nothing where too few have decided; of what goes with a series its verdict."""
        with self._open() as db:
            row = db.execute("SELECT part_of FROM series WHERE uid = ?", (series,)).fetchone()
            return decisions.standing(db, row[0] or series) if row else ""

    def waiting(self, destination: str) -> list[Waiting]:
        """What has not arrived there, by series, before what goes with it; nothing of one that was rejected since, and
        what withdraws it only then.
        """
        with self._open() as db:
            return decisions.allowed(db, destination)

    def backlog(self) -> dict[str, int]:
        """Destination -> instances that have not arrived there."""
        with self._open() as db:
            rows = db.execute(
                "SELECT destination, sum(state != 'delivered') FROM queue GROUP BY destination"
            ).fetchall()
        return dict(rows)

    def attempted(self, destination: str, instances: Sequence[str]) -> list[str]:
        """Those that may still go there, noted before anything is sent: whoever finds it so after a crash asks there
        before sending again. What was rejected, or delivered by another process, in the meantime is left out.
        """
        with self._open() as db:
            may = {one.instance for one in decisions.allowed(db, destination)}
            going = [uid for uid in instances if uid in may]
            for uid in going:
                db.execute(
                    "UPDATE queue SET attempts = attempts + 1, state = 'sent' WHERE instance = ? AND destination = ?",
                    (uid, destination),
                )
        return going

    def failed(self, destination: str, errors: Mapping[str, str]) -> None:
        with self._open() as db:
            for uid, error in errors.items():
                db.execute(
                    "UPDATE queue SET state = 'waiting', error = ? WHERE instance = ? AND destination = ?"
                    " AND state != 'delivered'",
                    (error[:500], uid, destination),
                )

    def delivered(self, destination: str, instances: Sequence[str], witness: str) -> None:
        """As its witness says it: noted once, with a line of the ledger each."""
        with self._open() as db:
            for uid in instances:
                changed = db.execute(
                    "UPDATE queue SET state = 'delivered', error = '' WHERE instance = ? AND destination = ?"
                    " AND state != 'delivered'",
                    (uid, destination),
                ).rowcount
                if changed:
                    ledger.add(db, now(), uid, {"what": "delivered", "to": destination, "witness": witness})

    def lines(self) -> list[ledger.Line]:
        """All lines, each held against the one before and against the heads that were signed; raises ValueError where
        something was changed, moved, taken out or cut off.
        """
        kept = heads.kept(self.folder)  # before the lines: a head that is signed meanwhile is of a longer ledger
        with self._open() as db:
            every = list(ledger.lines(db))
        for head in kept:
            heads.check_head(self.folder, every, head)
        return every

    def sign(self) -> heads.Head | None:
        """The end of the ledger as it is now, signed and kept."""
        return heads.sign(self.folder, self.lines(), now())

    def studies(self) -> dict[str, str]:
        """Study of each series and instance, by UID."""
        with self._open() as db:
            found = dict(db.execute("SELECT uid, study FROM series").fetchall())
            rows = db.execute("SELECT i.uid, s.study FROM instances i JOIN series s ON s.uid = i.series").fetchall()
        return found | dict(rows)

    def trace(self, uid: str) -> list[ledger.Line]:
        """Lines about an instance or a series and its instances; the whole ledger is checked on the way."""
        every = self.lines()
        with self._open() as db:
            series = db.execute("SELECT series FROM instances WHERE uid = ?", (uid,)).fetchone()
            own = {uid, *(series or ())}
            if series is None:
                own |= {row[0] for row in db.execute("SELECT uid FROM instances WHERE series = ?", (uid,)).fetchall()}
        return [line for line in every if line.about in own]


def _brought_up(db: sqlite3.Connection) -> None:
    """Columns that an outbox of an earlier version lacks."""
    known = {row[1] for row in db.execute("PRAGMA table_info(series)").fetchall()}
    for name, kind in (("part_of", "TEXT NOT NULL DEFAULT ''"), ("withdraws", "INTEGER NOT NULL DEFAULT 0")):
        if name not in known:
            db.execute(f"ALTER TABLE series ADD COLUMN {name} {kind}")
    if "unreviewed" not in {row[1] for row in db.execute("PRAGMA table_info(queue)").fetchall()}:
        db.execute("ALTER TABLE queue ADD COLUMN unreviewed INTEGER NOT NULL DEFAULT 1")
    db.commit()


def _bytes(ds: Any) -> bytes:
    import io

    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
