"""Is a model worse for some people? Every group with an interval that holds for all at once, and a test of the gaps.

Cells of fewer than SMALLEST patients say nothing, and what gap they could have shown is said. Patients' labels are
permuted, and the largest gap over all endpoints and attributes is what counts (max T: Westfall and Young 1993).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..rng import derive
from .gate import Check

SMALLEST = 20
PERMUTATIONS = 1999
RESAMPLES = 2000
LEVEL = 0.05
BANDS = (18.0, 40.0, 65.0)  # years at which bands of age begin
MOST_GROUPS = 12  # of an attribute: more are no groups
REACH = 2.8  # standard errors that a true gap needs to be found with 80 % power at .05
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """One group and one endpoint: its mean with a simultaneous interval, None where too few are in it."""

    endpoint: str
    attribute: str
    group: str
    patients: int
    mean: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Gap:
    """The largest difference of a group to all others, of one endpoint and attribute; p over all of them together."""

    endpoint: str
    attribute: str
    group: str
    size: float
    p_value: float
    detectable: float  # a true gap of this size would have been found, most likely


@dataclass(frozen=True)
class Fairness:
    cells: tuple[Cell, ...]
    gaps: tuple[Gap, ...]
    unseen: tuple[str, ...]  # what could not be assessed, and why


def attributes_of(values: Sequence[Mapping[str, float | str]]) -> dict[str, list[str | None]]:
    """Attribute -> the group of each patient: words as they are, ages by band. What never differs is none."""
    names = list(dict.fromkeys(n for own in values for n in own))
    found = {}
    for name in names:
        if name == "age":
            groups: list[str | None] = [_band(own.get(name)) for own in values]
        else:
            groups = [own[name] if isinstance(own.get(name), str) and own[name] else None for own in values]  # type: ignore[misc]
        kinds = {g for g in groups if g is not None}
        if 2 <= len(kinds) <= MOST_GROUPS:
            found[name] = groups
    return found


def _band(age: float | str | None) -> str | None:
    if not isinstance(age, int | float):
        return None
    k = sum(age >= start for start in BANDS)
    names = [f"under {BANDS[0]:g}", *(f"{a:g} to {b - 1:g}" for a, b in pairwise(BANDS))]
    return [*names, f"{BANDS[-1]:g} and over"][k]


def assess(endpoints: Mapping[str, Array], attributes: Mapping[str, Sequence[str | None]], seed: int = 0) -> Fairness:
    """`endpoints`: a value per patient, NaN where he has none; `attributes`: the group of each, None where unknown."""
    cells, tested, unseen = list[Cell](), list[_Tested](), list[str]()
    for attribute, groups in attributes.items():
        for endpoint, values in endpoints.items():
            names = sorted({g for g in groups if g is not None})
            known = np.isfinite(values)
            index = np.array([names.index(g) if g is not None else -1 for g in groups])
            sizes = [int((known & (index == k)).sum()) for k in range(len(names))]
            for k, name in enumerate(names):
                own = values[known & (index == k)]
                mean = float(own.mean()) if len(own) else float("nan")
                cells.append(Cell(endpoint, attribute, name, len(own), mean, None))
            large = [k for k, n in enumerate(sizes) if n >= SMALLEST]
            if len(large) < 2:
                unseen.append(_unseen(endpoint, attribute, values[known], sizes, names))
                continue
            used = known & np.isin(index, large)
            place = {k: i for i, k in enumerate(large)}
            where = np.array([place[k] for k in index[used]])
            tested.append(_Tested(endpoint, attribute, values[used], where, [names[k] for k in large]))
    return Fairness(_with_intervals(cells, tested, seed), _gaps(tested, seed), tuple(unseen))


@dataclass(frozen=True)
class _Tested:
    """An endpoint by an attribute, of patients in cells that are large enough."""

    endpoint: str
    attribute: str
    values: Array
    index: NDArray[np.int_]  # of each patient, which of `names` he is
    names: Sequence[str]


def _unseen(endpoint: str, attribute: str, values: Array, sizes: Sequence[int], names: Sequence[str]) -> str:
    n, m = sorted([0, 0, *sizes])[-2:]
    spread = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    least = REACH * spread * (1 / max(n, 1) + 1 / max(m, 1)) ** 0.5
    said = ", ".join(f"{name} {size}" for name, size in zip(names, sizes, strict=True))
    if not spread > 0:
        return f"{endpoint} by {attribute} ({said}): all are alike, and too few to tell which gap would have shown"
    return f"{endpoint} by {attribute} ({said}): only a gap of {least:.3g} or more could have been seen"


def _with_intervals(cells: Sequence[Cell], tested: Sequence[_Tested], seed: int) -> tuple[Cell, ...]:
    """Studentised bootstrap inside every cell; one quantile of the largest deviation over all cells."""
    rng = np.random.Generator(np.random.Philox(key=derive(seed, "cells")))
    largest, known = np.zeros(RESAMPLES), {}
    for one in tested:
        for k, name in enumerate(one.names):
            own = one.values[one.index == k]
            error = float(own.std(ddof=1)) / len(own) ** 0.5
            known[one.endpoint, one.attribute, name] = error
            if error == 0:
                continue
            drawn = own[rng.integers(0, len(own), (RESAMPLES, len(own)))]
            errors = np.maximum(drawn.std(1, ddof=1) / len(own) ** 0.5, 1e-3 * error)
            largest = np.maximum(largest, np.abs(drawn.mean(1) - own.mean()) / errors)
    reach = float(np.quantile(largest, 1 - LEVEL))
    found = []
    for cell in cells:
        error_of = known.get((cell.endpoint, cell.attribute, cell.group))
        ends = None if error_of is None else (cell.mean - reach * error_of, cell.mean + reach * error_of)
        found.append(Cell(cell.endpoint, cell.attribute, cell.group, cell.patients, cell.mean, ends))
    return tuple(found)


def _gaps(tested: Sequence[_Tested], seed: int) -> tuple[Gap, ...]:
    if not tested:
        return ()
    statistics, shown = [], []
    for one in tested:
        rng = np.random.Generator(np.random.Philox(key=derive(seed, "labels", one.attribute, len(one.values))))
        rows = np.stack([one.index, *(rng.permutation(one.index) for _ in range(PERMUTATIONS))])
        t, gaps, least = _largest_gap(one.values, rows, len(one.names))
        statistics.append(t)
        k = int(np.abs(gaps).argmax())
        shown.append((one, one.names[k], float(gaps[k]), least))
    most = np.max(statistics, axis=0)
    return tuple(
        Gap(one.endpoint, one.attribute, group, size, float((most >= t[0] - 1e-12).mean()), least)
        for (one, group, size, least), t in zip(shown, statistics, strict=True)
    )


def _largest_gap(values: Array, rows: NDArray[np.int_], groups: int) -> tuple[Array, Array, float]:
    """(labellings,) the largest standardised difference of a group to the rest; the observed differences; and what
    could be seen in the smallest group.
    """
    total, square, n = values.sum(), (values**2).sum(), len(values)
    best, first, least = np.zeros(len(rows)), np.zeros(groups), 0.0
    for k in range(groups):
        inside = rows == k
        m = int(inside[0].sum())
        own, own_square = inside @ values, inside @ values**2
        gap = own / m - (total - own) / (n - m)
        spread = np.maximum(own_square / m - (own / m) ** 2, 0) / m
        rest = np.maximum((square - own_square) / (n - m) - ((total - own) / (n - m)) ** 2, 0) / (n - m)
        error = np.sqrt(spread + rest)
        best = np.maximum(best, np.abs(gap) / np.maximum(error, 1e-12 * (1 + np.abs(values).max())))
        first[k] = gap[0]
        least = max(least, REACH * float(error[0]))
    return best, first, least


def fairness_check(found: Fairness | None, why_not: str = "") -> Check:
    """The verdict: a gap that chance does not explain is WARNed of; nobody to compare is NOT ASSESSABLE."""
    if found is None or not found.gaps:
        reason = why_not or "; ".join(found.unseen[:3] if found else ()) or "no attribute of patients is known"
        return Check("NOT ASSESSABLE", None, None, LEVEL, f"Fairness: {reason}.")
    worst = min(found.gaps, key=lambda g: g.p_value)
    where = f"{worst.endpoint} by {worst.attribute}: {worst.group} differs from the others by {worst.size:.3g}"
    if worst.p_value < LEVEL:
        return Check(
            "WARN", worst.p_value, None, LEVEL, f"Groups are not served alike: {where}, adjusted over all gaps."
        )
    seen = max(g.detectable for g in found.gaps if g.endpoint == worst.endpoint)
    said = f"the largest, {where}, is what chance gives; of {worst.endpoint} {seen:.3g} or more would have shown"
    more = f" Not assessed: {len(found.unseen)} more." if found.unseen else ""
    return Check("PASS", worst.p_value, None, LEVEL, f"No gap was found in {len(found.gaps)}: {said}.{more}")
