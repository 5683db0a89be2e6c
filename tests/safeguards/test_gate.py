"""What a gate keeps of an earlier audit: a refusal that a later one cannot lift, and the reasons of whoever overruled."""

import pytest

from fabrica.safeguards.gate import STILL, Check, Gate


def _check(verdict: str, overruled: str = "") -> Check:
    return Check(verdict, 0.3, None, 0.1, "Copies were found.", overruled)  # type: ignore[arg-type]


def test_a_refusal_stays_where_a_later_audit_cannot_tell() -> None:
    before = Gate("w", {"copies": _check("REFUSED", "seen, harmless"), "shift": _check("PASS")})
    for unsure in ("VOID", "NOT ASSESSABLE"):
        after = Gate("w", {"copies": _check(unsure), "shift": _check("PASS")}).keeping(before)
        assert after.checks["copies"].verdict == "REFUSED"
        assert after.checks["copies"].reason.endswith(STILL)
        assert after.checks["copies"].overruled == "seen, harmless"
        again = Gate("w", {"copies": _check(unsure), "shift": _check("PASS")}).keeping(after)
        assert again.checks["copies"].reason.count(STILL) == 1


def test_other_weights_and_better_verdicts_begin_anew() -> None:
    before = Gate("w", {"copies": _check("REFUSED", "seen")})
    assert Gate("other", {"copies": _check("VOID")}).keeping(before).checks["copies"].verdict == "VOID"
    assert Gate("w", {"copies": _check("PASS")}).keeping(before).checks["copies"] == _check("PASS")
    assert Gate("w", {"copies": _check("REFUSED")}).keeping(before).checks["copies"].overruled == "seen"


def test_overruling_needs_a_check_and_a_reason() -> None:
    gate = Gate("w", {"copies": _check("REFUSED")})
    with pytest.raises(ValueError, match="There is no check 'copy'. Checks: copies"):
        gate.overruled({"copy": "why not"})
    with pytest.raises(ValueError, match="gives no reason"):
        gate.overruled({"copies": " "})
