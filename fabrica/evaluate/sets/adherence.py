"""Did the generator obey? What was asked for, beside what a reader taught by real images sees in the answer."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...data.text import hashed
from ...rng import derive
from ..metrics import task
from ..statistics import interval
from .embedding import Embedding, Picture, embed, usable

Array = NDArray[np.float64]
FOLDS = 5
LEAST = 10  # real patients who teach the reader


@dataclass(frozen=True)
class Adherence:
    """By one embedding: how far generated images are what was asked, beside real ones left out of the teaching."""

    embedding: str
    measure: str
    generated: float
    generated_interval: tuple[float, float] | None
    real: float
    shuffled: float  # the same with what was asked for shuffled: chance
    images: int


def read_labels(path: Path) -> dict[tuple[str, str], str]:
    """(folder, name) -> label of a CSV with the columns folder, name, label; folder is generated, reference, training
    or holdout.
    """
    if not path.is_file():
        raise ValueError(f"There is no table at {path}. Write a CSV with the columns folder, name, label.")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"folder", "name", "label"} <= set(rows[0]):
        raise ValueError(f"{path} lacks the columns folder, name, label. Write one row an image.")
    cells = [tuple((r[k] or "").strip() for k in ("folder", "name", "label")) for r in rows]
    return {(folder, name): label for folder, name, label in cells if label and label.lower() != "nan"}


def adherence(
    sets: Mapping[str, Sequence[Picture]], labels: Mapping[tuple[str, str], str], seed: int = 0,
    more: Mapping[str, Embedding] | None = None, words: int | None = None,
) -> list[Adherence]:  # fmt: skip
    """Accuracy of classes, or concordance of numbers, by a linear reader on each embedding. Real patients left out of
    its teaching give the figure that perfect images would reach. Raises ValueError when labels do not suffice.

    `words`: labels are texts, as hashed vectors of so many numbers; the reader says the vector, and what counts is the
    share of the other texts that were asked for that fit it worse than the image's own (1 is perfect, 0.5 is chance).
    """
    generated = [(p, labels["generated", p.name]) for p in sets["generated"] if ("generated", p.name) in labels]
    real = [
        (p, labels[side, p.name])
        for side in ("reference", "training", "holdout")
        for p in sets.get(side, ())
        if (side, p.name) in labels
    ]
    if len({p.patient for p, _ in real}) < LEAST or not generated:
        raise ValueError(
            f"needs a label for generated images and for at least {LEAST} real patients; there are {len(generated)} and"
            f" {len({p.patient for p, _ in real})}."
        )
    numbers = None if words else _numbers([label for _, label in (*generated, *real)])
    found = []
    read = {"generated": [p for p, _ in generated], "real": [p for p, _ in real]}
    for name in usable(read, more):
        features = embed(read, name, more)
        found.append(_read(name, features, generated, real, numbers is not None, words, seed))
    return found


def _numbers(texts: Sequence[str]) -> list[float] | None:
    """As numbers, when all are and there are more than ten different ones."""
    values = []
    for text in texts:
        try:
            values.append(float(text))
        except ValueError:
            continue
    if values and len(values) < len(texts) and len(set(values)) > 10:
        raise ValueError("labels mix numbers and words. Write one kind for every image.")
    if len(values) < len(texts) or not np.isfinite(values).all():
        return None
    return values if len(set(values)) > 10 else None


def _read(
    name: str,
    features: Mapping[str, Array],
    generated: Sequence[tuple[Picture, str]],
    real: Sequence[tuple[Picture, str]],
    continuous: bool,
    words: int | None,
    seed: int,
) -> Adherence:
    asked, wanted = [label for _, label in generated], [label for _, label in real]
    classes = sorted(set(wanted))
    vectors = {text: hashed(text, words).double().numpy() for text in {*asked, *wanted}} if words else {}
    if words:
        target = np.stack([vectors[text] for text in wanted])
    elif continuous:
        target = np.array([[float(v)] for v in wanted])
    else:
        target = np.array([[float(v == c) for c in classes] for v in wanted])
    patients = [p.patient for p, _ in real]
    rng = np.random.Generator(np.random.Philox(key=derive(seed, "adherence", name)))
    order = rng.permutation(sorted(set(patients))).tolist()
    fold = np.array([order.index(p) % FOLDS for p in patients])
    left_out, truths = np.zeros_like(target), wanted
    seen = _ridge(features["real"], target, features["generated"])
    place = np.array([order.index(p.patient) % FOLDS if p.patient in order else -1 for p, _ in generated])
    for k in range(FOLDS):  # nobody is read by who was taught on the same patient
        left_out[fold == k] = _ridge(features["real"][fold != k], target[fold != k], features["real"][fold == k])
        seen[place == k] = _ridge(features["real"][fold != k], target[fold != k], features["generated"][place == k])
    mixed = [asked[i] for i in rng.permutation(len(asked))]
    if continuous:

        def fit(answer: Array, truth: Sequence[str]) -> float:
            return float(task.concordance_correlation(answer[:, 0], [float(t) for t in truth]))

        return Adherence(
            name, "concordance", fit(seen, asked), None, fit(left_out, truths), fit(seen, mixed), len(asked)
        )
    patients = [p.patient for p, _ in generated]
    if words:
        ranks = _ranks(seen, asked, vectors)
        bounds = interval(ranks, patients).interval
        perfect, chance = (float(np.mean(_ranks(a, t, vectors))) for a, t in ((left_out, truths), (seen, mixed)))
        return Adherence(name, "rank of the words", float(np.mean(ranks)), bounds, perfect, chance, len(asked))
    right = [float(classes[int(a.argmax())] == t) for a, t in zip(seen, asked, strict=True)]
    by_chance = float(np.mean([classes[int(a.argmax())] == t for a, t in zip(seen, mixed, strict=True)]))
    base = float(np.mean([classes[int(a.argmax())] == t for a, t in zip(left_out, truths, strict=True)]))
    bounds = interval(right, patients).interval
    return Adherence(name, "accuracy", float(np.mean(right)), bounds, base, by_chance, len(asked))


def _ranks(answers: Array, texts: Sequence[str], vectors: Mapping[str, Array]) -> list[float]:
    """Share of the other texts that fit an answer worse than its own does, ties by half; raises ValueError where all
    are one.
    """
    known = sorted(set(texts))
    if len(known) < 2:
        raise ValueError(f"needs texts that differ; all are {known[0]!r}.")
    fits = answers @ np.stack([vectors[text] for text in known]).T
    found = []
    for row, text in zip(fits, texts, strict=True):
        own, others = row[known.index(text)], np.delete(row, known.index(text))
        found.append(float(np.mean((others < own) + 0.5 * (others == own))))
    return found


def _ridge(x: Array, y: Array, new: Array) -> Array:
    """Linear answers for new rows; as much shrinkage as there are rows."""
    centre, level = x.mean(0), y.mean(0)
    a = x - centre
    gram = a @ a.T + len(a) * np.eye(len(a))
    return np.asarray((new - centre) @ a.T @ np.linalg.solve(gram, y - level) + level)
