"""What coplanar beams around a patient would meet at each voxel: features of a table of doses, and a first guess.

Beams run within axial planes, parallel, at equal angles: what an intensity-modulated plan of the head and neck looks
like when nobody says which one it is (Babier et al. 2021: nine of them, 40 degrees apart).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..contracts import Image
from ..io import UnreadableError

ANGLES = tuple(range(0, 360, 40))  # degrees, IEC 61217
ATTENUATION_PER_MM = 0.0042  # of 6 MV in water, scatter included
FULL_MM, THICK_MM = 10.0, 40.0  # of target behind which a beam is open; in which its thickness is told
BODY_HU = -500.0  # darker voxels are air, outside the body or within
Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Anatomy:
    """What of a patient a plan is made for, on the grid of its CT (z, y, x); z runs along the patient."""

    hounsfield: Volume
    masks: Mapping[str, Mask]
    possible: Mask  # where there can be dose
    affine: NDArray[np.float64]
    levels: Mapping[str, float]  # target -> Gy
    stated: bool = True  # where dose is possible; else it is told from the body, and from where a dose was computed

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        z, y, x = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(z), float(y), float(x)

    def body(self) -> Mask:
        return inside_body(self.hounsfield)

    def cropped(self) -> tuple[Anatomy, tuple[slice, ...]]:
        """The part that holds the body and everything drawn, a little air around it; and where it lies."""
        held = self.possible | (self.hounsfield > BODY_HU)
        for mask in self.masks.values():
            held = held | mask
        box = []
        for axis, count in enumerate(held.shape):
            inside = np.flatnonzero(held.any(tuple(k for k in range(3) if k != axis)))
            first, last = (int(inside[0]), int(inside[-1])) if len(inside) else (0, count - 1)
            box.append(slice(max(0, first - 2), min(count, last + 3)))
        where = tuple(box)
        masks = {name: mask[where] for name, mask in self.masks.items()}
        return replace(self, hounsfield=self.hounsfield[where], masks=masks, possible=self.possible[where]), where


def inside_body(hounsfield: Volume) -> Mask:
    """A CT (z, y, x) without the air around the patient, airways included, slice by slice."""
    return filled(hounsfield > BODY_HU)


def filled(inside: Mask) -> Mask:
    """(..., y, x) with the holes of every plane."""
    planes = [ndimage.binary_fill_holes(plane) for plane in inside.reshape(-1, *inside.shape[-2:])]
    return np.stack(planes).reshape(inside.shape)


def check_axial(image: Image) -> None:
    """Raises UnreadableError for slices that do not lie across the patient."""
    along = np.asarray(image.affine[:3, 0])
    if abs(along[2]) < 0.9 * np.linalg.norm(along):
        raise UnreadableError(
            "its slices do not lie across the patient, as beams do.",
            "Give axial slices, or write job: {table: 0}.", image.source or "",
        )  # fmt: skip


def nested(anatomy: Anatomy) -> list[tuple[float, Mask]]:
    """Level in Gy -> all targets of at least that level, from the highest down. A level that the patient lacks has the
    targets above it; above all that there is, it is the highest that there is, and as high.
    """
    found: list[tuple[float, Mask]] = []
    held: Mask | None = None
    for name in sorted(anatomy.levels, key=lambda n: -anatomy.levels[n]):
        if name in anatomy.masks:
            held = anatomy.masks[name] if held is None else held | anatomy.masks[name]
        found.append((anatomy.levels[name], np.zeros_like(anatomy.possible) if held is None else held))
    highest = next((one for one in found if one[1].any()), None)
    if highest is None:
        return []
    return [one if one[1].any() else highest for one in found]


@dataclass(frozen=True)
class Met:
    """What the beams meet, a value a voxel (z, y, x)."""

    water_mm: NDArray[np.float32]  # (beams, z, y, x): water before a voxel
    open_: NDArray[np.float32]  # (levels, ...): beams in whose way a target of the level lies, weakened by water
    hits: NDArray[np.float32]  # (levels, ...): the same, not weakened
    thick: NDArray[np.float32]  # (levels, ...): weakened, by how much target lies in their way
    guess_gy: Volume  # all levels together, each as high as prescribed in its targets


def met(anatomy: Anatomy, targets: Sequence[tuple[float, Mask]], body: Mask) -> Met:
    """Of every beam: water before each voxel, and how much of each target lies in its way."""
    from .beams_compiled import along

    water = np.clip(1 + anatomy.hounsfield / 1000, 0, 2.5).astype(np.float32) * body
    fields = np.stack([water, *(mask.astype(np.float32) for _, mask in targets)])
    shape = (len(targets), *water.shape)
    open_, hits, thick = (np.zeros(shape, np.float32) for _ in range(3))
    depths = np.empty((len(ANGLES), *water.shape), np.float32)
    for k, angle in enumerate(ANGLES):
        down, across = _direction(anatomy.affine, angle)
        before = along(fields, down, across, *anatomy.spacing_mm[1:])
        behind = along(fields[1:], -down, -across, *anatomy.spacing_mm[1:])
        depths[k] = before[0]
        weak = np.exp(-ATTENUATION_PER_MM * before[0])
        length = before[1:] + behind
        seen = np.clip(length / FULL_MM, 0, 1)
        open_ += seen * weak
        hits += seen
        thick += np.clip(length / THICK_MM, 0, 1) * weak
    guess, even = _guess(open_, targets)
    return Met(depths, even, hits, thick, guess)


def _direction(affine: NDArray[np.float64], angle: float) -> tuple[float, float]:
    """Where a beam runs within a slice: along its rows' normal (y) and its columns' (x)."""
    turn = np.deg2rad(angle)
    way = np.array([-np.sin(turn), np.cos(turn), 0.0])
    y, x = (affine[:3, k] / np.linalg.norm(affine[:3, k]) for k in (1, 2))
    down, across = float(way @ y), float(way @ x)
    length = float(np.hypot(down, across))
    return down / length, across / length


def _guess(open_: NDArray[np.float32], targets: Sequence[tuple[float, Mask]]) -> tuple[Volume, NDArray[np.float32]]:
    """Gy of even beams, and what is open of each level on a scale on which its targets have 1 in every slice."""
    guess, even = np.zeros(open_.shape[1:], np.float32), np.empty_like(open_)
    for k, (level, mask) in enumerate(targets):
        inside = np.array(
            [plane[held].mean() if held.any() else np.nan for plane, held in zip(open_[k], mask, strict=True)]
        )
        known = np.flatnonzero(~np.isnan(inside))
        scale = np.interp(np.arange(len(inside)), known, inside[known]).clip(1e-3)
        even[k] = open_[k] / scale[:, None, None]
        below = targets[k + 1][0] if k + 1 < len(targets) else 0.0
        guess += np.float32(level - below) * even[k]
    return guess, even
