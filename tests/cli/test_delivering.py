"""The verbs deliver and trace, as they are typed."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fabrica.cli import app
from fabrica.deliver.outbox import Outbox

from ..deliver.conftest import drawn, trained  # noqa: F401 (fixtures)
from ..deliver.scanner import head, write_series


def _typed(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(w) for w in words])
    return result.exit_code, result.output


def test_from_a_draw_to_a_folder_and_back(drawn: Path, tmp_path: Path) -> None:  # noqa: F811
    store, there = ["--store", tmp_path / "store"], f"folder:{tmp_path / 'there'}"
    code, said = _typed("deliver", drawn, *store)
    assert code == 0
    assert "1 series wait for a decision" in said
    code, said = _typed("deliver", drawn, "--to", there, *store)
    assert code == 1
    assert "nobody has accepted it" in said
    assert not (tmp_path / "there").exists()
    code, said = _typed("deliver", drawn, "--to", there, "--unreviewed", *store)
    assert code == 0, said
    assert len(list((tmp_path / "there").rglob("*.dcm"))) == 5
    uid = re.search(r"fabrica trace (\S+)", said)
    assert uid
    code, said = _typed("trace", uid[1], *store)
    assert code == 0
    for word in ("what made", "weights", "seed", "sources", "what delivered"):
        assert word in said
    assert _typed("trace", "1.2.3", *store)[0] == 2


def test_what_a_person_decides_is_what_happens(drawn: Path, tmp_path: Path) -> None:  # noqa: F811
    store, there = ["--store", tmp_path / "store"], f"folder:{tmp_path / 'there'}"
    _typed("deliver", drawn, *store)
    outbox = Outbox(tmp_path / "store")
    (series,) = outbox.series()
    outbox.judge(series.uid, "reject", "bone is missing", "Dr. A")
    code, said = _typed("deliver", drawn, "--to", there, "--unreviewed", *store)
    assert "rejected by Dr. A (bone is missing)" in said
    assert not (tmp_path / "there").exists()
    outbox.judge(series.uid, "accept", "looked again", "Dr. B")
    code, said = _typed("deliver", drawn, "--to", there, *store)
    assert code == 0
    assert len(list((tmp_path / "there").rglob("*.dcm"))) == 5


def test_a_run_of_simulated_patients_has_nobody_to_deliver_to(trained: Path, tmp_path: Path) -> None:  # noqa: F811
    code, said = _typed("deliver", trained, "--store", tmp_path)
    assert code == 2
    assert "--identity FILE.dcm" in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--to", "ftp:x"], "is no destination"),
        (["nowhere"], "is not a run"),
        (["--to", "dicomweb:http://pacs/x"], "unencrypted"),
    ],
)
def test_wrong_words_are_refused_in_one_line(words: list[str], told: str, tmp_path: Path) -> None:
    code, said = _typed("deliver", *words, "--store", tmp_path)
    assert code == 2
    assert told in said
    assert "Traceback" not in said


def test_the_ledger_is_checked_signed_and_handed_out(drawn: Path, tmp_path: Path) -> None:  # noqa: F811
    store = ["--store", tmp_path / "store"]
    assert _typed("ledger", "--head", tmp_path / "head.json", *store)[0] == 2  # nothing was noted yet
    _typed("deliver", drawn, "--to", f"folder:{tmp_path / 'there'}", "--unreviewed", "--evidence", *store)
    code, said = _typed("ledger", "--head", tmp_path / "head.json", "--audit", tmp_path / "audit.xml", *store)
    assert code == 0, said
    assert "every signed head agrees" in said
    assert (tmp_path / "audit.xml").read_text().count("<AuditMessage>") >= 2
    code, said = _typed("ledger", "--verify", tmp_path / "head.json", *store)
    assert code == 0
    assert "agrees" in said
    (series,) = Outbox(tmp_path / "store").series()
    code, said = _typed("trace", series.uid, "--prov", tmp_path / "prov.json", *store)
    assert code == 0
    assert "wasDerivedFrom" in (tmp_path / "prov.json").read_text()
    (tmp_path / "head.json").write_text('{"count": 9}')
    code, said = _typed("ledger", "--verify", tmp_path / "head.json", *store)
    assert code == 2
    assert "no signed head" in said


def test_identifiers_are_taken_out_of_a_folder(tmp_path: Path) -> None:
    write_series(tmp_path / "in", *head())
    (tmp_path / "in" / "notes.txt").write_text("no DICOM")
    asked = ["deidentify", tmp_path / "in", "--out", tmp_path / "out", "--key", tmp_path / "key"]
    code, said = _typed(*asked, "--dates", "shift", "--keep", "characteristics", "--descriptors")
    assert code == 1  # something was left out
    assert "4 of 5 files of 1 patients written" in said
    assert "it is no DICOM file" in said
    assert "GEN-0001" not in said
    assert _typed("deidentify", tmp_path / "nowhere", "--out", tmp_path / "out", "--key", tmp_path / "key")[0] == 2
    assert "--dates sometimes is none" in _typed(*asked, "--dates", "sometimes")[1]


def test_papers_of_a_run_are_written(trained: Path, tmp_path: Path) -> None:  # noqa: F811
    code, said = _typed("card", trained, "--out", tmp_path / "cards")
    assert code == 0, said
    assert len(list((tmp_path / "cards").iterdir())) == 5
    assert _typed("card", tmp_path)[0] == 2


def test_a_node_says_what_is_wrong_before_it_listens(trained: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "rules.yaml").write_text(f"- {{run: {trained}, to: 'folder:{tmp_path / 'there'}'}}\n")
    for words, told in (
        ([tmp_path / "none.yaml", "--caller", "A"], "There is no file"),
        ([tmp_path / "rules.yaml", "--caller", "A" * 20], "no name of a node"),
        ([tmp_path / "rules.yaml", "--caller", "A", "--address", "0.0.0.0"], "unencrypted"),
        ([tmp_path / "rules.yaml", "--caller", "A", "--port", "99999"], "ports are 0 to 65535"),
        ([tmp_path / "rules.yaml", "--caller", "A", "--port", "0", "--tls", tmp_path], "holds no ca.crt"),
    ):
        code, said = _typed("serve", *words, "--store", tmp_path / "store")
        assert (code, told in said) == (2, True), said


def test_what_is_accepted_goes_out_when_nothing_else_is_named(drawn: Path, tmp_path: Path) -> None:  # noqa: F811
    """As docs/delivery.md has it: prepared, accepted on the page, then sent."""
    store, there = ["--store", tmp_path / "store"], f"folder:{tmp_path / 'there'}"
    _typed("deliver", drawn, *store)
    assert "Nothing waits" in _typed("deliver", "--to", there, *store)[1]
    outbox = Outbox(tmp_path / "store")
    (series,) = outbox.series()
    outbox.judge(series.uid, "accept", "looks right", "Dr. A")
    code, said = _typed("deliver", "--to", there, *store)
    assert code == 0, said
    assert len(list((tmp_path / "there").rglob("*.dcm"))) == 5
    assert "Nothing waits" in _typed("deliver", "--to", f"folder:{tmp_path / 'else'}", *store)[1]  # it was sent already


def test_a_store_that_is_none_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "delivery.sqlite").write_text("no database at all, but long enough to look like one " * 50)
    code, said = _typed("ledger", "--store", tmp_path)
    assert code == 1
    assert "The database cannot be used" in said


def test_an_outbox_says_what_is_on_its_way_and_moves(drawn: Path, postgresql: str, tmp_path: Path) -> None:  # noqa: F811
    store = ["--store", tmp_path / "store"]
    _typed("deliver", drawn, *store)
    code, said = _typed("outbox", *store)
    assert (code, "1 series: 0 accepted, 0 rejected, 1 undecided" in said) == (0, True), said
    assert "delivery.sqlite" in said
    code, said = _typed("outbox", "--database", postgresql, *store)
    assert (code, "Moved: " in said, "rows lie at 127.0.0.1" in " ".join(said.split())) == (0, True, True), said
    outbox = Outbox(tmp_path / "store")
    (series,) = outbox.series()
    outbox.judge(series.uid, "accept", "looks right", "Dr. A")
    outbox.enqueue(series.uid, "away")
    assert "away: 5 instances wait" in _typed("outbox", *store)[1]
    code, said = _typed("deliver", drawn, "--to", f"folder:{tmp_path / 'there'}", *store)
    assert code == 0, said
    assert "there: all has arrived" in _typed("outbox", *store)[1]
    code, said = _typed("outbox", "--database", "mysql://x/y", "--store", tmp_path / "typo")
    assert (code, "mysql:// is no database that is known" in " ".join(said.split())) == (2, True), said
    code, said = _typed("outbox", "--store", tmp_path / "typo")
    assert (code, "holds no outbox" in " ".join(said.split()), (tmp_path / "typo").exists()) == (2, True, False), said
