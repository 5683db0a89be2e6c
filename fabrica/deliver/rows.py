"""Where the rows of an outbox lie: in a file of its folder, or in PostgreSQL, to which they are moved whole."""

from __future__ import annotations

import json
from pathlib import Path

import sqlalchemy as sql
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from ..machine.databases import reason, shown
from .database import EXAMPLE, Database, ask
from .files import write_whole
from .tables import LEDGER, MODELS, bring_up

FILE, PLACE = "delivery.sqlite", "database.json"
MOVED = 1  # SQLite's user_version of a file whose rows lie elsewhere: two places never grow side by side
BLOCK = 1000  # rows that are held in memory while they are moved


def holds_rows(folder: Path) -> bool:
    """Whether a folder is an outbox."""
    return (folder / FILE).is_file() or (folder / PLACE).is_file()


def place_of(folder: Path) -> str:
    """The address of its database, or nothing where its rows lie in its own file; raises ValueError."""
    path = folder / PLACE
    if not path.is_file():
        return ""
    try:
        plain = json.loads(path.read_text())
        if plain["format"] != 1 or not isinstance(plain["place"], str):
            raise ValueError("of another version")
        return str(plain["place"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not say where the rows are ({error}). Type: {_move_again()}") from error


def opened(folder: Path, place: str) -> Database:
    """The tables, made where they are missing; raises ValueError where they cannot be used."""
    if not place:
        rows = Database.in_file(folder / FILE, MODELS)
        with rows.transaction() as db:
            check_here(db)
            bring_up(db)
        return rows
    try:
        return Database.at_server(place, MODELS)
    except SQLAlchemyError as error:
        raise ValueError(
            f"The outbox's database at {shown(place)} cannot be used ({reason(error)}). Check that it runs and that"
            " PGPASSWORD is set."
        ) from error


def check_here(db: Connection) -> None:
    """Raises ValueError for a file whose rows were moved: what writes there would be lost."""
    if db.dialect.name == "sqlite" and db.exec_driver_sql("PRAGMA user_version").scalar() == MOVED:
        raise ValueError(
            f"The rows of this outbox were moved to PostgreSQL. Start this program anew; where {PLACE} is gone, type:"
            f" {_move_again()}"
        )


def move(folder: Path, place: str) -> int:
    """All rows of an outbox to PostgreSQL, from where they lie in its file; returns the lines of its ledger.

    A crash at any time leaves one place in use, and the same call ends what it left. Raises ValueError for a place
    that holds another outbox, is none or cannot be used.
    """
    if (known := place_of(folder)) and known != place:
        raise ValueError(f"The rows lie at {shown(known)}. They are moved from the folder's own file alone.")
    there, here = opened(folder, place), Database.in_file(folder / FILE, MODELS)
    with here.transaction() as old:
        with there.transaction() as new:
            if _end(new) == (0, ""):
                bring_up(old)
                _copy(old, new)
            elif _end(new) != _end(old) and not known:
                raise ValueError(
                    f"{shown(place)} holds another outbox, or this one as it was. {EXAMPLE} of an empty database."
                )
            count, _ = _end(new)
        old.exec_driver_sql(f"PRAGMA user_version = {MOVED}")
    write_whole(folder / PLACE, json.dumps({"format": 1, "place": place}).encode())
    return count


def _end(db: Connection) -> tuple[int, str]:
    """How long the ledger is, and the hash of its last line."""
    row = ask(db, "SELECT number, hash FROM ledger ORDER BY number DESC LIMIT 1").first()
    return (int(row[0]), str(row[1])) if row else (0, "")


def _copy(old: Connection, new: Connection) -> None:
    """Tables in the order of what they refer to."""
    for table in MODELS.sorted_tables:
        order = LEDGER.c.number if table is LEDGER else sql.text("1")
        for part in old.execute(sql.select(table).order_by(order)).mappings().partitions(BLOCK):
            new.execute(sql.insert(table), [dict(row) for row in part])


def _move_again() -> str:
    return "fabrica outbox --database postgresql://USER@HOST/DATABASE"
