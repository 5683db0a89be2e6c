"""An outbox at a server: moved whole, used by many at once, never in two places, and what is refused."""

import json
import threading
from pathlib import Path

import pytest
import sqlalchemy as sql

from fabrica.deliver import rows
from fabrica.deliver.database import Database, ask
from fabrica.deliver.outbox import Outbox
from fabrica.deliver.record import Record
from fabrica.deliver.rows import move
from fabrica.deliver.tables import MODELS
from fabrica.deliver.withdrawal import withdraw
from fabrica.generate.handover import hand_over
from fabrica.machine.databases import at_server


def _lived_in(record: Record, folder: Path) -> tuple[Outbox, str]:
    """Made, accepted by two, sent, failed, rejected, withdrawn: a row in every table."""
    outbox = Outbox(folder)
    (uid,) = hand_over(record, outbox, say=lambda _: None)
    outbox.ask_readers(2)
    for person in ("Dr. A", "Dr. B"):
        outbox.judge(uid, "accept", "looks right", person)
    outbox.enqueue(uid, "there")
    names = [one.instance for one in outbox.waiting("there")]
    assert outbox.attempted("there", names) == names
    outbox.delivered("there", names[:2], "seen")
    outbox.failed("there", dict.fromkeys(names[2:], "away"))
    outbox.judge(uid, "reject", "a vessel is missing", "Dr. C")
    withdraw(outbox, uid)
    return outbox, uid


def _seen(outbox: Outbox, uid: str) -> list[object]:
    return [
        outbox.series(), outbox.parts(uid), outbox.files(uid), outbox.instances(uid), outbox.verdicts(),
        outbox.verdicts_after(1), outbox.readers(), outbox.accepted_by(uid), outbox.acceptances(uid),
        outbox.places(uid), outbox.backlog(), outbox.waiting("there"), outbox.queued(uid), outbox.standing(uid),
        outbox.standing("1.2"), outbox.main_of(outbox.parts(uid)[0]), outbox.drawn(uid), outbox.studies(),
        outbox.lines(), outbox.trace(uid),
    ]  # fmt: skip


def test_what_was_moved_is_what_was_there(record: Record, postgresql: str, tmp_path: Path) -> None:
    """Every answer is the same; more can be added to it; who still has the file open is told."""
    outbox, uid = _lived_in(record, tmp_path)
    outbox.sign()
    before = _seen(outbox, uid)
    assert move(tmp_path, postgresql) == len(outbox_lines := before[-2])  # type: ignore[arg-type]
    again = Outbox(tmp_path)
    assert _seen(again, uid) == before
    assert again.whereabouts.startswith("at 127.0.0.1")
    with pytest.raises(ValueError, match="were moved to PostgreSQL. Start this program anew"):
        outbox.judge(uid, "accept", "late", "Dr. D")
    again.judge(uid, "accept", "late", "Dr. D")
    assert len(again.lines()) == len(outbox_lines) + 1  # type: ignore[arg-type]
    again.sign()
    assert move(tmp_path, postgresql) == len(again.lines())  # said again it changes nothing
    (tmp_path / rows.PLACE).unlink()
    with pytest.raises(ValueError, match="fabrica outbox --database"):
        Outbox(tmp_path)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_move_that_was_cut_off_is_ended_by_the_same_words(
    when: str, record: Record, postgresql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the server has all, the file is used on; after that, nothing writes anywhere until it is said again."""
    outbox, uid = _lived_in(record, tmp_path)
    before = _seen(outbox, uid)

    def cut(*_: object, **__: object) -> None:
        raise OSError("power")

    with monkeypatch.context() as away:
        away.setattr(rows, "_copy" if when == "before" else "write_whole", cut)
        with pytest.raises(OSError, match="power"):
            move(tmp_path, postgresql)
    if when == "before":
        assert _seen(Outbox(tmp_path), uid) == before
    else:
        with pytest.raises(ValueError, match="were moved"):
            Outbox(tmp_path)
    move(tmp_path, postgresql)
    assert _seen(Outbox(tmp_path), uid) == before


def test_a_place_of_another_outbox_is_refused(record: Record, postgresql: str, tmp_path: Path) -> None:
    _lived_in(record, tmp_path / "one")
    move(tmp_path / "one", postgresql)
    Outbox(tmp_path / "two").note("entered")
    with pytest.raises(ValueError, match="holds another outbox"):
        move(tmp_path / "two", postgresql)
    assert len(Outbox(tmp_path / "two").lines()) == 1
    with pytest.raises(ValueError, match="from the folder's own file alone"):
        move(tmp_path / "one", postgresql + "x")


def test_many_write_at_once_and_the_chain_holds(postgresql: str, tmp_path: Path) -> None:
    """Two programs, four threads each: every line has its place, none is lost."""
    Outbox(tmp_path)
    move(tmp_path, postgresql)
    programs = [Outbox(tmp_path) for _ in range(2)]

    def write(outbox: Outbox) -> None:
        for number in range(10):
            outbox.note("entered", number=number)

    threads = [threading.Thread(target=write, args=(one,)) for one in programs for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [line.number for line in programs[0].lines()] == list(range(1, 81))


@pytest.mark.parametrize("where", ["file", "server"])
def test_who_waits_too_long_is_refused_and_nothing_is_half_done(
    where: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fabrica.deliver.database.WAIT_S", 1)
    Outbox(tmp_path)
    if where == "server":
        move(tmp_path, request.getfixturevalue("postgresql"))
    one, other = Outbox(tmp_path), Outbox(tmp_path)
    with one._open() as db:
        ask(db, "INSERT INTO settings (name, value) VALUES ('readers', '3')")
        with pytest.raises(sql.exc.DBAPIError):
            other.note("entered")
    assert (other.readers(), other.lines()) == (3, [])


def test_a_file_that_says_where_they_lie_and_does_not(tmp_path: Path) -> None:
    for text in ("{", "{}", json.dumps({"format": 2, "place": "x"}), json.dumps({"format": 1, "place": 3})):
        (tmp_path / rows.PLACE).write_text(text)
        with pytest.raises(ValueError, match="does not say where the rows are"):
            Outbox(tmp_path)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("mysql://a@b/c", "is no database that is known"), ("/tmp/x.sqlite", "is no database that is known"),
        ("postgresql://", "is no database that is known"), ("postgresql://a@b:port/c", "names no database"),
        ("postgresql://me:secret@127.0.0.1/db", "PGPASSWORD"), ("postgresql://me@127.0.0.1:1/db", "cannot be used"),
    ],
)  # fmt: skip
def test_places_that_are_none(place: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words) as told:
        move(tmp_path, place)
    assert "secret" not in str(told.value)
    assert Outbox(tmp_path).lines() == []


def test_a_server_that_is_gone_is_said_in_words(postgresql: str, tmp_path: Path) -> None:
    move(tmp_path, postgresql)
    (tmp_path / rows.PLACE).write_text(json.dumps({"format": 1, "place": "postgresql://me@127.0.0.1:1/db"}))
    with pytest.raises(ValueError, match="Check that it runs"):
        Outbox(tmp_path)


def test_without_the_driver_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'pg8000'", name="pg8000")

    monkeypatch.setattr(sql, "create_engine", missing)
    with pytest.raises(ValueError, match=r"\.\[index\].*pg8000 is missing"):
        at_server("postgresql://me@127.0.0.1/db", "Write another.")


def test_beyond_this_machine_it_is_encrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, object]] = []
    real = sql.create_engine

    def seen(url: sql.URL, **more: object) -> sql.Engine:
        told.append(dict(more["connect_args"]))  # type: ignore[call-overload]
        return real(url, **more)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(sql, "create_engine", seen)
    monkeypatch.setenv("PGPASSWORD", "quiet")
    at_server("postgresql://me@db.example.org/x", "")
    at_server("postgresql://me@localhost/x", "")
    assert ["ssl_context" in one for one in told] == [True, False]
    assert all(one["password"] == "quiet" for one in told)


def test_a_file_is_its_owners_alone(tmp_path: Path) -> None:
    Database.in_file(tmp_path / "new" / "x.sqlite", MODELS)
    assert (tmp_path / "new" / "x.sqlite").stat().st_mode & 0o777 == 0o600
