"""An audit from its beginning to the gate that remembers it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ..data.cohort import Source
from ..evaluate.sets.embedding import Embedding
from ..machine.executors import Executor, Local
from ..safeguards.fairness import fairness_check
from ..safeguards.gate import Check, Gate
from ..safeguards.privacy.copies import copies_check
from ..safeguards.privacy.gallery import gallery
from ..safeguards.privacy.membership import membership_check
from ..safeguards.sites import in_words
from .groups import amplified, copied, fairness
from .page import Evidence, write_page
from .privacy import CopiesFound, MembershipFound, apart, canaries, copies, membership
from .scans import ladder, robustness_check, shift, sites
from .subject import Say, Subject

COPIES, MEMBERSHIP, CANARIES, SHIFT, FAIRNESS, ROBUSTNESS = (
    "copies", "membership", "canaries", "shift", "fairness", "robustness",
)  # fmt: skip
CHECKS = (COPIES, MEMBERSHIP, CANARIES, SHIFT, FAIRNESS, ROBUSTNESS)


@dataclass(frozen=True)
class Asked:
    """What an audit is told. `draws`: so many patients who do not exist; `data`: draws as files in their place, or new
    scans of a job that is given scans; `holdout`: people whom training did not see, in place of the test part;
    `ladder`: test patients whose scans are made worse; `stage`: the one that is audited; `only`: these checks, none =
    all; `shadows`: so many models are trained on others, beside which membership is told; `embeddings`: further
    spaces in which copies are looked for, by name.
    """

    draws: int = 1000
    data: Path | Source | None = None
    holdout: Path | Source | None = None
    ladder: int = 8
    stage: str | None = None
    only: tuple[str, ...] = ()
    overrides: Mapping[str, str] = field(default_factory=dict)
    shadows: int = 0
    embeddings: Mapping[str, Embedding] = field(default_factory=dict)

    def wants(self, check: str) -> bool:
        return not self.only or check in self.only


def audit(
    run: Path, asked: Asked | None = None, *, device: str = "auto", seed: int = 0, say: Say = print,
    executor: Executor | None = None,
) -> Gate:  # fmt: skip
    """Writes RUN/audit/gate.json and RUN/audit/index.html. `executor`: who trains shadow models.

    Raises ValueError for a folder that is no run or a check that is none, UnreadableError for folders that cannot be
    read.
    """
    asked = asked or Asked()
    if unknown := [name for name in (*asked.only, *asked.overrides) if name not in CHECKS]:
        raise ValueError(f"There is no check {unknown[0]!r}. Checks: {', '.join(CHECKS)}.")
    by = executor or Local(device)
    subject = Subject.open(run, asked.holdout, by.device, seed, say, asked.stage)
    made = _made(subject, asked)
    void = apart(subject) if subject.drawn is not None and asked.wants(COPIES) | asked.wants(MEMBERSHIP) else ""
    evidence = Evidence()
    checks: dict[str, Check] = {}
    if asked.wants(COPIES):
        found = _copies(subject, made, void, asked.embeddings)
        checks[COPIES] = found.check
        evidence.described = found.described
        evidence.pairs = [] if found.test is None else gallery(found.test, made, subject.sides[0].images)
    if asked.wants(MEMBERSHIP):
        told = _membership(subject, void, asked.shadows, by)
        checks[MEMBERSHIP], evidence.attacks = told.check, told.attacks
    if asked.wants(CANARIES):
        checks[CANARIES] = canaries(subject)
    if asked.wants(SHIFT):
        checks[SHIFT] = shift(subject, None if subject.synthesises else asked.data)
        evidence.sites, evidence.unseen_sites = sites(subject)
        for row in evidence.sites:
            subject.say(f"{in_words(row)}.")
    if asked.wants(FAIRNESS):
        by_group = fairness(subject, made)
        checks[FAIRNESS] = fairness_check(None, by_group) if isinstance(by_group, str) else fairness_check(by_group)
        evidence.fairness = None if isinstance(by_group, str) else by_group
        if subject.synthesises:
            near, more = copied(subject, made), amplified(subject, made)
            evidence.copied = None if isinstance(near, str) else near
            evidence.amplified = None if isinstance(more, str) else more
    if asked.wants(ROBUSTNESS):
        climbed = ladder(subject, asked.ladder)
        checks[ROBUSTNESS], evidence.ladder = robustness_check(climbed), None if isinstance(climbed, str) else climbed
    return _remembered(subject, run, checks, asked, evidence, made)


def _remembered(
    subject: Subject, run: Path, checks: Mapping[str, Check], asked: Asked, evidence: Evidence, made: Sequence[Tensor]
) -> Gate:
    """The gate and the page, with what earlier audits of the same weights said of checks that were not asked now."""
    before = Gate.read(run)
    if before is not None and before.weights == subject.weights and asked.only:
        known = {**before.checks, **checks}
        checks = {n: known[n] for n in CHECKS if n in known}
    gate = Gate(subject.weights, checks).keeping(before).overruled(asked.overrides)
    path = gate.write(run)
    write_page(run / "audit" / "index.html", run.name, _about(subject, made), gate, evidence)
    for name, one in gate.checks.items():
        subject.say(f"{name}: {one.verdict}. {one.reason}" + (f" Overruled: {one.overruled}" if one.overruled else ""))
    subject.say(f"Gate: {path}")
    return gate


def _about(subject: Subject, made: Sequence[Tensor]) -> str:
    train, held = ({m.patient for m in side} for side in (subject.train, subject.held))
    said = f"{subject.stage.job.name} by {subject.stage.family.name}: {len(train)} training and {len(held)} held-out"
    said += " patients" + (f", {len(made)} draws" if made else "")
    return said + (", every image a patient of its own" if made and subject.by_image else "")


def _made(subject: Subject, asked: Asked) -> list[Tensor]:
    """Draws of nobody, as they are given or made now; nothing of a job that is given scans."""
    if not subject.synthesises or not (asked.wants(COPIES) or asked.wants(FAIRNESS)):
        return []
    if subject.by_image:
        subject.say("Every training image counts as a patient of its own: the audit is by image.")
    if asked.data is None:
        return subject.draws(asked.draws)
    return subject.side(Source.of(asked.data).find().members, alike=True).images


def _copies(subject: Subject, made: Sequence[Tensor], void: str, embeddings: Mapping[str, Embedding]) -> CopiesFound:
    if not subject.synthesises:
        why = "Its draws follow a scan, and are like the patient whom it shows; membership tells what weights know."
        return CopiesFound(copies_check(None, why))
    return copies(subject, made, void, embeddings)


def _membership(subject: Subject, void: str, shadows: int, executor: Executor) -> MembershipFound:
    if subject.drawn is None:
        return MembershipFound(membership_check((), "its answers are no images"))
    return membership(subject, void, shadows, executor)
