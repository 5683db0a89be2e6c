"""A cluster on paper: how long a training takes on many workers that straggle and fail, and how often to save.

Discrete events: the next checkpoint, or the next failure,
whichever comes first. What lies between the last checkpoint and a
failure is done again (Young 1974; Daly 2006, "A higher order estimate of the optimum checkpoint interval").
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..rng import derive

TRIALS = 200  # trainings that are simulated for each interval
GRID = 25  # intervals that are tried, from a fifth to five times Young and Daly's
HOPELESS = 12.0  # times the time between failures: a piece of work so long ends once in e^12 trials
STEPS_AT_ONCE = 64  # steps whose slowest worker is drawn; all others are like them


@dataclass(frozen=True)
class Cluster:
    """What somebody says of machines that are not here."""

    workers: int  # that train together, each on its share of a batch
    speed: float  # of one, beside the machine that measured
    memory_gb: float = 0.0  # of one; 0: not said
    hours_between_failures: float = math.inf  # of one worker
    checkpoint_s: float = 10.0
    restart_s: float = 120.0
    straggling: float = 0.05  # deviation of the logarithm of a step's time
    overhead: float = 0.05  # share of a step that workers wait for one another's gradients

    @staticmethod
    def of(plain: Any, at: str) -> Cluster:
        """From a file's plain data; raises ValueError for what is missing, unknown or impossible."""
        known = {f.name for f in fields(Cluster)}
        if not isinstance(plain, dict) or not {"workers", "speed"} <= set(plain):
            raise ValueError(f"{at} says no workers and speed. Write: workers: 8, speed: 20")
        plain = {k: v for k, v in plain.items() if k != "slurm"}  # how its jobs are asked for: machine.slurm
        if odd := sorted(set(plain) - known):
            raise ValueError(f"{at}: there is no {odd[0]!r}. Known: {', '.join(sorted(known))}.")
        for key, value in plain.items():
            if type(value) not in (int, float) or not value >= 0:
                raise ValueError(f"{at}: {key} is {value!r}, expected a number of 0 or more.")
        if type(plain["workers"]) is not int or plain["workers"] < 1 or not plain["speed"] > 0:
            raise ValueError(f"{at}: workers is {plain['workers']} and speed {plain['speed']}, expected 1 or more.")
        return Cluster(**plain)

    @property
    def failing_s(self) -> float:
        """Seconds between failures of any worker."""
        return 3600 * self.hours_between_failures / self.workers

    def step_factor(self, seed: int = 0) -> float:
        """How many times longer a step is than on a worker that waits for nobody: the mean of the slowest of all."""
        rng = _stream(seed, "straggling", self.workers)
        slowest = np.exp(self.straggling * rng.standard_normal((STEPS_AT_ONCE, self.workers))).max(1)
        return float(slowest.mean()) * (1 + self.overhead * (self.workers > 1))

    def work_s(self, here_s: float, seed: int = 0) -> float:
        """Seconds of training without failures and checkpoints, from those here."""
        return here_s / self.speed / self.workers * self.step_factor(seed)

    def young_daly_s(self) -> float:
        """Seconds of work between checkpoints, to first order."""
        return math.sqrt(2 * self.checkpoint_s * self.failing_s)


@dataclass(frozen=True)
class Course:
    """What the simulation found."""

    seconds: float  # mean of all trials
    interval_s: float  # of work between checkpoints
    failures: float  # mean


def simulate(cluster: Cluster, work_s: float, interval_s: float, trials: int = TRIALS, seed: int = 0) -> Course:
    """`trials` trainings of so much work; the same chances for every interval."""
    if not (work_s > 0 and interval_s > 0):
        raise ValueError(f"work of {work_s} s with checkpoints every {interval_s} s cannot be simulated.")
    if interval_s + cluster.checkpoint_s > HOPELESS * cluster.failing_s:
        raise ValueError(
            f"Workers fail every {cluster.failing_s:.3g} s, and {interval_s:.3g} s of work lie between checkpoints: it"
            " would not end. Use fewer workers, or hours_between_failures of one."
        )
    pieces = [interval_s] * int(work_s // interval_s)
    rest = work_s - interval_s * len(pieces)
    if rest > 1e-9 * work_s:
        pieces.append(rest)
    totals, counts = np.zeros(trials), np.zeros(trials)
    for trial in range(trials):
        totals[trial], counts[trial] = _one(cluster, np.array(pieces), _stream(seed, "failures", trial))
    return Course(float(totals.mean()), interval_s, float(counts.mean()))


def _one(cluster: Cluster, pieces: NDArray[np.float64], chance: np.random.Generator) -> tuple[float, int]:
    """(seconds, failures) of one training."""
    if math.isinf(cluster.failing_s):
        return float(pieces.sum() + cluster.checkpoint_s * len(pieces)), 0
    seconds, failures = _walked(pieces, cluster.checkpoint_s, cluster.restart_s, cluster.failing_s, chance)
    return float(seconds), int(failures)


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _walked(pieces: Any, checkpoint_s: float, restart_s: float, failing_s: float, chance: Any) -> tuple[float, int]:
    """Compiled: a training meets thousands of events, and a hundred trainings are tried for each interval."""
    clock, failures = 0.0, 0
    fails = chance.exponential(failing_s)
    for piece in pieces:
        needed = piece + checkpoint_s
        while clock + needed > fails:  # what was done since the last checkpoint is lost
            clock = fails + restart_s
            failures += 1
            fails = clock + chance.exponential(failing_s)
        clock += needed
    return clock, failures


def best_interval(cluster: Cluster, work_s: float, trials: int = TRIALS, seed: int = 0) -> Course:
    """The interval that takes least: the vertex of a parabola through the logarithms of those that are tried."""
    if math.isinf(cluster.failing_s):
        return simulate(cluster, work_s, work_s, 1, seed)
    middle = min(cluster.young_daly_s(), work_s)
    tried = middle * np.exp(np.linspace(-math.log(5), math.log(5), GRID))
    tried = tried[tried <= max(work_s, middle)]
    possible = tried + cluster.checkpoint_s <= HOPELESS * cluster.failing_s
    tried = tried[possible] if possible.any() else tried[:1]
    seconds = np.array([simulate(cluster, work_s, float(one), trials, seed).seconds for one in tried])
    low = int(seconds.argmin())
    near = slice(max(0, low - 6), low + 7)
    x, y = np.log(tried[near]), seconds[near]
    curve = np.polyfit(x, y, 2) if len(x) > 3 else np.zeros(3)
    vertex = math.exp(-curve[1] / (2 * curve[0])) if curve[0] > 0 else float(tried[low])
    vertex = float(np.clip(vertex, tried[near][0], tried[near][-1]))
    return simulate(cluster, work_s, vertex, trials, seed)


def _stream(seed: int, *what: str | int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=derive(seed, "cluster", *what)))
