"""Findings in words, written from a mask and read back: how many, how large, on which side, where.

One small grammar, so that what a model says can be checked fact by fact. It describes a slice as it lies in the
patient (LPS): left is the patient's left, anterior is to the front.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

NONE = "No lesion."
COUNTS = ("one", "two", "three", "several")  # the last from four on
SIZES = {"small": 6.0, "medium": 15.0, "large": float("inf")}  # up to a diameter of so many mm
SIDES = ("left", "right", "midline")
PLACES = {"anterior": 0.4, "central": 0.6, "posterior": 1.0}  # up to this part of the box, from its front
MIDDLE_MM = 4.0  # from the middle of the box within which a lesion has no side
LEAST_VOXELS = 2  # a single voxel is no lesion
FACTS = ("count", "size", "side", "place", "sides")


@dataclass(frozen=True)
class Lesion:
    """One connected part of a mask in a slice."""

    diameter_mm: float  # of a disc of its area
    side: str
    place: str


def lesions_of(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> list[Lesion]:
    """Connected parts (8 neighbours) of a mask (y, x), the largest first; affine: index (z, y, x, 1) -> LPS mm.

    Sides and places are told from the middle and the front of the slice's grid, whose box is centred on the patient.
    """
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    if not count:
        return []
    index = np.arange(1, count + 1)
    voxels = ndimage.sum_labels(mask, labels, index)
    centres = np.array(ndimage.center_of_mass(mask, labels, index))
    area = float(np.linalg.norm(np.cross(affine[:3, 1], affine[:3, 2])))
    found = [
        (float(n), Lesion(2 * float(np.sqrt(n * area / np.pi)), *_where(centre, mask.shape, affine)))
        for n, centre in zip(voxels, centres, strict=True)
        if n >= LEAST_VOXELS
    ]
    return [lesion for _, lesion in sorted(found, key=lambda one: -one[0])]


def _where(centre: NDArray[np.float64], sides: tuple[int, ...], affine: NDArray[np.float64]) -> tuple[str, str]:
    """(side, place) of a point (y, x) of the grid."""
    off = np.array([0.0, *(c - (n - 1) / 2 for c, n in zip(centre, sides, strict=True))])
    x_mm, y_mm = (affine[:3, :3] @ off)[:2]
    reach = np.abs(affine[:3, :3] @ np.array([0.0, *((n - 1) / 2 for n in sides)]))[1]
    share = 0.5 + 0.5 * y_mm / max(float(reach), 1e-6)
    side = "midline" if abs(x_mm) <= MIDDLE_MM else "left" if x_mm > 0 else "right"
    return side, next((name for name, end in PLACES.items() if share <= end), "posterior")


@dataclass(frozen=True)
class Measured:
    """One connected part of a mask in space, as it can be found again."""

    label: int  # its number in the map of parts
    lesion: Lesion  # of its largest axial section
    voxels: int
    volume_ml: float
    slices: tuple[int, int]  # first and last
    centre_mm: tuple[float, float, float]  # LPS


def measured_in(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> tuple[NDArray[np.int32], list[Measured]]:
    """Connected parts (26 neighbours) of a mask (z, y, x), the largest first: a map of their numbers from 1, and what
    is measured of each.

    Parts of fewer than LEAST_VOXELS voxels are left out; sides and places as in `lesions_of`.
    """
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    index = np.arange(1, count + 1)
    sizes = np.asarray(ndimage.sum_labels(mask, labels, index), int) if count else np.zeros(0, int)
    order = [k for k in np.argsort(-sizes, kind="stable") if sizes[k] >= LEAST_VOXELS]
    numbers, found = np.zeros(mask.shape, np.int32), list[Measured]()
    voxel_ml = float(abs(np.linalg.det(affine[:3, :3]))) / 1000
    area = float(np.linalg.norm(np.cross(affine[:3, 1], affine[:3, 2])))
    for number, k in enumerate(order, 1):
        own = labels == k + 1
        numbers[own] = number
        z, y, x = ndimage.center_of_mass(own)
        planes = np.flatnonzero(own.any((1, 2)))
        section = float(own.sum((1, 2)).max())
        lesion = Lesion(2 * float(np.sqrt(section * area / np.pi)), *_where(np.array([y, x]), mask.shape[1:], affine))
        a, b, c = (affine @ np.array([z, y, x, 1.0]))[:3]
        size = int(sizes[k])
        ends = (int(planes[0]), int(planes[-1]))
        found.append(Measured(number, lesion, size, size * voxel_ml, ends, (float(a), float(b), float(c))))
    return numbers, found


def placed(point_mm: NDArray[np.float64], sides: tuple[int, ...], affine: NDArray[np.float64]) -> tuple[str, str]:
    """(side, place) of a point in LPS mm, told as of the centre of a lesion on a grid (z, y, x) of this affine."""
    index = np.linalg.solve(affine, np.array([*point_mm[:3], 1.0]))
    return _where(index[1:3], sides[-2:], affine)


def sentence(lesions: list[Lesion]) -> str:
    """What a slice shows, in the words that `facts_of` reads."""
    if not lesions:
        return NONE
    first = lesions[0]
    size = next(name for name, end in SIZES.items() if first.diameter_mm < end)
    if len(lesions) == 1:
        return f"One lesion: {size}, {first.side}, {first.place}."
    sides = {lesion.side for lesion in lesions}
    where = f"all {first.side}" if len(sides) == 1 else "on both sides"
    count = COUNTS[min(len(lesions), len(COUNTS)) - 1]
    return f"{count.capitalize()} lesions, {where}; the largest: {size}, {first.side}, {first.place}."


def described(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> str:
    """A mask (y, x) in words."""
    return sentence(lesions_of(mask, affine))


def facts_of(text: str) -> Mapping[str, str]:
    """What a text says, by attribute (`FACTS`); only what it says: of broken sentences what is left of them."""
    said = re.findall(r"[a-z]+", text.lower())
    if said[:2] == ["no", "lesion"]:
        return {"count": "no"}
    facts = {}
    if said and said[0] in COUNTS:
        facts["count"] = said[0]
    if "both" in said:
        facts["sides"] = "both"
    elif "all" in said:
        facts["sides"] = "one"
    largest = said[said.index("largest") :] if "largest" in said else said
    for name, known in (("size", SIZES), ("side", SIDES), ("place", PLACES)):
        word = next((w for w in largest if w in known), None)
        if word is not None:
            facts[name] = word
    return facts
