"""Verdicts on a run, kept beside it and obeyed by whatever lets its draws go."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["PASS", "WARN", "REFUSED", "VOID", "NOT ASSESSABLE"]
FILE = "audit/gate.json"
UNAUDITED = "unaudited"


@dataclass(frozen=True, slots=True)
class Check:
    """One verdict. `bound` is what the value is held against; `overruled` why somebody let it pass all the same."""

    verdict: Verdict
    value: float | None
    interval: tuple[float, float] | None
    bound: float | None
    reason: str
    overruled: str = ""


@dataclass(frozen=True)
class Gate:
    """All verdicts of an audit, with what was audited."""

    weights: str  # sha256 of the checkpoint
    checks: Mapping[str, Check]

    @property
    def refused(self) -> tuple[str, ...]:
        """Checks that hold draws back: refused, and not overruled."""
        return tuple(n for n, c in self.checks.items() if c.verdict == "REFUSED" and not c.overruled)

    @property
    def refused_ever(self) -> tuple[str, ...]:
        """Refused checks, overruled or not."""
        return tuple(n for n, c in self.checks.items() if c.verdict == "REFUSED")

    def overruled(self, reasons: Mapping[str, str]) -> Gate:
        """With reasons why refused checks are let pass; raises ValueError for a check that is none, or no reason."""
        for name, reason in reasons.items():
            if name not in self.checks:
                raise ValueError(f"There is no check {name!r}. Checks: {', '.join(self.checks)}.")
            if not reason.strip():
                raise ValueError(f"--override {name}= gives no reason. It stays in the gate: write one.")
        checks = {n: replace(c, overruled=reasons.get(n, c.overruled)) for n, c in self.checks.items()}
        return replace(self, checks=checks)

    def keeping(self, before: Gate | None) -> Gate:
        """With the reasons that an earlier audit of the same weights was overruled by, where it refuses again."""
        if before is None or before.weights != self.weights:
            return self
        unsure = {n for n, c in self.checks.items() if c.verdict in ("VOID", "NOT ASSESSABLE")}
        weaker = {n: _still(before.checks[n]) for n in unsure & set(before.refused_ever)}
        if weaker:
            return replace(self, checks={**self.checks, **weaker}).keeping(before.refusals(self.checks.keys() - weaker))
        earlier = {n: c.overruled for n, c in before.checks.items() if c.overruled and n in self.checks}
        return self.overruled({n: r for n, r in earlier.items() if self.checks[n].verdict == "REFUSED"})

    def refusals(self, names: Collection[str]) -> Gate:
        """Those checks alone."""
        return replace(self, checks={n: c for n, c in self.checks.items() if n in names})

    def write(self, run: Path) -> Path:
        path = run / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = {"weights": self.weights, "checks": {n: asdict(c) for n, c in self.checks.items()}}
        path.write_text(json.dumps(plain, indent=1) + "\n")
        return path

    @staticmethod
    def read(run: Path) -> Gate | None:
        """Of a run, None where it was not audited; raises ValueError for a file that is none."""
        path = run / FILE
        if not path.is_file():
            return None
        try:
            plain = json.loads(path.read_text())
            checks = {str(n): _check(c) for n, c in plain["checks"].items()}
            return Gate(str(plain["weights"]), checks)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no gate ({error}). Audit again: fabrica audit {run}") from error


STILL = " A later audit could not tell: it stays refused."


def _still(check: Check) -> Check:
    """A refusal that nothing has lifted."""
    return replace(check, reason=check.reason.removesuffix(STILL) + STILL)


def _check(plain: Mapping[str, Any]) -> Check:
    ends = plain["interval"]
    return Check(**{**plain, "interval": None if ends is None else (float(ends[0]), float(ends[1]))})


def standing(run: Path, weights: str) -> str:
    """In a word, of the weights that draw now: the refused checks, `passed`, or `unaudited`."""
    gate = Gate.read(run)
    if gate is None or gate.weights != weights:
        return UNAUDITED
    return f"REFUSED: {', '.join(gate.refused)}" if gate.refused else "passed"
