"""Texture families of IBSI-1, sections 3.6 to 3.11: matrices counted from grey levels, features computed from matrices.

Levels are integers 1, 2, ... inside the region and 0 outside, (y, x) or (z, y, x); neighbours are all that touch
(Chebyshev distance 1). A region in which no two voxels touch counts as uniform.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components

Array = NDArray[np.float64]
Levels = NDArray[np.int64]
Features = dict[str, float]


@dataclass(frozen=True)
class Words:
    """What IBSI calls the columns of a matrix."""

    small: str
    large: str
    item: str
    size: str
    share: str
    entropy: str


RUNS = Words("short_run", "long_run", "run", "run_length", "run_percentage", "run_entropy")
ZONES = Words("small_zone", "large_zone", "zone", "zone_size", "zone_percentage", "zone_size_entropy")
DISTANCES = Words(
    "small_distance", "large_distance", "zone", "zone_distance", "zone_percentage", "zone_distance_entropy"
)
DEPENDENCES = Words(
    "low_dependence", "high_dependence", "count", "dependence_count", "dependence_count_percentage",
    "dependence_count_entropy",
)  # fmt: skip


def families(levels: Levels, aggregation: str) -> dict[str, Features]:
    """All six families; GLCM and GLRLM over the directions `merged` or `averaged`."""
    region = _Region(levels)
    grey, sizes, distances = _zones(region)
    counts = 1 + _alike(region)
    of_counts = _table(region.values, counts)
    energy = float(((of_counts[0] / len(counts)) ** 2).sum())
    return {
        "glcm": _over_directions([_pairs(region, d) for d in region.directions], _co_occurrence, aggregation),
        "glrlm": _over_directions([_runs(region, d) for d in region.directions], _run_lengths(region), aggregation),
        "glszm": _emphases(*_table(grey, sizes), len(region.values), ZONES),
        "gldzm": _emphases(*_table(grey, distances), len(region.values), DISTANCES),
        "ngtdm": _tone_differences(region),
        "ngldm": _emphases(*of_counts, len(counts), DEPENDENCES) | {"dependence_count_energy": energy},
    }


class _Region:
    """Levels with a rim of zeros, flattened: a neighbour is an offset, and whatever is outside has level 0."""

    def __init__(self, levels: Levels) -> None:
        padded = np.pad(levels, 1)
        self.shape, self.flat = padded.shape, padded.ravel()
        self.inside = np.flatnonzero(self.flat)
        self.values = self.flat[self.inside]
        self.most = int(self.values.max())
        strides = np.array([s // padded.itemsize for s in padded.strides])
        steps = itertools.product((-1, 0, 1), repeat=levels.ndim)
        half = [s for s in steps if s > (0,) * levels.ndim]  # one of each pair of opposite directions
        self.directions = [int(np.dot(s, strides)) for s in half]


def entropy(chances: NDArray[Any]) -> float:
    """In bits."""
    known = chances[chances > 0].astype(np.float64)
    return float(-(known * np.log2(known)).sum())


def _over_directions(
    matrices: Sequence[Array], features: Callable[[Array, int], Features], aggregation: str
) -> Features:
    """features(matrix, number of directions in it)."""
    used = [m for m in matrices if m.any()] or [matrices[0]]
    if aggregation == "merged":
        width = max(m.shape[1] for m in used)
        return features(sum(np.pad(m, ((0, 0), (0, width - m.shape[1]))) for m in used), len(used))  # type: ignore[arg-type]
    each = [features(m, 1) for m in used]
    return {name: float(np.mean([f[name] for f in each])) for name in each[0]}


# ---------------------------------------------------------------- grey level co-occurrence (3.6)


def _pairs(region: _Region, step: int) -> Array:
    """(levels, levels) symmetric counts of neighbours in one direction."""
    other = region.flat[region.inside + step]
    both = other > 0
    n = region.most
    index = (region.values[both] - 1) * n + other[both] - 1
    counts = np.bincount(index, minlength=n * n).reshape(n, n).astype(np.float64)
    return counts + counts.T


def _co_occurrence(counts: Array, directions: int) -> Features:
    if not counts.any():
        counts = np.ones((1, 1))
    p, n = counts / counts.sum(), len(counts)
    i = np.arange(1.0, n + 1)
    margin = p.sum(1)
    mean, apart, total = float(margin @ i), np.abs(i[:, None] - i), i[:, None] + i
    variance = float(margin @ (i - mean) ** 2)
    difference = np.bincount(apart.astype(np.int64).ravel(), p.ravel())
    added = np.bincount(total.astype(np.int64).ravel(), p.ravel())
    k, s = np.arange(len(difference)), np.arange(len(added))
    product = margin[:, None] * margin
    log = np.log2(product, where=product > 0, out=np.zeros_like(product))
    joint, single = entropy(p), entropy(margin)
    crossed, independent = -float((p * log).sum()), -float((product * log).sum())
    away = total - 2 * mean
    auto = float(i @ p @ i)
    return {
        "joint_maximum": float(p.max()),
        "joint_average": mean,
        "joint_variance": variance,
        "joint_entropy": joint,
        "difference_average": float(k @ difference),
        "difference_variance": float((k - k @ difference) ** 2 @ difference),
        "difference_entropy": entropy(difference),
        "sum_average": float(s @ added),
        "sum_variance": float((s - s @ added) ** 2 @ added),
        "sum_entropy": entropy(added),
        "angular_second_moment": float((p**2).sum()),
        "contrast": float((apart**2 * p).sum()),
        "dissimilarity": float((apart * p).sum()),
        "inverse_difference": float((p / (1 + apart)).sum()),
        "normalised_inverse_difference": float((p / (1 + apart / n)).sum()),
        "inverse_difference_moment": float((p / (1 + apart**2)).sum()),
        "normalised_inverse_difference_moment": float((p / (1 + (apart / n) ** 2)).sum()),
        "inverse_variance": float((p[apart > 0] / apart[apart > 0] ** 2).sum()),
        "correlation": (auto - mean**2) / variance if variance > 0 else 1.0,
        "autocorrelation": auto,
        "cluster_tendency": float((away**2 * p).sum()),
        "cluster_shade": float((away**3 * p).sum()),
        "cluster_prominence": float((away**4 * p).sum()),
        "information_correlation_1": (joint - crossed) / single if single > 0 else 0.0,
        "information_correlation_2": max(0.0, 1 - float(np.exp(-2 * (independent - joint)))) ** 0.5,
    }


# ---------------------------------------------------------------- runs (3.7), zones (3.8, 3.9), dependences (3.11)


def _runs(region: _Region, step: int) -> Array:
    """(levels, lengths) counts of runs of one level along one direction."""
    starts = region.inside[region.flat[region.inside - step] != region.values]
    level, lengths = region.flat[starts], np.ones(len(starts), np.int64)
    alive, reach = np.arange(len(starts)), 1
    while len(alive):
        alive = alive[region.flat[starts[alive] + reach * step] == level[alive]]
        lengths[alive] += 1
        reach += 1
    width = int(lengths.max())
    index = (level - 1) * width + lengths - 1
    return np.bincount(index, minlength=region.most * width).reshape(region.most, width).astype(np.float64)


def _run_lengths(region: _Region) -> Callable[[Array, int], Features]:
    def features(counts: Array, directions: int) -> Features:
        return _emphases(counts, np.arange(1.0, counts.shape[1] + 1), directions * len(region.values), RUNS)

    return features


def _zones(region: _Region) -> tuple[Levels, Levels, Levels]:
    """(level, size, distance to the region's edge) of every zone of touching voxels of one level."""
    number = np.full(len(region.flat), -1, np.int64)
    number[region.inside] = np.arange(len(region.inside))
    links = [(region.inside, region.inside + step) for step in region.directions]
    same = [region.flat[a] == region.flat[b] for a, b in links]
    rows = np.concatenate([number[a[s]] for (a, _), s in zip(links, same, strict=True)])
    columns = np.concatenate([number[b[s]] for (_, b), s in zip(links, same, strict=True)])
    n = len(region.inside)
    graph = sparse.coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(n, n))
    count, zone = connected_components(graph, directed=False)
    level, nearest = np.zeros(count, np.int64), np.full(count, np.iinfo(np.int64).max)
    level[zone] = region.values
    edge = ndimage.distance_transform_cdt(region.flat.reshape(region.shape) > 0, metric="taxicab").ravel()
    np.minimum.at(nearest, zone, edge[region.inside].astype(np.int64))
    return level, np.bincount(zone, minlength=count), nearest


def _alike(region: _Region) -> Levels:
    """How many neighbours of each voxel have its own level."""
    found = np.zeros(len(region.inside), np.int64)
    for step in region.directions:
        for way in (step, -step):
            found += region.flat[region.inside + way] == region.values
    return found


def _table(grey: Levels, sizes: Levels) -> tuple[Array, Array]:
    """(counts (levels, columns), the size that each column stands for): only sizes that occur have a column."""
    known, column = np.unique(sizes, return_inverse=True)
    most, width = int(grey.max()), len(known)
    counts = np.bincount((grey - 1) * width + column, minlength=most * width).reshape(most, width)
    return counts.astype(np.float64), known.astype(np.float64)


def _emphases(counts: Array, sizes: Array, voxels: int, words: Words) -> Features:
    """The sixteen features that IBSI defines alike for runs, zones, distances and dependences."""
    items = counts.sum()
    p = counts / items
    i, j = np.arange(1.0, len(counts) + 1)[:, None], sizes[None]
    rows, columns = counts.sum(1), counts.sum(0)
    grey, size = float((p * i).sum()), float((p * j).sum())
    return {
        f"{words.small}_emphasis": float((p / j**2).sum()), f"{words.large}_emphasis": float((p * j**2).sum()),
        f"low_grey_level_{words.item}_emphasis": float((p / i**2).sum()),
        f"high_grey_level_{words.item}_emphasis": float((p * i**2).sum()),
        f"{words.small}_low_grey_level_emphasis": float((p / (i * j) ** 2).sum()),
        f"{words.small}_high_grey_level_emphasis": float((p * (i / j) ** 2).sum()),
        f"{words.large}_low_grey_level_emphasis": float((p * (j / i) ** 2).sum()),
        f"{words.large}_high_grey_level_emphasis": float((p * (i * j) ** 2).sum()),
        "grey_level_non_uniformity": float((rows**2).sum() / items),
        "normalised_grey_level_non_uniformity": float((rows**2).sum() / items**2),
        f"{words.size}_non_uniformity": float((columns**2).sum() / items),
        f"normalised_{words.size}_non_uniformity": float((columns**2).sum() / items**2),
        words.share: float(items / voxels), "grey_level_variance": float((p * (i - grey) ** 2).sum()),
        f"{words.size}_variance": float((p * (j - size) ** 2).sum()), words.entropy: entropy(p),
    }  # fmt: skip


# ---------------------------------------------------------------- neighbourhood grey tone differences (3.10)


def _tone_differences(region: _Region) -> Features:
    total, count = np.zeros(len(region.inside)), np.zeros(len(region.inside))
    for step in region.directions:
        for way in (step, -step):
            other = region.flat[region.inside + way]
            total += other
            count += other > 0
    known = count > 0
    if not known.any():
        return {"coarseness": 1e6, "contrast": 0.0, "busyness": 0.0, "complexity": 0.0, "strength": 0.0}
    level = region.values[known]
    away = np.abs(level - total[known] / count[known])
    counts, sums = (np.bincount(level, w, minlength=region.most + 1) for w in (None, away))
    used = np.flatnonzero(counts)
    p, s, i = counts[used] / known.sum(), sums[used], used.astype(np.float64)
    apart, many = i[:, None] - i, len(used)
    weight = p[:, None] + p
    mixed = ((p * s)[:, None] + p * s) / weight
    busy = np.abs((i * p)[:, None] - i * p).sum()
    return {
        "coarseness": float(1 / (p @ s)) if p @ s > 0 else 1e6,  # IBSI: a large number for a uniform region
        "contrast": (
            float((p[:, None] * p * apart**2).sum() / (many * (many - 1)) * s.sum() / known.sum()) if many > 1 else 0.0
        ),
        "busyness": float(p @ s / busy) if busy > 0 else 0.0,
        "complexity": float((np.abs(apart) * mixed).sum() / known.sum()),
        "strength": float((weight * apart**2).sum() / s.sum()) if s.sum() > 0 else 0.0,
    }
