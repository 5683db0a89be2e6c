"""The verbs deliver and trace, as they are typed."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fabrica.cli import app
from fabrica.deliver.outbox import Outbox

from ..deliver.conftest import drawn, trained  # noqa: F401 (fixtures)


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
