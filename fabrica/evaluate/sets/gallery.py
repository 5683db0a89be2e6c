"""Pictures gathered while a stage is judged, and what they show as a set: realism, and whether they are what was asked
for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from ...data.grid import foreground
from . import feature
from .adherence import LEAST as TEACHERS
from .adherence import Adherence, adherence
from .embedding import EMBEDDINGS, Picture, embed
from .masks import Masked, mask_adherence
from .realism import LEAST, Realism, realism

Array = NDArray[np.floating]


@dataclass
class Gallery:
    """One draw and the true image of each test case, training images, all on the prepared grid; at most `most` of
    each.
    """

    most: int
    spacing_mm: tuple[float, float, float]
    drawn: list[Picture] = field(default_factory=list)
    real: list[Picture] = field(default_factory=list)
    training: list[Picture] = field(default_factory=list)
    masked: dict[str, tuple[list[Masked], list[Masked]]] = field(default_factory=dict)  # mask -> (drawn, real)
    labels: dict[str, dict[tuple[str, str], str]] = field(default_factory=dict)  # value -> (side, name) -> label
    constant: int = 0

    @property
    def full(self) -> bool:
        return len(self.drawn) >= self.most

    def add(self, name: str, patient: str, drawn: Array, real: Array | None, values: Mapping[str, object]) -> None:
        """Arrays (z, y, x); a draw without any structure is counted and left out."""
        if self.full:
            return
        self._put(self.drawn, "generated", name, patient, drawn, values)
        if real is not None:
            self._put(self.real, "reference", name, patient, real, values)

    def add_training(self, cases: Iterable[tuple[str, str, Array, Mapping[str, object]]]) -> None:
        for name, patient, values, known in cases:
            if len(self.training) < self.most:
                self._put(self.training, "training", name, patient, values, known)

    def _put(
        self,
        side: list[Picture],
        name_of_side: str,
        name: str,
        patient: str,
        volume: Array,
        values: Mapping[str, object],
    ) -> None:
        plain = np.asarray(volume[0] if volume.shape[0] == 1 else volume, np.float64)
        inside = foreground(torch.from_numpy(plain)).numpy()
        if not inside.any():
            self.constant += 1
            return
        side.append(Picture(name, patient, plain, inside, self.spacing_mm[-plain.ndim :]))
        for key, label in values.items():
            self.labels.setdefault(key, {})[name_of_side, name] = str(label)

    def add_mask(self, name: str, patient: str, image: Array, mask: Array, *, drawn: bool) -> None:
        """Arrays (z, y, x): an image, and the classes of the mask that it was drawn around, or that is its own."""
        side = self.masked.setdefault(name, ([], []))[not drawn]
        if len(side) < self.most:
            plain, classes = (np.asarray(a[0] if a.shape[0] == 1 else a) for a in (image, mask))
            side.append(Masked(patient, plain.astype(np.float64), classes.round().astype(np.int64)))

    def mask_adherence(self, seed: int) -> tuple[list[Adherence], list[str]]:
        """For each mask that images were drawn around: whether a reader of voxels finds it there."""
        found, missing = [], []
        for name, (drawn, real) in self.masked.items():
            try:
                found.append(mask_adherence(name, drawn, real, seed))
            except ValueError as error:
                missing.append(f"adherence to {name}: {error}")
        return found, missing

    def realism(self, seed: int) -> tuple[Realism | None, list[str]]:
        """Distances of the draws from real patients, beside those of real patients; or why there are none."""
        remarks = [f"{self.constant} images are constant and were left out of the set."] if self.constant else []
        patients = [len({p.patient for p in side}) for side in (self.drawn, self.real)]
        if min(patients) < LEAST:
            return None, [
                *remarks,
                (
                    f"distances between sets: needs at least {LEAST} test patients (and {2 * LEAST} for their null);"
                    f" there are {min(patients)}."
                ),
            ]
        try:
            found = realism(self.drawn, self.real, training=self.training, seed=seed, unseen=True)
        except ValueError as error:
            return None, [*remarks, f"distances between sets: {error}"]
        return found, [*remarks, *found.not_evaluated]

    def adherence(self, asked: Mapping[str, int | None], seed: int) -> tuple[list[Adherence], list[str]]:
        """For each value that draws were asked for: whether a reader taught by real images sees it in them.

        `asked`: the name of a value; of words the width of their vector, of anything else none.
        """
        found, missing = [], []
        sets = {"generated": self.drawn, "reference": self.real, "training": self.training}
        for name, words in asked.items():
            labels = self.labels.get(name, {})
            if len({p.patient for p in (*self.real, *self.training)}) < TEACHERS or len(set(labels.values())) < 2:
                missing.append(f"adherence to {name}: needs {TEACHERS} real patients who differ in it.")
                continue
            try:
                found += [(a, name) for a in adherence(sets, labels, seed, words=words)]
            except ValueError as error:
                missing.append(f"adherence to {name}: {error}")
        return [_named(a, name) for a, name in found], missing

    def distances(self, drawn: Sequence[Picture]) -> dict[str, float]:
        """Kernel distance of other draws of the same cases, by embedding; none where there are too few patients."""
        if min(len({p.patient for p in side}) for side in (drawn, self.real)) < LEAST:
            return {}
        found = {}
        for name in EMBEDDINGS:
            features = embed({"generated": drawn, "real": self.real}, name)
            found[f"kernel distance, {name}"] = float(feature.kernel_distance(features["generated"], features["real"]))
        return found


def _named(one: Adherence, value: str) -> Adherence:
    return Adherence(
        one.embedding,
        f"{value}: {one.measure}",
        one.generated,
        one.generated_interval,
        one.real,
        one.shuffled,
        one.images,
    )
