"""A rejected series: what was never sent stays, what was delivered is withdrawn where it lies."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pydicom
import pytest

from fabrica.deliver.delivery import deliver
from fabrica.deliver.destinations.folder import Folder
from fabrica.deliver.destinations.settings import destination
from fabrica.deliver.outbox import Outbox
from fabrica.deliver.record import Record
from fabrica.deliver.withdrawal import withdraw
from fabrica.generate.handover import hand_over

from .conftest import Archive

KEY_OBJECTS = "1.2.840.10008.5.1.4.1.1.88.59"


@pytest.fixture
def filled(record: Record, tmp_path: Path) -> tuple[Outbox, str]:
    outbox = Outbox(tmp_path / "outbox")
    (uid,) = hand_over(record, outbox, say=lambda _: None)
    return outbox, uid


def _silent(_: object) -> None:
    pass


class _Watched(Folder):
    """Somebody rejects the series while it goes out."""

    def __init__(self, path: Path, outbox: Outbox, uid: str) -> None:
        super().__init__(path)
        self.outbox, self.uid = outbox, uid

    def store(self, files: Sequence[Path]) -> Mapping[str, str]:
        if self.outbox.standing(self.uid) == "accept":
            self.outbox.judge(self.uid, "reject", "a vessel is missing", "Dr. B")
        return super().store(files)


def test_what_is_rejected_while_it_goes_out_is_withdrawn(filled: tuple[Outbox, str], tmp_path: Path) -> None:
    outbox, uid = filled
    to = _Watched(tmp_path / "there", outbox, uid)
    outbox.judge(uid, "accept", "looks right", "Dr. A")
    outbox.enqueue(uid, to.name)
    assert deliver(outbox, to, _silent, wait_s=0.01) == 0
    there = {p.stem for p in (tmp_path / "there").rglob("*.dcm")}
    assert {p.stem for p in outbox.files(uid)} < there  # it was on its way
    assert not {p.stem for part in outbox.parts(uid) for p in outbox.files(part)} & there  # the map was not
    assert len(set(_notes(outbox)) & there) == 1


def test_too_few_readers_send_nothing_whatever_was_queued(filled: tuple[Outbox, str], tmp_path: Path) -> None:
    outbox, uid = filled
    to = Folder(tmp_path / "there")
    outbox.ask_readers(2)
    for person in ("Dr. A", "Dr. B"):
        outbox.judge(uid, "accept", "looks right", person)
    outbox.enqueue(uid, to.name)
    outbox.judge(uid, "reject", "no", "Dr. C")
    outbox.judge(uid, "accept", "looked again", "Dr. A")
    assert outbox.waiting(to.name) == []
    outbox.judge(uid, "accept", "I too", " a  DR")
    assert outbox.waiting(to.name) == []  # the same person
    outbox.judge(uid, "accept", "yes", "Dr. B")
    assert len(outbox.waiting(to.name)) == 5


def test_an_archive_is_told(filled: tuple[Outbox, str], archive: Archive) -> None:
    outbox, uid = filled
    to = destination(archive.node)
    outbox.judge(uid, "accept", "looks right", "Dr. A")
    outbox.enqueue(uid, to.name, unreviewed=True)
    assert deliver(outbox, to, _silent, wait_s=0.1) == 0
    outbox.judge(uid, "reject", "a vessel is missing", "Zoë B")
    assert withdraw(outbox, uid) == [to.name]
    assert withdraw(outbox, uid) == [to.name]  # once more is the same object
    assert deliver(outbox, to, _silent, wait_s=0.1) == 0
    (note,) = _notes(outbox)
    there = [i["MainDicomTags"]["SOPInstanceUID"] for i in archive.ask("/instances?expand")]
    assert there.count(note) == 1
    assert len(outbox.series()) == 1  # nobody is asked to judge a withdrawal
    assert outbox.series()[0].verdict == "reject"


def _notes(outbox: Outbox) -> list[str]:
    """UIDs of Key Objects in the outbox."""
    files = (outbox.folder / "objects").rglob("*.dcm")
    return [p.stem for p in files if pydicom.dcmread(p, stop_before_pixels=True).SOPClassUID == KEY_OBJECTS]


def test_what_was_never_sent_needs_no_withdrawal(filled: tuple[Outbox, str], tmp_path: Path) -> None:
    outbox, uid = filled
    with pytest.raises(ValueError, match="is not rejected"):
        withdraw(outbox, uid)
    outbox.enqueue(uid, Folder(tmp_path / "there").name, unreviewed=True)
    outbox.judge(uid, "reject", "bone is missing", "Dr. A")
    assert withdraw(outbox, uid) == []
    assert _notes(outbox) == []
    assert deliver(outbox, Folder(tmp_path / "there"), _silent) == 0
    assert not (tmp_path / "there").exists()


def test_a_withdrawal_waits_for_nothing_once_it_is_taken_back(filled: tuple[Outbox, str], tmp_path: Path) -> None:
    outbox, uid = filled
    to = Folder(tmp_path / "there")
    outbox.enqueue(uid, to.name, unreviewed=True)
    assert deliver(outbox, to, _silent) == 0
    outbox.judge(uid, "reject", "bone is missing", "Dr. A")
    withdraw(outbox, uid)
    assert len(outbox.waiting(to.name)) == 1
    outbox.judge(uid, "accept", "it was the window", "Dr. A")
    assert outbox.waiting(to.name) == []
    outbox.judge(uid, "reject", "no, it is missing", "Dr. A")
    assert len(outbox.waiting(to.name)) == 1
    assert deliver(outbox, to, _silent) == 0
    note = next(p for p in (tmp_path / "there").rglob("*.dcm") if p.stem in _notes(outbox))
    ds = pydicom.dcmread(note)
    assert {
        r.ReferencedSOPInstanceUID
        for s in ds.CurrentRequestedProcedureEvidenceSequence
        for t in s.ReferencedSeriesSequence
        for r in t.ReferencedSOPSequence
    } == {p.stem for u in (uid, *outbox.parts(uid)) for p in outbox.files(u)}
    assert [line.event["what"] for line in outbox.trace(ds.SOPInstanceUID)][-1] == "delivered"
