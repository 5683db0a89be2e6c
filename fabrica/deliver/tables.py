"""What an outbox knows, as tables: the same in SQLite and in PostgreSQL. The ledger is only added to."""

from __future__ import annotations

import sqlalchemy as sql
from sqlalchemy.engine import Connection

MODELS = sql.MetaData()


def _text(name: str, *more: object, **how: object) -> sql.Column[str]:
    return sql.Column(name, sql.Text, *more, nullable=False, **how)  # type: ignore[arg-type]


def _count(name: str, default: int | None = None, **how: object) -> sql.Column[int]:
    given = None if default is None else str(default)
    return sql.Column(name, sql.Integer, nullable=False, server_default=given, **how)  # type: ignore[arg-type]


SERIES = sql.Table(
    "series", MODELS,
    _text("uid", primary_key=True), _text("study"), _text("description"), _count("instances"), _text("sources"),
    _text("added"), _text("part_of"), _count("withdraws"),
)  # fmt: skip
INSTANCES = sql.Table(
    "instances", MODELS,
    _text("uid", primary_key=True), _text("series", sql.ForeignKey("series.uid"), index=True), _count("number"),
    _text("sha256"),
)  # fmt: skip
VERDICTS = sql.Table(
    "verdicts", MODELS,
    _count("number", primary_key=True, autoincrement=False), _text("series", sql.ForeignKey("series.uid"), index=True),
    _text("verdict"), _text("reason"), _text("person"), _text("time"),
)  # fmt: skip
QUEUE = sql.Table(
    "queue", MODELS,
    _text("instance", sql.ForeignKey("instances.uid"), primary_key=True), _text("destination", primary_key=True),
    _text("state", server_default="waiting"), _count("attempts", 0), _text("error", server_default=""),
    _count("unreviewed", 1),
)  # fmt: skip
SETTINGS = sql.Table("settings", MODELS, _text("name", primary_key=True), _text("value"))
LEDGER = sql.Table(
    "ledger", MODELS,
    _count("number", primary_key=True, autoincrement=False), _text("time"), _text("event"), _text("about", index=True),
    _text("previous"), _text("hash"),
)  # fmt: skip

GUARDS = {
    "sqlite": (
        "CREATE TRIGGER ledger_is_not_changed BEFORE UPDATE ON ledger"
        " BEGIN SELECT RAISE(ABORT, 'the ledger is not changed'); END",
        "CREATE TRIGGER ledger_is_not_shortened BEFORE DELETE ON ledger"
        " BEGIN SELECT RAISE(ABORT, 'the ledger is not shortened'); END",
    ),
    "postgresql": (
        "CREATE OR REPLACE FUNCTION ledger_is_only_added_to() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN RAISE EXCEPTION USING MESSAGE = ''the ledger is not '' || TG_ARGV[0]; END'",
        "CREATE TRIGGER ledger_is_not_changed BEFORE UPDATE ON ledger"
        " FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_only_added_to('changed')",
        "CREATE TRIGGER ledger_is_not_shortened BEFORE DELETE OR TRUNCATE ON ledger"
        " FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_only_added_to('shortened')",
    ),
}


@sql.event.listens_for(LEDGER, "after_create")
def _guarded(table: sql.Table, db: Connection, **_: object) -> None:
    for statement in GUARDS[db.dialect.name]:
        db.exec_driver_sql(statement)


def bring_up(db: Connection) -> None:
    """Columns that a file of an earlier version lacks."""
    known = {name: {c["name"] for c in sql.inspect(db).get_columns(name)} for name in ("series", "queue", "verdicts")}
    for table, name, kind in (
        ("series", "part_of", "TEXT NOT NULL DEFAULT ''"),
        ("series", "withdraws", "INTEGER NOT NULL DEFAULT 0"),
        ("queue", "unreviewed", "INTEGER NOT NULL DEFAULT 1"),
    ):
        if name not in known[table]:
            db.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")
    if "number" not in known["verdicts"]:  # they were told apart by where they lay in the file
        db.exec_driver_sql("ALTER TABLE verdicts RENAME TO verdicts_unnumbered")
        VERDICTS.create(db)
        db.exec_driver_sql(
            "INSERT INTO verdicts (number, series, verdict, reason, person, time)"
            " SELECT rowid, series, verdict, reason, person, time FROM verdicts_unnumbered"
        )
        db.exec_driver_sql("DROP TABLE verdicts_unnumbered")
