"""Charts of a model in use: is what happens still what was usual?

Flags (a scan told as unlike training, a refusal, a rejection) are summed as evidence for a worse rate (CUSUM of
Bernoulli trials: Reynolds and Stoumbos 1999); the limit is such that a process that has not changed runs for RUN_LENGTH
cases, in the mean, before a false alarm. Times are charted singly, with limits from moving ranges (Shewhart).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
RUN_LENGTH = 1000.0
CELLS = 300  # of the chain that the run length is computed on
BASE = 20  # cases from which limits of times are told
WIDTH = 2.66  # moving ranges that are three deviations


@dataclass(frozen=True)
class Chart:
    """A figure after each case, its limit, and where it passed it first."""

    name: str
    values: tuple[float, ...]
    limit: float
    alarm: int | None  # place of the case
    words: str

    @property
    def last(self) -> float:
        return self.values[-1] if self.values else 0.0


def flags_chart(name: str, flags: Sequence[bool], usual: float, worse: float, what: str) -> Chart:
    """`usual`: the rate of a process that has not changed; `worse`: the one to be noticed. Raises ValueError unless
    0 < usual < worse < 1.
    """
    if not 0 < usual < worse < 1:
        raise ValueError(f"rates are {usual:g} and {worse:g}, expected 0 < usual < worse < 1")
    up, down = math.log(worse / usual), math.log((1 - worse) / (1 - usual))
    limit = _limit(up, down, usual)
    total, values = 0.0, list[float]()
    for flag in flags:
        total = max(0.0, total + (up if flag else down))
        values.append(total)
    alarm = next((k for k, v in enumerate(values) if v > limit), None)
    rate = sum(flags) / len(flags) if flags else 0.0
    said = f"{sum(flags)} of {len(flags)} {what} ({rate:.0%}; usual {usual:.0%})"
    if alarm is not None:
        said += f"; more than chance since about case {_since(values, alarm) + 1}"
    return Chart(name, tuple(values), limit, alarm, said)


def _since(values: Sequence[float], alarm: int) -> int:
    """Where the sum that led to the alarm began."""
    return next((k + 1 for k in range(alarm, -1, -1) if values[k] == 0), 0)


@lru_cache(maxsize=64)
def _limit(up: float, down: float, usual: float) -> float:
    """The limit whose mean run length is RUN_LENGTH, by bisection on a Markov chain (Brook and Evans 1972)."""
    low, high = 0.0, 2 * up
    while _run_length(high, up, down, usual) < RUN_LENGTH:
        high *= 1.5
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _run_length(middle, up, down, usual) < RUN_LENGTH else (low, middle)
    return high


def _run_length(limit: float, up: float, down: float, usual: float) -> float:
    """Mean number of cases until the sum passes the limit."""
    if limit <= 0:
        return 1 / usual
    width = limit / CELLS
    middles = np.concatenate([[0.0], (np.arange(CELLS) + 0.5) * width])
    moves = np.zeros((CELLS + 1, CELLS + 1))
    for step, chance in ((up, usual), (down, 1 - usual)):
        after = middles + step
        place = np.where(after <= 0, 0, np.ceil(after / width).astype(int))
        inside = place <= CELLS
        np.add.at(moves, (np.flatnonzero(inside), place[inside]), chance)
    return float(np.linalg.solve(np.eye(CELLS + 1) - moves, np.ones(CELLS + 1))[0])


def times_chart(name: str, seconds: Sequence[float]) -> Chart:
    """Logarithms of times: what is usual is told by the first BASE cases; longer than the limit is an alarm."""
    logs = np.log(np.maximum(np.asarray(seconds, np.float64), 1e-6))
    if len(logs) < BASE:
        return Chart(name, tuple(map(float, logs)), math.inf, None, f"{len(logs)} cases, limits need {BASE}")
    base = logs[:BASE]
    limit = float(base.mean() + WIDTH * np.abs(np.diff(base)).mean())
    late = np.flatnonzero(logs > limit)
    pair = next((int(k) + 1 for k in late if k + 1 in late), None)
    usual = math.exp(float(np.median(logs)))
    said = f"median {usual:.3g} s, limit {math.exp(limit):.3g} s, {len(late)} of {len(logs)} longer"
    return Chart(name, tuple(map(float, logs)), limit, pair, said)
