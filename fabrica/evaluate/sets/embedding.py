"""Images as feature vectors without learned weights: radiomics, spectrum, thumbnail. Each sees other faults than its
neighbour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..metrics.radiomics import radiomics
from ..metrics.temporal import motion_features
from ..threads import side_by_side

Array = NDArray[np.float64]
PLANES = 9  # axial slices of a volume whose features are averaged
BINS = 32  # grey levels between the 1st and 99th percentile of both sets together
RINGS = 24  # of the power spectrum
SIDE = 16  # of a thumbnail
LARGEST = 8.0  # pooled standard deviations: beyond, one feature would be the whole distance


@dataclass(frozen=True)
class Picture:
    """One image of a set: (y, x) or (z, y, x), where the patient is, mm per voxel, whose it is."""

    name: str
    patient: str
    values: NDArray[np.floating]
    inside: NDArray[np.bool_]
    spacing_mm: tuple[float, ...]
    frames: Array | None = None  # the whole series, of which `values` is the middle frame
    lesion: NDArray[np.bool_] | None = None  # what a mask marks, where it is a small part of the patient


class Changed(Sequence[Picture]):
    """Pictures that are changed when they are asked for, and not kept: a set of changed volumes may not fit into
    memory.
    """

    def __init__(self, pictures: Sequence[Picture], change: Callable[[Picture], Picture]) -> None:
        self.pictures, self.change = pictures, change

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Changed(self.pictures[index], self.change)
        return self.change(self.pictures[index])


Embedding = Callable[[Picture, float], Array]  # (picture, bin width of all sets) -> (features,)


def bin_width(sets: Sequence[Sequence[Picture]]) -> float:
    """From all sets alike, so that no side is favoured; raises ValueError when all images are constant."""
    ends = [end for pictures in sets for end in side_by_side(_ends, pictures)]
    low, high = np.median([e[0] for e in ends]), np.median([e[1] for e in ends])
    if not high > low:
        raise ValueError("All images are constant inside the patient: there is nothing to embed.")
    return float(high - low) / BINS


def _ends(picture: Picture) -> Array:
    return np.asarray(np.percentile(picture.values[picture.inside], [1, 99]))


def by_radiomics(picture: Picture, width: float) -> Array:
    """IBSI features (shape left out, as masks may be the same) of up to PLANES axial slices, averaged; logarithms of
    size.
    """
    mean = np.array(list(named_radiomics(picture, width).values()))
    return np.asarray(np.sign(mean) * np.log1p(np.abs(mean)))


def named_radiomics(picture: Picture, width: float) -> dict[str, float]:
    """The same before the logarithm, by their names."""
    found: list[dict[str, float]] = []
    for plane, inside in planes(picture):
        low = float(np.percentile(plane[inside], 0.5))
        clipped = np.clip(plane, low, low + 8 * BINS * width)  # a few hot pixels must not widen the matrices
        found.append(radiomics(clipped, inside, picture.spacing_mm[-2:], width, outline=False))
    return {name: float(np.mean([f[name] for f in found])) for name in found[0]}


def by_spectrum(picture: Picture, width: float) -> Array:
    """Logarithm of the power in rings of spatial frequency, corners included (a chessboard lies there), in bin
    widths.
    """
    found = []
    for plane, inside in planes(picture):
        centred = np.where(inside, plane - plane[inside].mean(), 0.0) / width
        power = np.abs(np.fft.fft2(centred, norm="ortho")) ** 2
        rows, columns = np.meshgrid(*(np.fft.fftfreq(n) for n in plane.shape), indexing="ij")
        ring = np.minimum((np.hypot(rows, columns) / 0.5**0.5 * RINGS).astype(int), RINGS - 1)
        count = np.maximum(np.bincount(ring.ravel(), minlength=RINGS), 1)
        found.append(np.bincount(ring.ravel(), power.ravel(), RINGS) / count)
    return np.asarray(np.log(np.mean(found, axis=0) + 1e-6))


def by_thumbnail(picture: Picture, width: float) -> Array:
    """SIDE x SIDE means of the middle slice: where things are."""
    plane, _ = planes(picture)[len(planes(picture)) // 2]
    sigma = [max(0.0, 0.5 * n / SIDE - 0.5) for n in plane.shape]
    smooth = ndimage.gaussian_filter(plane, sigma)
    small = ndimage.zoom(smooth, [SIDE / n for n in plane.shape], order=1, grid_mode=True, mode="nearest")
    return np.asarray(small.ravel() / width)


def by_motion(picture: Picture, width: float) -> Array:
    """How values change in time: the order of frames, which no other embedding sees."""
    if picture.frames is None:
        raise ValueError(f"{picture.name} has no time axis.")
    return motion_features(picture.frames, picture.inside, width)


EMBEDDINGS: Mapping[str, Embedding] = {"radiomics": by_radiomics, "spectrum": by_spectrum, "thumbnail": by_thumbnail}


BUILT_IN = (*EMBEDDINGS, "motion")


def usable(sets: Mapping[str, Sequence[Picture]], more: Mapping[str, Embedding] | None = None) -> dict[str, Embedding]:
    """The embeddings that these sets allow: motion where every image is a series, and the user's own."""
    series = all(p.frames is not None and len(p.frames) >= 3 for pictures in sets.values() for p in pictures)
    return {**EMBEDDINGS, **({"motion": by_motion} if series else {}), **(more or {})}


def embed(
    sets: Mapping[str, Sequence[Picture]], name: str, more: Mapping[str, Embedding] | None = None
) -> dict[str, Array]:
    """(cases, features) of each set, standardised by all sets together; features that never vary are left out."""
    width, how = bin_width(list(sets.values())), {name: usable(sets, more)[name]}
    return standardised({key: read(pictures, how, width)[name] for key, pictures in sets.items()}, name)


def read(pictures: Sequence[Picture], embeddings: Mapping[str, Embedding], width: float) -> dict[str, Array]:
    """(cases, features) by each embedding, as they come. A picture is asked for once, whatever the number of
    embeddings.
    """
    own = {name: how for name, how in embeddings.items() if name in BUILT_IN}  # the user's may not bear threads
    found = side_by_side(lambda picture: {name: how(picture, width) for name, how in own.items()}, pictures)
    for row, picture in zip(found, pictures if len(own) < len(embeddings) else (), strict=False):
        row.update({name: how(picture, width) for name, how in embeddings.items() if name not in own})
    return {name: np.stack([row[name] for row in found]) for name in embeddings}


def standardised(raw: Mapping[str, Array], name: str) -> dict[str, Array]:
    """By all sets together. Raises ValueError when nothing varies."""
    pooled = np.concatenate(list(raw.values()))
    middle, spread = pooled.mean(0), pooled.std(0)
    used = spread > 1e-9 * (1 + np.abs(middle))
    if not used.any():
        raise ValueError(f"All images are the same to {name}: there is nothing to compare.")
    return {k: np.clip((v[:, used] - middle[used]) / spread[used], -LARGEST, LARGEST) for k, v in raw.items()}


def planes(picture: Picture) -> list[tuple[Array, NDArray[np.bool_]]]:
    """Evenly spaced axial slices in which the patient is, or the image itself."""
    if picture.values.ndim == 2:
        return [(picture.values.astype(np.float64), picture.inside)]
    (used,) = np.nonzero(picture.inside.any((1, 2)))
    chosen = used[np.unique(np.linspace(0, len(used) - 1, min(PLANES + 2, len(used))).round().astype(int))]
    chosen = chosen[1:-1] if len(chosen) > 2 else chosen  # the ends hold little
    return [(picture.values[z].astype(np.float64), picture.inside[z]) for z in chosen]


def resized(plane: Array, sides: Sequence[int]) -> Array:
    """(y, x) with other sides, smoothed first where it gets smaller."""
    sigma = [max(0.0, 0.5 * n / m - 0.5) for n, m in zip(plane.shape, sides, strict=True)]
    smooth = ndimage.gaussian_filter(plane, sigma)
    zoom = [m / n for n, m in zip(plane.shape, sides, strict=True)]
    return np.asarray(ndimage.zoom(smooth, zoom, order=1, grid_mode=True, mode="nearest"))
