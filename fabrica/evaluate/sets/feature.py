"""Tier 2: distances between sets of feature vectors, rows as cases. No distance means anything without its null: the
same distance between two sets of real patients of the same size.

`x` are generated cases, `y` real ones. Features must be scaled by what both sets share (pooled) or by a third set.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...rng import derive
from ..metrics.radiomics import radiomics as radiomics
from ..result import Result

Array = NDArray[np.float64]
CHUNK = 2048  # rows of a distance matrix held at once


def frechet_distance(x: ArrayLike, y: ArrayLike) -> float:
    """|mean difference|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2), sample covariances; exact for any number of rows.

    The last term comes from symmetric eigenvalues, or from the nuclear norm of the product of the centred matrices
    where there are few rows: no matrix root is taken. Biased upwards at small N: compare with its null at the same N.
    Raises ValueError for fewer than two rows, other widths, or NaN.
    """
    a, b = _features(x, y)
    return _frechet(a, b)


def _frechet(a: Array, b: Array) -> float:
    shift = float(((a.mean(0) - b.mean(0)) ** 2).sum())
    found = _by_covariances(a, b) if min(len(a), len(b)) > 2 * a.shape[1] else None
    spread, shared = found or _by_factors(a, b)
    return float(max(0.0, shift + spread - 2 * shared))


def _by_covariances(a: Array, b: Array) -> tuple[float, float] | None:
    """(tr S1 + tr S2, tr (S1 S2)^(1/2)) by symmetric eigenvalues; None where rounding could reach the seventh digit."""
    s, t = _covariance(a), _covariance(b)
    try:
        root = np.linalg.cholesky(t)
    except np.linalg.LinAlgError:
        return None
    values = np.linalg.eigvalsh(root.T @ s @ root)
    if values[0] < 1e-10 * values[-1]:
        return None
    return float(s.trace() + t.trace()), float(np.sqrt(values).sum())


def _covariance(a: Array) -> Array:
    """Sample covariance of the columns, centred chunk by chunk: a centred copy of all rows would cost more than the
    product.
    """
    middle = a.mean(0)
    total = np.zeros((a.shape[1], a.shape[1]))
    for start in range(0, len(a), CHUNK):
        part = a[start : start + CHUNK] - middle
        total += part.T @ part
    total /= len(a) - 1
    return total


def _by_factors(a: Array, b: Array) -> tuple[float, float]:
    """The same by the nuclear norm of the product of the centred matrices: exact for any number of rows and any
    rank.
    """
    left, right = a - a.mean(0), b - b.mean(0)
    spread = float((left**2).sum() / (len(a) - 1) + (right**2).sum() / (len(b) - 1))
    r1, r2 = _triangle(left), _triangle(right)
    shared = float(np.linalg.svd(r1 @ r2.T, compute_uv=False).sum()) / ((len(a) - 1) * (len(b) - 1)) ** 0.5
    return spread, shared


def _triangle(centred: Array) -> Array:
    """Few rows with the same inner products between columns."""
    if len(centred) <= centred.shape[1]:
        return centred
    small: Array = np.asarray(np.linalg.qr(centred, mode="r"))
    return small


def frechet_distance_infinity(x: ArrayLike, y: ArrayLike, *, seed: int = 0, blocks: int = 10) -> Result:
    """The Fréchet distance extrapolated to infinitely many rows: a line through FD_N against 1/N (Chong and Forsyth
    2020).

    Subsets of both sets without replacement, from a half to all of the smaller one; the error is a jackknife over
    blocks of rows. Raises ValueError as `frechet_distance`, and for fewer than 20 rows.
    """
    a, b = _features(x, y)
    n = min(len(a), len(b))
    if n < 20:
        raise ValueError(f"Got {n} rows in the smaller set, expected at least 20 to extrapolate.")
    rng = np.random.Generator(np.random.Philox(key=derive(seed, "frechet")))
    value = _extrapolated(a, b, rng)
    parts = [rng.permutation(len(m)) % blocks for m in (a, b)]
    without = [_extrapolated(a[parts[0] != k], b[parts[1] != k], rng) for k in range(blocks)]
    error = float(np.var(without)) ** 0.5 * (blocks - 1) ** 0.5
    details = {"distance_at_n": _frechet(a, b)}
    return Result(value, n, f"line through subsets, {blocks} jackknife blocks", standard_error=error, details=details)


def _extrapolated(a: Array, b: Array, rng: np.random.Generator, sizes: int = 10, repeats: int = 5) -> float:
    n = min(len(a), len(b))
    counts = np.repeat(np.unique(np.linspace(n // 2, n, sizes).round().astype(int)), repeats)
    found = [_frechet(a[rng.permutation(len(a))[:c]], b[rng.permutation(len(b))[:c]]) for c in counts]
    return float(np.polyfit(1 / counts, found, 1)[1])


def kernel_distance(x: ArrayLike, y: ArrayLike) -> Result:
    """Squared MMD with the cubic kernel (x.y / d + 1)^3 (Binkowski 2018): unbiased over all rows, jackknife error.

    May be negative; 0 in the mean when both sets come from one source, where the error is half too large. Raises
    ValueError as `frechet_distance`.
    """
    a, b = _features(x, y)
    n, m, d = len(a), len(b), a.shape[1]
    xx, yy, xy = ((p @ q.T / d + 1) ** 3 for p, q in ((a, a), (b, b), (a, b)))
    np.fill_diagonal(xx, 0.0)
    np.fill_diagonal(yy, 0.0)
    sx, sy, sxy = xx.sum(), yy.sum(), xy.sum()
    value = sx / (n * (n - 1)) + sy / (m * (m - 1)) - 2 * sxy / (n * m)
    if min(n, m) < 3:
        return Result(float(value), n + m, "cubic kernel, unbiased")
    without_x = (sx - 2 * xx.sum(1)) / ((n - 1) * (n - 2)) + sy / (m * (m - 1)) - 2 * (sxy - xy.sum(1)) / ((n - 1) * m)
    without_y = sx / (n * (n - 1)) + (sy - 2 * yy.sum(1)) / ((m - 1) * (m - 2)) - 2 * (sxy - xy.sum(0)) / (n * (m - 1))
    variance = (n - 1) * float(without_x.var()) + (m - 1) * float(without_y.var())
    return Result(float(value), n + m, "cubic kernel, unbiased, jackknife", standard_error=variance**0.5)


def mmd_permutation_test(
    x: ArrayLike, y: ArrayLike, groups: tuple[Sequence[str], Sequence[str]], *, permutations: int = 500, seed: int = 0
) -> Result:
    """MMD with a Gaussian kernel of median width; p by moving whole patients between the two sets.

    `groups`: the patient of every row of x and of y. Row-wise permutation would call every difference significant when
    patients have many images. Raises ValueError as `frechet_distance`, for names that do not fit, or a shared patient.
    """
    a, b = _features(x, y)
    member, sizes = _patients(a, b, groups)
    both = np.concatenate([a, b])
    squares = _squares(both, both)
    width = float(np.median(squares[np.triu_indices(len(both), 1)]))
    kernel = np.exp(-squares / max(width, 1e-300))
    sides = _relabelled(sizes, permutations, seed)
    on_x = sides[:, member].astype(np.float64)
    weights = on_x / np.maximum(on_x.sum(1, keepdims=True), 1) - (1 - on_x) / np.maximum(
        (1 - on_x).sum(1, keepdims=True), 1
    )
    found = np.einsum("ij,ij->i", weights @ kernel, weights)
    p = float((found >= found[0] - max(1e-9 * found[0], 1e-12)).mean())  # sets that are equal leave rounding alone
    return Result(float(found[0]), len(both), f"Gaussian kernel, {permutations} permutations of patients", p_value=p)


def _patients(
    a: Array, b: Array, groups: tuple[Sequence[str], Sequence[str]]
) -> tuple[NDArray[np.intp], tuple[int, int]]:
    """(patient number of every row, patients on each side), x's patients first."""
    mine, real = [str(g) for g in groups[0]], [str(g) for g in groups[1]]
    if len(mine) != len(a) or len(real) != len(b):
        raise ValueError(f"Got {len(mine)} and {len(real)} patient names for {len(a)} and {len(b)} rows.")
    if shared := set(mine) & set(real):
        raise ValueError(f"{len(shared)} patients stand on both sides; rename generated ones, or leave them out.")
    first, second = tuple(dict.fromkeys(mine)), tuple(dict.fromkeys(real))
    place = {name: i for i, name in enumerate((*first, *second))}
    return np.array([place[g] for g in (*mine, *real)]), (len(first), len(second))


def _relabelled(sizes: tuple[int, int], permutations: int, seed: int) -> NDArray[np.bool_]:
    """(1 + permutations, patients): who stands on x's side; the first row is as given."""
    rng = np.random.Generator(np.random.Philox(key=derive(seed, "permutations")))
    sides = np.zeros((permutations + 1, sum(sizes)), bool)
    sides[:, : sizes[0]] = True
    for row in sides[1:]:
        rng.shuffle(row)
    return sides


def precision_recall(x: ArrayLike, y: ArrayLike, *, k: int = 5) -> Result:
    """Precision: the share of x within a k-nearest-neighbour ball of y; details: recall, the other way round, and the
    rest.

    Kynkaanniemi 2019. Two halves of one source do not reach 1: never read the value without its null. Raises ValueError
    as `frechet_distance`, and unless both sets have more than k rows.
    """
    details, n = neighbours(x, y, k)
    return Result(details["precision"], n, f"k = {k}", details=details)


def density_coverage(x: ArrayLike, y: ArrayLike, *, k: int = 5) -> Result:
    """Density: how many balls of y hold a row of x, over k; details: coverage, the balls of y that hold any row of x,
    and the rest.

    Naeem 2020; errors as `precision_recall`.
    """
    details, n = neighbours(x, y, k)
    return Result(details["density"], n, f"k = {k}", details=details)


def neighbours(x: ArrayLike, y: ArrayLike, k: int) -> tuple[dict[str, float], int]:
    """(precision, recall, density and coverage of one search, rows); errors as `precision_recall`."""
    from . import nearest  # compiled: loaded when first needed

    a, b = _features(x, y)
    if not 1 <= k < min(len(a), len(b)):
        raise ValueError(f"k is {k}, expected at least 1 and fewer than the {min(len(a), len(b))} rows of a set.")
    inside, covered, recalled = nearest.within(a, b, nearest.reach(a, k), nearest.reach(b, k))
    found = {
        "precision": float((inside > 0).mean()), "recall": float(recalled.mean()),
        "density": float(inside.mean() / k), "coverage": float(covered.mean()),
    }  # fmt: skip
    return found, len(a) + len(b)


def authenticity(x: ArrayLike, training: ArrayLike) -> float:
    """Share of x that lies farther from its nearest training row than that row from its own nearest (Alaa 2022).

    0 for copies of the training set. Raises ValueError as `frechet_distance`.
    """
    from . import nearest

    a, t = _features(x, training)
    own = nearest.reach(t, 1)
    authentic = 0
    for start in range(0, len(a), CHUNK):
        squares = _squares(a[start : start + CHUNK], t)
        closest = squares.argmin(1)
        authentic += int((squares[np.arange(len(squares)), closest] > own[closest]).sum())
    return authentic / len(a)


def vendi(x: ArrayLike) -> float:
    """Effective number of different rows: exp of the entropy of the cosine kernel's eigenvalues (Friedman and Dieng
    2023).

    n for n orthogonal rows, 1 for copies; grows with N. Raises ValueError for NaN or a row of zeros.
    """
    a = np.asarray(x, np.float64)
    norms = np.linalg.norm(a, axis=-1, keepdims=True) if a.ndim == 2 else np.zeros(1)
    if a.ndim != 2 or not np.isfinite(a).all() or not (norms > 0).all():
        raise ValueError(f"Got features of shape {a.shape}, expected finite (cases, features) without a row of zeros.")
    unit = a / norms
    shares = np.linalg.svd(unit, compute_uv=False) ** 2 / len(a)
    shares = shares[shares > 1e-15]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def classifier_two_sample_test(
    x: ArrayLike, y: ArrayLike, groups: tuple[Sequence[str], Sequence[str]], *, folds: int = 5, permutations: int = 500,
    seed: int = 0,
) -> Result:  # fmt: skip
    """Balanced accuracy of a linear classifier that tells x from y (Lopez-Paz and Oquab 2017), over patients left out.

    Ridge regression on standardised features; p by moving whole patients between the sets: .5 is chance. Raises
    ValueError as `mmd_permutation_test`, and for fewer patients on a side than folds.
    """
    a, b = _features(x, y)
    member, sizes = _patients(a, b, groups)
    if min(sizes) < folds:
        raise ValueError(f"Got {sizes[0]} and {sizes[1]} patients, expected at least {folds} on each side.")
    both = np.concatenate([a, b])
    both = (both - both.mean(0)) / np.maximum(both.std(0), 1e-12)
    rng = np.random.Generator(np.random.Philox(key=derive(seed, "folds")))
    fold = np.concatenate([rng.permutation(np.arange(n) % folds) for n in sizes])[member]
    labels = np.where(_relabelled(sizes, permutations, seed)[:, member], 1.0, -1.0)  # (1 + permutations, rows)
    scores = np.zeros_like(labels)
    for k in range(folds):
        scores[:, fold == k] = _ridge(both[fold != k], both[fold == k], labels[:, fold != k])
    right = np.sign(scores) == labels
    found = [(right * (labels == s)).sum(1) / np.maximum((labels == s).sum(1), 1) for s in (1.0, -1.0)]
    accuracy = (found[0] + found[1]) / 2
    p = float((accuracy >= accuracy[0] - 1e-12).mean())
    return Result(
        float(accuracy[0]), len(both), f"ridge, {folds} folds, {permutations} permutations of patients", p_value=p
    )


def _ridge(train: Array, test: Array, labels: Array) -> Array:
    """Scores (labellings, test rows); classes count alike whatever their size."""
    positive = (labels > 0).mean(1, keepdims=True)
    aim = np.where(labels > 0, 1 / np.maximum(positive, 1e-12), -1 / np.maximum(1 - positive, 1e-12)) / 2
    centre = train.mean(0)
    t, s = train - centre, test - centre
    if len(t) <= t.shape[1]:
        hat = s @ t.T @ np.linalg.inv(t @ t.T + len(t) * np.eye(len(t)))
    else:
        hat = s @ np.linalg.solve(t.T @ t + len(t) * np.eye(t.shape[1]), t.T)
    scores: Array = aim @ hat.T
    return scores


def _features(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"Got features of {a.shape} and {b.shape}, expected (cases, features), at least two cases each."
        )
    if not np.isfinite(a.sum()) or not np.isfinite(b.sum()):
        raise ValueError("A feature is NaN or infinite. Count that case as failed; do not average over it.")
    return a, b


def _squares(a: Array, b: Array) -> Array:
    """Squared distances (rows of a, rows of b); zero on what is equal to the bit."""
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * (a @ b.T)
    floor = 1e-12 * ((a**2).sum(1)[:, None] + (b**2).sum(1))
    return np.where(squares <= floor, 0.0, squares)
