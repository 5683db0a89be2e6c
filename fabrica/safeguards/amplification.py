"""Does a generator draw more of some group than there are? Groups of draws are told by real neighbours.

The same reader is asked of people who were held out, so that what it gets wrong of everybody cancels (Zhao et al. 2017,
"Men also like shopping", for the word).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..rng import derive

NEIGHBOURS = 5
RESAMPLES = 2000
LEVEL = 0.05
FEWEST = 20  # people of a side
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Share:
    """A group among those who trained, and among held-out people and draws as the reader tells them."""

    attribute: str
    group: str
    trained: float
    held: float
    drawn: float
    interval: tuple[float, float]  # 95 % of drawn - held


@dataclass(frozen=True)
class Amplification:
    """Shares of every group that can be told, and why others cannot."""

    shares: tuple[Share, ...]
    unseen: tuple[str, ...]


@dataclass(frozen=True)
class People:
    """Features (N, d), a row each, and the groups of each by attribute; draws have none."""

    features: Array
    groups: Mapping[str, Sequence[str | None]]


def amplification(trained: People, held: People, drawn: Array, seed: int = 0) -> Amplification:
    """Every attribute that both sides know. An attribute that the reader does not tell on held-out people is unseen."""
    shares, unseen = list[Share](), list[str]()
    for attribute, groups in trained.groups.items():
        names = sorted({g for g in groups if g is not None})
        own = [k for k, g in enumerate(groups) if g is not None]
        asked = [k for k, g in enumerate(held.groups.get(attribute, ())) if g in names]
        if len(names) < 2 or min(len(own), len(asked), len(drawn)) < FEWEST:
            unseen.append(
                f"{attribute}: {len(own)} who trained, {len(asked)} held out and {len(drawn)} draws are too few"
            )
            continue
        known = np.array([names.index(str(groups[k])) for k in own])
        truth = np.array([names.index(str(held.groups[attribute][k])) for k in asked])
        chances = [_read(trained.features[own], known, len(names), f) for f in (held.features[asked], drawn)]
        if not _told(truth, chances[0].argmax(1), len(names), seed):
            unseen.append(f"{attribute}: the reader does not tell its groups on held-out people")
            continue
        ends = _differences(chances[0], chances[1], seed)
        for k, name in enumerate(names):
            at = tuple(float(part[:, k].mean()) for part in chances)
            shares.append(Share(attribute, name, float((known == k).mean()), at[0], at[1], ends[k]))
    return Amplification(tuple(shares), tuple(unseen))


def _read(features: Array, groups: NDArray[np.int_], count: int, asked: Array) -> Array:
    """(N, count): the share of each group among the nearest who trained, each group weighed as if all were as many."""
    apart = (asked**2).sum(1)[:, None] + (features**2).sum(1) - 2 * asked @ features.T
    near = np.argpartition(apart, min(NEIGHBOURS, len(features) - 1), axis=1)[:, :NEIGHBOURS]
    weight = 1 / np.bincount(groups, minlength=count)
    votes = np.stack([((groups[near] == k) * weight[k]).sum(1) for k in range(count)], 1)
    shares: Array = votes / votes.sum(1, keepdims=True)
    return shares


def _told(truth: NDArray[np.int_], read: NDArray[np.int_], count: int, seed: int) -> bool:
    """Whether groups are told better than by chance: the lower end of the balanced accuracy's interval."""
    rng = np.random.Generator(np.random.Philox(key=derive(seed, "reader")))
    right = [(read[truth == k] == k).astype(float) for k in range(count) if (truth == k).any()]
    drawn = np.mean([own[rng.integers(0, len(own), (RESAMPLES, len(own)))].mean(1) for own in right], axis=0)
    return bool(np.quantile(drawn, LEVEL) > 1 / count)


def _differences(held: Array, drawn: Array, seed: int) -> list[tuple[float, float]]:
    """95 % of drawn - held of each group, by resampling both."""
    rng = np.random.Generator(np.random.Philox(key=derive(seed, "shares")))
    found = []
    for k in range(held.shape[1]):
        apart = _means(drawn[:, k], rng) - _means(held[:, k], rng)
        low, high = np.quantile(apart, [LEVEL / 2, 1 - LEVEL / 2])
        found.append((float(low), float(high)))
    return found


def _means(values: Array, rng: np.random.Generator) -> Array:
    means: Array = np.array([values[rng.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)])
    return means
