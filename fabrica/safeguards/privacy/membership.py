"""Can somebody who has the model tell who was in its training? Attacks by score, and what they may be believed for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ...evaluate.metrics.discrimination import auc_delong
from ..gate import Check

FALSE_POSITIVES = 0.01  # of people who were not in training
STRICT, STRICT_NEEDS = 0.001, 3000  # non-members from which a rate of one in a thousand can be told
FEWEST = 10  # of each side
LEVEL = 0.05
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Attack:
    """One attack: how many members it finds where it wrongly names at most `rate` of all others."""

    name: str
    rate: float
    found: float  # share of members
    interval: tuple[float, float]  # exact (Clopper and Pearson 1934) for this threshold, shared out over all attacks
    p_value: float  # of so many members above it where they are people like the others
    auc: float
    auc_interval: tuple[float, float] | None
    strict: float | None  # share of members at one in a thousand, where that can be told


def attack(name: str, members: ArrayLike, others: ArrayLike, attacks: int = 1) -> Attack:
    """From a score of every member and non-member, higher for members. Raises ValueError for fewer than FEWEST."""
    inside, outside = np.asarray(members, np.float64), np.asarray(others, np.float64)
    if min(len(inside), len(outside)) < FEWEST:
        raise ValueError(f"{len(inside)} members and {len(outside)} others, {FEWEST} of each are needed")
    rate = max(FALSE_POSITIVES, 1 / (len(outside) + 1))  # no threshold among n others promises less than that
    count = int((inside > _threshold(outside, rate)).sum())
    above = len(outside) + 1 - _rank(len(outside), rate)  # the chance that a new person exceeds it is Beta(above, rank)
    p_value = float(stats.betabinom(len(inside), above, _rank(len(outside), rate)).sf(count - 1))
    told = stats.binomtest(count, len(inside)).proportion_ci(1 - LEVEL / attacks, method="exact")
    area = auc_delong(np.concatenate([inside, outside]), np.concatenate([np.ones(len(inside)), np.zeros(len(outside))]))
    strict = None
    if len(outside) >= STRICT_NEEDS:
        strict = float((inside > _threshold(outside, STRICT)).mean())
    return Attack(
        name,
        rate,
        count / len(inside),
        (float(told.low), float(told.high)),
        p_value,
        float(area),
        area.interval,
        strict,
    )


def beside_shadows(own: ArrayLike, shadows: ArrayLike, inside: ArrayLike) -> Array:
    """(people,) scores of the audited model less what shadow models say of each person: LiRA with one gap and one
    variance for all people, as few shadow models ask (Carlini et al. 2022, section VI).

    `own`: (people,) scores of the audited model; `shadows`: (models, people) of models trained on some of them;
    `inside`: (models, people), on whom. A score is taken as a model's level, a person's, and a gap where the person
    trained it; all three by least squares. Raises ValueError where no person stands on both sides.
    """
    told, scores = np.asarray(own, np.float64), np.asarray(shadows, np.float64)
    within = np.asarray(inside, np.float64)
    if scores.shape != within.shape or scores.shape[1:] != told.shape:
        raise ValueError(f"scores {scores.shape} and {within.shape} of shadow models, expected (models, {len(told)})")
    mixed = _centred(within)
    if not np.any(np.abs(mixed) > 1e-9):
        raise ValueError("shadow models of which each knows everybody or nobody tell nothing")
    gap = float((mixed * scores).sum() / (mixed * mixed).sum())
    levels = scores - gap * within
    levels = levels - levels.mean(1, keepdims=True)
    found: Array = told - told.mean() - levels.mean(0)
    return found


def _centred(values: Array) -> Array:
    """Without what belongs to a row or to a column alone."""
    found: Array = values - values.mean(1, keepdims=True) - values.mean(0, keepdims=True) + values.mean()
    return found


def _threshold(others: Array, rate: float) -> float:
    """The score that a new non-member exceeds with at most this chance: a rank, whatever the distribution."""
    return float(np.sort(others)[_rank(len(others), rate) - 1])


def _rank(others: int, rate: float) -> int:
    return min(math.ceil((others + 1) * (1 - rate) - 1e-9), others)


def membership_check(attacks: Sequence[Attack], why_not: str = "", void: str = "") -> Check:
    """The verdict of the worst attack. What it warns of are the weights: draws alone show less than a model does."""
    if void:
        return Check("VOID", None, None, FALSE_POSITIVES, void)
    if why_not or not attacks:
        return Check("NOT ASSESSABLE", None, None, FALSE_POSITIVES, f"Membership: {why_not or 'nothing was asked'}.")
    worst = min(attacks, key=lambda a: a.p_value)
    said = (
        f"{worst.found:.1%} of training patients are named at {worst.rate:.1%} of others, by {worst.name}"
        f" (AUC {worst.auc:.2f}; {len(attacks)} attack{'s' * (len(attacks) > 1)} tried)"
    )
    if worst.p_value < LEVEL / len(attacks) and worst.interval[0] > worst.rate:
        reason = f"The weights know whom they were trained on: do not give them away. {said}."
        return Check("WARN", worst.found, worst.interval, worst.rate, reason)
    return Check("PASS", worst.found, worst.interval, worst.rate, f"No attack names more than by chance: {said}.")
