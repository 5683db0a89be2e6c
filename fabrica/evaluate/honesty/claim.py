"""A claim declared before its results: one endpoint, one verb, one margin; the sentence that may be written, and the
one not.

Superiority, non-inferiority and equivalence are different verbs (EVALUATION, section 6): "no difference found" is none
of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ...machine.device import writing
from ...registry import check_type, unknown
from .. import statistics
from ..statistics import SMALLEST
from . import endpoints

ABOUT = ("images", "reconstruction", "utility", "privacy", "coverage")
VERBS = ("superiority", "non-inferiority", "equivalence")
RIVALS: Mapping[str, str] = {  # what a claim is against -> how sentences name it
    "competitor": "its competitor",
    "trivial answers": "the best trivial answer",
    "goal": "the goal",
    "real images": "real images",
}
MOST_FAILED, FEW_FAILED = 0.5, 0.05  # of the cases: where failing has a worst value, and where it has none
ARMS = ("real", "synthetic", "real + synthetic", "real, augmented")  # what a downstream model learns from


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
    against: str = "competitor"  # or trivial answers, goal, real images; of an arm: another arm
    goal: float | None = None  # in units of the endpoint
    goal_source: str = ""
    embedding: str = ""  # of a distance between sets
    arm: str = ""  # of a claim about utility: what the model learned from
    exclusions: str = ""  # who was left out, by which rule
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
        for name in ("margin", "goal", "alpha"):
            if name in plain:
                check_type(name, plain[name], float)
        for name in ("margin_source", "goal_source", "against", "embedding", "arm", "exclusions", "about", "raw_data"):
            check_type(name, plain.get(name, ""), str)
        numbers = {name: float(plain[name]) for name in ("margin", "goal", "alpha") if name in plain}
        made = Claim(**{**plain, **numbers})
        made._check()
        return made

    def _check(self) -> None:
        endpoints.directed(self.endpoint)
        if self.verb not in VERBS:
            raise unknown("verb", self.verb, list(VERBS))
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
        if self.margin is not None and not np.isfinite(self.margin):
            raise ValueError(f"margin is {self.margin}, expected a number.")
        if self.verb != "superiority" and (not self.margin or self.margin <= 0 or not self.margin_source.strip()):
            raise ValueError(
                f"{self.verb} needs a margin above 0 and where it comes from. Write: margin: 0.02, margin_source:"
                " test-retest of ..."
            )
        self._check_rival()

    def _check_rival(self) -> None:
        """Whom the claim is against, and whether that can be asked of its endpoint."""
        if self.arm:
            self._check_arms()
            return
        if self.against not in RIVALS:
            raise unknown("rival of a claim", self.against, list(RIVALS))
        if self.against == "goal" and (self.goal is None or not np.isfinite(self.goal) or not self.goal_source.strip()):
            raise ValueError(
                f"A goal is a number with its source. Write: goal: 0.9, goal_source: ... (in units of {self.endpoint})"
            )
        if self.against != "goal" and self.goal is not None:
            raise ValueError("The claim names a goal and is not against it. Write: against: goal")
        if self.endpoint in endpoints.SETS:
            self._check_sets()
        elif self.embedding:
            raise ValueError(f"{self.endpoint} needs no embedding. Leave embedding out.")
        elif self.against == "real images" and self.endpoint not in endpoints.SEGMENTED:
            raise ValueError(
                f"Real images are the truth that {self.endpoint} is measured by: no image can be as good as its truth "
                "there. Write: against: goal"
            )
        if self.endpoint in endpoints.SCORES:
            raise ValueError(
                f"{self.endpoint} is a score of a model that learned from images. Write: arm: real + synthetic, and"
                " ask: fabrica downstream RECIPE --claim FILE"
            )

    def _check_arms(self) -> None:
        for name, arm in (("arm", self.arm), ("against", self.against)):
            if arm not in ARMS:
                raise unknown(f"arm ({name})", arm, list(ARMS))
        if self.arm == self.against or self.about != "utility":
            raise ValueError(
                "A claim on what models learn from is about utility, of one arm against another. Write: about: utility,"
                " arm: real + synthetic, against: real, augmented"
            )

    def _check_sets(self) -> None:
        if not self.embedding:
            raise ValueError(f"A {self.endpoint} is measured by one embedding. Write: embedding: radiomics")
        if self.against not in ("competitor", "real images"):
            raise ValueError(
                f"A {self.endpoint} is claimed against a competitor's set or against real images. Write: against: real"
                " images"
            )
        asked = "equivalence" if self.against == "real images" else "superiority"
        if self.verb != asked:
            raise ValueError(
                f"Of a {self.endpoint}, {self.verb} against {self.against} keeps no level that was simulated. Write:"
                " verb: superiority (against a competitor), or: verb: equivalence, margin: ..., margin_source: ..."
                " (against real images)"
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
    """Write the claim's hash before any result exists; a remark when another claim was declared there before (check
    17).
    """
    ledger = folder / "claim.json"
    before = _declared(ledger)
    if claim.digest() not in [entry["sha256"] for entry in before]:
        folder.mkdir(parents=True, exist_ok=True)
        results = ("report.json", "stages/*/draws/*/*", "*/*/report/cases.csv", "*/*/scores.csv")  # folders, runs, arms
        late = any(next(folder.glob(pattern), None) is not None for pattern in results)
        entry = {"sha256": claim.digest(), **claim.__dict__, "after_results": late}
        before = [*before, entry]
        with writing(ledger):
            ledger.write_text(json.dumps(before, indent=1))
    own = next(entry for entry in before if entry["sha256"] == claim.digest())
    if own.get("after_results"):
        return "EXPLORATORY: results lay here before the claim was declared: they were known."
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
    rival: str = "",
) -> Verdict:
    """The endpoint per case of the model and of its rival against the same truth; None: failed, infinite: perfect.

    Units are patients; failed cases count as the worst value that either side reached, never as missing (checks 2 and
    19). `rival`: how sentences name it; none = by what the claim is against.
    """
    cases = sorted(ours.keys() | theirs.keys())
    people = [patients[c] for c in cases]
    n, sign = len(set(people)), endpoints.directed(claim.endpoint)
    remarks = [stamp] if stamp else []
    rival = rival or RIVALS.get(claim.against, claim.against)
    failures = {"the model": _failed(ours, cases), rival: _failed(theirs, cases)}
    if why := _no_verdict(claim, failures, len(cases), n):
        return refused(claim, why, n, remarks)
    bounds = endpoints.bounds_of(claim.endpoint, [*ours.values(), *theirs.values()])
    if bounds is None:
        return refused(
            claim, f"no case has a finite {claim.endpoint}: are the images copies of their references?", n, remarks
        )
    a, b = ([endpoints.filled(side.get(c), bounds, sign) for c in cases] for side in (ours, theirs))
    if failed := sum(failures.values()):
        remarks.append(f"{failed} failed cases count as the worst value, {bounds[0]:.4g}.")
    if a == b:
        return refused(claim, "both sides are equal in every case. Is one folder a copy of the other?", n, remarks)
    return _tested(claim, a, b, people, float(sign), remarks, rival)


def _failed(side: Mapping[str, float | None], cases: Sequence[str]) -> int:
    return sum((v := side.get(c)) is None or np.isnan(v) for c in cases)


def _no_verdict(claim: Claim, failures: Mapping[str, int], cases: int, patients: int) -> str:
    """Why so many cases of so many patients carry no verdict; '' when they do. `failures`: whose, how many."""
    for name, failed in failures.items():
        if failed == cases:
            return f"no case of {name} could be measured. Are its files named as the references?"
    if patients < SMALLEST:
        return f"{patients} patients, at least {SMALLEST} are needed."
    ends = claim.endpoint in endpoints.WORST
    most, scale = (
        (MOST_FAILED, "")
        if ends
        else (FEW_FAILED, f", and {claim.endpoint} has no worst value that they could count as")
    )
    for name, failed in failures.items():
        if failed > most * cases:
            return f"{failed} of {cases} cases of {name} failed{scale}: at most {most:.0%} may."
    return ""


def refused(claim: Claim, why: str, patients: int, remarks: Sequence[str] = ()) -> Verdict:
    """Nothing may be claimed, and why."""
    return Verdict(
        claim,
        claim.digest(),
        "REFUSED",
        f"Nothing may be claimed: {why}",
        claim.claim,
        patients,
        remarks=tuple(remarks),
    )


def _tested(
    claim: Claim,
    a: Sequence[float],
    b: Sequence[float],
    people: Sequence[str],
    sign: float,
    remarks: list[str],
    rival: str,
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
    may, may_not = sentences(claim, good, figures, rival)
    return Verdict(
        claim, claim.digest(), "SUPPORTED" if good else "NOT SUPPORTED", may, may_not, n, test.value,
        (float(bounds[0]), float(bounds[1])), None if np.isnan(p) else p, detectable, tuple(remarks),
    )  # fmt: skip


def sentences(claim: Claim, good: bool, figures: str, rival: str) -> tuple[str, str]:
    """(what may be written, what may not)."""
    margin = claim.margin or 0.0
    words = {
        "superiority": (f"is better than {rival}", f"does as well as {rival}"),
        "non-inferiority": (f"is not worse than {rival} by more than {margin:g}", f"is better than {rival}"),
        "equivalence": (f"is equivalent to {rival} within {margin:g}", f"is better or worse than {rival}"),
    }
    said, other = words[claim.verb]
    where = f"in {claim.population} ({figures})"
    who = f"the model that learned from {claim.arm} images" if claim.arm else "the model"
    if good:
        return (
            f"On the endpoint {claim.endpoint} {who} {said} {where}.",
            f"That {who} {other}; that this holds elsewhere.",
        )
    return (
        f"It was not shown that {who} {said} {where}.",
        f"That {who} {said}; nor that there is no difference: a test that finds none proves none.",
    )
