"""Transactions one after the other, all of each or nothing, on disk when it is left: SQLite, or PostgreSQL."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import Connection, CursorResult, Engine
from sqlalchemy.pool import NullPool

from ..machine.databases import at_server, in_file

PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON")
WAIT_S = 30  # others wait for a transaction so long, then they are refused
SCHEMA = "fabrica_outbox"
EXAMPLE = "Write postgresql://USER@HOST/DATABASE"


class Database:
    """Tables in a file, or in a schema of a server."""

    def __init__(self, engine: Engine, models: sql.MetaData) -> None:
        """What is missing of the tables is made. Raises ValueError or SQLAlchemyError for what cannot be used."""
        self.engine = engine
        with self.transaction() as db:
            if engine.dialect.name == "postgresql":
                db.execute(sql.text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
            models.create_all(db)

    @staticmethod
    def in_file(path: Path, models: sql.MetaData) -> Database:
        engine = in_file(path, PRAGMAS, WAIT_S, poolclass=NullPool)
        sql.event.listen(engine, "connect", _by_hand)
        sql.event.listen(engine, "begin", lambda db: db.exec_driver_sql("BEGIN IMMEDIATE"))
        return Database(engine, models)

    @staticmethod
    def at_server(place: str, models: sql.MetaData) -> Database:
        """Raises ValueError for an address that is none."""
        engine = at_server(place, EXAMPLE, SCHEMA)
        sql.event.listen(engine, "begin", _in_turn)
        return Database(engine, models)

    def transaction(self) -> AbstractContextManager[Connection]:
        """Others wait for it."""
        return self.engine.begin()


def ask(db: Connection, statement: str, **values: Any) -> CursorResult[*tuple[Any, ...]]:
    """A statement in words that both understand, its values by name."""
    return db.execute(sql.text(statement), values)


def _by_hand(connection: Any, _: object) -> None:
    """The driver begins no transaction by itself: each takes the right to write before it reads."""
    connection.isolation_level = None


def _in_turn(db: Connection) -> None:
    db.exec_driver_sql(f"SET LOCAL lock_timeout = '{WAIT_S}s'")
    db.exec_driver_sql(f"SELECT pg_advisory_xact_lock(hashtext('{SCHEMA}'))")
