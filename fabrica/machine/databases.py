"""Databases by their place: a file of SQLite, or PostgreSQL, asked in the same words."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import Engine
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from .addresses import is_loopback


def in_file(path: Path, pragmas: Sequence[str], timeout_s: float = 60, **more: Any) -> Engine:
    """SQLite in a file, which its owner alone may read; each connection begins with its pragmas."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))  # it knows who was where
    engine = sql.create_engine(f"sqlite:///{path}", connect_args={"timeout": timeout_s}, **more)

    def connected(connection: Any, _: object) -> None:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    sql.event.listen(engine, "connect", connected)
    return engine


def at_server(place: str, example: str, schema: str = "") -> Engine:
    """PostgreSQL at `postgresql://USER@HOST/DATABASE`, encrypted beyond this machine; its password is PGPASSWORD.

    `schema`: where its tables lie, else where the server says. Raises ValueError, with what to write instead.
    """
    scheme, _, rest = place.partition("://")
    if scheme not in ("postgresql", "postgresql+pg8000") or not rest:
        what = f"{scheme}://" if rest else place
        raise ValueError(f"{what} is no database that is known. {example}")
    try:
        url = sql.make_url(f"postgresql+pg8000://{rest}")
    except (ArgumentError, ValueError) as error:
        raise ValueError(f"{shown(place)} names no database. {example}") from error
    if url.password is not None:
        raise ValueError("A password in an address is seen by others. Leave it out, and set PGPASSWORD.")
    told: dict[str, Any] = {"timeout": 30}
    if "PGPASSWORD" in os.environ:
        told["password"] = os.environ["PGPASSWORD"]
    if url.host and not is_loopback(url.host):
        told["ssl_context"] = ssl.create_default_context()
    try:
        engine = sql.create_engine(url, connect_args=told, pool_pre_ping=True)
    except ImportError as error:
        wanted = 'pip install -e ".[index]" -c constraints.txt'
        raise ValueError(f"PostgreSQL needs the extra: {wanted} ({error.name} is missing)") from error
    if schema:
        sql.event.listen(engine, "connect", _in_schema(schema), insert=True)
    return engine


def _in_schema(schema: str) -> Any:
    def connected(connection: Any, _: object) -> None:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(f"SET SESSION search_path = '{schema}'")
        cursor.close()
        connection.autocommit = False

    return connected


def shown(place: str) -> str:
    """Without the name of a user, or a password that somebody wrote."""
    return place.split("@")[-1]


def reason(error: SQLAlchemyError) -> str:
    """What the database itself said."""
    return str(getattr(error, "orig", None) or error).splitlines()[0][:120]
