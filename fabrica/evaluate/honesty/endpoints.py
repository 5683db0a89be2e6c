"""What a figure rests on: which way each endpoint is better, and how cases without a number count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ...registry import unknown
from ..metrics import hounsfield, overlap
from ..metrics.pixel import METRICS

SIGNS: Mapping[str, int] = {"higher": 1, "lower": -1, "neither": 0}  # of a difference that is a gain
SETS = ("kernel distance",)  # of a whole set of patients
SEGMENTED = tuple(overlap.BETTER)  # of masks found in images
SCORES: Mapping[str, str] = {  # of a task that a model does, beside those of masks
    **dict.fromkeys(("correct", "auc", "accuracy", "f1", "sensitivity", "specificity"), "higher"),
    **dict.fromkeys(("absolute error", "log loss", "brier"), "lower"),
}
BETTER: Mapping[str, str] = {
    **{name: metric.better for name, metric in METRICS.items()},
    **hounsfield.BETTER,
    **overlap.BETTER,
    **SCORES,
    **dict.fromkeys(SETS, "lower"),
}


WORST: Mapping[str, float] = dict.fromkeys(  # where a scale has an end
    (
        "ssim",
        "ms_ssim",
        "haarpsi",
        "vif",
        "dice",
        "surface dice",
        "pieces found",
        "correct",
        "auc",
        "accuracy",
        "f1",
        "sensitivity",
        "specificity",
    ),
    0.0,
)


def sign_of(endpoint: str) -> int:
    """1 where more is better, -1 where less is, 0 where neither or not known."""
    return SIGNS[BETTER.get(endpoint, "neither")]


def directed(endpoint: str) -> int:
    """As `sign_of`; raises ValueError where no direction is better or none is known."""
    if endpoint not in BETTER:
        raise unknown("endpoint", endpoint, [n for n, better in BETTER.items() if better != "neither"])
    if not sign_of(endpoint):
        raise ValueError(f"{endpoint} has no better direction, so no claim or rank can rest on it.")
    return sign_of(endpoint)


def ends(values: Iterable[float | None], sign: int) -> tuple[float, float] | None:
    """(worst, best) of the finite values; None when there is none."""
    known = [sign * v for v in values if v is not None and np.isfinite(v)]
    return (sign * min(known), sign * max(known)) if known else None


def bounds_of(endpoint: str, values: Iterable[float | None]) -> tuple[float, float] | None:
    """As `ends`, with the endpoint's own worst value where it has one: failing is never as good as the worst of the
    others.
    """
    sign = sign_of(endpoint)
    found = ends(values, sign) if sign else None
    if found is None or endpoint not in WORST:
        return found
    return sign * min(sign * WORST[endpoint], sign * found[0]), found[1]


def filled(value: float | None, bounds: tuple[float, float], sign: int) -> float:
    """A failed case, and one that is infinitely bad, at the worst value; an infinitely good one at the best finite one
    (check 19).
    """
    if value is None or np.isnan(value) or sign * value == -np.inf:
        return bounds[0]
    return bounds[1] if np.isinf(value) else float(value)


def number(text: float | str) -> float | None:
    """Of a cell of a table: None for a case that failed; an infinite PSNR is a perfect answer, not a failure."""
    if isinstance(text, str) and text.startswith("infinite"):
        return float("inf")
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return None if np.isnan(value) else value
