"""Closed planar contours to voxels and back (PS3.3 C.8.8.6.3), in the index coordinates of an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Points = NDArray[np.float64]
Mask = NDArray[np.bool_]
ON_PLANE = 0.01  # voxels: contours so near a slice are on it
FLAT = 0.1  # voxels: how far the points of one contour may lie apart across slices


def filled(polygons: Sequence[Points], shape: tuple[int, int]) -> Mask:
    """Pixels (y, x) whose centres lie inside an odd number of polygons, whose points are (y, x) in pixels.

    Even-odd within a polygon and between them: keyholes, holes as contours of their own and several islands need no
    further rule. A centre on the lower edge counts as inside, one on the upper edge as outside, so that two polygons
    that share an edge share no pixel.
    """
    rows, columns = shape
    turns = np.zeros((rows, columns + 1), np.int64)
    for polygon in polygons:
        y, x = polygon[:, 0], polygon[:, 1]
        y_next, x_next = np.roll(y, -1), np.roll(x, -1)
        first = np.ceil(np.minimum(y, y_next)).astype(int)  # rows with low <= row < high are crossed
        last = np.ceil(np.maximum(y, y_next)).astype(int)
        first, last = first.clip(0, rows), last.clip(0, rows)
        crossed = last - first
        edge = np.repeat(np.arange(len(y)), crossed)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(crossed) - crossed, crossed) + first[edge]
        share = (row - y[edge]) / (y_next - y)[edge]
        column = np.ceil(x[edge] + share * (x_next - x)[edge]).astype(int).clip(0, columns)
        np.add.at(turns, (row, column), 1)
    inside: Mask = np.cumsum(turns, 1)[:, :columns] % 2 == 1
    return inside


def voxels(contours: Sequence[Points], shape: tuple[int, int, int], spacing_mm: Sequence[float]) -> Mask:
    """The volume (z, y, x) of flat contours, whose points are (z, y, x) in voxels; `spacing_mm` (z, y, x).

    Contours between slices, and slices between contours no further apart than usual, are joined by the distance to
    their edge (Raya and Udupa 1990). At its ends a structure reaches half the usual distance beyond its last contour.
    A wider gap stays empty: it parts two pieces.
    """
    planes = _planes(contours, shape[1:])
    at = np.array(sorted(planes))
    volume = np.zeros(shape, np.bool_)
    if not len(at):
        return volume
    apart = float(np.median(np.diff(at))) if len(at) > 1 else 1.0
    for k in range(shape[0]):
        nearest = at[np.abs(at - k).argmin()]
        below, above = at[at <= k], at[at > k]
        if abs(nearest - k) <= ON_PLANE:
            volume[k] = planes[nearest]
        elif len(below) and len(above) and above[0] - below[-1] <= 1.5 * apart:
            share = (k - below[-1]) / (above[0] - below[-1])
            volume[k] = _between(planes[below[-1]], planes[above[0]], share, spacing_mm[1:])
        elif -0.5 < (k - nearest) / max(apart, ON_PLANE) <= 0.5:
            volume[k] = planes[nearest]
    return volume


def _planes(contours: Sequence[Points], shape: tuple[int, int]) -> dict[float, Mask]:
    """Where along the slices -> what is inside there; contours that say the same twice count once."""
    together: dict[float, list[Points]] = {}
    for contour in contours:
        z = float(contour[:, 0].mean())
        place = next((known for known in together if abs(known - z) <= ON_PLANE), z)
        own, flat = together.setdefault(place, []), contour[:, 1:]
        if not any(one.shape == flat.shape and np.allclose(one, flat, atol=1e-6) for one in own):
            own.append(flat)
    return {place: filled(polygons, shape) for place, polygons in together.items()}


def _between(one: Mask, other: Mask, share: float, spacing_mm: Sequence[float]) -> Mask:
    if not one.any() or not other.any():
        return one if share < 0.5 else other
    mixed: Mask = (1 - share) * _depth(one, spacing_mm) + share * _depth(other, spacing_mm) > 0
    return mixed


def _depth(mask: Mask, spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """mm to the edge half-way between voxels, positive inside."""
    inside = ndimage.distance_transform_edt(mask, sampling=spacing_mm)
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    depth: NDArray[np.float64] = inside - outside
    return depth


def outlines(mask: Mask) -> list[Points]:
    """Contours (N, 3) around a volume (z, y, x), in voxels, half-way between what is in and what is out.

    `voxels` gives the same volume back. Holes are contours of their own; points on a straight line are left out.
    """
    from skimage.measure import find_contours

    found = []
    for z in np.flatnonzero(mask.any((1, 2))):
        plane = np.pad(mask[z], 1).astype(np.float64)
        for line in find_contours(plane, 0.5):  # type: ignore[no-untyped-call]
            points = _corners(line[:-1] - 1)
            found.append(np.column_stack([np.full(len(points), float(z)), points]))
    return found


def _corners(points: Points) -> Points:
    """A closed line without the points that lie on the way from one neighbour to the other."""
    before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
    turning = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9
    return points[turning]


def keyholed(lines: Sequence[Points]) -> list[Points]:
    """Contours (N, 3) without holes of their own: each hole is joined to what it lies in by a cut of no width.

    Systems differ in what a contour within another means, not in this (PS3.3 C.8.8.6.3).
    """
    found: list[Points] = []
    planes: dict[float, list[Points]] = {}
    for line in lines:
        planes.setdefault(round(float(line[0, 0]), 6), []).append(line)
    for own in planes.values():
        around = [[k for k, other in enumerate(own) if k != i and _within(line, other)] for i, line in enumerate(own)]
        holes: dict[int, list[Points]] = {}
        for i, line in enumerate(own):
            if len(around[i]) % 2:  # in an odd number of others: a hole of the one that lies deepest
                holes.setdefault(max(around[i], key=lambda k: len(around[k])), []).append(line)
        for i, line in enumerate(own):
            if len(around[i]) % 2 == 0:
                found.append(_joined(line, holes.get(i, [])))
    return found


def _within(line: Points, other: Points) -> bool:
    """Whether a contour lies in another; contours do not cross."""
    y, x = line[0, 1:]
    ys, xs = other[:, 1], other[:, 2]
    ys_next, xs_next = np.roll(ys, -1), np.roll(xs, -1)
    crossed = (ys <= y) != (ys_next <= y)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = xs + (y - ys) / (ys_next - ys) * (xs_next - xs)
    return bool(np.sum(crossed & (at > x)) % 2)


def _joined(outer: Points, holes: Sequence[Points]) -> Points:
    """One line: out along the outer one, over to each hole at the nearest points, around it and back."""
    line = outer
    for hole in holes:
        apart = ((line[:, None, 1:] - hole[None, :, 1:]) ** 2).sum(-1)
        i, j = np.unravel_index(int(apart.argmin()), apart.shape)
        turned = np.roll(hole, -int(j), axis=0)
        line = np.concatenate([line[: i + 1], turned, turned[:1], line[i:]])
    return line
