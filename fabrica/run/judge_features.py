"""How well features of images and of texts find each other, on patients that neither has seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch.nn import functional as F

from ..contracts import Condition, Matcher
from ..data.cases import Prepared
from ..data.findings import NONE, SIDES, SIZES, facts_of
from ..data.subwords import Subwords
from ..evaluate.report.results import StageResult
from ..evaluate.result import Figure
from ..rng import Rng, derive
from .stage import PreparedStage

Say = Callable[[str], None]
NEAR = (1, 5)  # texts among the nearest
FEW = (4, 8, 16)  # training patients whose labels a linear probe is given
RESAMPLES = 1000
LEAST = 8  # slices of either kind below which a figure is not told
SICK, WELL = "lesion", "no lesion"
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """Slices of one part, a row each."""

    features: Array  # (N, width), of unit length
    pixels: Array  # (N, ...), coarse, which anybody has without learning
    texts: tuple[str, ...]
    patients: tuple[str, ...]

    @property
    def facts(self) -> list[dict[str, str]]:
        return [dict(facts_of(text)) for text in self.texts]


def judge_features(ready: PreparedStage, family: Matcher, result: StageResult, say: Say) -> StageResult:
    """Retrieval of texts, answers by sentences of the findings grammar to questions that no label was given for, and
    linear probes by the labels of few patients; intervals by resampling patients. The encoder has met the sentences of
    all training patients. Texts of another grammar are retrieved, and nothing else is asked of them.
    """
    (name, how), *_ = ready.layout.words.items()
    train = _seen(ready, family, [_stored(ready, k) for k in range(len(ready.store.entries))], name, how)
    test = _seen(ready, family, [ready.case(m, (*ready.job.weighed_by,)) for m in ready.test], name, how)
    if test is None or train is None:
        say(f"{ready.name}: no test patient has a text of {name}; nothing is told of features.")
        return result
    figures = _retrieval(ready, family, test, name, how)
    if ready.job.described:
        figures += _zero_shot(ready, family, test, name, how) + _probes(ready, train, test)
    result.figures += [replace(f, stage=ready.name) for f in figures]
    for f in result.figures:
        if not isinstance(f.value, str):
            say(f"{ready.name}: {f.name} ({f.by}): {f.value:.3f}")
    return result


def _stored(ready: PreparedStage, number: int) -> Prepared:
    """A training case again, as judging reads it."""
    entry = ready.store.entries[number]
    member = next(m for m in ready.split.parts["train"] if m.name == entry.name)
    return ready.case(member, (*ready.job.weighed_by,))


@torch.no_grad()
def _seen(ready: PreparedStage, family: Matcher, cases: Sequence[Prepared], name: str, how: Subwords) -> Seen | None:
    device = next(family.parameters()).device
    features, pixels, texts, patients = list[Array](), list[Array](), list[str](), list[str]()
    for case in cases:
        batch = ready.rows(case, device)
        problem = ready.job.question(batch, Rng(range(len(batch.cases))))
        known = problem.condition.present.get(name)
        if name not in problem.condition.values or (known is not None and not bool(known.any())):
            continue
        shown = next(iter(batch.images[f.name] for f in ready.job.signature().condition if f.name in batch.images))
        filled = ((shown > 0.1).flatten(1).float().mean(1) > 0.02).cpu()
        kept = (filled if known is None else filled & known.cpu()).nonzero().flatten().tolist()
        told = family.eval().sample(problem, Rng(range(len(batch.cases))))
        words = problem.condition.values[name].cpu().long()
        coarse = F.adaptive_avg_pool2d(shown[:, :1].float(), 16) if shown.ndim == 4 else shown[:, :1].float().mean(2)
        features.append(F.normalize(told[kept].double(), dim=1).cpu().numpy())
        pixels.append(coarse[kept].flatten(1).double().cpu().numpy())
        texts += [how.text(words[k]) for k in kept]
        patients += [case.case.patient] * len(kept)
    if not texts:
        return None
    return Seen(np.concatenate(features), np.concatenate(pixels), tuple(texts), tuple(patients))


@torch.no_grad()
def _worded(family: Matcher, name: str, how: Subwords, texts: Sequence[str]) -> Array:
    """(N, width) of texts, of unit length."""
    words = how.words(list(texts)).to(next(family.parameters()).device)
    told = family.eval().worded(Condition({name: words}), len(texts))
    found: Array = F.normalize(told.double(), dim=1).cpu().numpy()
    return found


def _retrieval(ready: PreparedStage, family: Matcher, test: Seen, name: str, how: Subwords) -> list[Figure]:
    """Whether an image's own sentence is among the nearest of all sentences of the test part."""
    known = sorted(set(test.texts))
    own = np.array([known.index(text) for text in test.texts])
    ranks = (-(test.features @ _worded(family, name, how, known).T)).argsort(1)
    place = (ranks == own[:, None]).argmax(1)
    figures = []
    for near in NEAR:
        if near >= len(known):
            continue
        hit = (place < near).astype(float)
        often = np.bincount(own, minlength=len(known))
        usual = float(np.sort(often)[::-1][:near].sum() / len(own))
        found = _by_patient(test.patients, _share(hit), ready.seed)
        figures.append(_figure(f"own sentence among the {near} nearest of {len(known)}", "model", *found, test))
        figures.append(
            Figure("", "the commonest sentences", f"own sentence among the {near} nearest of {len(known)}", usual, None,
                   len(set(test.patients)), "slices")
        )  # fmt: skip
    return figures


def _prompts() -> dict[str, dict[str, list[str]]]:
    """Question -> answer -> sentences that say it."""
    ones = {(size, side): f"One lesion: {size}, {side}, central." for size in SIZES for side in SIDES}
    return {
        "a lesion": {SICK: list(ones.values()), WELL: [NONE]},
        "largest on the left": {
            "left": [t for (_, side), t in ones.items() if side == "left"],
            "right": [t for (_, side), t in ones.items() if side == "right"],
        },
        "largest is large": {
            "large": [t for (size, _), t in ones.items() if size == "large"],
            "small": [t for (size, _), t in ones.items() if size == "small"],
        },
    }  # fmt: skip


def _answers(facts: Sequence[dict[str, str]]) -> dict[str, Array]:
    """Question -> 1, 0 or NaN (not asked) of each slice."""
    sick = [f.get("count") != "no" for f in facts]
    sides = [{"left": 1.0, "right": 0.0}.get(f.get("side", ""), np.nan) for f in facts]
    sizes = [{"large": 1.0, "small": 0.0}.get(f.get("size", ""), np.nan) for f in facts]
    answers = (np.array(sick, float), np.array(sides), np.array(sizes))
    return dict(zip(_prompts(), answers, strict=True))


def _zero_shot(ready: PreparedStage, family: Matcher, test: Seen, name: str, how: Subwords) -> list[Figure]:
    """AUC of the cosine with sentences that say one thing, less that with sentences that say the other."""
    figures, truth = [], _answers(test.facts)
    for question, sides in _prompts().items():
        middle = [_worded(family, name, how, texts).mean(0) for texts in sides.values()]
        score = test.features @ (middle[0] - middle[1])
        figures.append(_auc(f"zero-shot AUC, {question}", "model", score, truth[question], test, ready.seed))
    return figures


def _probes(ready: PreparedStage, train: Seen, test: Seen) -> list[Figure]:
    """Logistic regression on features of few training patients, beside one on coarse pixels."""
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

    question = next(iter(_prompts()))
    label, truth = _answers(train.facts)[question], _answers(test.facts)[question]
    people = sorted(set(train.patients), key=lambda p: derive(ready.seed, "probe", p))
    figures = []
    for count in [n for n in FEW if n < len(people)] + [len(people)]:
        chosen = set(people[:count])
        rows = np.array([p in chosen for p in train.patients])
        if len(set(label[rows])) < 2:
            continue
        for by, own, other in (
            ("model", train.features, test.features),
            ("coarse pixels", train.pixels, test.pixels),
        ):  # fmt: skip
            scaler = StandardScaler().fit(own[rows])
            probe = LogisticRegression(C=0.1, max_iter=500).fit(scaler.transform(own[rows]), label[rows])
            score = probe.decision_function(scaler.transform(other))
            figures.append(_auc(f"AUC of {question}, a probe on {count} patients", by, score, truth, test, ready.seed))
    return figures


def _auc(what: str, by: str, score: Array, truth: Array, test: Seen, seed: int) -> Figure:
    asked = np.isfinite(truth)
    ones, zeros = int((truth == 1).sum()), int((truth == 0).sum())
    if min(ones, zeros) < LEAST:
        text = f"not evaluated: {ones} and {zeros} slices, {LEAST} of each are needed"
        return Figure("", by, what, text, None, len(set(test.patients)), "")

    def area(rows: NDArray[np.int_]) -> float:
        own = rows[asked[rows]]
        y, ranks = truth[own], stats.rankdata(score[own])
        n, m = (y == 1).sum(), (y == 0).sum()
        return float((ranks[y == 1].sum() - n * (n + 1) / 2) / (n * m)) if n and m else np.nan

    return _figure(what, by, *_by_patient(test.patients, area, seed), test)


def _share(hit: NDArray[np.float64]) -> Callable[[NDArray[np.int_]], float]:
    """How large a part of some rows hits."""
    return lambda rows: float(hit[rows].mean())


def _by_patient(
    patients: Sequence[str], measure: Callable[[NDArray[np.int_]], float], seed: int
) -> tuple[float, tuple[float, float] | None]:
    """(value, 95 % interval over resampled patients, which is none below ten of them)."""
    names = np.array(patients)
    people = list(dict.fromkeys(patients))
    whose = {p: np.flatnonzero(names == p) for p in people}
    value = measure(np.arange(len(names)))
    if len(people) < 10:
        return value, None
    rng = np.random.Generator(np.random.Philox(key=derive(seed, "features")))
    drawn = [
        measure(np.concatenate([whose[people[k]] for k in rng.integers(0, len(people), len(people))]))
        for _ in range(RESAMPLES)
    ]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return value, (float(low), float(high))


def _figure(what: str, by: str, value: float, interval: tuple[float, float] | None, test: Seen) -> Figure:
    people = len(set(test.patients))
    return Figure("", by, what, value, interval, people, f"{len(test.texts)} slices; patients resampled")
