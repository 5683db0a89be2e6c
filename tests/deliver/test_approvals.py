"""Which models may be used: a chain that only grows, signed, and obeyed."""

import json
from pathlib import Path

import pytest

from fabrica.deliver.approvals import FILE, Approvals


def test_the_last_decision_counts_and_the_last_approved_is_gone_back_to(tmp_path: Path) -> None:
    known = Approvals(tmp_path)
    assert known.current() is None
    with pytest.raises(ValueError, match="nobody approved it"):
        known.check("a", tmp_path / "run-a")
    known.decide("a", tmp_path / "run-a", "approved", "Dr A", "audited")
    known.decide("b", tmp_path / "run-b", "approved", "Dr A", "better")
    assert known.current().weights == "b"  # type: ignore[union-attr]
    known.check("a", tmp_path / "run-a")  # two may be in use
    known.decide("b", tmp_path / "run-b", "retired", "Dr B", "drifted")
    again = Approvals(tmp_path)
    assert [d.state for d in again.decisions] == ["approved", "approved", "retired"]
    assert again.current().weights == "a"  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="retired by Dr B at .*: drifted. Approved: .*run-a"):
        again.check("b", tmp_path / "run-b")
    again.decide("b", tmp_path / "run-b", "approved", "Dr A", "mended")
    again.check("b", tmp_path / "run-b")


def test_decisions_have_a_name_a_reason_and_a_change(tmp_path: Path) -> None:
    known = Approvals(tmp_path)
    for by, reason in (("", "why"), ("who", " ")):
        with pytest.raises(ValueError, match="a name and a reason"):
            known.decide("a", tmp_path, "approved", by, reason)
    with pytest.raises(ValueError, match="not approved already"):
        known.decide("a", tmp_path, "retired", "who", "why")
    known.decide("a", tmp_path, "approved", "who", "why")
    with pytest.raises(ValueError, match="approved already"):
        known.decide("a", tmp_path, "approved", "who", "why")


@pytest.mark.parametrize("fault", ["state", "order", "cut", "words"])
def test_a_chain_that_was_changed_is_not_believed(tmp_path: Path, fault: str) -> None:
    known = Approvals(tmp_path)
    known.decide("a", tmp_path, "approved", "who", "why")
    known.decide("a", tmp_path, "retired", "who", "drift")
    known.decide("b", tmp_path, "approved", "who", "why")
    path = tmp_path / FILE
    lines = path.read_text().splitlines()
    if fault == "state":
        lines[1] = json.dumps({**json.loads(lines[1]), "state": "approved"})
    if fault == "order":
        lines = [lines[1], lines[0], lines[2]]
    if fault == "cut":
        lines = [lines[0], lines[2]]
    if fault == "words":
        lines[0] = "hello"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"is not what was signed|is no decision"):
        Approvals(tmp_path)
