"""Does a generator give training images back? A test that is valid whatever its diversity, and what it looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ..gate import Check

CLOSEST = (10, 20, 50)  # pairs of a draw and its nearest real image that are looked at
PERMUTATIONS = 1999
LEVEL = 0.05
FEWEST_PATIENTS, FEWEST_DRAWS = 10, 100  # of each side: fewer show nothing
SAME = 1e-4  # of a unit vector's length: a held-out image that is a training image
CELLS = 3  # regions in which C_T is counted
Array = NDArray[np.float64]
Nearest = tuple[Array, NDArray[np.int_]]  # of each draw: how far its nearest real image is, and which that is


@dataclass(frozen=True)
class Copies:
    """What the test found: its p value, and the closest pairs (draw, training image, distance), nearest first."""

    p_value: float
    statistic: float
    space: str  # in which draws lie closest to training images
    pairs: tuple[tuple[int, int, float], ...]
    bound: float  # of the rate of copies, where none was found: its upper 95 % limit


def nearest(draws: Sequence[Array], real: Array) -> Nearest:
    """(distance, row of `real`) of each draw, the least over its variants; 512 draws at once, whatever their number."""
    best, where = np.full(len(draws[0]), np.inf), np.zeros(len(draws[0]), int)
    own = (real**2).sum(1)
    for rows in draws:
        for start in range(0, len(rows), 512):
            part = slice(start, start + 512)
            square = rows[part] @ (-2 * real.T)
            square += own
            square += (rows[part] ** 2).sum(1)[:, None]
            index = square.argmin(1)
            found = np.sqrt(np.maximum(square[np.arange(len(index)), index], 0))
            better = found < best[part]
            best[part] = np.where(better, found, best[part])
            where[part] = np.where(better, index, where[part])
    return best, where


def copy_test(
    spaces: Mapping[str, Nearest], patients: Sequence[str], trained: NDArray[np.bool_], seed: int = 0
) -> Copies:
    """Tail label-permutation: are the closest pairs of training images more often than chance allows?

    `spaces`: by name, of each draw the distance to the nearest real image and which it is; `patients` and `trained` of
    each real image. Labels of whole patients are permuted, so that nothing is assumed of distances or diversity;
    held-out patients have to be exchangeable with training ones. The statistic is the largest standardised count over
    the CLOSEST pairs and over all spaces, which are permuted together.
    """
    names = list(dict.fromkeys(patients))
    place = {name: k for k, name in enumerate(names)}
    index = np.array([place[p] for p in patients])
    label = np.zeros(len(names), bool)
    label[index[trained]] = True
    share = float(trained.mean())
    rng = np.random.Generator(np.random.Philox(key=seed))
    permuted = np.stack([label, *(rng.permutation(label) for _ in range(PERMUTATIONS))])
    counted = {}
    for name, (distances, where) in spaces.items():
        order = np.argsort(distances, kind="stable")
        counted[name] = _largest(permuted[:, index[where[order[: max(CLOSEST)]]]], share)
    most = np.max(list(counted.values()), axis=0)
    p_value = float((most >= most[0] - 1e-12).mean())
    space = max(counted, key=lambda name: counted[name][0])
    distances, where = spaces[space]
    order = np.argsort(distances, kind="stable")
    pairs = tuple((int(d), int(where[d]), float(distances[d])) for d in order if trained[where[d]])
    return Copies(p_value, float(most[0]), space, pairs[:12], 1 - 0.05 ** (1 / len(distances)))


@dataclass(frozen=True)
class Described:
    """Figures that others quote, without a verdict: they move with diversity and fit as well as with copies."""

    copying: float  # C_T: below 0, draws lie closer to training images than held-out ones do (in deviations)
    authentic: float  # share of draws farther from their training image than that is from its own neighbour


def described(draws: Array, train: Array, held: Array, seed: int = 0) -> Described:
    """C_T (Meehan et al. 2020), its cells by k-means of training images with this seed; authenticity (Alaa et al.
    2022).
    """
    from sklearn.cluster import KMeans  # type: ignore[import-untyped]

    near_draws, which = nearest([draws], train)
    near_held, _ = nearest([held], train)
    cells = KMeans(CELLS, n_init=4, random_state=seed % 2**31).fit(train) if len(train) > CELLS else None
    of_draws = cells.predict(draws) if cells is not None else np.zeros(len(draws), int)
    of_held = cells.predict(held) if cells is not None else np.zeros(len(held), int)
    total, weight = 0.0, 0
    for k in set(of_draws.tolist()) & set(of_held.tolist()):
        a, b = near_draws[of_draws == k], near_held[of_held == k]
        n, m = len(a), len(b)
        u = float(stats.mannwhitneyu(a, b).statistic)
        total += m * (u - n * m / 2) / max((n * m * (n + m + 1) / 12) ** 0.5, 1e-12)
        weight += m
    return Described(total / max(weight, 1), float((near_draws > _own_neighbour(train)[which]).mean()))


def _own_neighbour(rows: Array) -> Array:
    """How far each row's nearest other is."""
    found = np.empty(len(rows))
    own = (rows**2).sum(1)
    for start in range(0, len(rows), 512):
        part = slice(start, start + 512)
        square = own[part, None] + own - 2 * rows[part] @ rows.T
        square[np.arange(len(square)), np.arange(start, start + len(square))] = np.inf
        found[part] = np.sqrt(np.maximum(square.min(1), 0))
    return found


def _largest(hits: NDArray[np.bool_], share: float) -> Array:
    """(rows,) the largest standardised count of training images among the first k, over k."""
    counts = hits.cumsum(1)
    found = []
    for k in CLOSEST:
        k = min(k, hits.shape[1])
        found.append((counts[:, k - 1] - k * share) / max((k * share * (1 - share)) ** 0.5, 1e-12))
    return np.asarray(np.max(found, axis=0))


def copies_check(found: Copies | None, why_not: str = "", void: str = "") -> Check:
    """The verdict, in the words of the gate."""
    if void:
        return Check("VOID", None, None, LEVEL, void)
    if found is None:
        return Check("NOT ASSESSABLE", None, None, LEVEL, why_not)
    told = f"permutation test of the closest pairs, most by {found.space}, {PERMUTATIONS} permutations"
    if found.p_value < LEVEL:
        reason = f"Draws lie closer to training images than to held-out ones: copies. {told}."
        return Check("REFUSED", found.p_value, None, LEVEL, reason)
    reason = f"No copies were found ({told}); with so many draws a rate below {found.bound:.2g} would not show."
    return Check("PASS", found.p_value, (0.0, found.bound), LEVEL, reason)


def assessable(draws: int, train: Sequence[str], held: Sequence[str]) -> str:
    """Why the test would show nothing, or ''."""
    for side, patients in (("training", set(train)), ("held-out", set(held))):
        if len(patients) < FEWEST_PATIENTS:
            return f"{len(patients)} {side} patients, {FEWEST_PATIENTS} are needed."
    return f"{draws} draws, {FEWEST_DRAWS} are needed." if draws < FEWEST_DRAWS else ""


def overlap(train: Array, held: Array) -> str:
    """How many held-out images are training images, or ''."""
    same = repeated(train, held)
    return f"{len(same)} held-out images show a training image: the sides are not apart." if len(same) else ""


def repeated(train: Array, held: Array) -> NDArray[np.int_]:
    """Rows of held-out images that training has, too."""
    gaps, _ = nearest([held], train)
    return np.flatnonzero(gaps < SAME)
