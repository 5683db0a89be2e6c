"""Times until an event, of patients whom some have only followed so far: who has it first, how many by when, how well
foretold.

time (n,): until the event, or until nobody looked any more; event (n,): 1 = it happened, 0 = censored. Risks: higher =
earlier. Chances `survival` (n, times): of no event by then. Censoring is weighed away by the Kaplan-Meier curve of the
censoring itself, which takes for granted that it has nothing to do with the risk.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from ..result import Result

Array = NDArray[np.float64]
NORMAL = 1.959964  # of a two-sided 95 % interval
FEWEST = 10  # events without which no figure of a set is told
GROUPS = 5  # of a calibration at a horizon


@dataclass(frozen=True)
class Curve:
    """Share without an event after each time at which one happened, with a pointwise 95 % band."""

    times: Array
    share: Array
    low: Array
    high: Array

    def at(self, when: ArrayLike) -> Array:
        """Share at any times: 1 before the first event, the last step's after the last."""
        place = np.searchsorted(self.times, np.asarray(when, np.float64), side="right")
        return np.concatenate([[1.0], self.share])[place]

    def before(self, when: ArrayLike) -> Array:
        """Its limit from the left."""
        place = np.searchsorted(self.times, np.asarray(when, np.float64), side="left")
        return np.concatenate([[1.0], self.share])[place]


def kaplan_meier(time: ArrayLike, event: ArrayLike) -> Curve:
    """Kaplan and Meier 1958; band by Greenwood's variance of log(-log) (Kalbfleisch and Prentice). Raises ValueError
    for times that are none.
    """
    t, e = _followed(time, event)
    found = stats.ecdf(stats.CensoredData(uncensored=t[e > 0], right=t[e == 0])).sf
    if not (e > 0).any():
        return Curve(*(np.empty(0) for _ in range(4)))
    some = np.isin(found.quantiles, t[e > 0])
    with warnings.catch_warnings(action="ignore"):  # where all or none had the event there is no band
        band = found.confidence_interval(method="log-log")
    low, high = (
        np.nan_to_num(np.asarray(getattr(band, end).probabilities)[some], nan=at)
        for end, at in (("low", 0.0), ("high", 1.0))
    )
    return Curve(found.quantiles[some], found.probabilities[some], low, high)


def concordance_index(risk: ArrayLike, time: ArrayLike, event: ArrayLike) -> Result:
    """Harrell's C: of the pairs whose order is known, the share in which the higher risk has the earlier event.

    Equal risks count half. A pair is known when the earlier time is an event, or at equal times when one is an event
    and the other censored. Interval by the influence of each patient. Raises ValueError for lengths that differ, NaN,
    or no known pair.
    """
    right, pairs = _pairs(risk, time, event, None)
    return _share(right, pairs, "Harrell")


def concordance_uno(risk: ArrayLike, time: ArrayLike, event: ArrayLike, *, until: float | None = None) -> Result:
    """Uno's C (2011): pairs weighed by the inverse square of the chance of being followed until the earlier event, of
    events before `until`. Errors as `concordance_index`.
    """
    right, pairs = _pairs(risk, time, event, _censoring_weights(time, event, until) ** 2)
    return _share(right, pairs, "Uno" if until is None else f"Uno, until {until:g}")


def concordance_paired(risk: ArrayLike, other: ArrayLike, time: ArrayLike, event: ArrayLike) -> Result:
    """Harrell's C of one risk minus that of another, of the same patients."""
    (own, pairs), (theirs, _) = (_pairs(r, time, event, None) for r in (risk, other))
    return _share(own - theirs, pairs, "Harrell, paired", least=-1.0)


def _pairs(risk: ArrayLike, time: ArrayLike, event: ArrayLike, weight: Array | None) -> tuple[Array, Array]:
    """Of each patient: weight of the pairs that he is in and that are ordered rightly, and of all known ones."""
    r, (t, e) = np.asarray(risk, np.float64).ravel(), _followed(time, event)
    if r.shape != t.shape or not np.isfinite(r).all():
        raise ValueError(f"Got {r.size} risks, {t.size} times, {e.size} events, expected as many, all finite.")
    right, pairs = np.zeros(len(t)), np.zeros(len(t))
    for i in np.flatnonzero(e):
        w = 1.0 if weight is None else weight[i]
        later = w * ((t > t[i]) | ((t == t[i]) & (e == 0)))
        won = later * ((r < r[i]) + 0.5 * (r == r[i]))
        right += won
        pairs += later
        right[i] += won.sum()
        pairs[i] += later.sum()
    if not pairs.any():
        raise ValueError("No pair of cases has a known order: there are no events before another case's time.")
    return right, pairs


def _share(right: Array, pairs: Array, convention: str, least: float = 0.0) -> Result:
    """Each pair is counted at both of its patients; the variance is that of the patients' influences."""
    total = pairs.sum()
    value = float(right.sum() / total)
    error = float(np.sqrt(((2 * (right - value * pairs) / total) ** 2).sum()))
    ends = (max(least, value - NORMAL * error), min(1.0, value + NORMAL * error))
    return Result(
        value, len(pairs), convention, interval=ends, standard_error=error, details={"pairs": float(total / 2)}
    )


def _censoring(time: ArrayLike, event: ArrayLike) -> Curve:
    t, e = _followed(time, event)
    return kaplan_meier(t, 1 - e)


def _censoring_weights(time: ArrayLike, event: ArrayLike, until: float | None) -> Array:
    """Of each event the inverse chance of having been followed until then; 0 of whoever was censored, or later."""
    t, e = _followed(time, event)
    used = (e > 0) & (t < (np.inf if until is None else until))
    followed = _censoring(t, e).before(t)
    return np.asarray(np.where(used, 1 / np.maximum(followed, 1e-12), 0.0))


def brier_scores(survival: ArrayLike, times: ArrayLike, time: ArrayLike, event: ArrayLike) -> Array:
    """(n, times): each patient's weighed squared error of the chance of no event by each time (Graf et al. 1999).

    Their mean over patients is the Brier score then. Raises ValueError for shapes that differ, and for times at which
    nobody was followed any more.
    """
    s, when, (t, e) = np.asarray(survival, np.float64), np.asarray(times, np.float64), _followed(time, event)
    if s.shape != (len(t), len(when)):
        raise ValueError(f"Got chances of {s.shape}, expected {(len(t), len(when))}: patients, times.")
    censoring = _censoring(t, e)
    still = censoring.at(when)
    if (still <= 0).any() or when.max() > t.max():
        raise ValueError(f"Nobody was followed until {when.max():g}; the longest is {t.max():g}. Ask for less.")
    had = (t[:, None] <= when) & (e[:, None] > 0)
    without = t[:, None] > when
    first = np.where(had, 1 / np.maximum(censoring.before(t), 1e-12)[:, None], 0.0)
    return np.asarray(s**2 * first + (1 - s) ** 2 * (without / still))


def integrated_brier(survival: ArrayLike, times: ArrayLike, time: ArrayLike, event: ArrayLike) -> Array:
    """(n,): each patient's `brier_scores`, a mean over the time between the first and the last of `times`."""
    when = np.asarray(times, np.float64)
    return np.asarray(np.trapezoid(brier_scores(survival, when, time, event), when, axis=1) / (when[-1] - when[0]))


def auc_at(risk: ArrayLike, horizon: float, time: ArrayLike, event: ArrayLike) -> Result:
    """Whoever had the event by the horizon against whoever had not: cumulative cases, dynamic controls (Uno 2007).

    Raises ValueError where either is missing.
    """
    r, (t, e) = np.asarray(risk, np.float64).ravel(), _followed(time, event)
    weight = _censoring_weights(t, e, None) * (t <= horizon)
    controls = r[t > horizon]
    if not weight.any() or not len(controls):
        raise ValueError(f"nobody had the event by {horizon:g}, or nobody was followed longer")
    won = np.array([(controls < one).mean() + 0.5 * (controls == one).mean() for one in r[weight > 0]])
    value = float((weight[weight > 0] * won).sum() / weight.sum())
    return Result(value, len(t), f"cumulative cases, dynamic controls at {horizon:g}, weighed for censoring")


def calibration_at(risk: ArrayLike, horizon: float, time: ArrayLike, event: ArrayLike, groups: int = GROUPS) -> Result:
    """Mean absolute gap between the chance of an event by the horizon and what Kaplan-Meier shows, over groups of equal
    numbers by risk. `details`: "curve" of (foretold, seen, low, high, patients), "expected / observed" of all.
    """
    r, (t, e) = np.asarray(risk, np.float64).ravel(), _followed(time, event)
    order = np.argsort(r, kind="stable")
    curve = []
    for own in np.array_split(order, min(groups, len(r))):
        found = kaplan_meier(t[own], e[own])
        place = int(np.searchsorted(found.times, horizon, side="right")) - 1
        low, high = (0.0, 1.0) if place < 0 else (1 - found.high[place], 1 - found.low[place])
        curve.append((float(r[own].mean()), float(1 - found.at(horizon)), float(low), float(high), len(own)))
    gap = sum(n * abs(told - seen) for told, seen, *_, n in curve) / len(r)
    seen = float(1 - kaplan_meier(t, e).at(horizon))
    ratio = float(r.mean()) / seen if seen else None
    details = {"curve": curve, "expected / observed": ratio}
    return Result(float(gap), len(r), f"{len(curve)} groups by risk at {horizon:g}", details=details)


def net_benefit(
    risk: ArrayLike, horizon: float, time: ArrayLike, event: ArrayLike, thresholds: ArrayLike
) -> tuple[Array, Array]:
    """(of treating whoever's chance of an event by the horizon is at least the threshold, of treating everybody), per
    patient (Vickers and Elkin 2006; with censoring Vickers et al. 2008).
    """
    r, (t, e), levels = np.asarray(risk, np.float64).ravel(), _followed(time, event), np.asarray(thresholds, np.float64)
    chance = float(1 - kaplan_meier(t, e).at(horizon))
    everybody = chance - (1 - chance) * levels / (1 - levels)
    found = []
    for level in levels:
        chosen = r >= level
        share = float(chosen.mean())
        seen = float(1 - kaplan_meier(t[chosen], e[chosen]).at(horizon)) if chosen.any() else 0.0
        found.append(share * (seen - (1 - seen) * level / (1 - level)))
    return np.array(found), everybody


def logrank(time: ArrayLike, event: ArrayLike, other_time: ArrayLike, other_event: ArrayLike) -> float:
    """p of two groups having one course (Mantel 1966)."""
    sides = [_followed(time, event), _followed(other_time, other_event)]
    one, other = (stats.CensoredData(uncensored=t[e > 0], right=t[e == 0]) for t, e in sides)
    return float(stats.logrank(one, other).pvalue)


@dataclass(frozen=True)
class Hazard:
    """A baseline's cumulated hazard: what happens to whoever has the risk 0 (Breslow 1972)."""

    times: Array
    cumulated: Array

    def survival(self, log_risk: ArrayLike, when: ArrayLike) -> Array:
        """(n, times): chances of no event by then."""
        place = np.searchsorted(self.times, np.asarray(when, np.float64), side="right")
        by_then = np.concatenate([[0.0], self.cumulated])[place]
        risk: Array = np.exp(np.asarray(log_risk, np.float64).ravel())
        return np.asarray(np.exp(-risk[:, None] * by_then))


def breslow(log_risk: ArrayLike, time: ArrayLike, event: ArrayLike) -> Hazard:
    """The baseline's hazard of patients whose risks are known."""
    (t, e), risk = _followed(time, event), np.exp(np.asarray(log_risk, np.float64).ravel())
    times = np.unique(t[e > 0])
    steps = [(e[t == one]).sum() / risk[t >= one].sum() for one in times]
    return Hazard(times, np.cumsum(steps))


def proportional_hazards(covariates: ArrayLike, time: ArrayLike, event: ArrayLike, ridge: float = 1e-3) -> Array:
    """(covariates,): Cox's partial likelihood at its maximum (ties by Breslow), with a little ridge per patient."""
    x, (t, e) = np.asarray(covariates, np.float64), _followed(time, event)
    order = np.argsort(-t, kind="stable")
    x, t, e = x[order], t[order], e[order]
    last = np.searchsorted(-t, -t, side="right") - 1  # whoever is at risk stands before it

    def loss(b: Array) -> tuple[float, Array]:
        r = x @ b
        top = r.max()
        weight = np.exp(r - top)
        total, mean = np.cumsum(weight)[last], np.cumsum(weight[:, None] * x, 0)[last]
        value = -(e * (r - top - np.log(total))).sum() + 0.5 * ridge * len(t) * (b**2).sum()
        slope = -(e[:, None] * (x - mean / total[:, None])).sum(0) + ridge * len(t) * b
        return float(value), slope

    return np.asarray(optimize.minimize(loss, np.zeros(x.shape[1]), jac=True, method="BFGS").x)


def _followed(time: ArrayLike, event: ArrayLike) -> tuple[Array, Array]:
    t, e = (np.asarray(v, np.float64).ravel() for v in (time, event))
    if t.shape != e.shape or not len(t) or not np.isfinite(np.concatenate([t, e])).all():
        raise ValueError(f"Got {t.size} times, {e.size} events, expected as many, all finite, at least one.")
    if (t < 0).any() or not np.isin(e, (0, 1)).all():
        raise ValueError("Times must not be negative, and events be 0 or 1.")
    return t, e


def chances(hazards: ArrayLike, until: float, when: ArrayLike) -> Array:
    """(n, times): chances of no event, of the hazards (n, K) of K even intervals up to `until`; the rate within an
    interval is even. Raises ValueError for times beyond.
    """
    h, times = np.asarray(hazards, np.float64), np.asarray(when, np.float64)
    if times.max() > until * (1 + 1e-9):
        raise ValueError(f"Nothing is foretold beyond {until:g}; {times.max():g} was asked.")
    logs = np.concatenate([np.zeros((len(h), 1)), np.cumsum(np.log1p(-np.clip(h, 0, 1 - 1e-9)), 1)], 1)
    ends = np.linspace(0, until, h.shape[1] + 1)
    return np.asarray(np.exp(np.stack([np.interp(times, ends, own) for own in logs])))
