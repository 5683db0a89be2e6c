"""Who decided what of a series, and what may therefore leave: asked within the transaction of what is done."""

from __future__ import annotations

import sqlite3
import unicodedata
from dataclasses import dataclass

TITLES = ("dr", "prof", "")  # words that are no part of a name


@dataclass(frozen=True, slots=True)
class Waiting:
    """An instance on its way to a destination."""

    instance: str
    series: str
    attempts: int


def standing(db: sqlite3.Connection, series: str) -> str:
    """The last decision, where as many persons accept as have to."""
    row = db.execute("SELECT verdict FROM verdicts WHERE series = ? ORDER BY rowid DESC LIMIT 1", (series,)).fetchone()
    if row is None or (row[0] == "accept" and len(accepting(db, series)) < readers(db)):
        return ""
    return str(row[0])


def allowed(db: sqlite3.Connection, destination: str) -> list[Waiting]:
    """What has not arrived there and may go: accepted, or asked for unreviewed while nobody has rejected it; what
    withdraws a series only where it is rejected.
    """
    rows = db.execute(
        "SELECT q.instance, i.series, q.attempts, q.unreviewed, s.withdraws, coalesce(nullif(s.part_of, ''), s.uid)"
        " FROM queue q JOIN instances i ON i.uid = q.instance JOIN series s ON s.uid = i.series"
        " WHERE q.destination = ? AND q.state != 'delivered' ORDER BY 6, s.part_of, i.series, i.number",
        (destination,),
    ).fetchall()
    stands = {judged: standing(db, judged) for judged in {row[5] for row in rows}}
    undecided = {
        judged for judged, verdict in stands.items() if not verdict
        and not db.execute("SELECT 1 FROM verdicts WHERE series = ? LIMIT 1", (judged,)).fetchone()
    }  # fmt: skip
    return [
        Waiting(instance, series, attempts)
        for instance, series, attempts, unreviewed, withdraws, judged in rows
        if (stands[judged] == "reject") == bool(withdraws)
        and (withdraws or stands[judged] == "accept" or (unreviewed and judged in undecided))
    ]


def readers(db: sqlite3.Connection) -> int:
    row = db.execute("SELECT value FROM settings WHERE name = 'readers'").fetchone()
    return int(row[0]) if row else 1


def accepting(db: sqlite3.Connection, series: str) -> list[str]:
    """Persons, by name, whose acceptance no rejection followed."""
    return [person for person, _ in acceptances(db, series)]


def acceptances(db: sqlite3.Connection, series: str) -> list[tuple[str, str]]:
    """(person, when) of each of them; who accepted twice did so at the last time."""
    found: dict[str, tuple[str, str]] = {}
    query = "SELECT verdict, person, time FROM verdicts WHERE series = ? ORDER BY rowid"
    for verdict, person, when in db.execute(query, (series,)).fetchall():
        found = {**found, one_name(person): (person, when)} if verdict == "accept" else {}
    return list(found.values())


def one_name(person: str) -> str:
    """A name as letters and digits alone: spaces, marks and forms of writing make nobody another person."""
    words = unicodedata.normalize("NFKC", person).casefold().replace(",", " ").split()
    bare = ["".join(c for c in word if c.isalnum()) for word in words]
    return " ".join(sorted(word for word in bare if word not in TITLES))
