"""The way out: folder, DICOMweb and DICOM node of a real archive; crashes, refusals, changed files; the ledger."""

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from sqlalchemy.exc import DBAPIError

from fabrica.deliver.delivery import deliver
from fabrica.deliver.destinations.destination import Destination, UnreachableError, difference
from fabrica.deliver.destinations.dicomweb import Dicomweb
from fabrica.deliver.destinations.dimse import Dimse
from fabrica.deliver.destinations.folder import Folder
from fabrica.deliver.destinations.settings import destination
from fabrica.deliver.objects.marking import Series
from fabrica.deliver.outbox import Outbox
from fabrica.deliver.record import Record
from fabrica.deliver.rows import move
from fabrica.generate.handover import hand_over
from fabrica.machine.folders import alone

from ..servers import free_port
from .conftest import Archive


def _silent(_: object) -> None:
    pass


@pytest.fixture(params=["file", "server"])
def filled(request: pytest.FixtureRequest, record: Record, tmp_path: Path) -> tuple[Outbox, str]:
    """Its rows in a file of its own, and in PostgreSQL."""
    outbox = Outbox(tmp_path / "outbox")
    if request.param == "server":
        move(outbox.folder, request.getfixturevalue("postgresql"))
        outbox = Outbox(outbox.folder)
    (uid,) = hand_over(record, outbox, say=_silent)
    return outbox, uid


def _all(outbox: Outbox, uid: str) -> list[Path]:
    """The four slices of a series, and the map of their spread that goes with it."""
    found = [path for series in (uid, *outbox.parts(uid)) for path in outbox.files(series)]
    assert len(found) == 5
    return found


@pytest.mark.parametrize("kind", ["web", "node"])
def test_a_real_archive_keeps_the_series_and_gives_it_back(
    kind: str, filled: tuple[Outbox, str], archive: Archive
) -> None:
    outbox, uid = filled
    to = destination(archive.web if kind == "web" else archive.node)
    outbox.enqueue(uid, to.name, unreviewed=True)
    said: list[str] = []
    assert deliver(outbox, to, said.append, wait_s=0.1) == 0, said
    first = pydicom.dcmread(outbox.files(uid)[0])
    back = list(to.fetch(str(first.StudyInstanceUID), uid))
    assert len(back) == len(outbox.files(uid))
    for path in outbox.files(uid):
        ours = pydicom.dcmread(path)
        (theirs,) = [d for d in back if d.SOPInstanceUID == ours.SOPInstanceUID]
        assert (ours.pixel_array == theirs.pixel_array).all()
        assert (theirs.SyntheticData, theirs.ContentQualification) == ("YES", "RESEARCH")
        assert str(theirs.PatientName) == "Ünal^Zoë"
    assert [line.event["what"] for line in outbox.trace(str(first.SOPInstanceUID))] == ["made", "delivered"]
    assert deliver(outbox, to, said.append) == 0  # nothing is sent a second time
    (part,) = outbox.parts(uid)
    (map_back,) = to.fetch(str(first.StudyInstanceUID), part)
    ours = pydicom.dcmread(outbox.files(part)[0])
    assert difference(ours, map_back) == ""
    assert (ours.pixel_array == map_back.pixel_array).all()
    assert len(archive.ask("/series")) == 2


def test_a_node_that_does_not_know_us_refuses(
    filled: tuple[Outbox, str], archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox, uid = filled
    monkeypatch.setenv("FABRICA_AE", "STRANGER")
    monkeypatch.setattr("fabrica.deliver.destinations.destination.TIMEOUT_S", 2)  # it says nothing at all
    to = destination(archive.node)
    outbox.enqueue(uid, to.name, unreviewed=True)
    said: list[str] = []
    assert deliver(outbox, to, said.append, tries=1) == len(_all(outbox, uid))
    assert any("C-STORE: no answer" in line or "it must know STRANGER" in line for line in said), said


def test_a_server_that_does_not_answer_loses_nothing(filled: tuple[Outbox, str]) -> None:
    outbox, uid = filled
    for where in (f"dicomweb:http://127.0.0.1:{free_port()}/dicom-web", f"dimse:X@127.0.0.1:{free_port()}"):
        to, said = destination(where), list[str]()
        outbox.enqueue(uid, to.name, unreviewed=True)
        assert deliver(outbox, to, said.append, tries=2, wait_s=0.01) == len(_all(outbox, uid))
        assert said
        assert len(outbox.waiting(to.name)) == len(_all(outbox, uid))


def test_a_folder_keeps_whole_files(filled: tuple[Outbox, str], tmp_path: Path) -> None:
    outbox, uid = filled
    to = destination(f"folder:{tmp_path / 'there'}")
    outbox.enqueue(uid, to.name, unreviewed=True)
    assert deliver(outbox, to, _silent) == 0
    files = sorted((tmp_path / "there").rglob("*.dcm"))
    assert sorted(p.read_bytes() for p in files) == sorted(p.read_bytes() for p in _all(outbox, uid))
    files[0].write_bytes(b"other")
    other = Outbox(tmp_path / "again")
    assert Folder(tmp_path / "there").store([outbox.files(uid)[0], *outbox.files(uid)[1:]]) or other


class Careless(Destination):
    """An archive that changes, forgets or refuses what it is given."""

    name = "careless"

    def __init__(self, fault: str) -> None:
        self.fault, self.kept = fault, dict[str, Any]()
        self.stored = 0

    def store(self, files: Sequence[Path]) -> Mapping[str, str]:
        for number, file in enumerate(files):
            ds = pydicom.dcmread(file)
            self.stored += 1
            if self.fault == "pixels":
                name = "PixelData" if "PixelData" in ds else "FloatPixelData"
                setattr(ds, name, bytes(len(ds[name].value)))
            if self.fault == "mark":
                ds.SyntheticData = "NO"
            if self.fault == "forgets" and number == 1:
                continue
            self.kept[str(ds.SOPInstanceUID)] = ds
        if self.fault == "breaks":
            self.fault = ""
            raise UnreachableError("broke off")
        return {}

    def fetch(self, study: str, series: str) -> Iterator[Any]:
        yield from self.kept.values()


@pytest.mark.parametrize(("fault", "left"), [("pixels", 4), ("mark", 5), ("forgets", 1)])  # their spread is 0 as it is
def test_what_does_not_come_back_equal_is_not_delivered(fault: str, left: int, filled: tuple[Outbox, str]) -> None:
    outbox, uid = filled
    to, said = Careless(fault), list[str]()
    outbox.enqueue(uid, to.name, unreviewed=True)
    assert deliver(outbox, to, said.append, tries=1) == left
    assert any("came back changed" in s or "not there when read back" in s for s in said)


def test_what_was_sent_before_a_break_is_asked_for_and_not_sent_again(filled: tuple[Outbox, str]) -> None:
    outbox, uid = filled
    to = Careless("breaks")
    outbox.enqueue(uid, to.name, unreviewed=True)
    assert deliver(outbox, to, _silent, tries=2, wait_s=0.01) == 0
    assert to.stored == len(_all(outbox, uid))


def test_a_program_that_is_killed_while_sending_goes_on_where_it_was(
    filled: tuple[Outbox, str], tmp_path: Path
) -> None:
    """kill -9 after the archive has taken half: all arrives, nothing twice, each has one line of delivery."""
    outbox, uid = filled
    there = tmp_path / "there"
    outbox.enqueue(uid, Folder(there).name, unreviewed=True)
    script = f"""
        import os, signal
        from pathlib import Path
        from fabrica.deliver.destinations.folder import Folder
        from fabrica.deliver.delivery import deliver
        from fabrica.deliver.outbox import Outbox
        class Dying(Folder):
            def store(self, files):
                super().store(files[:2])
                os.kill(os.getpid(), signal.SIGKILL)
        to = Dying(Path({str(there)!r}))
        deliver(Outbox(Path({str(outbox.folder)!r})), to)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert len(list(there.rglob("*.dcm"))) == 2
    again = Outbox(outbox.folder)
    assert len(again.waiting(Folder(there).name)) == 5
    assert deliver(again, Folder(there), _silent) == 0
    assert len(list(there.rglob("*.dcm"))) == 5
    told = [line for path in _all(outbox, uid) for line in again.trace(path.stem) if line.event["what"] == "delivered"]
    assert len(told) == 5


def test_a_stored_file_that_was_changed_is_never_sent(
    filled: tuple[Outbox, str], record: Record, tmp_path: Path
) -> None:
    """It is said, and holds no other series up."""
    outbox, uid = filled
    (other,) = hand_over(record, outbox, which="0", say=_silent)
    path = outbox.files(uid)[0]
    os.chmod(path, 0o600)
    path.write_bytes(path.read_bytes()[:-2] + b"\1\1")
    to, said = Folder(tmp_path / "there"), list[str]()
    for series in (uid, other):
        outbox.enqueue(series, to.name, parts=False, unreviewed=True)
    assert deliver(outbox, to, said.append, tries=1) == 4
    assert any("was changed after it was made" in line for line in said)
    assert {p.parent.name for p in (tmp_path / "there").rglob("*.dcm")} == {other}


def test_the_same_draw_of_another_day_is_the_series_that_is_known(record: Record, tmp_path: Path) -> None:
    """Drawn again to the same pixels, also by a node that was killed between two steps."""
    outbox = Outbox(tmp_path)
    (uid,) = hand_over(record, outbox, say=_silent)
    before = [p.read_bytes() for p in outbox.files(uid)]
    assert hand_over(replace(record, made="2031-01-01T00:00:00+00:00"), outbox, say=_silent) == [uid]
    assert [p.read_bytes() for p in outbox.files(uid)] == before
    left = Outbox(tmp_path / "left")
    target = left.file(uid, outbox.files(uid)[0].stem)
    target.parent.mkdir(parents=True)
    target.write_bytes(b"of a crash before any row was written")
    assert hand_over(record, left, say=_silent) == [uid]
    assert [p.read_bytes() for p in left.files(uid)] == before


def test_two_processes_do_not_undo_what_one_delivered(filled: tuple[Outbox, str]) -> None:
    outbox, uid = filled
    outbox.enqueue(uid, "x", parts=False, unreviewed=True)
    names = [w.instance for w in outbox.waiting("x")]
    assert outbox.attempted("x", names) == names
    outbox.delivered("x", names, "seen")
    assert outbox.attempted("x", names) == []
    outbox.failed("x", dict.fromkeys(names, "late"))
    assert outbox.waiting("x") == []


def test_draws_are_made_once_and_each_by_itself(record: Record, tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    (mean,) = hand_over(record, outbox, say=_silent)
    assert hand_over(record, outbox, say=_silent) == [mean]
    each = hand_over(record, outbox, which="all", say=_silent)
    assert len({mean, *each}) == 3
    assert hand_over(record, outbox, which="1", say=_silent) == [each[1]]
    with pytest.raises(ValueError, match="Write mean, all"):
        hand_over(record, outbox, which="7", say=_silent)


def test_a_known_series_with_other_content_is_refused(filled: tuple[Outbox, str]) -> None:
    """One UID, one content: whatever claims the same UID with other pixels is not written."""
    outbox, uid = filled
    before = {path: path.read_bytes() for path in outbox.files(uid)}
    datasets = tuple(pydicom.dcmread(path) for path in before)
    assert outbox.add(Series(uid, datasets), (), {}) is False
    datasets[0].PixelData = bytes(len(datasets[0].PixelData))
    with pytest.raises(ValueError, match="is known with other content"):
        outbox.add(Series(uid, datasets), (), {})
    assert {path: path.read_bytes() for path in outbox.files(uid)} == before


def test_the_ledger_can_only_grow(filled: tuple[Outbox, str]) -> None:
    outbox, uid = filled
    outbox.judge(uid, "accept", "looks right", "Dr. A")
    assert outbox.series()[0].verdict == "accept"
    at_server = bool(outbox.place)
    planted = ["UPDATE ledger SET event = '{}' WHERE number = 1", "DELETE FROM ledger WHERE number = 2"]
    for statement in planted + ["TRUNCATE ledger"] * at_server:
        with pytest.raises(DBAPIError, match="the ledger is not"), outbox._open() as db:
            db.exec_driver_sql(statement)
    with outbox._open() as db:
        db.exec_driver_sql("DROP TRIGGER ledger_is_not_changed" + " ON ledger" * at_server)
        db.exec_driver_sql("UPDATE ledger SET event = replace(event, 'seed', 'seEd') WHERE number = 2")
    with pytest.raises(ValueError, match="Line 2 of the ledger"):
        outbox.trace(uid)
    for verdict, reason, person in (("accept", "", "A"), ("accept", "x", " "), ("maybe", "x", "A")):
        with pytest.raises(ValueError, match="with a reason and the name"):
            outbox.judge(uid, verdict, reason, person)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ftp:x", "is no destination"), ("folder:", "is no destination"), ("dicomweb:pacs", "is no address"),
        ("dicomweb:http://pacs.example/dicom-web", "unencrypted"), ("dicomweb:https://a:b@pacs/x", "no part of an address"),
        ("dimse:AE@host", "is no DICOM node"), ("dimse:AE@host:99999", "is no DICOM node"),
    ],
)  # fmt: skip
def test_destinations_that_are_none(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        destination(text)


def test_destinations_that_are_some() -> None:
    assert isinstance(destination("dicomweb:https://pacs.example/dicom-web"), Dicomweb)
    assert isinstance(destination("dimse:PACS@10.0.0.1:104"), Dimse)


def test_differences_are_named(filled: tuple[Outbox, str]) -> None:
    outbox, uid = filled
    one, two = (pydicom.dcmread(outbox.files(uid)[0]) for _ in range(2))
    assert difference(one, two) == ""
    two.ImagePositionPatient = [0, 0, 0]
    assert difference(one, two) == "its ImagePositionPatient came back changed"


def test_what_a_person_rejects_while_it_waits_is_not_sent(filled: tuple[Outbox, str], tmp_path: Path) -> None:
    """Accepted and queued, the archive was away, then somebody looked again: nothing goes out, asked or unasked."""
    outbox, uid = filled
    to = Folder(tmp_path / "there")
    outbox.judge(uid, "accept", "looks right", "Dr. A")
    outbox.enqueue(uid, to.name, unreviewed=True)
    outbox.judge(uid, "reject", "bone is missing", "Dr. B")
    assert outbox.waiting(to.name) == []
    assert deliver(outbox, to, _silent) == 0
    assert not (tmp_path / "there").exists()
    outbox.judge(uid, "accept", "it was the window", "Dr. B")
    assert deliver(outbox, to, _silent) == 0
    assert len(list((tmp_path / "there").rglob("*.dcm"))) == 5


@pytest.mark.parametrize(
    ("kind", "module"), [("dicomweb:https://pacs.example/x", "requests"), ("dimse:A@127.0.0.1:104", "pynetdicom")]
)
def test_without_the_extra_it_says_what_to_install(
    kind: str, module: str, filled: tuple[Outbox, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox, uid = filled
    to = destination(kind)
    monkeypatch.setitem(sys.modules, module, None)
    for asked in (lambda: to.store(outbox.files(uid)), lambda: list(to.fetch("1.2", "1.3"))):
        with pytest.raises(UnreachableError, match="clinic"):
            asked()


@pytest.mark.parametrize("filled", ["file"], indirect=True)
def test_an_outbox_of_an_earlier_version_is_used_on(filled: tuple[Outbox, str], tmp_path: Path) -> None:
    """Without the columns that came later, as those who used it before have it."""
    outbox, uid = filled
    outbox.judge(uid, "reject", "bone is missing", "Dr. A")
    outbox.judge(uid, "accept", "it was the window", "Dr. B")
    db = sqlite3.connect(outbox.folder / "delivery.sqlite")
    (part,) = outbox.parts(uid)
    for name in ("queue", "instances", "series"):
        column = "instance" if name == "queue" else "uid" if name == "series" else "series"
        db.execute(f"DELETE FROM {name} WHERE {column} = ?", (part,))
    db.execute("ALTER TABLE series DROP COLUMN part_of")
    db.execute("ALTER TABLE series DROP COLUMN withdraws")
    db.execute("ALTER TABLE queue DROP COLUMN unreviewed")
    db.execute("CREATE TABLE older AS SELECT series, verdict, reason, person, time FROM verdicts")
    db.execute("DROP TABLE verdicts")
    db.execute("ALTER TABLE older RENAME TO verdicts")
    db.commit()
    db.close()
    again = Outbox(outbox.folder)
    assert [(s.uid, s.verdict, s.person) for s in again.series()] == [(uid, "accept", "Dr. B")]
    assert [number for number, _ in again.verdicts_after(0)] == [1, 2]
    to = Folder(tmp_path / "there")
    again.enqueue(uid, to.name, unreviewed=True)
    assert deliver(again, to, _silent) == 0
    assert len(list((tmp_path / "there").rglob("*.dcm"))) == 4


def test_a_record_of_an_earlier_version_is_read_on(record: Record, tmp_path: Path) -> None:
    import json

    plain = json.loads((record.folder / "generated.json").read_text())
    plain["format"] = 1
    del plain["evidence"]
    for one in plain["images"]:
        del one["classes"]
    (tmp_path / "generated.json").write_text(json.dumps(plain))
    assert Record.read(tmp_path).images[0].classes == 0


def test_one_process_at_a_time_sends_to_a_place(filled: tuple[Outbox, str], tmp_path: Path) -> None:
    outbox, uid = filled
    to, said = Folder(tmp_path / "there"), list[str]()
    outbox.enqueue(uid, to.name, unreviewed=True)
    with alone(outbox.folder / "sending" / hashlib.sha256(to.name.encode()).hexdigest()[:16]) as first:
        assert first
        assert deliver(outbox, to, said.append) == 5
    assert said == [f"Another process is sending to {to.name}: it is left to that."]
    assert deliver(outbox, to, _silent) == 0
