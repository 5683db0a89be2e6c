"""Reader studies: multi-reader multi-case analysis of ratings, and two-alternative forced choice.

Readers and cases are both samples: a difference that holds for these readers on these cases alone is not claimed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ..result import Result
from .discrimination import delong_covariance

Array = NDArray[np.float64]
FEWEST_READERS = 3


def obuchowski_rockette(scores: ArrayLike, labels: ArrayLike, *, level: float = 0.95) -> Result:
    """AUC of the first modality minus that of the second, readers and cases random (Obuchowski and Rockette 1995,
    Hillis 2007).

    `scores`: (2, readers, cases), the higher the more diseased; `labels`: 0 or 1 a case. Covariances by DeLong, degrees
    of freedom by Hillis: with three readers the level is a little too high (benchmarks/results/statistics.md). Details:
    AUC per modality and reader, the components of variance, the degrees of freedom. Raises ValueError for fewer than
    two readers, NaN, shapes that do not fit, or labels as `auc_delong`.
    """
    s, y = np.asarray(scores, np.float64), np.asarray(labels)
    if s.ndim != 3 or s.shape[0] != 2 or s.shape[1] < 2 or s.shape[2] != len(y) or not np.isfinite(s).all():
        raise ValueError(f"Got scores of {s.shape}, expected finite (2 modalities, 2 or more readers, {len(y)} cases).")
    readers = s.shape[1]
    areas, covariance = delong_covariance(list(s.reshape(2 * readers, -1)), y)
    auc, blocks = np.asarray(areas).reshape(2, readers), covariance.reshape(2, readers, 2, readers)
    same = np.eye(readers, dtype=bool)
    between_modalities = float(np.mean(blocks[0, :, 1][same]))
    between_readers = float(np.mean([blocks[k, :, k][~same].mean() for k in (0, 1)]))
    between_both = float(blocks[0, :, 1][~same].mean())
    mean, middle = auc.mean(1), auc.mean()
    interaction = float(((auc - mean[:, None] - auc.mean(0) + middle) ** 2).sum() / (readers - 1))
    error = interaction + max(readers * (between_readers - between_both), 0.0)
    difference = float(mean[0] - mean[1])
    degrees = error**2 / (interaction**2 / (readers - 1)) if interaction > 1e-300 else float("inf")
    spread = (2 * error / readers) ** 0.5
    half = float(stats.t.ppf(0.5 + level / 2, degrees)) * spread
    p = float(2 * stats.t.sf(abs(difference) / spread, degrees)) if spread > 0 else float(difference == 0)
    details = {
        "auc": auc.tolist(),
        "degrees_of_freedom": degrees,
        "modality_by_reader": interaction,
        "cov1": between_modalities,
        "cov2": between_readers,
        "cov3": between_both,
    }
    return Result(
        difference,
        len(y),
        f"Obuchowski-Rockette, {readers} readers and cases random",
        interval=(difference - half, difference + half),
        p_value=p,
        standard_error=spread,
        details=details,
    )


def forced_choice(correct: ArrayLike, readers: Sequence[str], *, margin: float = 0.1, level: float = 0.95) -> Result:
    """Share of pairs in which the generated image was found; .5 is guessing. `correct`: 0 or 1 a pair, `readers`: who
    read it.

    Interval over readers (t); details: each reader's share with Wilson's interval, d' = sqrt(2) z(share), and
    `equivalent`, the p value of lying within `margin` of guessing. Not finding a difference is no equivalence. Raises
    ValueError for other values than 0 and 1.
    """
    c = np.asarray(correct, np.float64)
    if c.ndim != 1 or len(c) != len(readers) or not len(c) or not np.isin(c, (0, 1)).all():
        raise ValueError(
            f"Got {c.shape} answers and {len(readers)} readers, expected one 0 or 1 for each reader's pair."
        )
    if not 0 < margin < 0.5:
        raise ValueError(f"margin is {margin}, expected a share between 0 and 0.5, such as 0.1.")
    names = list(dict.fromkeys(readers))
    own = {n: c[[r == n for r in readers]] for n in names}
    shares = np.array([v.mean() for v in own.values()])
    value = float(shares.mean())
    half_pair = 0.5 / len(c)
    detail: dict[str, object] = {
        "readers": {
            n: {"share": float(v.mean()), "interval": wilson(int(v.sum()), len(v), level), "pairs": len(v)}
            for n, v in own.items()
        },
        "d_prime": float(2**0.5 * stats.norm.ppf(np.clip(value, half_pair, 1 - half_pair))),
    }
    if len(names) < FEWEST_READERS:
        return Result(
            value, len(c), f"{len(names)} readers: no interval over readers below {FEWEST_READERS}", details=detail
        )
    error = (
        max(float(shares.std(ddof=1)), float(np.mean([0.25 / len(v) for v in own.values()])) ** 0.5) / len(names) ** 0.5
    )
    freedom = len(names) - 1
    half = float(stats.t.ppf(0.5 + level / 2, freedom)) * error
    detail["equivalent"] = float(
        max(stats.t.sf((value - 0.5 + margin) / error, freedom), stats.t.cdf((value - 0.5 - margin) / error, freedom))
    )
    p = float(2 * stats.t.sf(abs(value - 0.5) / error, freedom))
    return Result(
        value,
        len(c),
        f"two-alternative forced choice, t over {len(names)} readers, no narrower than guessing",
        interval=(value - half, value + half),
        p_value=p,
        standard_error=error,
        details=detail,
    )


def wilson(hits: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share (Wilson 1927)."""
    z = float(stats.norm.ppf(0.5 + level / 2))
    centre, scale = (hits + z**2 / 2) / (trials + z**2), z / (trials + z**2)
    half = scale * float(np.sqrt(hits * (trials - hits) / trials + z**2 / 4))
    return max(0.0, centre - half), min(1.0, centre + half)
