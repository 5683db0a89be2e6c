"""Tier 2 of two sets of images: every distance beside the same distance between real patients at the same number of
them.

EVALUATION's protocol: units are patients; p values move whole patients; no interval is made from resampling a distance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ...rng import derive
from ..statistics import holm
from . import feature
from .embedding import Changed, Embedding, Picture, bin_width, read, standardised, usable
from .featurewise import FeatureDifference, feature_differences

Array = NDArray[np.float64]
SPLITS = 20  # random halves of the real patients that make the null
LEAST = 5  # patients a side, below which a distance says nothing


@dataclass(frozen=True)
class Distance:
    """A measure of generated against real patients, and of real against real patients: medians over the same splits."""

    embedding: str
    measure: str
    value: float
    null: float
    null_range: tuple[float, float]  # 5th to 95th percentile over the splits
    patients: int  # on each side of every split
    few: bool = False  # fewer cases than features: a Fréchet distance is mostly bias


@dataclass(frozen=True)
class Rival:
    """Kernel distances to the real patients of two sets of images."""

    embedding: str
    generated: float
    competitor: float


@dataclass(frozen=True)
class Test:
    """Whether the sets differ, by moving whole patients between them."""

    embedding: str
    test: str
    value: float
    p_value: float
    convention: str


@dataclass
class Realism:
    """All that two sets allow; what they do not is named."""

    distances: list[Distance] = field(default_factory=list)
    tests: list[Test] = field(default_factory=list)
    rivals: list[Rival] = field(default_factory=list)
    cheats: list[str] = field(default_factory=list)  # trivial sets that a measure does not tell from the generated one
    features: list[FeatureDifference] = field(default_factory=list)  # radiomics one by one, largest gap first
    authentic: dict[str, dict[str, float]] = field(default_factory=dict)  # embedding -> side -> share
    remarks: list[str] = field(default_factory=list)
    not_evaluated: list[str] = field(default_factory=list)

    def table(self) -> list[tuple[str, list[Distance]]]:
        """Per measure, one distance per embedding."""
        measures = list(dict.fromkeys(d.measure for d in self.distances))
        return [(m, [d for d in self.distances if d.measure == m]) for m in measures]

    def sentence(self) -> str:
        """What the kernel tests say together (Holm); embeddings that disagree carry no verdict."""
        tests = [t for t in self.tests if t.test == "kernel two-sample"]
        if not tests:
            return "Realism was not evaluated."
        adjusted = holm([t.p_value for t in tests])
        found = {t.embedding: p < 0.05 for t, p in zip(tests, adjusted, strict=True)}
        seen = [name for name, differs in found.items() if differs]
        if not seen:
            return (
                f"By none of {len(found)} embeddings do generated differ from real patients here (p >= .05 is no proof"
                " of likeness)."
            )
        if len(seen) == len(found):
            return f"Generated differ from real patients by all {len(found)} embeddings."
        return (
            f"The embeddings disagree: by {' and '.join(seen)} generated differ from real patients, by the others not."
        )


def realism(
    generated: Sequence[Picture], real: Sequence[Picture], *, training: Sequence[Picture] = (),
    holdout: Sequence[Picture] = (), competitor: Sequence[Picture] = (), more: Mapping[str, Embedding] | None = None,
    seed: int = 0, unseen: bool = False,
) -> Realism:  # fmt: skip
    """Distances with nulls, patient-wise tests, and authenticity against the training set when it is given.

    `holdout`: real patients whom the generator never saw; they join the reference for distances. `unseen`: training saw
    none of `real` either, which then says how near to training images unseen patients are. Deterministic.
    """
    found = Realism()
    if training and not holdout and not unseen:
        found.not_evaluated.append(
            "memorised share beside its expectation: needs --holdout, patients whom training did not see."
        )
    if not training:
        found.not_evaluated.append("memorised share: needs --training, the images that the generator learned from.")
    sides = {"generated": _named("generated", generated), "real": real, "training": training, "holdout": holdout}
    used = {name: pictures for name, pictures in sides.items() if pictures}
    if {p.patient for p in generated} & {p.patient for p in real}:
        found.remarks.append("Generated and real images are of the same patients: the tests below are conservative.")
    if min(len({p.patient for p in side}) for side in (generated, real)) >= LEAST:
        found.features = feature_differences(generated, real, seed)
    if competitor:
        used["competitor"] = competitor
    how, width = usable(used, more), bin_width(list(used.values()))
    raw = {side: read(pictures, how, width) for side, pictures in used.items()}
    blurred = read(Changed(real, _blurred), how, width)
    for name in how:
        rows = {side: one[name] for side, one in raw.items()}
        features = standardised({side: one for side, one in rows.items() if side != "competitor"}, name)
        patients = {side: [p.patient for p in used[side]] for side in features}
        _distances(found, name, features, patients, seed)
        _tests(found, name, features, patients, seed)
        _cheats(found, name, rows, blurred[name], seed)
        if competitor:
            drawn = standardised({side: rows[side] for side in ("generated", "competitor", "real")}, name)
            ours, theirs = (feature.kernel_distance(drawn[s], drawn["real"]).value for s in ("generated", "competitor"))
            found.rivals.append(Rival(name, ours, theirs))
        if training:
            found.authentic[name] = _authentic(features, unseen)
    return found


def _authentic(features: Mapping[str, Array], unseen: bool) -> dict[str, float]:
    """Of generated images, and of real patients whom training did not see: the holdout, or else the reference where it
    is that.
    """
    asked = {"generated": features["generated"]}
    if "holdout" in features or unseen:
        asked["holdout"] = features.get("holdout", features["real"])
    return {side: feature.authenticity(rows, features["training"]) for side, rows in asked.items()}


def _named(side: str, pictures: Sequence[Picture]) -> list[Picture]:
    """A generated patient is another one than the real patient of the same name."""
    return [replace(p, patient=f"{side}/{p.patient}") for p in pictures]


def _distances(
    found: Realism, name: str, features: Mapping[str, Array], patients: Mapping[str, Sequence[str]], seed: int
) -> None:
    own, pool = sorted(set(patients["generated"])), ("real", "holdout") if "holdout" in patients else ("real",)
    members = [p for side in pool for p in patients[side]]
    rows, real = np.concatenate([features[side] for side in pool]), sorted(set(members))
    n = min(len(own), len(real) // 2)
    if n < LEAST:
        needs = f"{LEAST} generated and {2 * LEAST} real patients (held out ones included)"
        _once(
            found.not_evaluated,
            f"distances between sets: needs at least {needs}; there are {len(own)} and {len(real)}.",
        )
        return
    rng = np.random.Generator(np.random.Philox(key=derive(seed, "splits", name)))
    splits: list[tuple[dict[str, float], dict[str, float]]] = []
    fewest = len(rows)
    for _ in range(SPLITS):
        order = rng.permutation(real).tolist()
        ours = _rows(features["generated"], patients["generated"], rng.permutation(own).tolist()[:n])
        one, other = _rows(rows, members, order[:n]), _rows(rows, members, order[n : 2 * n])
        fewest = min(fewest, len(ours), len(one), len(other))
        splits.append((_figure(ours, one), _figure(other, one)))
    for measure in splits[0][0]:
        drawn, null = np.array([[side[measure] for side in split] for split in splits]).T
        low, high = np.percentile(null, [5, 95])
        found.distances.append(
            Distance(
                name,
                measure,
                float(np.median(drawn)),
                float(np.median(null)),
                (float(low), float(high)),
                n,
                measure == "Fréchet distance" and fewest <= rows.shape[1],
            )
        )


BETTER = {
    "Fréchet distance": -1,
    "kernel distance": -1,
    "precision": 1,
    "recall": 1,
    "density": 1,
    "coverage": 1,
    "diversity (Vendi)": 1,
}


def _cheats(found: Realism, name: str, rows: Mapping[str, Array], blurred: Array, seed: int) -> None:
    """Check 21 for sets: copies of the training set, and real images blurred; measures on which they do as well are
    named.
    """
    if min(len(rows["generated"]), len(rows["real"])) < 2 * LEAST:
        return
    cheats = {"blurred real images": blurred}
    if "training" in rows:
        cheats["a copy of the training set"] = rows["training"]
    for cheat, features in cheats.items():
        drawn = standardised({"generated": rows["generated"], "cheat": features, "real": rows["real"]}, name)
        n = min(len(d) for d in drawn.values())
        rng = np.random.Generator(np.random.Philox(key=derive(seed, "cheats", name, cheat)))
        picked = {side: d[rng.permutation(len(d))[:n]] for side, d in drawn.items()}
        ours, theirs = _figure(picked["generated"], picked["real"]), _figure(picked["cheat"], picked["real"])
        won = [m for m, sign in BETTER.items() if sign * theirs[m] >= sign * ours[m]]
        if won:
            found.cheats.append(
                f"{', '.join(won)} by {name}: NOT DISCRIMINATIVE here: {cheat} scored as well as the generated images"
            )


def _blurred(picture: Picture) -> Picture:
    return replace(picture, values=ndimage.gaussian_filter(picture.values.astype(np.float64), 1.0))


def _rows(features: Array, patients: Sequence[str], chosen: Sequence[str]) -> Array:
    """All images of the chosen patients."""
    wanted = set(chosen)
    return features[[p in wanted for p in patients]]


def _figure(x: Array, y: Array) -> dict[str, float]:
    """x against y; neighbours are looked for once for the four measures that need them."""
    near, _ = feature.neighbours(x, y, min(5, len(x) - 1, len(y) - 1))
    return {
        "Fréchet distance": feature.frechet_distance(x, y), "kernel distance": feature.kernel_distance(x, y).value,
        **near,
        "diversity (Vendi)": feature.vendi(x),
    }  # fmt: skip


def _tests(
    found: Realism, name: str, features: Mapping[str, Array], patients: Mapping[str, Sequence[str]], seed: int
) -> None:
    x, y, groups = features["generated"], features["real"], (patients["generated"], patients["real"])
    if min(len(set(groups[0])), len(set(groups[1]))) < LEAST:
        _once(found.not_evaluated, f"tests between sets: needs at least {LEAST} patients on each side.")
        return
    for test, run in (
        ("kernel two-sample", feature.mmd_permutation_test),
        ("classifier two-sample", feature.classifier_two_sample_test),
    ):
        result = run(x, y, groups, seed=seed)
        found.tests.append(Test(name, test, result.value, float(result.p_value or 1.0), result.convention))


def _once(lines: list[str], line: str) -> None:
    if line not in lines:
        lines.append(line)
