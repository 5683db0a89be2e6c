"""What metrics see, tested on the user's own real images before they may support anything (EVALUATION, section 11.1).

Pixel metrics: a ladder of corruptions, each rung worse than the last; a metric that is not ordered by it, or that a
lost lesion costs less than half a pixel of shift, says so. Sets: real halves against each other (the null) and against
corrupted halves (power).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import binom

from ...registry import NotEvaluated, measure
from ...rng import derive
from ..metrics import hounsfield
from ..metrics.pixel import METRICS
from ..sets import feature
from ..sets.embedding import Changed, Embedding, Picture, bin_width, read, standardised, usable
from ..threads import side_by_side
from .endpoints import SEGMENTED, SETS

Array = NDArray[np.float64]
Corrupt = Callable[[Picture, float, np.random.Generator], Array]
MOST = 24  # patients whose images climb the ladder
SLAB, WIDE = 16, 384  # planes of a volume and pixels of a plane that climb it
LARGE = 60  # patients whose sets are compared
TRIALS = 20  # splits of the real patients per corruption
ALPHA = 0.05


def _span(p: Picture) -> float:
    low, high = np.percentile(p.values[p.inside], [1, 99])
    return float(high - low) or 1.0


def _blur(p: Picture, strength: float, rng: np.random.Generator) -> Array:
    return np.asarray(ndimage.gaussian_filter(p.values, strength))


def _noise(p: Picture, strength: float, rng: np.random.Generator) -> Array:
    return p.values + strength * _span(p) * rng.normal(size=p.values.shape)


def _shift(p: Picture, strength: float, rng: np.random.Generator) -> Array:
    """To the right, between pixels by a straight line."""
    at = np.clip(np.arange(p.values.shape[-1]) - strength, 0, None)
    left, share = at.astype(int), at % 1
    return np.asarray((1 - share) * p.values[..., left] + share * p.values[..., np.ceil(at).astype(int)])


def _gain(p: Picture, strength: float, rng: np.random.Generator) -> Array:
    return np.asarray(p.values * (1 + strength), np.float64)


def _chessboard(p: Picture, strength: float, rng: np.random.Generator) -> Array:
    parity = np.asarray(sum(np.ogrid[tuple(slice(n) for n in p.values.shape)])) % 2
    return p.values + strength * _span(p) * (1 - 2.0 * parity)


def _lesions(p: Picture, strength: float, rng: np.random.Generator) -> Array:
    """Small bright balls inside the patient, the same places whatever the strength."""
    places = np.argwhere(ndimage.binary_erosion(p.inside, iterations=2))
    places = places if len(places) else np.argwhere(p.inside)
    radius = max(1.5, 0.02 * max(p.values.shape))
    out, reach, gain = p.values.astype(np.float64), int(radius), strength * _span(p)
    for place in places[rng.integers(0, len(places), 3)]:
        starts = np.maximum(place - reach, 0)
        around = tuple(slice(a, c + reach + 1) for a, c in zip(starts, place, strict=True))
        grid = np.indices(out[around].shape) + (starts - place).reshape(-1, *[1] * out.ndim)
        out[around] += gain * (np.sqrt((grid**2).sum(0)) <= radius)
    return out


def _erase(p: Picture, strength: float, rng: np.random.Generator) -> Array:
    """What the mask marks gives way to what surrounds it."""
    if p.lesion is None or not p.lesion.any() or p.lesion.all():
        return p.values.astype(np.float64)
    nearest = ndimage.distance_transform_edt(p.lesion, return_distances=False, return_indices=True)
    around = ndimage.gaussian_filter(p.values[tuple(nearest)], 1.0)
    return np.where(p.lesion, (1 - strength) * p.values + strength * around, p.values)


LADDER: Mapping[str, tuple[Corrupt, tuple[float, float, float]]] = {
    "blur": (_blur, (0.5, 1.0, 2.0)),
    "noise": (_noise, (0.02, 0.05, 0.1)),
    "shift": (_shift, (0.5, 1.0, 2.0)),
    "gain": (_gain, (0.02, 0.05, 0.1)),
    "chessboard": (_chessboard, (0.02, 0.05, 0.1)),
    "lesions": (_lesions, (0.1, 0.2, 0.4)),
    "erased lesions": (_erase, (0.33, 0.67, 1.0)),
}


@dataclass(frozen=True)
class Sight:
    """What one metric or embedding makes of one corruption."""

    name: str
    corruption: str
    rungs: tuple[float, ...]  # the metric's mean at each rung; of an embedding: share of trials in which it was seen
    ordered: bool


@dataclass
class Validity:
    """The certificate: of every metric, of every embedding, and what was found blind."""

    metrics: list[Sight] = field(default_factory=list)
    sets: list[Sight] = field(default_factory=list)
    null: dict[str, tuple[float, bool]] = field(
        default_factory=dict
    )  # embedding -> false alarms, within the binomial band?
    patients: int = 0

    def blind(self) -> dict[str, list[str]]:
        """Metric -> corruptions that it is not ordered by, and lesions where they cost less than half a pixel of
        shift.
        """
        found: dict[str, list[str]] = {}
        for sight in self.metrics:
            if not sight.ordered:
                found.setdefault(sight.name, []).append(sight.corruption)
        for name in {s.name for s in self.metrics}:
            own = {s.corruption: s.rungs for s in self.metrics if s.name == name}
            better = METRICS[name].better
            for what in ("lesions", "erased lesions"):
                if what not in own or "shift" not in own or what in found.get(name, ()):
                    continue
                worse = own[what][-1] < own["shift"][0] if better == "higher" else own[what][-1] > own["shift"][0]
                if not worse:
                    found.setdefault(name, []).append(f"{what} (a shift of half a pixel costs more)")
        for sight in self.sets:
            if sight.rungs[-1] < 0.8:
                found.setdefault(sight.name, []).append(sight.corruption)
        return found

    def may_support(self, endpoint: str, embedding: str = "") -> str:
        """Why an endpoint may not support a claim here; '' when it may. Figures of masks rest on no metric of
        images.
        """
        if endpoint in SEGMENTED:
            return ""
        if endpoint in SETS:
            return self._may_tell_sets(endpoint, embedding)
        metric = {"HU": "mae", "dB": "rmse"}[hounsfield.UNITS[endpoint]] if endpoint in hounsfield.UNITS else endpoint
        tried = {s.corruption for s in self.metrics if s.name == metric}
        if not {"blur", "noise"} <= tried:
            return f"{endpoint} could not be tested on these images"
        lost = [
            s.corruption
            for s in self.metrics
            if s.name == metric and not s.ordered and s.corruption in ("blur", "noise")
        ]
        return f"{endpoint} is not ordered by {' and '.join(lost)} on these very images" if lost else ""

    def _may_tell_sets(self, endpoint: str, embedding: str) -> str:
        seen = {s.corruption: s.ordered for s in self.sets if s.name == embedding}
        if not {"blur", "noise"} <= seen.keys():
            return f"{endpoint} by {embedding} could not be tested on these images: it needs 10 real patients"
        rate, calibrated = self.null[embedding]
        if not calibrated:
            return f"{embedding} calls {rate:.0%} of real halves different on these very images"
        lost = [c for c in ("blur", "noise") if not seen[c]]
        return f"{embedding} does not see {' and '.join(lost)} on these very images" if lost else ""

    def sentence(self) -> str:
        """The blind spots in words."""
        lines = [f"{name} does not see {', '.join(what)}" for name, what in sorted(self.blind().items())]
        alarms = [f"{n} ({rate:.0%} false alarms)" for n, (rate, good) in self.null.items() if not good]
        words = "; ".join(lines) + "." if lines else "No metric was found blind to what was tried."
        return words + (f" Not calibrated on real against real: {', '.join(alarms)}." if alarms else "")


def certify(
    real: Sequence[Picture], data_range: float | None, seed: int = 0, more: Mapping[str, Embedding] | None = None
) -> Validity:
    """Test pixel metrics and embeddings on real images of one number of axes. Deterministic; at most MOST patients
    climb the ladder.
    """
    found = Validity(patients=len({p.patient for p in real}))
    chosen = [_slab(p) for p in _one_a_patient(real)[:MOST]]
    _pixel_ladder(found, chosen, data_range, seed)
    if found.patients >= 10:
        names = set(sorted({p.patient for p in real})[:LARGE])
        _set_ladder(found, [replace(p, frames=None) for p in real if p.patient in names], seed, more)
    return found


def _one_a_patient(real: Sequence[Picture]) -> list[Picture]:
    first: dict[str, Picture] = {}
    for picture in real:
        first.setdefault(picture.patient, picture)
    return list(first.values())


def _slab(picture: Picture) -> Picture:
    """SLAB planes of a volume and the middle of wide planes, around the lesion where one is marked: enough for every
    window, and quick.
    """
    shape = picture.values.shape
    limits = (SLAB, WIDE, WIDE)[-len(shape) :]
    centre = np.array(shape) / 2
    if picture.lesion is not None and picture.lesion.any():
        centre = np.argwhere(picture.lesion).mean(0)
    starts = [
        int(min(max(0.0, c - most / 2), max(0, n - most))) for c, n, most in zip(centre, shape, limits, strict=True)
    ]
    part = tuple(slice(a, a + most) for a, most in zip(starts, limits, strict=True))
    inside, lesion = picture.inside[part], None if picture.lesion is None else picture.lesion[part]
    return replace(
        picture,
        values=picture.values[part].astype(np.float64),
        inside=inside if inside.any() else np.ones_like(inside),
        lesion=lesion,
    )


def corrupted(picture: Picture, corruption: str, strength: float, seed: int) -> Picture:
    """The picture one rung up; random places and noise belong to its name, not to the rung."""
    rng = np.random.Generator(np.random.Philox(key=derive(seed, corruption, picture.name)))
    plain = replace(picture, values=picture.values.astype(np.float64))
    return replace(picture, values=LADDER[corruption][0](plain, strength, rng))


def _pixel_ladder(found: Validity, pictures: Sequence[Picture], data_range: float | None, seed: int) -> None:
    for corruption, (_, strengths) in LADDER.items():
        climb = partial(_climb, corruption=corruption, strengths=strengths, data_range=data_range, seed=seed)
        climbed = side_by_side(climb, _able(pictures, corruption))
        for name in METRICS:
            rows = [one[name] for one in climbed if name in one]
            if not rows or METRICS[name].better == "neither":
                continue
            table = np.array(rows)
            steps = np.diff(table, axis=1) * (1 if METRICS[name].better == "lower" else -1)
            ordered = bool((steps > 0).all(1).mean() >= 0.9)
            found.metrics.append(
                Sight(name, corruption, tuple(float(v) for v in np.ma.masked_invalid(table).mean(0)), ordered)
            )


def _climb(
    picture: Picture, corruption: str, strengths: Sequence[float], data_range: float | None, seed: int
) -> dict[str, list[float]]:
    """Every metric that can be had of all rungs of one picture."""
    images = [corrupted(picture, corruption, s, seed).values for s in strengths]
    found: dict[str, list[float]] = {}
    for name, known in METRICS.items():
        row = [measure(known, {"generated": i, "reference": picture.values, "data_range": data_range}) for i in images]
        if not any(isinstance(v, NotEvaluated) for v in row):
            found[name] = [float(v) for v in row]
    return found


def _able(pictures: Sequence[Picture], corruption: str) -> list[Picture]:
    """Pictures that can be made worse in this way."""
    return [p for p in pictures if corruption != "erased lesions" or (p.lesion is not None and bool(p.lesion.any()))]


def _set_ladder(found: Validity, real: Sequence[Picture], seed: int, more: Mapping[str, Embedding] | None) -> None:
    """Share of trials in which a corrupted half differs from an untouched one; none corrupted: the null."""
    how, width = usable({"real": real}, more), bin_width([real])
    raw = {"none": read(real, how, width)}
    for corruption, (_, strengths) in LADDER.items():
        if len({p.patient for p in _able(real, corruption)}) < 10:
            continue
        change = partial(corrupted, corruption=corruption, strength=strengths[1], seed=seed)
        raw[corruption] = read(Changed(real, change), how, width)
    patients = [p.patient for p in real]
    for name in how:
        features = standardised({c: found[name] for c, found in raw.items()}, name)
        rates = {c: _seen(features[c], features["none"], patients, seed, f"{name} {c}") for c in raw}
        low, high = (float(binom.ppf(q, TRIALS, ALPHA)) / TRIALS for q in (0.005, 0.995))
        found.null[name] = (rates["none"], bool(low <= rates["none"] <= high))
        found.sets += [Sight(name, c, (r,), r >= 0.8) for c, r in rates.items() if c != "none"]


def _seen(changed: Array, untouched: Array, patients: Sequence[str], seed: int, what: str) -> float:
    rng = np.random.Generator(np.random.Philox(key=derive(seed, "validity", what)))
    names = sorted(set(patients))
    hits = 0
    for trial in range(TRIALS):
        first = {names[i] for i in rng.permutation(len(names))[: len(names) // 2]}
        one = np.array([p in first for p in patients])
        groups = ([p for p in patients if p in first], [p for p in patients if p not in first])
        found = feature.mmd_permutation_test(changed[one], untouched[~one], groups, permutations=99, seed=seed + trial)
        hits += found.p_value is not None and found.p_value <= ALPHA
    return hits / TRIALS
