"""Do two ways of measuring agree? Correlation alone does not tell."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ...rng import derive
from ..result import Result

Array = NDArray[np.float64]
GENERALISED = 20000  # draws of the generalised interval


def concordance_correlation(a: ArrayLike, b: ArrayLike, *, level: float = 0.95) -> Result:
    """Lin's concordance correlation (1989, population moments) with the interval of his z transformation (2000 form).

    Raises ValueError for lengths that differ, fewer than three cases, NaN, or constant values on both sides.
    """
    x, y = _pair(a, b)
    n, sx, sy = len(x), float(x.var()), float(y.var())
    covariance, shift = float(((x - x.mean()) * (y - y.mean())).mean()), float(x.mean() - y.mean())
    if sx + sy + shift**2 == 0:
        raise ValueError("Both sides are one constant: agreement cannot be measured.")
    value = 2 * covariance / (sx + sy + shift**2)
    pearson = covariance / (sx * sy) ** 0.5 if sx * sy > 0 else 0.0
    found = None
    if 0 < abs(pearson) < 1 and abs(value) < 1 and value != 0:
        u = shift**2 / (sx * sy) ** 0.5
        c2, r2 = value**2, pearson**2
        variance = ((1 - r2) * c2 / ((1 - c2) * r2) + 2 * value**3 * (1 - value) * u / (pearson * (1 - c2) ** 2)
                    - value**4 * u**2 / (2 * r2 * (1 - c2) ** 2)) / (n - 2)  # fmt: skip
        reach = float(stats.norm.ppf(0.5 + level / 2)) * max(variance, 0.0) ** 0.5
        found = (float(np.tanh(np.arctanh(value) - reach)), float(np.tanh(np.arctanh(value) + reach)))
    return Result(value, n, "Lin, population moments", interval=found, details={"pearson": pearson})


def intraclass_correlation(
    ratings: ArrayLike, *, level: float = 0.95, convention: Literal["generalised", "shrout-fleiss"] = "generalised"
) -> Result:
    """ICC(2,1): two-way random effects, absolute agreement, one rater (Shrout and Fleiss 1979).

    `ratings`: (subjects, raters). Intervals: the `generalised` one (Tian and Cappelleri 2004), which keeps its level,
    or `shrout-fleiss`, which covers too little where raters differ. Raises ValueError for fewer than two of either,
    NaN, no variation at all, or another convention.
    """
    if convention not in ("shrout-fleiss", "generalised"):
        raise ValueError(f"convention is {convention!r}, expected shrout-fleiss or generalised.")
    r = np.asarray(ratings, np.float64)
    if r.ndim != 2 or min(r.shape) < 2 or not np.isfinite(r).all():
        raise ValueError(f"Got ratings of shape {r.shape}, expected finite (subjects, raters), at least 2 x 2.")
    n, k = r.shape
    rows, columns, grand = r.mean(1), r.mean(0), r.mean()
    between = k * float(((rows - grand) ** 2).sum()) / (n - 1)
    raters = n * float(((columns - grand) ** 2).sum()) / (k - 1)
    rest = float(((r - rows[:, None] - columns + grand) ** 2).sum()) / ((n - 1) * (k - 1))
    below = between + (k - 1) * rest + k * (raters - rest) / n
    if below == 0:
        raise ValueError("All ratings are equal: agreement cannot be measured.")
    value = (between - rest) / below
    squares = between, raters, rest
    found: tuple[float, float] | None = (value, value)
    if rest or raters:
        found = (
            _generalised(squares, n, k, level)
            if convention == "generalised"
            else _icc_interval(value, *squares, n, k, level)
        )
    return Result(value, n, f"ICC(2,1), {convention}", interval=found, details={"raters": k})


def _generalised(squares: tuple[float, float, float], n: int, k: int, level: float) -> tuple[float, float]:
    """Quantiles of the ratio of variances, each drawn from what its mean square says of it; negative ones count as
    0.
    """
    rng = np.random.Generator(np.random.Philox(key=derive(0, "intraclass", n, k)))
    freedom = (n - 1, k - 1, (n - 1) * (k - 1))
    between, raters, rest = (m * f / rng.chisquare(f, GENERALISED) for m, f in zip(squares, freedom, strict=True))
    subjects, readers = np.maximum(between - rest, 0) / k, np.maximum(raters - rest, 0) / n
    low, high = np.quantile(subjects / (subjects + readers + rest), [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def _icc_interval(
    value: float, between: float, raters: float, rest: float, n: int, k: int, level: float
) -> tuple[float, float] | None:
    if rest == 0:
        return None
    f = raters / rest
    a, b = k * value, n * (1 + (k - 1) * value) - k * value
    v = (k - 1) * (n - 1) * (a * f + b) ** 2 / ((n - 1) * a**2 * f**2 + b**2)
    upper, lower = (stats.f.ppf(0.5 + level / 2, *d) for d in ((n - 1, v), (v, n - 1)))
    middle = k * raters + (k * n - k - n) * rest
    low = n * (between - upper * rest) / (upper * middle + n * between)
    high = n * (lower * between - rest) / (middle + n * lower * between)
    return float(low), float(high)


def bland_altman(a: ArrayLike, b: ArrayLike, *, level: float = 0.95) -> Result:
    """Mean difference a - b with its interval; details: the limits of agreement (1.96 deviations) and their intervals.

    Bland and Altman 1986; intervals of the limits by their approximation (1999). Raises ValueError as
    `concordance_correlation`.
    """
    x, y = _pair(a, b)
    difference, n = x - y, len(x)
    value, deviation = float(difference.mean()), float(difference.std(ddof=1))
    t = float(stats.t.ppf(0.5 + level / 2, n - 1))
    error = deviation / n**0.5
    around = t * deviation * (1 / n + 1.96**2 / (2 * (n - 1))) ** 0.5
    limits = (value - 1.96 * deviation, value + 1.96 * deviation)
    details = {
        "limits": limits, "lower_interval": (limits[0] - around, limits[0] + around),
        "upper_interval": (limits[1] - around, limits[1] + around), "deviation": deviation,
    }  # fmt: skip
    p = 2 * float(stats.t.sf(abs(value) / error, n - 1)) if error > 0 else float(value == 0)
    return Result(
        value, n, "Bland-Altman, normal limits", interval=(value - t * error, value + t * error), p_value=p,
        standard_error=error, details=details,
    )  # fmt: skip


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[Array, Array]:
    x, y = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    if x.shape != y.shape or len(x) < 3 or not np.isfinite(np.concatenate([x, y])).all():
        raise ValueError(f"Got {x.size} and {y.size} values, expected as many, at least three, all finite.")
    return x, y
