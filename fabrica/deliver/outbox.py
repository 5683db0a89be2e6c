"""Objects that wait, go out and have arrived: files, and a database that a power cut does not harm."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from ..machine.databases import shown
from . import decisions, heads, ledger, rows
from .database import ask
from .decisions import Waiting
from .files import class_of, sync, write_whole
from .objects.marking import Series
from .tables import INSTANCES

Verdict = Literal["accept", "reject"]
AT_ONCE = 4  # files that are on their way to the disk
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
    """A folder: `objects/SERIES/INSTANCE.dcm`, and rows in `delivery.sqlite` or where `database.json` says."""

    def __init__(self, folder: Path) -> None:
        """Raises ValueError where its rows were moved and nothing says where to, or the place is none."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.place = rows.place_of(folder)
        self._rows = rows.opened(folder, self.place)

    @property
    def whereabouts(self) -> str:
        """Where its rows lie, in words."""
        return f"at {shown(self.place)}" if self.place else f"in {self.folder / rows.FILE}"

    @contextmanager
    def _open(self) -> Iterator[Connection]:
        with self._rows.transaction() as db:
            rows.check_here(db)
            yield db

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
        with ThreadPoolExecutor(AT_ONCE) as pool, self._open() as db:
            # held while files are written: what lies there without a row is left of a crash
            hashes = dict(zip(written, pool.map(_digest, written.values()), strict=True))
            known = dict(ask(db, "SELECT uid, sha256 FROM instances WHERE series = :uid", uid=series.uid).all())
            if known:
                if known != hashes:
                    raise ValueError(f"Series {series.uid} is known with other content: it is not written again.")
                return False
            paths = [self.file(series.uid, uid) for uid in written]
            list(pool.map(partial(write_whole, folder_too=False), paths, written.values()))
            sync(self.folder / "objects" / series.uid)
            first = series.datasets[0]
            ask(
                db,
                "INSERT INTO series (uid, study, description, instances, sources, added, part_of, withdraws)"
                " VALUES (:uid, :study, :description, :instances, :sources, :added, :part_of, :withdraws)",
                uid=series.uid, study=str(first.StudyInstanceUID), description=str(first.SeriesDescription),
                instances=len(series.datasets), sources="\n".join(map(str, sources)), added=now(), part_of=part_of,
                withdraws=int(withdraws),
            )  # fmt: skip
            db.execute(
                sql.insert(INSTANCES),
                [{"uid": u, "series": series.uid, "number": k, "sha256": h} for k, (u, h) in enumerate(hashes.items())],
            )
            told = [(u, {"what": "made", "series": series.uid, **event, "sha256": h}) for u, h in hashes.items()]
            ledger.add_all(db, now(), told)
        return True

    def drawn(self, series: str) -> str:
        """When a known series was drawn, as the ledger says it; nothing of one that is not known."""
        with self._open() as db:
            row = ask(
                db,
                "SELECT l.event FROM ledger l JOIN instances i ON i.uid = l.about WHERE i.series = :series"
                " ORDER BY l.number LIMIT 1",
                series=series,
            ).first()
        return str(json.loads(row[0]).get("drawn", "")) if row else ""

    def series(self, only: str = "") -> list[Prepared]:
        """Those that a person judges, in the order in which they were made, or one of them; not what goes with them."""
        with self._open() as db:
            listed = ask(
                db,
                "SELECT uid, description, instances, sources FROM series WHERE part_of = '' AND :only IN ('', uid)"
                " ORDER BY added, uid",
                only=only,
            ).all()
            found = []
            for uid, description, count, sources in listed:
                last = ask(
                    db,
                    "SELECT reason, person, time FROM verdicts WHERE series = :uid ORDER BY number DESC LIMIT 1",
                    uid=uid,
                ).first() or ("", "", "")
                last = (decisions.standing(db, uid), *last)
                found.append(Prepared(uid, description, count, tuple(filter(None, sources.split("\n"))), *last))
        return found

    def parts(self, series: str) -> list[str]:
        """UIDs of the series that go with one: its spread, its evidence; not what withdraws it."""
        with self._open() as db:
            return _first(
                ask(
                    db,
                    "SELECT uid FROM series WHERE part_of = :series AND withdraws = 0 ORDER BY added, uid",
                    series=series,
                )
            )

    def main_of(self, series: str) -> str:
        """The series that a person judges: itself, or the one that it goes with."""
        with self._open() as db:
            return _judged(db, series) or series

    def places(self, *series: str) -> list[str]:
        """Destinations that have any instance of some series, or to which one was sent."""
        with self._open() as db:
            sent = (
                "SELECT DISTINCT q.destination FROM queue q JOIN instances i ON i.uid = q.instance"
                " WHERE i.series = :series AND q.attempts > 0"
            )
            return sorted({place for one in series for place in _first(ask(db, sent, series=one))})

    def files(self, series: str) -> list[Path]:
        """A series as it is stored, in order; raises ValueError where a file is gone or was changed."""
        from .record import hash_of

        with self._open() as db:
            listed = ask(
                db, "SELECT uid, sha256 FROM instances WHERE series = :series ORDER BY number", series=series
            ).all()
        found = []
        for uid, digest in listed:
            path = self.file(series, uid)
            if not path.is_file() or hash_of(path) != digest:
                raise ValueError(f"{path} is gone or was changed after it was made: the series is not used.")
            found.append(path)
        return found

    def instances(self, series: str) -> list[tuple[str, str]]:
        """(SOP class, UID) of each instance of a series, in order; the class is that of the first."""
        with self._open() as db:
            uids = _first(ask(db, "SELECT uid FROM instances WHERE series = :series ORDER BY number", series=series))
        kind = class_of(self.file(series, uids[0])) if uids else ""
        return [(kind, uid) for uid in uids]

    def verdicts(self) -> list[tuple[str, str]]:
        """(time, accept or reject) of every decision, in their order."""
        with self._open() as db:
            return [(str(t), str(v)) for t, v in ask(db, "SELECT time, verdict FROM verdicts ORDER BY number")]

    def verdicts_after(self, number: int) -> list[tuple[int, str]]:
        """(number, series) of decisions since one, in their order; 0 gives all."""
        with self._open() as db:
            since = "SELECT number, series FROM verdicts WHERE number > :number ORDER BY number"
            return [(int(row), str(series)) for row, series in ask(db, since, number=number)]

    def readers(self) -> int:
        """How many persons have to accept a series."""
        with self._open() as db:
            return decisions.readers(db)

    def ask_readers(self, count: int) -> None:
        """From now on so many persons have to accept; raises ValueError for none."""
        if count < 1:
            raise ValueError(f"--readers is {count}, expected at least 1.")
        with self._open() as db:
            ask(
                db,
                "INSERT INTO settings (name, value) VALUES ('readers', :count)"
                " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                count=str(count),
            )
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
            ask(db, "UPDATE series SET withdraws = :annulled WHERE uid = :part", annulled=ANNULLED, part=part)
            ask(
                db,
                "DELETE FROM queue WHERE state != 'delivered'"
                " AND instance IN (SELECT uid FROM instances WHERE series = :part)",
                part=part,
            )
            ledger.add(db, now(), part, {"what": "annulled"})

    def judge(self, series: str, verdict: Verdict, reason: str, person: str) -> None:
        """A person's decision; the last one counts, all are kept. Raises ValueError without a reason or a name."""
        if verdict not in ("accept", "reject") or not reason.strip() or not person.strip():
            raise ValueError("A decision is accept or reject, with a reason and the name of who decides.")
        with self._open() as db:
            if ask(db, "SELECT 1 FROM series WHERE uid = :series", series=series).first() is None:
                raise ValueError("There is no such series.")
            ask(
                db,
                "INSERT INTO verdicts (number, series, verdict, reason, person, time)"
                " SELECT coalesce(max(number), 0) + 1, :series, :verdict, :reason, :person, :time FROM verdicts",
                series=series, verdict=verdict, reason=reason, person=person, time=now(),
            )  # fmt: skip
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
            ask(
                db,
                "INSERT INTO queue (instance, destination, unreviewed) SELECT i.uid, :to, :unreviewed FROM instances i"
                " JOIN series s ON s.uid = i.series WHERE s.uid = :series"
                " OR (s.part_of = :series AND :parts = 1 AND s.withdraws = 0)"
                " ON CONFLICT (instance, destination) DO UPDATE SET unreviewed = CASE"
                " WHEN queue.unreviewed > excluded.unreviewed THEN queue.unreviewed ELSE excluded.unreviewed END",
                to=destination, unreviewed=int(unreviewed), series=series, parts=int(parts),
            )  # fmt: skip

    def queued(self, series: str) -> bool:
        """Whether it was ever to go anywhere."""
        with self._open() as db:
            found = "SELECT 1 FROM queue q JOIN instances i ON i.uid = q.instance WHERE i.series = :series LIMIT 1"
            return ask(db, found, series=series).first() is not None

    def standing(self, series: str) -> str:
        """accept, reject, or nothing where too few have decided; of what goes with a series its verdict."""
        with self._open() as db:
            judged = _judged(db, series)
            return decisions.standing(db, judged) if judged else ""

    def waiting(self, destination: str) -> list[Waiting]:
        """What has not arrived there, by series, before what goes with it; nothing of one that was rejected since, and
        what withdraws it only then.
        """
        with self._open() as db:
            return decisions.allowed(db, destination)

    def backlog(self) -> dict[str, int]:
        """Destination -> instances that have not arrived there."""
        with self._open() as db:
            left = (
                "SELECT destination, count(CASE WHEN state != 'delivered' THEN 1 END) FROM queue GROUP BY destination"
            )
            return {str(to): int(count) for to, count in ask(db, left)}

    def attempted(self, destination: str, instances: Sequence[str]) -> list[str]:
        """Those that may still go there, noted before anything is sent: whoever finds it so after a crash asks there
        before sending again. What was rejected, or delivered by another process, in the meantime is left out.
        """
        with self._open() as db:
            may = {one.instance for one in decisions.allowed(db, destination)}
            going = [uid for uid in instances if uid in may]
            for uid in going:
                ask(
                    db,
                    "UPDATE queue SET attempts = attempts + 1, state = 'sent'"
                    " WHERE instance = :uid AND destination = :to",
                    uid=uid, to=destination,
                )  # fmt: skip
        return going

    def failed(self, destination: str, errors: Mapping[str, str]) -> None:
        with self._open() as db:
            for uid, error in errors.items():
                ask(
                    db,
                    "UPDATE queue SET state = 'waiting', error = :error WHERE instance = :uid AND destination = :to"
                    " AND state != 'delivered'",
                    error=error[:500], uid=uid, to=destination,
                )  # fmt: skip

    def delivered(self, destination: str, instances: Sequence[str], witness: str) -> None:
        """As its witness says it: noted once, with a line of the ledger each."""
        with self._open() as db:
            arrived = []
            for uid in instances:
                changed = ask(
                    db,
                    "UPDATE queue SET state = 'delivered', error = '' WHERE instance = :uid AND destination = :to"
                    " AND state != 'delivered'",
                    uid=uid, to=destination,
                ).rowcount  # fmt: skip
                arrived += [uid] * changed
            told = {"what": "delivered", "to": destination, "witness": witness}
            ledger.add_all(db, now(), [(uid, told) for uid in arrived])

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
            every = "SELECT i.uid, s.study FROM instances i JOIN series s ON s.uid = i.series"
            found = [*ask(db, "SELECT uid, study FROM series"), *ask(db, every)]
            return {str(uid): str(study) for uid, study in found}

    def trace(self, uid: str) -> list[ledger.Line]:
        """Lines about an instance or a series and its instances; the whole ledger is checked on the way."""
        every = self.lines()
        with self._open() as db:
            series = ask(db, "SELECT series FROM instances WHERE uid = :uid", uid=uid).first()
            own = {uid, *(series or ())}
            if series is None:
                own |= set(_first(ask(db, "SELECT uid FROM instances WHERE series = :uid", uid=uid)))
        return [line for line in every if line.about in own]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _first(found: Iterable[Sequence[Any]]) -> list[str]:
    return [str(row[0]) for row in found]


def _judged(db: Connection, series: str) -> str:
    """The series that a person judges of a known one: itself, or what it goes with; nothing of an unknown one."""
    row = ask(db, "SELECT coalesce(nullif(part_of, ''), uid) FROM series WHERE uid = :series", series=series).first()
    return str(row[0]) if row else ""


def _bytes(ds: Any) -> bytes:
    import io

    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
