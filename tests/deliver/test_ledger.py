"""The ledger's end, signed; where an image came from as W3C PROV; what was done as audit messages."""

import json
import os
import sqlite3
import sys
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree as Tree

import pytest

from fabrica.deliver import heads, signing
from fabrica.deliver.audit import messages
from fabrica.deliver.delivery import deliver
from fabrica.deliver.destinations.folder import Folder
from fabrica.deliver.outbox import Outbox
from fabrica.deliver.provenance import provenance
from fabrica.deliver.record import Record
from fabrica.deliver.withdrawal import withdraw
from fabrica.generate.handover import hand_over


@pytest.fixture
def told(record: Record, tmp_path: Path) -> tuple[Outbox, str]:
    """Made, accepted, delivered to a folder."""
    outbox = Outbox(tmp_path / "outbox")
    (uid,) = hand_over(record, outbox, say=lambda _: None)
    outbox.judge(uid, "accept", "looks right", "Dr. Á")
    to = Folder(tmp_path / "there")
    outbox.enqueue(uid, to.name, unreviewed=True)
    assert deliver(outbox, to, lambda _: None) == 0
    return outbox, uid


def _plant(outbox: Outbox, *statements: str) -> None:
    db = sqlite3.connect(outbox.folder / "delivery.sqlite")
    for trigger in ("ledger_is_not_changed", "ledger_is_not_shortened"):
        db.execute(f"DROP TRIGGER IF EXISTS {trigger}")
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()


def _written_anew(outbox: Outbox) -> None:
    """The whole chain made again after its first event was changed: no hash tells it."""
    from fabrica.deliver import ledger

    lines = [(line.time, line.about, dict(line.event)) for line in outbox.lines()]
    lines[0][2]["seed"] = 99
    _plant(outbox, "DELETE FROM ledger")
    with outbox._open() as db:
        for time, about, event in lines:
            ledger.add(db, time, about, event)


def test_an_end_that_is_cut_off_is_found_by_a_signed_head(told: tuple[Outbox, str]) -> None:
    outbox, _ = told
    head = outbox.sign()
    assert head is not None
    assert head.count == len(outbox.lines())
    _plant(outbox, f"DELETE FROM ledger WHERE number > {head.count - 2}")
    with pytest.raises(ValueError, match="its end was cut off"):
        outbox.lines()
    (outbox.folder / heads.HEADS).unlink()  # whoever cuts both is found by the head that was kept elsewhere
    lines = outbox.lines()
    with pytest.raises(ValueError, match="its end was cut off"):
        heads.check_head(outbox.folder, lines, head)


def test_a_chain_that_is_written_anew_is_found_by_a_signed_head(told: tuple[Outbox, str]) -> None:
    outbox, _ = told
    outbox.sign()
    _written_anew(outbox)
    with pytest.raises(ValueError, match="was written anew"):
        outbox.lines()


def test_a_head_of_another_key_is_refused(told: tuple[Outbox, str], tmp_path: Path) -> None:
    outbox, _ = told
    head = outbox.sign()
    assert head is not None
    for forged in (
        heads.Head(head.count, head.hash, head.time, "00" * 64),
        heads.Head(head.count - 1, head.hash, head.time, head.signature),
        heads.Head(head.count, head.hash, head.time, "no hex"),
    ):
        with pytest.raises(ValueError, match="was not signed by the key"):
            heads.check_head(outbox.folder, outbox.lines(), forged)
    with pytest.raises(ValueError, match="no signed head"):
        heads.Head.of("kind: folder")
    with pytest.raises(ValueError, match="no signed head"):
        heads.Head.of('{"count": 3}')
    (outbox.folder / signing.PUBLIC).unlink()
    with pytest.raises(ValueError, match="is gone"):
        outbox.lines()


def test_the_key_is_its_owners_alone_and_an_empty_ledger_has_no_head(
    told: tuple[Outbox, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox, _ = told
    outbox.sign()
    assert os.stat(outbox.folder / signing.KEY).st_mode & 0o777 == 0o600
    first = (outbox.folder / signing.KEY).read_bytes()
    outbox.sign()
    assert (outbox.folder / signing.KEY).read_bytes() == first
    assert len(heads.kept(outbox.folder)) == 2
    assert Outbox(tmp_path / "new").sign() is None
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    with pytest.raises(ValueError, match=r"\.\[clinic\]"):
        outbox.sign()


def test_provenance_is_read_by_its_own_library(told: tuple[Outbox, str], record: Record) -> None:
    from prov.model import ProvDerivation, ProvDocument, ProvEntity, ProvUsage

    outbox, uid = told
    text = provenance(outbox.trace(uid)).serialize(format="json")
    back = ProvDocument.deserialize(content=text, format="json")
    entities = {str(e.identifier) for e in back.get_records(ProvEntity)}
    assert f"dicom:{uid}" in entities
    assert f"fabrica:weights-{record.weights}" in entities
    for source in record.images[0].sources:
        assert f"dicom:{source.sop_instance_uid}" in entities
    derived = {str(d.args[0]) for d in back.get_records(ProvDerivation)}
    assert derived == {f"dicom:{p.stem}" for p in outbox.files(uid)}
    assert len(list(back.get_records(ProvUsage))) >= len(entities) - 3
    assert "Dr. Á" in text or "Dr. \\u00c1" in text
    assert json.loads(text)["prefix"]["fabrica"]


def test_a_withdrawal_is_told_as_well(told: tuple[Outbox, str]) -> None:
    outbox, uid = told
    outbox.judge(uid, "reject", "a vessel is missing", "Dr. B")
    withdraw(outbox, uid)
    note = [line for line in outbox.lines() if "withdraws" in line.event]
    assert len(note) == 1
    assert f"dicom:{uid}" in provenance(note).serialize(format="json")


def test_audit_messages_name_studies_and_persons_and_no_patient(told: tuple[Outbox, str]) -> None:
    outbox, _ = told
    found = list(messages(outbox.lines(), outbox.studies()))
    kinds = []
    for text in found:
        root = Tree.fromstring(text)
        assert root.tag == "AuditMessage"
        event = root.find("EventIdentification")
        assert event is not None
        assert set(event.attrib) == {"EventActionCode", "EventDateTime", "EventOutcomeIndicator"}
        kind = event.find("EventID")
        assert kind is not None
        assert set(kind.attrib) == {"csd-code", "codeSystemName", "originalText"}
        kinds.append(kind.attrib["csd-code"])
        assert len(root.findall("ParticipantObjectIdentification")) == 1
        study = root.find("ParticipantObjectIdentification").attrib["ParticipantObjectID"]  # type: ignore[union-attr]
        assert study in outbox.studies().values()
        assert root.find("AuditSourceIdentification") is not None
        for identifier in ("GEN-0001", "Ünal", "19700101"):
            assert identifier not in text.decode()
    assert set(kinds) == {"110100", "110103", "110106"}
    assert any("Dr. Á" in text.decode() for text in found)


def test_who_came_in_and_what_was_set_is_told_of_nobodys_study(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.note("entered", page="review", known=True)
    outbox.note("entered", page="review", known=False)
    outbox.note("configured", rules="0" * 64, count=2)
    outbox.ask_readers(2)
    found = [Tree.fromstring(text) for text in messages(outbox.lines(), outbox.studies())]
    events = [root.find("EventIdentification") for root in found]
    assert [e.attrib["EventOutcomeIndicator"] for e in events if e is not None] == ["0", "4", "0", "0"]
    codes = [root.find("EventIdentification/EventTypeCode").attrib["csd-code"] for root in found]  # type: ignore[union-attr]
    assert codes == ["110122", "110122", "110131", "110131"]
    assert all(root.find("ParticipantObjectIdentification") is None for root in found)


def test_heads_are_written_as_plain_text(told: tuple[Outbox, str]) -> None:
    outbox, _ = told
    head = outbox.sign()
    assert head is not None
    (line,) = (outbox.folder / heads.HEADS).read_text().splitlines()
    assert heads.Head.of(line) == head
    assert asdict(head)["count"] == head.count


def test_a_head_that_a_full_disk_cut_off_was_never_kept(told: tuple[Outbox, str]) -> None:
    outbox, _ = told
    outbox.sign()
    path = outbox.folder / heads.HEADS
    whole = path.read_text()
    path.write_text(whole + whole[: len(whole) // 2])
    assert len(outbox.lines()) == heads.kept(outbox.folder)[0].count
    outbox.sign()
    assert [h.count for h in heads.kept(outbox.folder)] == [len(outbox.lines())] * 2


def test_a_key_without_its_public_half_is_made_whole_before_anything_was_signed(told: tuple[Outbox, str]) -> None:
    """A crash between the two files."""
    outbox, _ = told
    outbox.sign()
    for name in (signing.PUBLIC, heads.HEADS):
        (outbox.folder / name).unlink()
    outbox.sign()
    assert len(outbox.lines()) > 0
