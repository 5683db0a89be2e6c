"""What arrived: on disk before it is acknowledged, with a database beside it that says how far each series is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from ..deliver.database import Database, ask
from ..deliver.files import class_of, sync, write_whole
from ..deliver.outbox import now

State = Literal["arriving", "refused", "waiting", "drawing", "failed", "prepared"]
STATES: tuple[State, ...] = ("arriving", "refused", "waiting", "drawing", "failed", "prepared")
UID = re.compile(r"[0-9]+(\.[0-9]+)*")
MODELS = sql.MetaData()
SERIES = sql.Table(
    "series", MODELS,
    sql.Column("uid", sql.Text, primary_key=True),
    sql.Column("study", sql.Text, nullable=False),
    sql.Column("state", sql.Text, nullable=False),
    sql.Column("reason", sql.Text, nullable=False, server_default=""),
    sql.Column("since", sql.Text, nullable=False),
    sql.Column("tries", sql.Integer, nullable=False, server_default="0"),
)  # fmt: skip
INSTANCES = sql.Table(
    "instances", MODELS,
    sql.Column("uid", sql.Text, primary_key=True),
    sql.Column("series", sql.ForeignKey("series.uid"), nullable=False, index=True),
    sql.Column("sha256", sql.Text, nullable=False),
    sql.Column("arrived", sql.Text, nullable=False),
)  # fmt: skip
MADE = sql.Table(
    "made", MODELS,
    sql.Column("uid", sql.Text, primary_key=True),
    sql.Column("series", sql.ForeignKey("series.uid"), nullable=False),
    sql.Column("place", sql.Text, nullable=False),
    sql.Column("unreviewed", sql.Integer, nullable=False),
)  # fmt: skip


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
    """A folder: `studies/STUDY/SERIES/INSTANCE.dcm` and `node.sqlite`, on the machine that takes them in."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._rows = Database.in_file(folder / "node.sqlite", MODELS)
        with self._open() as db:
            ask(db, "UPDATE series SET state = 'waiting' WHERE state = 'drawing'")  # a process that is gone

    def _open(self) -> AbstractContextManager[Connection]:
        return self._rows.transaction()

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
            known = ask(db, "SELECT sha256 FROM instances WHERE uid = :instance", instance=instance).first()
            if known is not None:
                if known[0] != digest:
                    raise ClashError("an instance of this UID is known with other content")
                if not path.is_file():  # lost since: what is acknowledged is on disk
                    self._write(path, content)
                ask(  # sent again is asked again, where it was refused or had failed
                    db,
                    "UPDATE series SET state = 'arriving', reason = '', tries = 0 WHERE uid = :series"
                    " AND state IN ('refused', 'failed')",
                    series=series,
                )
                return False
            row = ask(db, "SELECT state, study FROM series WHERE uid = :series", series=series).first()
            if row is not None and row[1] != study:
                raise ClashError("its series is known in another study")
            if row is not None and row[0] not in ("arriving", "refused", "failed"):
                raise ClashError("its series was taken as whole and is being answered")
            self._write(path, content)
            ask(
                db,
                "INSERT INTO series (uid, study, state, since) VALUES (:series, :study, 'arriving', :now)"
                " ON CONFLICT (uid) DO UPDATE SET state = 'arriving', reason = '', tries = 0",
                series=series, study=study, now=now(),
            )  # fmt: skip
            ask(
                db, "INSERT INTO instances (uid, series, sha256, arrived) VALUES (:instance, :series, :digest, :now)",
                instance=instance, series=series, digest=digest, now=now(),
            )  # fmt: skip
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
            made: dict[str, tuple[str, ...]] = {}
            for uid, of in ask(db, "SELECT uid, series FROM made"):
                made[of] = (*made.get(of, ()), uid)
            counted = sql.select(SERIES, sql.func.count(INSTANCES.c.uid)).join(INSTANCES, isouter=True)
            rows = db.execute(
                counted.where(SERIES.c.state.in_(wanted)).group_by(SERIES.c.uid).order_by(SERIES.c.since, SERIES.c.uid)
            ).all()
        return [
            Arrived(uid, study, state, reason, count, made.get(uid, ()), tries, since)
            for uid, study, state, reason, since, tries, count in rows
        ]

    def files(self, one: Arrived) -> list[Path]:
        """Of a series, as they arrived; raises ValueError where one is gone or was changed."""
        with self._open() as db:
            rows = ask(db, "SELECT uid, sha256 FROM instances WHERE series = :uid ORDER BY uid", uid=one.uid).all()
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
            further = "UPDATE series SET state = :state, reason = :reason WHERE uid = :series"
            ask(db, further, state=state, reason=reason[:1000], series=series)

    def begin(self, series: str) -> bool:
        """A series that waits is drawn from now on, which is a try; False where somebody cancelled it meanwhile."""
        with self._open() as db:
            begun = "UPDATE series SET state = 'drawing', tries = tries + 1 WHERE uid = :series AND state = 'waiting'"
            return ask(db, begun, series=series).rowcount > 0

    def cancel(self, series: str) -> bool:
        """Nothing is drawn of a series that waits to be; False where it does not: images still arrive, or it has begun.
        Sent again it is asked again.
        """
        with self._open() as db:
            done = ask(
                db,
                "UPDATE series SET state = 'refused', reason = 'cancelled by request'"
                " WHERE uid = :series AND state = 'waiting'",
                series=series,
            )
            return done.rowcount > 0

    def instances(self, series: str) -> list[tuple[str, str]]:
        """(SOP class, UID) of what arrived of a series, in the order of UIDs; the class is that of the first file."""
        with self._open() as db:
            rows = ask(
                db,
                "SELECT i.uid, s.study FROM instances i JOIN series s ON s.uid = i.series WHERE s.uid = :series"
                " ORDER BY 1",
                series=series,
            ).all()
        kind = class_of(self.where(rows[0][1], series) / f"{rows[0][0]}.dcm") if rows else ""
        return [(kind, uid) for uid, _ in rows]

    def put_back(self, series: str) -> None:
        """A drawing that was stopped by whoever stopped the node: it waits again, and that was no try."""
        with self._open() as db:
            ask(db, "UPDATE series SET state = 'waiting', tries = tries - 1 WHERE uid = :series", series=series)

    def prepared(self, series: str, made: Sequence[str], place: str, *, unreviewed: bool = False) -> None:
        """What was made of a series, in the outbox, and where it is to go; `unreviewed`: before anybody accepts it."""
        with self._open() as db:
            for uid in made:
                ask(
                    db,
                    "INSERT INTO made (uid, series, place, unreviewed) VALUES (:uid, :series, :place, :unreviewed)"
                    " ON CONFLICT (uid) DO UPDATE SET series = excluded.series, place = excluded.place,"
                    " unreviewed = excluded.unreviewed",
                    uid=uid, series=series, place=place, unreviewed=int(unreviewed),
                )  # fmt: skip
            ask(db, "UPDATE series SET state = 'prepared', reason = '' WHERE uid = :series", series=series)

    def places(self) -> list[str]:
        """Where anything is to go."""
        with self._open() as db:
            return [str(place) for (place,) in ask(db, "SELECT DISTINCT place FROM made ORDER BY 1")]

    def made(self, only: str = "") -> list[tuple[str, str, bool]]:
        """(UID, where it is to go, before anybody accepts it) of what was made here, all of it or one."""
        with self._open() as db:
            rows = ask(db, "SELECT uid, place, unreviewed FROM made WHERE :only IN ('', uid)", only=only).all()
        return [(str(uid), str(place), bool(unreviewed)) for uid, place, unreviewed in rows]
