"""What was done to whom by what: lines that can only be added, each holding the hash of the one before."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

SCHEMA = """
CREATE TABLE IF NOT EXISTS ledger (number INTEGER PRIMARY KEY, time TEXT NOT NULL, event TEXT NOT NULL,
  about TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS ledger_about ON ledger (about);
CREATE TRIGGER IF NOT EXISTS ledger_is_not_changed BEFORE UPDATE ON ledger
  BEGIN SELECT RAISE(ABORT, 'the ledger is not changed'); END;
CREATE TRIGGER IF NOT EXISTS ledger_is_not_shortened BEFORE DELETE ON ledger
  BEGIN SELECT RAISE(ABORT, 'the ledger is not shortened'); END;
"""
FIRST = "0" * 64


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened."""

    number: int
    time: str
    about: str  # UID of a series or an instance
    event: Mapping[str, Any]
    hash: str


def add(connection: sqlite3.Connection, time: str, about: str, event: Mapping[str, Any]) -> None:
    """One line more, within the transaction of what it tells about."""
    row = connection.execute("SELECT hash FROM ledger ORDER BY number DESC LIMIT 1").fetchone()
    previous = row[0] if row else FIRST
    text = json.dumps(event, sort_keys=True, separators=(",", ":"))
    connection.execute(
        "INSERT INTO ledger (time, event, about, previous, hash) VALUES (?, ?, ?, ?, ?)",
        (time, text, about, previous, _hash(previous, time, about, text)),
    )


def _hash(previous: str, time: str, about: str, text: str) -> str:
    return hashlib.sha256("\n".join((previous, time, about, text)).encode()).hexdigest()


def lines(connection: sqlite3.Connection) -> Iterator[Line]:
    """All lines, checked; raises ValueError at the first that was changed, moved or taken out."""
    previous, expected = FIRST, 1
    rows = connection.execute("SELECT number, time, event, about, previous, hash FROM ledger ORDER BY number")
    for number, time, text, about, before, found in rows:
        if before != previous or found != _hash(previous, time, about, text) or number != expected:
            raise ValueError(f"Line {expected} of the ledger was changed, moved or taken out: nothing after it holds.")
        yield Line(number, time, about, json.loads(text), found)
        previous, expected = found, expected + 1
