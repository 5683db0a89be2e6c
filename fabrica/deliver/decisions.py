"""Who decided what of a series, and what may therefore leave: asked within the transaction of what is done."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from .database import ask

TITLES = ("dr", "prof", "")  # words that are no part of a name
Decided = tuple[str, str, str]  # accept or reject, by whom, when


@dataclass(frozen=True, slots=True)
class Waiting:
    """An instance on its way to a destination."""

    instance: str
    series: str
    attempts: int


def standing(db: Connection, series: str) -> str:
    """The last decision, where as many persons accept as have to."""
    return _standing(_decided(db, series), readers(db))


def allowed(db: Connection, destination: str) -> list[Waiting]:
    """What has not arrived there and may go: accepted, or asked for unreviewed while nobody has rejected it; what
    withdraws a series only where it is rejected.
    """
    rows = ask(
        db,
        "SELECT q.instance, i.series, q.attempts, q.unreviewed, s.withdraws, coalesce(nullif(s.part_of, ''), s.uid)"
        " FROM queue q JOIN instances i ON i.uid = q.instance JOIN series s ON s.uid = i.series"
        " WHERE q.destination = :to AND q.state != 'delivered' ORDER BY 6, s.part_of, i.series, i.number",
        to=destination,
    ).all()
    decided: dict[str, list[Decided]] = {row[5]: [] for row in rows}
    told = ask(
        db,
        "SELECT series, verdict, person, time FROM verdicts WHERE series IN"
        " (SELECT coalesce(nullif(s.part_of, ''), s.uid) FROM queue q JOIN instances i ON i.uid = q.instance"
        " JOIN series s ON s.uid = i.series WHERE q.destination = :to AND q.state != 'delivered') ORDER BY number",
        to=destination,
    )
    for judged, verdict, person, when in told:
        decided[judged].append((str(verdict), str(person), str(when)))
    wanted = readers(db)
    stands = {judged: _standing(found, wanted) for judged, found in decided.items()}
    return [
        Waiting(instance, series, attempts)
        for instance, series, attempts, unreviewed, withdraws, judged in rows
        if (stands[judged] == "reject") == bool(withdraws)
        and (withdraws or stands[judged] == "accept" or (unreviewed and not decided[judged]))
    ]


def readers(db: Connection) -> int:
    row = ask(db, "SELECT value FROM settings WHERE name = 'readers'").first()
    return int(row[0]) if row else 1


def accepting(db: Connection, series: str) -> list[str]:
    """Persons, by name, whose acceptance no rejection followed."""
    return [person for person, _ in acceptances(db, series)]


def acceptances(db: Connection, series: str) -> list[tuple[str, str]]:
    """(person, when) of each of them; who accepted twice did so at the last time."""
    return _acceptances(_decided(db, series))


def _decided(db: Connection, series: str) -> list[Decided]:
    every = "SELECT verdict, person, time FROM verdicts WHERE series = :series ORDER BY number"
    return [(str(v), str(p), str(t)) for v, p, t in ask(db, every, series=series)]


def _standing(decided: Sequence[Decided], wanted: int) -> str:
    last = decided[-1][0] if decided else ""
    return "" if last == "accept" and len(_acceptances(decided)) < wanted else last


def _acceptances(decided: Sequence[Decided]) -> list[tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for verdict, person, when in decided:
        found = {**found, one_name(person): (person, when)} if verdict == "accept" else {}
    return list(found.values())


def one_name(person: str) -> str:
    """A name as letters and digits alone: spaces, marks and forms of writing make nobody another person."""
    words = unicodedata.normalize("NFKC", person).casefold().replace(",", " ").split()
    bare = ["".join(c for c in word if c.isalnum()) for word in words]
    return " ".join(sorted(word for word in bare if word not in TITLES))
