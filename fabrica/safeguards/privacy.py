"""Does a generator give training images back? A test that is valid whatever its diversity, and what it looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .gate import Check

CLOSEST = (10, 20, 50)  # pairs of a draw and its nearest real image that are looked at
PERMUTATIONS = 1999
LEVEL = 0.05
FEWEST_PATIENTS, FEWEST_DRAWS = 10, 100  # of each side: fewer show nothing
SAME = 1e-4  # of a unit vector's length: a held-out image that is a training image
SIDE = 32  # pixels a side of what slices are compared by; of volumes half
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Copies:
    """What the test found: its p value, and the closest pairs (draw, training image, distance), nearest first."""

    p_value: float
    statistic: float
    pairs: tuple[tuple[int, int, float], ...]
    bound: float  # of the rate of copies, where none was found: its upper 95 % limit


def features(images: Sequence[Tensor]) -> Array:
    """A row for each (1, z, y, x): coarse brightness, less its mean, of unit length: gain and offset do not matter."""
    rows = []
    for image in images:
        flat = image.shape[1] == 1
        size = (1, SIDE, SIDE) if flat else (min(image.shape[1], SIDE // 2), SIDE // 2, SIDE // 2)
        rows.append(F.adaptive_avg_pool3d(image[None].float(), size).flatten().double().numpy())
    return _unit(np.stack(rows))


def variants(images: Sequence[Tensor]) -> list[list[Tensor]]:
    """Each image as it is, mirrored, and moved by a pixel or two: a copy that is turned so is still one."""
    moved = []
    for image in images:
        step = max(1, round(image.shape[-1] / 64))
        shifts = [torch.roll(image, s * step, axis) for axis in (-1, -2) for s in (-1, 1)]
        moved.append([image, image.flip(-1), *shifts])
    return [list(one) for one in zip(*moved, strict=True)]


def _unit(rows: Array) -> Array:
    centred = rows - rows.mean(1, keepdims=True)
    found: Array = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    return found


def nearest(draws: Sequence[Array], real: Array) -> tuple[Array, NDArray[np.int_]]:
    """(distance, row of `real`) of each draw, the least over its variants."""
    best, where = np.full(len(draws[0]), np.inf), np.zeros(len(draws[0]), int)
    for rows in draws:
        for start in range(0, len(rows), 512):
            part = slice(start, start + 512)
            square = np.maximum(2 - 2 * rows[part] @ real.T, 0)
            index = square.argmin(1)
            found = np.sqrt(square[np.arange(len(index)), index])
            better = found < best[part]
            best[part] = np.where(better, found, best[part])
            where[part] = np.where(better, index, where[part])
    return best, where


def copy_test(
    distances: Array, where: NDArray[np.int_], patients: Sequence[str], trained: NDArray[np.bool_], seed: int = 0
) -> Copies:
    """Tail label-permutation: are the closest pairs of training images more often than chance allows?

    `where`: of each draw, the real image that is nearest; `patients` and `trained` of each real image. Labels of whole
    patients are permuted, so that nothing is assumed of distances or diversity; held-out patients have to be
    exchangeable with training ones. The statistic is the largest standardised count over the CLOSEST pairs.
    """
    order = np.argsort(distances, kind="stable")
    names = list(dict.fromkeys(patients))
    index = np.array([names.index(p) for p in patients]) if len(names) < len(patients) else np.arange(len(patients))
    label = np.zeros(len(names), bool)
    label[index[trained]] = True
    closest = index[where[order[: max(CLOSEST)]]]
    share = float(trained.mean())
    observed = _largest(label[closest][None], share)[0]
    rng = np.random.Generator(np.random.Philox(key=seed))
    permuted = np.stack([rng.permutation(label) for _ in range(PERMUTATIONS)])
    chance = _largest(permuted[:, closest], share)
    p_value = float((1 + (chance >= observed - 1e-12).sum()) / (1 + PERMUTATIONS))
    pairs = tuple((int(d), int(where[d]), float(distances[d])) for d in order if trained[where[d]])
    return Copies(p_value, float(observed), pairs[:12], 1 - 0.05 ** (1 / len(distances)))


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
    told = f"permutation test of the closest pairs, statistic {found.statistic:.2f}, {PERMUTATIONS} permutations"
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


def overlap(train: Array, held: Array, names: Sequence[str]) -> str:
    """Which held-out image is a training image, or ''."""
    gaps, _ = nearest([held], train)
    same = np.flatnonzero(gaps < SAME)
    return f"held-out {names[int(same[0])]} shows a training image: the sides are not apart." if len(same) else ""


def gallery(found: Copies, draws: Sequence[Any], train: Sequence[Any]) -> list[tuple[Any, Any, float]]:
    """The closest pairs, to be looked at: never a p value."""
    return [(draws[d], train[t], gap) for d, t, gap in found.pairs if t < len(train)]
