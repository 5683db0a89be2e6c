"""Scores against labels: ranking, calibration, survival."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

from ..result import Result

Array = NDArray[np.float64]


def auc_delong(
    scores: ArrayLike, labels: ArrayLike, *, level: float = 0.95, convention: Literal["logit", "plain"] = "logit"
) -> Result:
    """Area under the ROC curve with DeLong's interval (DeLong 1988, midranks of Sun and Xu 2014); p against .5.

    Labels are 0 or 1, higher scores mean 1. Intervals: `logit`, symmetric on that scale, keeps its level (Qin and
    Hotilovac 2008); `plain`, as pROC has it, is cut at [0, 1] and covers too little for few cases and high areas.
    Scores that separate the labels have no variance: no interval, and p by exact permutation. Raises ValueError for
    other labels, fewer than two of either, lengths that differ, NaN, or another convention.
    """
    if convention not in ("plain", "logit"):
        raise ValueError(f"convention is {convention!r}, expected plain or logit.")
    (area,), covariance = delong_covariance([scores], labels)
    n = int(np.size(labels))
    error = float(covariance[0, 0]) ** 0.5
    if area in (0.0, 1.0):
        p = min(1.0, 2 / float(special.comb(n, int(np.sum(np.asarray(labels) == 1)))))
        return Result(area, n, "labels are separated: DeLong gives no interval, p exact", p_value=p)
    reach = float(stats.norm.ppf(0.5 + level / 2)) * error
    p = 2 * float(stats.norm.sf(abs(area - 0.5) / error)) if error > 0 else float(area == 0.5)
    found = (max(0.0, area - reach), min(1.0, area + reach))
    if convention == "logit":
        middle, reach = float(special.logit(area)), reach / (area * (1 - area))
        found = (float(special.expit(middle - reach)), float(special.expit(middle + reach)))
    return Result(area, n, f"DeLong, {convention}", interval=found, p_value=p, standard_error=error)


def auc_delong_paired(scores_a: ArrayLike, scores_b: ArrayLike, labels: ArrayLike, *, level: float = 0.95) -> Result:
    """Difference of two areas (a - b) on the same cases with DeLong's interval and two-sided p. Errors as
    `auc_delong`.
    """
    areas, covariance = delong_covariance([scores_a, scores_b], labels)
    n = int(np.size(labels))
    value = float(areas[0] - areas[1])
    error = float(max(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1], 0.0)) ** 0.5
    reach = float(stats.norm.ppf(0.5 + level / 2)) * error
    p = 2 * float(stats.norm.sf(abs(value) / error)) if error > 0 else float(value == 0)
    details = {"auc_a": float(areas[0]), "auc_b": float(areas[1]), "z": value / error if error > 0 else 0.0}
    return Result(
        value, n, "DeLong, paired", interval=(value - reach, value + reach), p_value=p, standard_error=error,
        details=details,
    )  # fmt: skip


def delong_covariance(several: Sequence[ArrayLike], labels: ArrayLike) -> tuple[list[float], Array]:
    """AUCs of several readings of the same cases, and their covariances (DeLong 1988). Raises ValueError as
    `auc_delong`.
    """
    known = np.asarray(labels).ravel()
    if not np.isin(known, (0, 1)).all() or min((known == 0).sum(), (known == 1).sum()) < 2:
        raise ValueError("labels must be 0 or 1, with at least two of each.")
    areas, of_positives, of_negatives = [], [], []
    for given in several:
        scores = np.asarray(given, np.float64).ravel()
        if scores.shape != known.shape or not np.isfinite(scores).all():
            raise ValueError(f"Got {scores.size} scores for {known.size} labels, expected as many, all finite.")
        positive, negative = scores[known == 1], scores[known == 0]
        m, n = len(positive), len(negative)
        ranks = stats.rankdata(np.concatenate([positive, negative]))
        v10 = (ranks[:m] - stats.rankdata(positive)) / n
        v01 = 1 - (ranks[m:] - stats.rankdata(negative)) / m
        areas.append(float(v10.mean()))
        of_positives.append(v10)
        of_negatives.append(v01)
    covariance = np.atleast_2d(np.cov(of_positives)) / m + np.atleast_2d(np.cov(of_negatives)) / n
    return areas, covariance


def brier(probabilities: ArrayLike, labels: ArrayLike) -> Result:
    """Mean squared difference between probability and outcome (0 or 1); lower is better. Errors as `calibration`."""
    p, y = _chances(probabilities, labels)
    return Result(float(((p - y) ** 2).mean()), len(p), "Brier 1950")


def calibration(probabilities: ArrayLike, labels: ArrayLike, *, bins: int = 10) -> Result:
    """Expected calibration error over bins of equal width; details: slope, intercept and the curve.

    Slope and intercept are those of a logistic regression of the outcome on the logit of the probability (Cox 1958): 1
    and 0 when calibrated. Raises ValueError for values outside [0, 1], labels that are not 0 or 1, or lengths that
    differ.
    """
    p, y = _chances(probabilities, labels)
    index = np.minimum((p * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    mean, rate = (np.bincount(index, v, bins) / np.maximum(count, 1) for v in (p, y))
    error = float((count * np.abs(mean - rate)).sum() / len(p))
    slope, intercept = _recalibration(p, y)
    curve = [(float(a), float(b), int(c)) for a, b, c in zip(mean, rate, count, strict=True) if c]
    return Result(
        error, len(p), f"{bins} bins of equal width",
        details={"slope": slope, "intercept": intercept, "curve": curve},
    )  # fmt: skip


def _recalibration(p: Array, y: Array) -> tuple[float | None, float | None]:
    """(slope, intercept), or None for both when one outcome is missing or a threshold parts them, either way round."""
    if len(np.unique(y)) < 2 or len(np.unique(p)) < 2:
        return None, None
    if p[y == 0].max() <= p[y == 1].min() or p[y == 1].max() <= p[y == 0].min():  # the likelihood has no maximum
        return None, None
    logit = np.log(np.clip(p, 1e-9, 1 - 1e-9)) - np.log1p(-np.clip(p, 1e-9, 1 - 1e-9))

    def loss(b: Array) -> tuple[float, Array]:
        z = b[0] * logit + b[1]
        miss = special.expit(z) - y
        return float((np.logaddexp(0, z) - y * z).sum()), np.array([(miss * logit).sum(), miss.sum()])

    found = optimize.minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS")
    return float(found.x[0]), float(found.x[1])


def _chances(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Array, Array]:
    p, y = np.asarray(probabilities, np.float64).ravel(), np.asarray(labels, np.float64).ravel()
    if p.shape != y.shape or not len(p):
        raise ValueError(f"Got {p.size} probabilities for {y.size} labels, expected as many, at least one.")
    if not ((p >= 0) & (p <= 1)).all() or not np.isin(y, (0, 1)).all():
        raise ValueError("probabilities must lie in [0, 1] and labels be 0 or 1.")
    return p, y
