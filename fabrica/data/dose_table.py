"""A dose that trees guess voxel by voxel, from distances to structures and from what beams would meet.

Nothing of it is a network: it is what a model of dose has to beat, and what one can start from. Patients who train are
guessed by trees that have not seen them; everybody else by all of them together.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy import ndimage

from ..rng import derive
from .beams import ANGLES, Anatomy, Met, met, nested
from .signed import signed_distance
from .split import patient_hash
from .trees import Trees, fitted

FOLDS = 3
VOXELS, MOST_A_PATIENT = 1_000_000, 10_000  # that trees are fitted to, of all patients and of one
LEAVES, RATE = 127, 0.07
FILE = "table.safetensors"
NEAR_MM, AROUND_MM = 4.0, 10.0  # widths over which first guesses are smoothed
Features = NDArray[np.float32]


@dataclass(frozen=True)
class Guess:
    """Gy (z, y, x): of even beams, and of the trees."""

    even: NDArray[np.float32]
    table: NDArray[np.float32]


@dataclass(frozen=True)
class DoseTable:
    """Trees for each fold of the training patients, by the hash of their names; `names`: structures, targets first."""

    folds: tuple[Trees, ...]
    fold_of: Mapping[str, int]
    names: tuple[str, ...]

    def guess(self, patient: str, anatomy: Anatomy) -> Guess:
        """What nobody who has seen the patient says of the dose; 0 where none is possible."""
        features, even = features_of(anatomy, self.names)
        own = self.fold_of.get(patient_hash(patient))
        asked = self.folds if own is None else (self.folds[own],)
        table = np.zeros(anatomy.possible.shape, np.float32)
        if anatomy.possible.any():
            table[anatomy.possible] = np.mean([trees.answer(features) for trees in asked], 0).clip(0)
        return Guess(even, table)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {f"{k}/{name}": array for k, trees in enumerate(self.folds) for name, array in trees.arrays().items()}
        about = {"names": list(self.names), "fold_of": dict(self.fold_of), "folds": len(self.folds)}
        passing = folder / f"{FILE}.{os.getpid()}"
        save_file(arrays, passing, {"fabrica": json.dumps(about)})
        os.replace(passing, folder / FILE)

    @staticmethod
    def load(folder: Path) -> DoseTable | None:
        """None where there is none; raises ValueError for a damaged one."""
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            with safe_open(path, "numpy") as kept:
                about = json.loads(kept.metadata()["fabrica"])
                arrays = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118
            trees = [
                Trees.of({n.partition("/")[2]: a for n, a in arrays.items() if n.startswith(f"{k}/")})
                for k in range(int(about["folds"]))
            ]
            fold_of = {str(p): int(k) for p, k in about["fold_of"].items()}
            return DoseTable(tuple(trees), fold_of, tuple(map(str, about["names"])))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}). Delete it, and run its recipe again.") from error


def fit_table(
    patients: Sequence[str], anatomies: Callable[[], Iterable[tuple[str, Anatomy, NDArray[np.float32]]]],
    names: Sequence[str], trees: int, seed: int,
) -> DoseTable:  # fmt: skip
    """Trees that guess each patient from the others. `anatomies()` gives (patient, anatomy, dose in Gy), one by one.

    With one patient there are no others: its own dose is remembered, and whoever starts from it learns nothing. Raises
    ValueError where no patient can be used.
    """
    order = sorted(set(patients), key=patient_hash)
    count = min(FOLDS, len(order))
    fold_of = {patient_hash(p): k % count for k, p in enumerate(order)}
    most = min(MOST_A_PATIENT, VOXELS // max(len(order), 1))
    rows, doses, whose = [], [], []
    for patient, anatomy, dose in anatomies():
        features, _ = features_of(anatomy, names)
        chosen = np.random.default_rng(derive(seed, "table", patient)).permutation(len(features))[:most]
        rows.append(features[chosen])
        doses.append(dose[anatomy.possible][chosen])
        whose.append(np.full(len(chosen), fold_of[patient_hash(patient)]))
    if not rows:
        raise ValueError("No training patient has a CT, a target and a dose. See: fabrica inspect DIR")
    x, y, fold = np.concatenate(rows), np.concatenate(doses), np.concatenate(whose)
    folds = []
    for k in range(count):
        others = fold != k
        use = others if others.any() else np.ones_like(others)
        folds.append(_fit(x[use], y[use], trees, seed))
    return DoseTable(tuple(folds), fold_of, tuple(names))


def _fit(x: Features, y: NDArray[np.float32], trees: int, seed: int) -> Trees:
    return fitted(x, y, trees=trees, leaves=LEAVES, rate=RATE, seed=seed % 2**31)


def features_of(anatomy: Anatomy, names: Sequence[str]) -> tuple[Features, NDArray[np.float32]]:
    """(N, F) of the voxels where dose is possible, not known is NaN; and the dose of even beams (z, y, x) in Gy.

    `names`: structures whose distance is told, in this order.
    """
    whole = anatomy
    anatomy, where = whole.cropped()
    body, targets = anatomy.body(), nested(anatomy)
    beams = met(anatomy, targets, body) if targets else None
    even = np.zeros(whole.possible.shape, np.float32)
    if beams is not None:
        even[where] = beams.guess_gy * anatomy.possible
    columns: list[NDArray[np.float32]] = []
    inside = anatomy.possible

    def add(volume: NDArray[np.float32]) -> None:
        columns.append(volume[inside].astype(np.float32))

    def unknown(count: int) -> None:
        columns.extend([np.full(int(inside.sum()), np.nan, np.float32)] * count)

    for name in names:
        if name in anatomy.masks:
            add(signed_distance(anatomy.masks[name], anatomy.spacing_mm))
        else:
            unknown(1)
    for volume in _tissue(anatomy, body):
        add(volume)
    if beams is None:
        unknown(4 + len(ANGLES) + 8 * len(anatomy.levels) + 7)
        return np.stack(columns, 1), even
    water = np.sort(beams.water_mm[:, inside], 0)
    columns += [water[0], water[2], water[len(water) // 2], water[-1], *beams.water_mm[:, inside]]
    for volume in _seen(anatomy, targets, beams):
        add(volume)
    return np.stack(columns, 1).astype(np.float32), even


def _tissue(anatomy: Anatomy, body: NDArray[np.bool_]) -> list[NDArray[np.float32]]:
    """What a voxel is made of, how deep it lies, and where in its body."""
    spacing = anatomy.spacing_mm
    clipped = anatomy.hounsfield.clip(-1000, 1500)
    return [
        clipped, ndimage.gaussian_filter(clipped, [NEAR_MM / s for s in spacing]),
        signed_distance(~body, spacing), _edge(anatomy), *_beside(anatomy, body),
    ]  # fmt: skip


def _beside(anatomy: Anatomy, mask: NDArray[np.bool_]) -> list[NDArray[np.float32]]:
    """How far behind and to the left of a region's middle each voxel lies, in mm along the patient, not the array."""
    middle = np.argwhere(mask).mean(0) if mask.any() else np.zeros(3)
    found = []
    for row in (1, 0):  # of LPS: back, left
        place = np.zeros(mask.shape, np.float32)
        for axis, count in enumerate(mask.shape):
            line = (np.arange(count) - middle[axis]) * anatomy.affine[row, axis]
            place += line.reshape([-1 if a == axis else 1 for a in range(3)]).astype(np.float32)
        found.append(place)
    return found


def _edge(anatomy: Anatomy) -> NDArray[np.float32]:
    """How deep a voxel lies where dose is possible; not known where a new patient's could not be told."""
    if not anatomy.stated:
        return np.full(anatomy.possible.shape, np.nan, np.float32)
    return signed_distance(~anatomy.possible, anatomy.spacing_mm)


def _seen(
    anatomy: Anatomy, targets: Sequence[tuple[float, NDArray[np.bool_]]], beams: Met
) -> list[NDArray[np.float32]]:
    """What lies in the beams' way, first guesses, and where a voxel lies to the targets."""
    spacing, shape = anatomy.spacing_mm, anatomy.possible.shape
    found: list[NDArray[np.float32]] = []
    litre = float(np.prod(spacing)) / 1000
    for k, (_, mask) in enumerate(targets):
        height = np.arange(shape[0]) * anatomy.affine[2, 0]
        own = height[mask.any((1, 2))]
        found += [
            beams.open_[k], beams.hits[k], beams.thick[k], signed_distance(mask, spacing),
            np.broadcast_to((height - own.max())[:, None, None], shape),
            np.broadcast_to((own.min() - height)[:, None, None], shape),
            np.broadcast_to(np.float32(np.log1p(mask.sum() * litre)), shape),
            np.broadcast_to((mask.sum((1, 2)) * spacing[1] * spacing[2] / 100)[:, None, None], shape),
        ]  # fmt: skip
    wanted = np.zeros(shape, np.float32)
    for level, mask in reversed(targets):
        wanted[mask] = level
    guess = beams.guess_gy
    smooth = [ndimage.gaussian_filter(guess, [mm / s for s in spacing]) for mm in (NEAR_MM, AROUND_MM)]
    return [
        *found, guess, *smooth, wanted, ndimage.gaussian_filter(wanted, [NEAR_MM / s for s in spacing]),
        *_beside(anatomy, targets[-1][1]),
    ]  # fmt: skip
