"""A claim declared before its results: one endpoint, one verb, one margin; the sentence that may be written, and the one not.

Superiority, non-inferiority and equivalence are different verbs (EVALUATION, section 6): "no difference found" is none of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..registry import check_type, unknown
from . import statistics
from .pixel import METRICS
from .statistics import SMALLEST

ABOUT = ("images", "reconstruction", "utility", "privacy", "coverage")
VERBS = ("superiority", "non-inferiority", "equivalence")


@dataclass(frozen=True)
class Claim:
    """What `claim.yaml` says. The margin is in units of the endpoint; superiority has none."""

    claim: str
    endpoint: str
    verb: str
    population: str
    margin: float | None = None
    margin_source: str = ""
    alpha: float = 0.05
    about: str = "images"
    raw_data: str = "measured"  # or simulated: of a claim about reconstruction
    seeds_started: int | None = None  # trainings begun
    seeds_reported: int | None = None  # trainings whose results are in

    @staticmethod
    def of(plain: Any) -> Claim:
        """Strictly from plain data; raises ValueError with the line to type."""
        known = {f.name: f for f in fields(Claim)}
        if not isinstance(plain, Mapping):
            raise ValueError(
                "A claim is a block of keys. Write: claim: ..., endpoint: ssim, verb: superiority, population: ..."
            )
        for key in plain:
            if key not in known:
                raise unknown("key of a claim", str(key), list(known))
        for name in ("claim", "endpoint", "verb", "population"):
            if not isinstance(plain.get(name), str) or not plain[name].strip():
                raise ValueError(f"The claim lacks {name}. Write: {name}: ...")
        if "margin" in plain:
            check_type("margin", plain["margin"], float)
        check_type("alpha", plain.get("alpha", 0.05), float)
        check_type("margin_source", plain.get("margin_source", ""), str)
        margin, alpha = plain.get("margin"), plain.get("alpha", 0.05)
        made = Claim(
            plain["claim"], plain["endpoint"], plain["verb"], plain["population"], None if margin is None else float(margin),
            plain.get("margin_source", ""), float(alpha), **{k: plain[k] for k in ("about", "raw_data", "seeds_started", "seeds_reported") if k in plain},
        )  # fmt: skip
        made._check()
        return made

    def _check(self) -> None:
        if self.endpoint not in METRICS:
            raise unknown("endpoint", self.endpoint, list(METRICS))
        if self.verb not in VERBS:
            raise unknown("verb", self.verb, list(VERBS))
        if METRICS[self.endpoint].better == "neither":
            raise ValueError(f"{self.endpoint} has no better direction, so no claim can rest on it.")
        if self.about not in ABOUT:
            raise unknown("subject of a claim", str(self.about), list(ABOUT))
        if self.raw_data not in ("measured", "simulated"):
            raise unknown("kind of raw_data", str(self.raw_data), ["measured", "simulated"])
        for name in ("seeds_started", "seeds_reported"):
            check_type(name, getattr(self, name), int | None)
        if (self.seeds_started is None) != (self.seeds_reported is None):
            raise ValueError("A claim says both numbers of seeds. Write: seeds_started: 5, seeds_reported: 5")
        if not 0 < self.alpha < 0.5:
            raise ValueError(f"alpha is {self.alpha}, expected a share such as 0.05.")
        if self.verb == "superiority" and self.margin is not None:
            raise ValueError("Superiority has no margin. Leave margin out, or write: verb: non-inferiority")
        if self.verb != "superiority" and (not self.margin or self.margin <= 0 or not self.margin_source.strip()):
            raise ValueError(
                f"{self.verb} needs a margin above 0 and where it comes from. Write: margin: 0.02, margin_source: test-retest of ..."
            )

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.__dict__, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Verdict:
    """What came of a claim; `status` is SUPPORTED, NOT SUPPORTED or REFUSED."""

    claim: Claim
    digest: str
    status: str
    may: str
    may_not: str
    patients: int
    difference: float | None = None
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    detectable: float | None = None  # smallest true difference found with 80 % power at this number of patients
    remarks: tuple[str, ...] = ()


def declare(claim: Claim, folder: Path) -> str:
    """Write the claim's hash before any result exists; a remark when another claim was declared there before (check 17)."""
    ledger = folder / "claim.json"
    before = _declared(ledger)
    if claim.digest() not in [entry["sha256"] for entry in before]:
        folder.mkdir(parents=True, exist_ok=True)
        late = (folder / "report.json").is_file()
        entry = {"sha256": claim.digest(), **claim.__dict__, "after_results": late}
        before = [*before, entry]
        ledger.write_text(json.dumps(before, indent=1))
    own = next(entry for entry in before if entry["sha256"] == claim.digest())
    if own.get("after_results"):
        return "EXPLORATORY: a report lay here before the claim was declared; its results were known."
    if before and before[0]["sha256"] != claim.digest():
        return "EXPLORATORY: another claim was declared here first; results were known before this one."
    return ""


def _declared(ledger: Path) -> list[dict[str, Any]]:
    """What was declared in a folder before; raises ValueError when that can no longer be read."""
    try:
        before = json.loads(ledger.read_text()) if ledger.is_file() else []
        if isinstance(before, list) and all(isinstance(entry.get("sha256"), str) for entry in before):
            return before
    except (ValueError, AttributeError):
        pass
    raise ValueError(f"{ledger} is damaged: what was declared before is unknown. Judge into another folder: --out DIR")


def judge(
    claim: Claim,
    ours: Mapping[str, float | None],
    theirs: Mapping[str, float | None],
    patients: Mapping[str, str],
    stamp: str = "",
) -> Verdict:
    """The endpoint per case of the model and of its competitor against the same truth; None: failed, infinite: perfect.

    Units are patients; failed cases count as the worst value that either side reached, never as missing (checks 2 and 19).
    """
    cases = sorted(ours.keys() | theirs.keys())
    people = [patients[c] for c in cases]
    n = len(set(people))
    sign = 1.0 if METRICS[claim.endpoint].better == "higher" else -1.0
    remarks = [stamp] if stamp else []
    known = [v for side in (ours, theirs) for v in side.values() if v is not None and np.isfinite(v)]
    if n < SMALLEST or not known:
        why = f"{n} patients, at least {SMALLEST} are needed" if known else "no case could be measured"
        return Verdict(
            claim, claim.digest(), "REFUSED", f"Nothing may be claimed: {why}.", claim.claim, n, remarks=tuple(remarks)
        )
    worst, best = sign * min(sign * v for v in known), sign * max(sign * v for v in known)
    a, b = (_filled(side, cases, worst, best) for side in (ours, theirs))
    if failed := sum(c not in side or side[c] is None for side in (ours, theirs) for c in cases):
        remarks.append(f"{failed} failed cases count as the worst value, {worst:.4g}.")
    if a == b:
        text = "Nothing may be claimed: both sides are equal in every case. Is one folder a copy of the other?"
        return Verdict(claim, claim.digest(), "REFUSED", text, claim.claim, n, remarks=tuple(remarks))
    return _tested(claim, a, b, people, sign, remarks)


def _filled(side: Mapping[str, float | None], cases: Sequence[str], worst: float, best: float) -> list[float]:
    """Failed cases at the worst value, infinitely good ones at the best finite one."""
    values = [side.get(c) for c in cases]
    return [worst if v is None or np.isnan(v) else best if np.isinf(v) else float(v) for v in values]


def _tested(
    claim: Claim, a: Sequence[float], b: Sequence[float], people: Sequence[str], sign: float, remarks: list[str]
) -> Verdict:
    test = statistics.paired_test(a, b, people, level=1 - claim.alpha)
    means = statistics.per_patient(np.subtract(a, b), people)[0]
    n, spread = len(means), float(means.std(ddof=1))
    detectable = float(statistics.minimum_detectable_effect(n, alpha=claim.alpha)) * spread
    bounds, p = test.interval or (test.value, test.value), float(test.p_value if test.p_value is not None else 1.0)
    margin = claim.margin or 0.0
    if claim.verb == "superiority":
        good = p < claim.alpha and sign * test.value > 0
    elif claim.verb == "non-inferiority":
        bounds = statistics.interval(np.subtract(a, b), people, level=1 - 2 * claim.alpha).interval or bounds
        good, p = (bounds[0] > -margin if sign > 0 else bounds[1] < margin), float("nan")
    else:
        found = statistics.equivalence_test(a, b, people, margin=margin, level=1 - claim.alpha)
        bounds, p = found.interval or bounds, float(found.p_value if found.p_value is not None else 1.0)
        good = p < claim.alpha
    figures = f"{claim.endpoint} differs by {test.value:+.4g} ({bounds[0]:.4g} to {bounds[1]:.4g}), {n} patients"
    may, may_not = _sentences(claim, good, figures, margin)
    return Verdict(
        claim, claim.digest(), "SUPPORTED" if good else "NOT SUPPORTED", may, may_not, n, test.value,
        (float(bounds[0]), float(bounds[1])), None if np.isnan(p) else p, detectable, tuple(remarks),
    )  # fmt: skip


def _sentences(claim: Claim, good: bool, figures: str, margin: float) -> tuple[str, str]:
    """(what may be written, what may not)."""
    words = {
        "superiority": ("is better than its competitor", "does as well as its competitor"),
        "non-inferiority": (
            f"is not worse than its competitor by more than {margin:g}",
            "is better than its competitor",
        ),
        "equivalence": (f"is equivalent to its competitor within {margin:g}", "is better or worse than its competitor"),
    }
    said, other = words[claim.verb]
    where = f"in {claim.population} ({figures})"
    if good:
        return (
            f"On the endpoint {claim.endpoint} the model {said} {where}.",
            f"That the model {other}; that this holds elsewhere.",
        )
    return (
        f"It was not shown that the model {said} {where}.",
        f"That the model {said}; nor that there is no difference: a test that finds none proves none.",
    )
