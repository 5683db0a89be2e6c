"""Did an image that was drawn around a mask keep to it? A reader of single voxels, taught by real images and their
masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ...rng import derive
from ..metrics.overlap import dice
from ..statistics import interval
from .adherence import FOLDS, LEAST, Adherence

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
SCALES = (1.0, 2.0, 4.0)  # voxels: how much of its surroundings the reader sees
VOXELS = 4000  # of an image, that teach


@dataclass(frozen=True)
class Masked:
    """An image with the mask that belongs to it, or that it was drawn around; classes are whole numbers, 0 is
    outside.
    """

    patient: str
    image: Array  # (z, y, x) or (y, x)
    mask: Labels


def mask_adherence(name: str, generated: Sequence[Masked], real: Sequence[Masked], seed: int) -> Adherence:
    """Dice of what the reader finds in generated images and the masks they were drawn around, mean over classes and
    images.

    The reader is a linear discriminant of a voxel's value and of its surroundings at three scales: it knows no place
    and no shape, so that a mask that the image ignores is not found. Beside it: real images, read by who was taught on
    other patients (what perfect images would reach), and masks of other generated images (chance). Raises ValueError
    when there are too few real patients.
    """
    patients = sorted({r.patient for r in real})
    if len(patients) < LEAST or len(generated) < 2:
        raise ValueError(
            f"needs masks of at least {LEAST} real patients and 2 generated images; there are {len(patients)} and"
            f" {len(generated)}."
        )
    rng = np.random.Generator(np.random.Philox(key=derive(seed, "masks", name)))
    fold = {p: k % FOLDS for k, p in enumerate(rng.permutation(patients).tolist())}
    taught = [_taught(r, rng) for r in real]
    readers = [_Reader([t for r, t in zip(real, taught, strict=True) if fold[r.patient] != k]) for k in range(FOLDS)]
    everyone = _Reader(taught)
    seen = [readers[fold[g.patient]].read(g) if g.patient in fold else everyone.read(g) for g in generated]
    others = [*generated[1:], generated[0]]
    own = [dice_of_asked(found, g.mask) for found, g in zip(seen, generated, strict=True)]
    ceiling = _known([dice_of_asked(readers[fold[r.patient]].read(r), r.mask) for r in real])
    chance = _known([dice_of_asked(*_shared(found, o.mask)) for found, o in zip(seen, others, strict=True)])
    if not (_known(own) and ceiling and chance):
        raise ValueError("has only empty masks.")
    asked = [(v, g.patient) for v, g in zip(own, generated, strict=True) if np.isfinite(v)]
    bounds = interval([v for v, _ in asked], [p for _, p in asked])
    measured = (bounds.value, bounds.interval, float(np.mean(ceiling)), float(np.mean(chance)))
    return Adherence("voxels", f"{name}: Dice", *measured, len(asked))


def dice_of_asked(found: Labels, wanted: Labels) -> float:
    """Mean over the classes of `wanted` but 0, whatever else was found; NaN where it has none."""
    values = [dice(found == k, wanted == k) for k in np.unique(wanted[wanted > 0])]
    return float(np.mean(values)) if values else np.nan


def _known(values: Sequence[float]) -> list[float]:
    """Those of masks that are not empty."""
    return [v for v in values if np.isfinite(v)]


def _shared(one: Labels, other: Labels) -> tuple[Labels, Labels]:
    """The part that two grids have in common: patients differ in size."""
    inside = tuple(slice(min(a, b)) for a, b in zip(one.shape, other.shape, strict=True))
    return one[inside], other[inside]


def _features(image: Array) -> Array:
    """(voxels, 7): value, means around it, how steep they are."""
    maps = [image]
    for scale in SCALES:
        maps += [
            ndimage.gaussian_filter(image, scale, mode="nearest"),
            ndimage.gaussian_gradient_magnitude(image, scale, mode="nearest"),
        ]
    return np.stack([m.ravel() for m in maps], 1)


def _taught(one: Masked, rng: np.random.Generator) -> tuple[Array, Labels]:
    """Some voxels of every class, and how many there are of each: a lesion of ten voxels teaches as a brain does."""
    labels = one.mask.ravel()
    kinds = np.unique(labels)
    picked = [np.flatnonzero(labels == k) for k in kinds]
    picked = [rng.permutation(p)[: max(1, VOXELS // len(kinds))] for p in picked]
    index = np.concatenate(picked)
    return _features(one.image)[index], labels[index]


class _Reader:
    """Linear discriminant with equal chances for every class."""

    def __init__(self, taught: Sequence[tuple[Array, Labels]]) -> None:
        x, labels = np.concatenate([t[0] for t in taught]), np.concatenate([t[1] for t in taught])
        self.kinds = np.unique(labels)
        means = np.stack([x[labels == k].mean(0) for k in self.kinds])
        inside = x - means[np.searchsorted(self.kinds, labels)]
        spread = inside.T @ inside / len(x)
        spread += np.eye(len(spread)) * (1e-6 * np.trace(spread) / len(spread) + 1e-12)
        self.slope = np.linalg.solve(spread, means.T)
        self.level = -0.5 * (means * self.slope.T).sum(1)

    def read(self, one: Masked) -> Labels:
        chosen = (_features(one.image) @ self.slope + self.level).argmax(1)
        found: Labels = self.kinds[chosen].reshape(one.mask.shape)
        return found
