"""From frames with positions to volumes: order, gaps, duplicates, tilt, time. Knows nothing of file formats.

DICOM PS3.3 C.7.6.2.1.1 defines the mapping from pixel indices to patient coordinates that is built here.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path

import numpy as np

from .scan import Affine

SAME_PLACE_MM = 0.01
PARALLEL = 2e-3  # of direction cosines: a tenth of a degree
SAME_SIZE = 1e-3  # relative, of pixels
UNEVEN = 0.1  # of the usual step; positions are written with few digits


@dataclass(frozen=True, slots=True)
class Plane:
    """One frame: where its pixels are stored and where they lie in the patient."""

    path: Path
    frame: int  # within the file
    position: tuple[float, float, float]  # LPS mm of the first pixel's centre
    row: tuple[float, float, float]  # direction in which the column index grows
    column: tuple[float, float, float]
    spacing: tuple[float, float]  # mm between rows, between columns
    thickness: float  # mm, or the spacing between slices when stated
    time: float  # orders frames at one place: temporal index, trigger or acquisition time
    key: tuple[Hashable, ...] = ()  # frames that differ here belong to different volumes (echo, b-value, segment)
    number: int = 0
    weight: int = 0  # bytes of the file: of two copies the heavier one is whole

    @property
    def normal(self) -> tuple[float, float, float]:
        """row x column; plain numbers, as a cohort has thousands of planes."""
        (a, b, c), (d, e, f) = self.row, self.column
        return b * f - c * e, c * d - a * f, a * e - b * d

    @property
    def location(self) -> float:
        """mm along the slice normal."""
        (a, b, c), (x, y, z) = self.normal, self.position
        return a * x + b * y + c * z


@dataclass(frozen=True, slots=True)
class Stack:
    """Planes in order: frames[t][z]; None where a sparse object leaves an empty frame out."""

    frames: tuple[tuple[Plane | None, ...], ...]
    affine: Affine
    remarks: tuple[str, ...]

    @property
    def planes(self) -> list[Plane]:
        """Those that are there."""
        return [plane for row in self.frames for plane in row if plane is not None]

    @property
    def times(self) -> list[float]:
        """Seconds of each moment."""
        return [next(plane.time for plane in row if plane is not None) for row in self.frames]


def stacks(planes: Sequence[Plane], sparse: bool = False) -> list[Stack]:
    """Volumes out of the frames of one series: split by orientation and key, sorted, checked for gaps and copies.

    `sparse`: frames may be left out where they are empty, as in segmentations (PS3.3 A.51): gaps are filled, not cut.
    """
    groups: dict[Hashable, list[list[Plane]]] = {}
    for plane in planes:
        alike = groups.setdefault(plane.key, [])
        own = next((group for group in alike if _in_line(group[0], plane)), None)
        if own is None:
            alike.append([plane])
        else:
            own.append(plane)
    found = [group for alike in groups.values() for group in alike]
    return [_sparse_stack(group) if sparse else _stack(group) for group in found]


def _in_line(one: Plane, other: Plane) -> bool:
    """Are two planes parallel, with pixels of one size? Numbers in headers are rounded in many ways."""
    turned = max(abs(a - b) for a, b in zip((*one.row, *one.column), (*other.row, *other.column), strict=True))
    return turned < PARALLEL and all(
        math.isclose(a, b, rel_tol=SAME_SIZE) for a, b in zip(one.spacing, other.spacing, strict=True)
    )


def _sparse_stack(planes: list[Plane]) -> Stack:
    """Every frame at its multiple of the step; the frames between are empty."""
    places = _places(planes)
    if len(places) == 1:
        return _stack(planes)
    steps = [b - a for a, b in pairwise([place[0].location for place in places])]
    step = min(steps)
    stated = planes[0].thickness
    if stated and all(_whole(s / stated) for s in steps):
        step = stated
    if not all(_whole(s / step) for s in steps):
        return _stack(planes)
    index = [round((place[0].location - places[0][0].location) / step) for place in places]
    row: list[Plane | None] = [None] * (index[-1] + 1)
    for i, place in zip(index, places, strict=True):
        row[i] = place[-1]
    first, last = places[0][0], places[-1][0]
    affine = _affine([first])
    affine[:3, 0] = (np.array(last.position) - np.array(first.position)) / index[-1]
    empty = len(row) - len(places)
    remarks = (f"{empty} empty frames between marked ones are filled in.",) if empty else ()
    return Stack((tuple(row),), affine, remarks)


def _whole(number: float) -> bool:
    return abs(number - round(number)) <= UNEVEN and round(number) >= 1


def _stack(planes: list[Plane]) -> Stack:
    remarks: list[str] = []
    places = _places(planes)
    if copies := len(planes) - sum(map(len, places)):
        remarks.append(f"{copies} duplicate slice{'s' * (copies > 1)} left out.")
    usual = int(np.median([len(place) for place in places]))
    fullest = max(len(place) for place in places)
    if fullest != usual or any(len(place) != usual for place in places):
        kept = [place for place in places if len(place) >= usual]
        lost = len(places) - len(kept)
        remarks.append(f"slices differ in their number of frames; {usual} each kept, {lost} positions left out.")
        places = kept
    places = _even_run(places, remarks)
    frames = tuple(tuple(place[t] for place in places) for t in range(usual))
    affine = _affine([place[0] for place in places])
    if (tilt := _tilt_degrees(affine)) > 0.5:
        remarks.append(f"gantry tilt or shear of {tilt:.1f} degrees is kept in the geometry.")
    return Stack(frames, affine, tuple(remarks))


def _places(planes: list[Plane]) -> list[list[Plane]]:
    """Planes at the same location, in order along the normal, each sorted by time."""
    places: list[list[Plane]] = []
    start = -math.inf
    for location, plane in sorted(((p.location, p) for p in planes), key=itemgetter(0)):
        if location - start < SAME_PLACE_MM:
            places[-1].append(plane)
        else:
            places.append([plane])
            start = location
    return [_moments(place) if len(place) > 1 else place for place in places]


def _moments(place: list[Plane]) -> list[Plane]:
    """One frame per moment, in order; frames of the same moment are copies of one another."""
    kept: dict[Hashable, Plane] = {}
    for plane in sorted(place, key=lambda p: (p.time, p.weight, p.number, p.frame)):
        kept[plane.time] = plane
    return list(kept.values())


def _even_run(places: list[list[Plane]], remarks: list[str]) -> list[list[Plane]]:
    """The longest run of evenly spaced slices: a volume over a gap would put anatomy in the wrong place."""
    if len(places) < 3:
        return places
    steps = [b - a for a, b in pairwise([place[0].location for place in places])]
    usual = float(np.median(steps))
    even = [abs(step - usual) <= UNEVEN * usual for step in steps]
    if all(even):
        return places
    best, start = (0, 1), 0
    for good, run in groupby(even):
        length = len(list(run))
        if good and length + 1 > best[1]:
            best = (start, length + 1)
        start += length
    gaps = ", ".join(f"{s:.4g}" for s, good in zip(steps, even, strict=True) if not good)
    remarks.append(
        f"slices are {usual:.4g} mm apart but {gaps} mm at {even.count(False)} gap{'s' * (even.count(False) > 1)}; "
        f"the longest even run is kept ({best[1]} of {len(places)} slices)."
    )
    return places[best[0] : best[0] + best[1]]


def _affine(planes: Sequence[Plane]) -> Affine:
    """Columns: step between slices (with its shear), between rows, between columns; then the first position."""
    first, last = planes[0], planes[-1]
    if len(planes) > 1:
        step = (np.array(last.position) - np.array(first.position)) / (len(planes) - 1)
    else:
        step = np.array(first.normal) * (first.thickness or 1.0)
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = np.array(first.column) * first.spacing[0]
    affine[:3, 2] = np.array(first.row) * first.spacing[1]
    affine[:3, 3] = first.position
    return affine


def _tilt_degrees(affine: Affine) -> float:
    step, normal = affine[:3, 0], np.cross(affine[:3, 2], affine[:3, 1])
    cosine = float(abs(step @ normal)) / float(np.linalg.norm(step) * np.linalg.norm(normal))
    return math.degrees(math.acos(min(1.0, cosine)))
