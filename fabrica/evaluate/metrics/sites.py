"""Where images come from, told from them: site classifiers, ComBat, and whether what is of the patient stays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ...rng import derive
from ..result import Result
from .discrimination import auc_delong

Array = NDArray[np.float64]
FOLDS, RESAMPLES = 5, 500
TURNS, SETTLED = 200, 1e-4  # of ComBat's own iteration


def site_auc(features: ArrayLike, site: ArrayLike, patients: Sequence[str], seed: int = 0) -> Result:
    """max(AUC, 1 - AUC) of a logistic regression, trained anew on other patients, that tells site 1 from site 0.

    features (n, k), standardised inside each fold; images of one patient stay in one fold. The interval resamples
    patients. Sites that cannot be told apart give a little more than .5, by the larger of both. Raises ValueError for
    fewer patients than folds, or one site alone.
    """
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

    x, y = np.asarray(features, np.float64), np.asarray(site).astype(int)
    names = list(dict.fromkeys(patients))
    if len(names) < FOLDS or set(y.tolist()) != {0, 1} or len(x) != len(y) or len(y) != len(patients):
        raise ValueError(f"a site classifier needs two sites and {FOLDS} patients, got {len(names)} patients")
    order = sorted(names, key=lambda p: derive(seed, "site fold", p))
    fold = {p: k % FOLDS for k, p in enumerate(order)}
    part, scores = np.array([fold[p] for p in patients]), np.zeros(len(y))
    for k in range(FOLDS):
        told = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)).fit(x[part != k], y[part != k])
        scores[part == k] = told.decision_function(x[part == k])
    rows = {p: [i for i, q in enumerate(patients) if q == p] for p in names}
    rng = np.random.Generator(np.random.Philox(key=derive(seed, "site resamples")))
    again = []
    for draw in rng.integers(0, len(names), (RESAMPLES, len(names))):
        chosen = [i for d in draw for i in rows[names[d]]]
        if len(set(y[chosen].tolist())) == 2:
            again.append(_auc(scores[chosen], y[chosen]))
    value = _auc(scores, y)
    low, high = np.quantile(np.maximum(again, 1 - np.array(again)), [0.025, 0.975])
    how = f"max(AUC, 1 - AUC), logistic regression, {FOLDS} folds over patients"
    return Result(max(value, 1 - value), len(names), how, interval=(float(low), float(high)))


def _auc(scores: Array, labels: NDArray[np.int_]) -> float:
    if np.ptp(scores) == 0:
        return 0.5
    return float(auc_delong(scores, labels))


def effect(values: ArrayLike, covariate: ArrayLike) -> Result:
    """Slope of a value over a covariate with its 95 % interval (least squares, Student's t).

    Raises ValueError for fewer than four patients, or a covariate that does not vary.
    """
    y, x = np.asarray(values, np.float64), np.asarray(covariate, np.float64)
    if len(x) < 4 or len(x) != len(y) or np.ptp(x) == 0:
        raise ValueError(f"an effect needs four patients or more whose covariate differs, got {len(x)}")
    found = stats.linregress(x, y)
    reach = float(stats.t.ppf(0.975, len(x) - 2)) * float(found.stderr)
    slope = float(found.slope)
    return Result(slope, len(x), "least squares over patients", interval=(slope - reach, slope + reach))


def combat(features: ArrayLike, site: ArrayLike, covariates: ArrayLike | None = None) -> Array:
    """Features (n, k) without what sites add and scale, by parametric empirical Bayes (Johnson et al. 2007); what
    `covariates` (n, c) explain stays. Raises ValueError for a site of fewer than two images.
    """
    x, y = np.asarray(features, np.float64), np.asarray(site)
    names = list(dict.fromkeys(y.tolist()))
    groups = [np.flatnonzero(y == name) for name in names]
    if min(map(len, groups)) < 2:
        raise ValueError("ComBat needs two images of each site at least")
    of_site = np.stack([(y == name).astype(float) for name in names], 1)
    known = np.zeros((len(x), 0)) if covariates is None else np.asarray(covariates, np.float64).reshape(len(x), -1)
    weights = np.linalg.lstsq(np.concatenate([of_site, known], 1), x, rcond=None)[0]
    shares = of_site.mean(0)
    stays = shares @ weights[: len(names)] + known @ weights[len(names) :]
    left = x - np.concatenate([of_site, known], 1) @ weights
    deviation = np.sqrt((left**2).mean(0)).clip(1e-12)
    z = (x - stays) / deviation
    for own in groups:
        shift, scale = _by_all_features(z[own])
        z[own] = (z[own] - shift) / np.sqrt(scale)
    return np.asarray(z * deviation + stays)


def _by_all_features(z: Array) -> tuple[Array, Array]:
    """(shift, variance) of a site, each feature's own drawn towards those of all."""
    shift, scale = z.mean(0), z.var(0, ddof=1)
    middle, spread = shift.mean(), shift.var(ddof=1)
    mean, wide = scale.mean(), scale.var(ddof=1)
    shape, size = (2 * wide + mean**2) / wide, (mean * wide + mean**3) / wide
    n, new_shift, new_scale = len(z), shift, scale
    for _ in range(TURNS):
        before = new_shift, new_scale
        new_shift = (n * spread * shift + new_scale * middle) / (n * spread + new_scale)
        new_scale = (0.5 * ((z - new_shift) ** 2).sum(0) + size) / (n / 2 + shape - 1)
        change = max(
            float(np.abs(a - b).max() / max(np.abs(b).min(), 1e-12))
            for a, b in zip((new_shift, new_scale), before, strict=True)
        )
        if change < SETTLED:
            break
    return new_shift, new_scale


def matched(image: ArrayLike, inside: ArrayLike, quantiles: ArrayLike) -> Array:
    """Intensities brought onto those of a reference by their order inside the patient (Nyul and Udupa 1999); quantiles:
    of the reference, evenly spaced from 0 to 1.
    """
    values, mask, wanted = (
        np.asarray(image, np.float64),
        np.asarray(inside).astype(bool),
        np.asarray(quantiles, np.float64),
    )
    own = np.quantile(values[mask], np.linspace(0, 1, len(wanted)))
    found = values.copy()
    found[mask] = np.interp(values[mask], own, wanted)
    return found


def fluid_share(image: ArrayLike, inside: ArrayLike) -> float:
    """Share of the voxels inside that are darker than half their median: of T1-weighted brains, fluid."""
    values = np.asarray(image, np.float64)[np.asarray(inside).astype(bool)]
    return float((values < 0.5 * np.median(values)).mean())
