"""A claim on sets of patients: is one nearer to real patients than another, or as near as a margin allows?

Squared kernel distances (MMD) are compared as in the test of relative similarity (Bounliphone et al., ICLR 2016), with
patients as units: pairs of images of one patient are left out of every mean, and the error is a jackknife that leaves
out whole patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ..result import Result
from ..sets.embedding import Embedding, Picture, embed, usable
from ..statistics import SMALLEST
from .claim import RIVALS, Claim, Verdict, refused, sentences

Array = NDArray[np.float64]
Sides = Mapping[str, tuple[ArrayLike, Sequence[str]]]


def relative_kernel_distance(
    x: ArrayLike, y: ArrayLike, groups: tuple[Sequence[str], Sequence[str]], *, other: ArrayLike | None = None,
    other_groups: Sequence[str] = (), level: float = 0.95,
) -> Result:  # fmt: skip
    """Squared kernel distance of x to y, less that of `other` to y where it is given: negative = x is nearer; cubic
    kernel.

    Rows are images, `groups` their patients; a name on several sides is one patient, who is left out of all of them at
    once. The interval of a difference is Student's t over the jackknife. That of one distance is made of its root, a
    norm, whose error is at most that of the patients' mean along its widest direction (details: `root_error`): the
    distance itself is skewed, and near 0 no multiple of its own error holds it. Raises ValueError for rows that do not
    fit and fewer than 3 patients a side.
    """
    sides = {"x": (x, groups[0]), "y": (y, groups[1]), **({} if other is None else {"other": (other, other_groups)})}
    cells = _Cells(sides)
    everybody = np.ones(len(cells.patients), bool)
    value = cells.difference(everybody)
    without = {p: cells.difference(cells.patients != p) for p in np.unique(cells.patients)}
    parts = [np.array([without[p] for p in stratum]) for stratum in cells.strata().values()]
    shares = [((len(v) - 1) / len(v) * float(((v - v.mean()) ** 2).sum()), len(v) - 1) for v in parts if len(v) > 1]
    variance = sum(share for share, _ in shares)
    free = variance**2 / max(sum(share**2 / n for share, n in shares), 1e-300) if variance else 1.0  # Satterthwaite
    reach = float(stats.t.ppf(0.5 + level / 2, max(1.0, free)))
    bounds, details = (value - reach * variance**0.5, value + reach * variance**0.5), {"free": max(1.0, free)}
    if other is None:
        root, details["root_error"] = max(value, 0.0) ** 0.5, cells.widest("x", "y") ** 0.5
        bounds = max(0.0, root - reach * details["root_error"]) ** 2, (root + reach * details["root_error"]) ** 2
    return Result(
        value,
        len(without),
        "cubic kernel, jackknife over patients",
        interval=bounds,
        standard_error=variance**0.5,
        details=details,
    )


class _Cells:
    """Sums of the kernel between the images of one patient on one side and those of another."""

    def __init__(self, sides: Sides) -> None:
        rows, owners = [], []
        for side, (features, names) in sides.items():
            matrix = np.asarray(features, np.float64)
            if matrix.ndim != 2 or len(matrix) != len(names) or not np.isfinite(matrix).all():
                raise ValueError(
                    f"Got features of {matrix.shape} for {len(names)} patients, expected one finite row an image."
                )
            if len(set(names)) < 3:
                raise ValueError(f"Got {len(set(names))} patients on one side, expected at least 3.")
            rows.append(matrix)
            owners += [(side, str(name)) for name in names]
        both = np.concatenate(rows)
        kernel = (both @ both.T / both.shape[1] + 1) ** 3
        cells = list(dict.fromkeys(owners))
        place = {cell: i for i, cell in enumerate(cells)}
        member = np.zeros((len(cells), len(both)))
        member[[place[o] for o in owners], np.arange(len(both))] = 1
        self.sides = np.array([side for side, _ in cells])
        self.patients = np.array([patient for _, patient in cells])
        foreign = self.patients[:, None] != self.patients[None, :]
        counts = member.sum(1)
        sums = member @ kernel @ member.T
        self.within = sums / np.outer(counts, counts)  # kernel of the patients' mean images
        self.sums = sums * foreign
        self.pairs = np.outer(counts, counts) * foreign

    def difference(self, kept: NDArray[np.bool_]) -> float:
        x, y, other = (kept & (self.sides == side) for side in ("x", "y", "other"))
        if not other.any():
            return self._mean(x, x) + self._mean(y, y) - 2 * self._mean(x, y)
        return self._mean(x, x) - 2 * self._mean(x, y) - self._mean(other, other) + 2 * self._mean(other, y)

    def _mean(self, a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
        return float(self.sums[np.ix_(a, b)].sum() / self.pairs[np.ix_(a, b)].sum())

    def widest(self, *sides: str) -> float:
        """Variance of the mean of each side's patients along the direction in which they vary most, summed over
        sides.
        """
        total = 0.0
        for side in sides:
            own = self.sides == side
            kernel = self.within[np.ix_(own, own)]
            centred = kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
            total += max(0.0, float(np.linalg.eigvalsh(centred)[-1])) / (len(kernel) - 1) / len(kernel)
        return total

    def strata(self) -> dict[tuple[str, ...], list[str]]:
        """Patients by the sides on which they have images: what is drawn independently."""
        where: dict[str, list[str]] = {}
        for side, patient in zip(self.sides, self.patients, strict=True):
            where.setdefault(str(patient), []).append(str(side))
        found: dict[tuple[str, ...], list[str]] = {}
        for patient, sides in where.items():
            found.setdefault(tuple(sides), []).append(patient)
        return found


def judge_sets(
    claim: Claim, sets: Mapping[str, Sequence[Picture]], more: Mapping[str, Embedding], stamp: str = ""
) -> Verdict:
    """The verdict on a claim whose endpoint is the distance of a set to real patients (reference and holdout
    together).
    """
    used = {"generated": sets["generated"], "real": [*sets["reference"], *sets.get("holdout", ())]}
    if claim.against == "competitor":
        used["competitor"] = sets.get("competitor", ())
    fewest = min(len({p.patient for p in side}) for side in used.values())
    remarks = [stamp] if stamp else []
    if fewest < SMALLEST:
        return refused(claim, f"{fewest} patients, at least {SMALLEST} are needed.", fewest, remarks)
    known = usable(used, more)
    if claim.embedding not in known:
        return refused(
            claim, f"there is no embedding {claim.embedding!r} here, but {', '.join(known)}.", fewest, remarks
        )
    features = embed(used, claim.embedding, more)
    names = {side: [p.patient for p in pictures] for side, pictures in used.items()}
    rival = (features["competitor"], names["competitor"]) if "competitor" in used else (None, ())
    found = relative_kernel_distance(
        features["generated"],
        features["real"],
        (names["generated"], names["real"]),
        other=rival[0],
        other_groups=rival[1],
        level=1 - claim.alpha if claim.verb == "superiority" else 1 - 2 * claim.alpha,
    )
    if not found.standard_error:
        return refused(claim, "both sets are equal. Is one folder a copy of the other?", fewest, remarks)
    good, p = _tested(claim, found)
    low, high = found.interval or (found.value, found.value)
    what = "differs by" if rival[0] is not None else "is"
    figures = (
        f"{claim.endpoint} by {claim.embedding} {what} {found.value:+.4g} ({low:.4g} to {high:.4g}), {fewest} patients"
        " on the smallest side"
    )
    may, may_not = sentences(claim, good, figures, RIVALS[claim.against])
    status = "SUPPORTED" if good else "NOT SUPPORTED"
    return Verdict(
        claim, claim.digest(), status, may, may_not, fewest, found.value, (low, high), p, remarks=tuple(remarks)
    )


def _tested(claim: Claim, found: Result) -> tuple[bool, float]:
    """(whether the claim holds, p); less distance is better."""
    free, margin = found.details["free"], claim.margin or 0.0
    if claim.against == "real images":  # no distance lies below that of real images: one side is enough
        gap = (margin**0.5 - max(found.value, 0.0) ** 0.5) / found.details["root_error"]
        p = float(stats.t.sf(gap, free))
        return p < claim.alpha, p
    p = 2 * float(stats.t.sf(abs(found.value) / float(found.standard_error or 1), free))
    return p < claim.alpha and found.value < 0, p
