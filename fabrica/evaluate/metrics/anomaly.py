"""Where an image does not look like healthy ones: how unlike, in units of what healthy people leave; by lesion size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

Array = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
ANOMALY, MARKED = "anomaly", "anomaly-mask"  # maps, and what is marked of them
BINS = 12  # of edges, by how steep
SIZES_MM = (3.0, 5.0, 10.0)  # limits between lesions' diameters
FOUND = 0.1  # of a lesion that has to be marked


@dataclass(frozen=True)
class Ruler:
    """What healthy people leave between an image and its healthy twin, by how steep the twin is at a voxel.

    An anomaly is measured in it: 1 = as much as they leave on average. `floor`: what the spread of draws adds to.
    """

    edges: tuple[float, ...]  # limits between the bins
    left: tuple[float, ...]  # root mean square of what is left in each, in units of spread and floor
    floor: float
    smooth_mm: float

    @staticmethod
    def of(healthy: Sequence[tuple[Array, Array, Mask]], spacing_mm: Sequence[float], smooth_mm: float) -> Ruler:
        """From (image (z, y, x), its draws (draws, z, y, x), where the patient is) of each healthy person.

        Raises ValueError for nobody, and for people who leave nothing at all.
        """
        if not healthy:
            raise ValueError("a ruler needs healthy people whom training did not see")
        pairs = [
            (_smoothed(image - draws.mean(0), spacing_mm, smooth_mm), draws, inside) for image, draws, inside in healthy
        ]
        floor = math.sqrt(float(np.mean([np.mean(left[inside] ** 2) for left, _, inside in pairs])))
        if floor < 1e-9:
            raise ValueError(
                "healthy people leave nothing between an image and its twin; nothing can be measured in that"
            )
        steep = np.concatenate([_steepness(draws.mean(0))[inside] for _, draws, inside in pairs])
        units = np.concatenate([(left / _unit(draws, floor))[inside] for left, draws, inside in pairs])
        edges = np.unique(np.quantile(steep, np.linspace(0, 1, BINS + 1)[1:-1]))
        place = np.searchsorted(edges, steep)
        sums, counts = (np.bincount(place, w, len(edges) + 1) for w in (units**2, np.ones_like(units)))
        root = np.sqrt(np.where(counts > 0, sums / np.maximum(counts, 1), 1.0)).clip(1e-3)
        return Ruler(tuple(edges.tolist()), tuple(root.tolist()), floor, smooth_mm)

    def anomaly(self, image: Array, draws: Array, spacing_mm: Sequence[float]) -> Array:
        """(z, y, x): how much more lies between an image and its healthy twin than healthy people leave there."""
        left = _smoothed(image - draws.mean(0), spacing_mm, self.smooth_mm) / _unit(draws, self.floor)
        place = np.searchsorted(np.array(self.edges), _steepness(draws.mean(0)))
        return np.asarray(np.abs(left) / np.array(self.left)[place])


def _smoothed(image: Array, spacing_mm: Sequence[float], smooth_mm: float) -> Array:
    if not smooth_mm:
        return image
    widths = [smooth_mm / s if n > 1 else 0.0 for n, s in zip(image.shape, spacing_mm, strict=True)]
    return np.asarray(ndimage.gaussian_filter(image, widths))


def _steepness(image: Array) -> Array:
    steps = [np.gradient(image, axis=k) for k in range(image.ndim) if image.shape[k] > 1]
    return np.asarray(np.sqrt(np.sum(np.square(steps), axis=0)))


def _unit(draws: Array, floor: float) -> Array:
    return np.asarray(np.sqrt(draws.var(0) + floor**2))


def threshold(maps: Sequence[Array], false_positives: float) -> float:
    """Above which that share of the voxels of healthy people lies (each map: the voxels in which a person is).

    People count alike, however large. Raises ValueError for nobody.
    """
    if not maps:
        raise ValueError("a threshold needs healthy people whom training did not see")
    most = min(len(m) for m in maps)
    even = [np.sort(m)[np.linspace(0, len(m) - 1, most).round().astype(int)] for m in maps]
    return float(np.quantile(np.concatenate(even), 1 - false_positives))


def average_precision(scores: ArrayLike, lesion: ArrayLike, inside: ArrayLike) -> float:
    """Area under precision over recall of the voxels of a patient, as a sum of steps; equal scores are one step.

    Raises ValueError without a lesion inside.
    """
    where = np.asarray(inside).astype(bool)
    truth = np.asarray(lesion).astype(bool)[where]
    if not truth.any():
        raise ValueError("average precision needs a lesion inside the patient")
    values = np.asarray(scores)[where]
    order = np.argsort(-values, kind="stable")
    last = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)  # of equal scores
    found = np.cumsum(truth[order])[last]
    return float((np.diff(found, prepend=0) * found / (last + 1)).sum() / truth.sum())


def found_by_size(marked: ArrayLike, lesion: ArrayLike, spacing_mm: Sequence[float]) -> Mapping[str, tuple[int, int]]:
    """{"3 to 5 mm": (found, lesions)}: connected lesions by the diameter of a ball (in one slice: disc) as large, found
    where at least a tenth of one is marked.
    """
    mask, marks = np.asarray(lesion).astype(bool), np.asarray(marked).astype(bool)
    labels, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    covered = np.bincount(labels.ravel(), marks.ravel(), count + 1)[1:] / np.maximum(sizes, 1)
    flat = mask.shape[0] == 1
    unit = float(np.prod(spacing_mm[1:] if flat else spacing_mm))
    wide = 2 * (sizes * unit / math.pi) ** 0.5 if flat else 2 * (3 * sizes * unit / (4 * math.pi)) ** (1 / 3)
    group = np.searchsorted(SIZES_MM, wide, side="right")
    return {
        name: (int((covered[group == k] >= FOUND).sum()), int((group == k).sum()))
        for k, name in enumerate(size_names())
    }


def size_names() -> list[str]:
    ends = [f"{s:g}" for s in SIZES_MM]
    return [
        f"below {ends[0]} mm",
        *(f"{a} to {b} mm" for a, b in itertools.pairwise(ends)),
        f"from {ends[-1]} mm",
    ]
