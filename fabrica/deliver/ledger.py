"""What was done to whom by what: lines that can only be added, each holding the hash of the one before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from .database import ask
from .tables import LEDGER

FIRST = "0" * 64


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened."""

    number: int
    time: str
    about: str  # UID of a series or an instance
    event: Mapping[str, Any]
    hash: str


def add(db: Connection, time: str, about: str, event: Mapping[str, Any]) -> None:
    """One line more, within the transaction of what it tells about."""
    add_all(db, time, [(about, event)])


def add_all(db: Connection, time: str, events: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """A line more for each (about, event)."""
    row = ask(db, "SELECT number, hash FROM ledger ORDER BY number DESC LIMIT 1").first()
    number, previous = (row[0], row[1]) if row else (0, FIRST)
    rows = []
    for about, event in events:
        text = json.dumps(event, sort_keys=True, separators=(",", ":"))
        number, before, previous = number + 1, previous, _hash(previous, time, about, text)
        rows.append(
            {"number": number, "time": time, "event": text, "about": about, "previous": before, "hash": previous}
        )
    if rows:
        db.execute(sql.insert(LEDGER), rows)


def _hash(previous: str, time: str, about: str, text: str) -> str:
    return hashlib.sha256("\n".join((previous, time, about, text)).encode()).hexdigest()


def lines(db: Connection) -> Iterator[Line]:
    """All lines, checked; raises ValueError at the first that was changed, moved or taken out."""
    previous, expected = FIRST, 1
    rows = ask(db, "SELECT number, time, event, about, previous, hash FROM ledger ORDER BY number")
    for number, time, text, about, before, found in rows:
        if before != previous or found != _hash(previous, time, about, text) or number != expected:
            raise ValueError(f"Line {expected} of the ledger was changed, moved or taken out: nothing after it holds.")
        yield Line(number, time, about, json.loads(text), found)
        previous, expected = found, expected + 1
