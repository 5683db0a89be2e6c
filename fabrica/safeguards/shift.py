"""Does a scan look like those of training? Distances to them, and a threshold whose false alarms are known.

Each kind of feature is measured in the principal components of the training scans together with what lies outside of
them (Jackson and Mudholkar 1979); the worst kind counts. The threshold is a rank among patients that training did not
see (split conformal: Vovk et al. 2005), so that its rate of false alarms holds whatever the distribution.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contracts import ARBITRARY, Image
from ..data.grid import foreground
from ..evaluate.sets.embedding import BINS, Picture, by_radiomics, by_spectrum, by_thumbnail
from .gate import Check, Verdict

Array = NDArray[np.float64]
FILE = "shift.json"
FALSE_ALARMS = 0.05
FEWEST = math.ceil(1 / FALSE_ALARMS) - 1  # calibration patients: with fewer no rank has so few false alarms
FEWEST_TRAINED = 8  # scans of a contrast that directions can be told from
MOST = 200  # patients of either part that are looked at
COMPONENTS = 8
FOLDS = 5
FLOORS: Mapping[str, float] = {"grid": 0.02}  # least spread of a feature: of logarithms of mm, 2 %
LEAST = 1e-3
FARTHEST = 1e6
SITE = 0.01  # level of the verdict on all scans of a source
FEWEST_SCANS = 5  # of a source, that ranks can be told of
QUANTILES = (1, 5, 25, 50, 75, 95, 99)


def features(image: Image) -> dict[str, Array]:
    """Of a scan (C, [z,] y, x) on its own grid, by kind: grid, intensity, spectrum, radiomics, thumbnail.

    Arbitrary units count by their own 99.5th percentile: a gain is no shift. Raises ValueError for an image in which
    there is nothing.
    """
    volume = image.data[0].double()
    inside = foreground(volume)
    if not bool(inside.any()):
        raise ValueError(f"{image.meaning.name} is empty: nothing can be said of it.")
    values, mask = volume.numpy(), inside.numpy()
    top = float(np.percentile(values[mask], 99.5)) if image.meaning.unit in ARBITRARY else 1.0
    fixed = image.meaning.scale
    values = values / (top or 1.0) if fixed is None or image.meaning.unit in ARBITRARY else (
        (values - fixed.offset) / fixed.width)  # fmt: skip
    spacing = image.affine[:3, :3].norm(dim=0).double().numpy()
    shape = values.shape if values.ndim == 3 else (1, *values.shape)
    own = tuple(float(s) for s in (spacing if values.ndim == 3 else spacing[1:]))
    picture = Picture("", "", values, mask, own)
    reach = np.log(np.array(shape) * spacing)
    found = {
        "grid": np.concatenate([np.log(np.maximum(spacing, 1e-6)), reach]) if image.calibrated else np.log(shape),
        "intensity": np.percentile(values[mask], QUANTILES),
        "spectrum": by_spectrum(picture, 1 / BINS),
        "radiomics": by_radiomics(picture, 1 / BINS),
        "thumbnail": by_thumbnail(picture, 1.0),
    }
    return {kind: np.asarray(row, np.float64) for kind, row in found.items()}


@dataclass(frozen=True)
class Cloud:
    """Feature vectors of training scans: their middle, spread, directions, and how far out they usually lie."""

    middle: Array
    spread: Array
    directions: Array  # (k, features), of standardised features
    lengths: Array  # (k,) deviations along them
    beside: float  # mean square of what lies outside of them
    usual: float  # the distance that a tenth of training scans exceed, when they are left out

    @staticmethod
    def of(rows: Array, floor: float) -> Cloud:
        """Raises ValueError for fewer than FEWEST_TRAINED rows."""
        if len(rows) < FEWEST_TRAINED:
            raise ValueError(f"{len(rows)} training scans, {FEWEST_TRAINED} are needed.")
        fold = np.arange(len(rows)) % FOLDS
        left = [_cloud(rows[fold != k], floor).distance(row) for k in range(FOLDS) for row in rows[fold == k]]
        return replace(_cloud(rows, floor), usual=max(float(np.quantile(left, 0.9)), 1e-9))

    def distance(self, row: Array) -> float:
        """Root mean square of deviations along and outside of the directions: about 1 for a training scan."""
        z = (row - self.middle) / self.spread
        along = self.directions @ z
        outside = z - along @ self.directions
        inner = float(((along / self.lengths) ** 2).mean()) if len(along) else 0.0
        return min(math.sqrt((inner + float((outside**2).mean()) / self.beside) / 2), FARTHEST)

    def score(self, row: Array) -> float:
        return self.distance(row) / self.usual

    def plain(self) -> dict[str, Any]:
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in asdict(self).items()}

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> Cloud:
        middle, spread, directions, lengths = (
            np.asarray(plain[k], np.float64) for k in ("middle", "spread", "directions", "lengths")
        )
        directions = directions.reshape(-1, len(middle))
        return Cloud(middle, spread, directions, lengths, float(plain["beside"]), float(plain["usual"]))


def _cloud(rows: Array, floor: float) -> Cloud:
    middle = rows.mean(0)
    spread = np.maximum(rows.std(0), np.maximum(floor, LEAST * np.abs(middle)))
    z = (rows - middle) / spread
    _, s, directions = np.linalg.svd(z, full_matrices=False)
    kept = min(COMPONENTS, len(rows) // 4, rows.shape[1])
    kept = int((s[:kept] > 1e-6 * max(s[0], 1e-12)).sum()) if s[0] > 0 else 0
    lengths = np.maximum(s[:kept] / math.sqrt(len(rows)), 0.1)
    outside = z - (z @ directions[:kept].T) @ directions[:kept]
    return Cloud(middle, spread, directions[:kept], lengths, max(float((outside**2).mean()), 0.01), 1.0)


@dataclass(frozen=True)
class Seen:
    """How unlike training a scan is: its score, the contrast and kind of feature that say so, and all others."""

    score: float
    worst: str
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Reference:
    """What training scans look like, by contrast and kind, and the score that one in twenty like them exceeds."""

    weights: str  # sha256 of the checkpoint that they trained
    clouds: Mapping[str, Cloud]  # "T1w spectrum" -> its cloud
    threshold: float
    calibrated_on: int  # patients
    why_not: str = ""  # where there is nothing to hold a scan against
    usual: Mapping[str, Sequence[float]] = field(default_factory=dict)  # scores of calibration patients, by kind

    def look(self, rows: Mapping[str, Mapping[str, Array]]) -> Seen:
        """Features by contrast and kind; raises ValueError where none of the contrasts is known, or sizes differ."""
        scores = _scores(self.clouds, rows)
        worst = max(scores, key=lambda name: scores[name])
        return Seen(scores[worst], worst, scores)

    def shifted(self, seen: Seen) -> bool:
        return seen.score > self.threshold

    def words(self, seen: Seen) -> str:
        return (
            f"unlike the scans of training (score {seen.score:.2f}, above {self.threshold:.2f}; most by its"
            f" {seen.worst}). At most one in {1 / FALSE_ALARMS:.0f} scans like those of training is told so by chance"
        )

    def write(self, home: Path) -> None:
        plain = {**{k: getattr(self, k) for k in ("weights", "threshold", "calibrated_on", "why_not")},
                 "usual": {name: list(scores) for name, scores in self.usual.items()},
                 "clouds": {name: cloud.plain() for name, cloud in self.clouds.items()}}  # fmt: skip
        (home / FILE).write_text(json.dumps(plain) + "\n")

    @staticmethod
    def read(home: Path, weights: str) -> Reference:
        """Beside a checkpoint of these weights; raises ValueError for a file that is none."""
        path = home / FILE
        if not path.is_file():
            return Reference(weights, {}, math.inf, 0, "no reference lies beside the checkpoint")
        try:
            plain = json.loads(path.read_text())
            clouds = {str(n): Cloud.from_plain(c) for n, c in plain["clouds"].items()}
            found = Reference(
                str(plain["weights"]), clouds, float(plain["threshold"]), int(plain["calibrated_on"]),
                str(plain["why_not"]), {str(n): [float(v) for v in own] for n, own in plain["usual"].items()},
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no reference of scans ({error}). Delete it; the run makes it anew.") from error
        if found.weights != weights:
            return replace(found, why_not="the reference is that of other weights")
        return found


Rows = Sequence[Mapping[str, Mapping[str, Array]]]  # a scan each: contrast -> kind -> features


def fit(weights: str, trained: Rows, calibration: Rows) -> Reference:
    """From training scans and scans of as many calibration patients, one each, that training did not see."""

    def none(why: str) -> Reference:
        return Reference(weights, {}, math.inf, len(calibration), why)

    if len(calibration) < FEWEST:
        return none(f"{len(calibration)} validation patients, {FEWEST} are needed for a known rate of false alarms")
    contrasts = list(dict.fromkeys(c for row in trained for c in row))
    clouds = {}
    for contrast in contrasts:
        own = [row[contrast] for row in trained if contrast in row]
        if len(own) < FEWEST_TRAINED:
            continue
        for kind in own[0]:
            rows = np.stack([one[kind] for one in own])
            clouds[f"{contrast} {kind}"] = Cloud.of(rows, FLOORS.get(kind, LEAST))
    known = {name.rpartition(" ")[0] for name in clouds}
    usable = [row for row in calibration if known & set(row)]
    if not known or len(usable) < FEWEST:
        return none(f"{len(trained)} training scans, {FEWEST_TRAINED} of a contrast are needed")
    every = [_scores(clouds, row) for row in usable]
    usual = {name: [own[name] for own in every if name in own] for name in clouds}
    return Reference(weights, clouds, conformal([max(own.values()) for own in every]), len(usable), usual=usual)


def conformal(scores: Sequence[float], false_alarms: float = FALSE_ALARMS) -> float:
    """The score that a new one of the same source exceeds with at most this chance; infinite where n is too small."""
    rank = math.ceil((len(scores) + 1) * (1 - false_alarms))
    return float(sorted(scores)[rank - 1]) if rank <= len(scores) else math.inf


def _scores(clouds: Mapping[str, Cloud], rows: Mapping[str, Mapping[str, Array]]) -> dict[str, float]:
    found = {
        f"{contrast} {kind}": clouds[f"{contrast} {kind}"].score(row)
        for contrast, own in rows.items()
        for kind, row in own.items()
        if f"{contrast} {kind}" in clouds
    }
    if not found:
        raise ValueError(f"Training knew no {', '.join(rows) or 'image'} to compare with.")
    return found


def shift_check(looked: Sequence[Seen], reference: Reference, whose: str) -> Check:
    """The verdict on scans of one source, each of another patient. First: are more told than false alarms explain?
    Beta-binomial, since the threshold is a rank among few. Second: do they lie farther out by any kind of feature?
    Rank sums, over all kinds: a site is seen whose single scans are hardly odd.
    """
    from scipy import stats

    if reference.why_not:
        return Check("NOT ASSESSABLE", None, None, FALSE_ALARMS, f"Shift: {reference.why_not}.")
    if not looked:
        return Check("NOT ASSESSABLE", None, None, FALSE_ALARMS, "Shift: no scan could be looked at.")
    count, n = sum(reference.shifted(one) for one in looked), reference.calibrated_on
    chance = chance_of(looked, reference)
    low, high = stats.binomtest(count, len(looked)).proportion_ci(method="wilson")
    said = (
        f"{count} of {len(looked)} {whose} are unlike the scans of training; up to {FALSE_ALARMS:.0%} are expected of"
        f" scans like them ({n} calibration patients)."
    )
    kind, apart = farthest(looked, reference)
    if apart < SITE / 2:
        said += f" Together they lie farther out by {kind} than chance allows (p {apart:.2g})."
    verdict: Verdict = "WARN" if chance < SITE / 2 or apart < SITE / 2 else "PASS"
    return Check(verdict, count / len(looked), (float(low), float(high)), FALSE_ALARMS, said)


def chance_of(looked: Sequence[Seen], reference: Reference) -> float:
    """That false alarms alone tell as many scans of one source, or more: beta-binomial, the threshold being a rank."""
    from scipy import stats

    n = reference.calibrated_on
    rank = math.ceil((n + 1) * (1 - FALSE_ALARMS))  # the chance of a new scan to exceed it is Beta(n + 1 - rank, rank)
    count = sum(reference.shifted(one) for one in looked)
    return float(stats.betabinom(len(looked), n + 1 - rank, rank).sf(count - 1))


def farthest(looked: Sequence[Seen], reference: Reference) -> tuple[str, float]:
    """The kind by which scans of a source lie farthest out, and its p value times the number of kinds."""
    from scipy import stats

    found = {"": 1.0}
    for name, usual in reference.usual.items():
        own = [one.scores[name] for one in looked if name in one.scores]
        if len(own) >= FEWEST_SCANS and len(usual) >= FEWEST_SCANS:
            p = float(stats.mannwhitneyu(own, usual, alternative="greater").pvalue)
            found[name] = min(1.0, p * len(reference.usual))
    kind = min(found, key=lambda name: found[name])
    return kind, found[kind]
