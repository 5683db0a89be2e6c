"""Where the face of a head lies, from its outline alone: what sticks out of a smoothed surface, and a layer beneath it.

Nothing is registered and nothing was learned: the smoothing takes off nose, lips, ears and chin (an opening by a ball),
the layer takes what lies behind them. Its depth grows from nothing at the forehead, where the brain is near, as far as
skin and bone go. Sizes are shares of the head's length, so that children's heads are measured by themselves. After the
idea of obscuring the surface (Milchenko and Marcus 2013), not their method.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

STEP_MM, COARSE_MM = 2.0, 4.0  # of the grids on which a head is looked at, and looked for
BALL_MM = 16.0  # radius of what is rolled along the inside: what it cannot enter sticks out
DEPTH_MM = 18.0  # of the layer below the smoothed surface, in the middle of the face
HALO_MM = 12.0  # beyond the surface: partial volumes and ghosts of the skin
AROUND_MM = 24.0  # of air kept around a head: what a scan cuts off is a surface, too
BROW, CHEEK, NOSE, CHIN = 0.48, 0.70, 0.76, 1.20  # below the top, in lengths: no depth yet, all of it, its tip, the end
FRONT, SIDE, EARS = 0.30, 0.52, 0.75  # behind the foremost point, in lengths: all of the depth, none, nothing at all
ASIDE = 0.35  # from the middle, in widths: where ears may be
LENGTHS_MM, WIDTHS_MM = (120.0, 250.0), (95.0, 220.0)  # of heads: front to back, side to side
CAP_MM, CROWN_MM = 40.0, 85.0  # of its top, what a scan may lack; the radius that it is rounded by
LOOKED_MM, BRIEF_MM = 100.0, 24.0  # below the top: where length and width are told; of a head without its top
NOSE_MM3, NOSE_MM, ASIDE_MM = 1500.0, 9.0, 25.0  # the least of a nose, how far it sticks out, how far aside it lies
ABOVE_MM = 24.0  # of a nose that is in a scan which lacks the top of the head
BLOCK = 0.93  # of the box around it: a head, which is round, fills less
FLAT_MM2 = 5000.0  # of a plane: no crown begins so wide
LEAST_PLANES = 8

Volume = NDArray[np.floating]
Mask = NDArray[np.bool_]


class NoHeadError(ValueError):
    """A volume in which no head is seen, or not enough of it."""


@dataclass(frozen=True)
class Face:
    """Voxels to be taken away, on a grid whose axes run up, to the back and to the left (z, y, x of LPS)."""

    removed: Mask
    corner_mm: NDArray[np.float64]  # z, y, x of its first voxel

    def holds(self, points_mm: NDArray[np.float64]) -> Mask:
        """Which of the points (..., 3), x y z of LPS in mm, are taken away."""
        index = np.rint((points_mm[..., ::-1] - self.corner_mm) / STEP_MM).astype(int)
        inside = ((index >= 0) & (index < self.removed.shape)).all(-1)
        found = np.zeros(inside.shape, bool)
        found[inside] = self.removed[tuple(index[inside].T)]
        return found


def face_of(volume: Volume, affine: NDArray[np.float64], *, hounsfield: bool) -> Face:
    """The face in a scan (z, y, x), whose affine leads from indices to LPS in mm. Raises NoHeadError."""
    if min(volume.shape) < LEAST_PLANES:
        raise NoHeadError(f"it has {min(volume.shape)} planes, expected at least {LEAST_PLANES} to see a head")
    scan = _Scan(np.asarray(volume, np.float32), np.asarray(affine, np.float64))
    air = -300.0 if hounsfield else _threshold(scan.volume)
    coarse, low = scan.upright(COARSE_MM)
    found = _measured(_body(coarse > air, COARSE_MM), COARSE_MM)
    fine, corner = scan.upright(STEP_MM, *(low + COARSE_MM * ends for ends in found.box()))
    head = _body(fine > air, STEP_MM)
    smooth = _opened(head, BALL_MM / STEP_MM, STEP_MM)
    place = np.array([found.top, found.front, found.middle])
    top, front, middle = (place * COARSE_MM + low - corner) / STEP_MM
    z, y, x = np.ogrid[tuple(map(slice, head.shape))]
    aside = abs(x - middle) * STEP_MM / found.width_mm
    below, behind = (top - z) * STEP_MM / found.length_mm, (y - front) * STEP_MM / found.length_mm
    share = _ramp(below, BROW, CHEEK) * (1 - _ramp(behind, FRONT, SIDE))
    beneath = _to_side(smooth) * STEP_MM
    near = ndimage.distance_transform_edt(~head) * STEP_MM <= HALO_MM
    sticks_out = ~smooth & near & ((behind < SIDE) | ((behind < EARS) & (aside > ASIDE)))
    layer = smooth & (beneath <= share * DEPTH_MM) & (share > 0)
    removed = (below > BROW) & (below < CHIN) & (sticks_out | layer)
    levels = np.flatnonzero(smooth.any((1, 2)))  # the last planes of a scan end between two levels
    return Face(removed[np.clip(np.arange(len(removed)), levels[0], levels[-1])], corner)


@dataclass(frozen=True)
class _Scan:
    volume: NDArray[np.float32]
    affine: NDArray[np.float64]

    def upright(
        self, step: float, low: NDArray[np.float64] | None = None, high: NDArray[np.float64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """On a grid along the patient's axes, and where that begins (z, y, x); all of it with air around its sides, or
        from one corner to the other.
        """
        linear, start = self.affine[:3, :3], self.affine[:3, 3]
        if low is None or high is None:
            ends = np.array(np.meshgrid(*[(0.0, n - 1.0) for n in self.volume.shape], indexing="ij")).reshape(3, -1)
            reach, around = (linear @ ends + start[:, None])[::-1], np.array([0.0, AROUND_MM, AROUND_MM])
            low, high = reach.min(1) - around, reach.max(1) + around
        shape = tuple(int(n) for n in np.floor((high - low) / step) + 1)
        blurred = ndimage.gaussian_filter(
            self.volume, np.maximum(0.0, step / np.linalg.norm(linear, axis=0) / 2 - 0.5), truncate=3.0
        )
        back = np.linalg.inv(linear)
        matrix, offset = back[:, ::-1] * step, back @ (low[::-1] - start)
        dark = float(self.volume.min())
        return ndimage.affine_transform(blurred, matrix, offset, shape, order=1, mode="constant", cval=dark), low


@dataclass(frozen=True)
class _Found:
    """A head on the coarse grid."""

    top: float  # its level
    front: float  # its foremost row
    length_mm: float
    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def middle(self) -> float:
        return sum(self.columns) / 2

    @property
    def width_mm(self) -> float:
        return (self.columns[1] - self.columns[0] + 1) * COARSE_MM

    def box(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Two corners (z, y, x) of what holds head and face, in voxels of the coarse grid."""
        around, length = AROUND_MM / COARSE_MM, self.length_mm / COARSE_MM
        low = np.array([self.top - (CHIN + 0.1) * length, self.rows[0] - 2 * around, self.columns[0] - around])
        high = np.array([self.top + 2, self.rows[1] + around, self.columns[1] + around])
        return low, high


def _ramp(value: NDArray[np.float64], start: float, end: float) -> NDArray[np.float64]:
    return np.clip((value - start) / (end - start), 0.0, 1.0)


def _body(bright: Mask, step: float) -> Mask:
    """The largest body, its hollows filled; thin masks and rests that touch the skin are no part of it."""
    times = max(1, round(4 / step))
    apart = ndimage.binary_opening(bright, iterations=times)
    labels, count = ndimage.label(apart)
    if not count:
        raise NoHeadError("nothing in it is brighter than air")
    body = labels == 1 + int(np.argmax(ndimage.sum_labels(apart, labels, range(1, count + 1))))
    body = ndimage.binary_dilation(body, iterations=times) & bright
    reach = max(1, round(6 / step))
    longer = np.pad(body, reach, mode="edge")  # closing must not eat what the scan cuts off
    closed = ndimage.binary_closing(longer, iterations=reach)[(slice(reach, -reach),) * 3] | body
    return np.stack([ndimage.binary_fill_holes(plane) for plane in closed])


def _threshold(volume: NDArray[np.float32]) -> float:
    """Between air and skin (Otsu 1979), of what is left below the brightest hundredth."""
    low, top = (float(v) for v in np.percentile(volume, (1, 99)))
    if top <= low:
        raise NoHeadError("it is of one brightness")
    counts, edges = np.histogram(np.clip(volume, low, top), 256)
    middle, total = (edges[:-1] + edges[1:]) / 2, counts.cumsum()
    sums = (counts * middle).cumsum()
    with np.errstate(invalid="ignore", divide="ignore"):
        between = (sums[-1] * total / total[-1] - sums) ** 2 / (total * (total[-1] - total))
    return low + 0.6 * (float(middle[int(np.nanargmax(between[:-1]))]) - low)  # skin is darker than what lies below it


def _measured(head: Mask, step: float) -> _Found:
    """Where a head lies, by its top or by its nose; raises NoHeadError."""
    areas = head.sum((1, 2)) * step**2
    highest, flat = _highest(areas)
    smooth = _opened(head, BALL_MM / step, step)
    radius = float(np.sqrt(areas[highest] / np.pi))
    missing = CROWN_MM - np.sqrt(max(0.0, CROWN_MM**2 - radius**2))  # of a crown that is the cap of a ball
    if missing <= CAP_MM and not flat:
        top = highest + missing / step
        return _sized(smooth, top, (round(top - LOOKED_MM / step), highest), step)
    found = _sized(smooth, highest, (highest - round(BRIEF_MM / step), highest), step)
    tip = _nose(head, smooth, found, step)
    if tip is None or (highest - tip) * step < ABOVE_MM:
        raise NoHeadError("neither the top of the head nor a nose is in it: nothing says where the face begins")
    found = _sized(smooth, tip, (round(tip), highest), step)
    return replace(found, top=tip + NOSE * found.length_mm / step)


def _highest(areas: NDArray[np.float64]) -> tuple[int, bool]:
    """(the highest level of a head with these areas in mm2, whether it is cut flat there): what stands on it does not
    count. Raises NoHeadError.
    """
    wide = np.flatnonzero(areas >= FLAT_MM2)
    if not len(wide):
        raise NoHeadError("no head is seen in it")
    level = int(wide[-1])
    above = areas[level + 1] if level + 1 < len(areas) else areas[level]
    if areas[level] - above > 0.9 * FLAT_MM2:
        return level, True
    return int(np.flatnonzero(areas > 400)[-1]), False


def _sized(smooth: Mask, top: float, levels: tuple[int, int], step: float) -> _Found:
    """Its outline within levels; raises NoHeadError for what no head measures."""
    seen = smooth[max(0, levels[0]) : levels[1] + 1]
    rows, columns = np.flatnonzero(seen.any((0, 2))), np.flatnonzero(seen.any((0, 1)))
    if not len(rows):
        raise NoHeadError("no head is seen in it")
    outline = np.asarray(seen.any(0))[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if outline.mean() > BLOCK:
        raise NoHeadError("what is highest in it is a block, which is no head")
    length, width = (rows[-1] - rows[0] + 1) * step, (columns[-1] - columns[0] + 1) * step
    if not (LENGTHS_MM[0] <= length <= LENGTHS_MM[1] and WIDTHS_MM[0] <= width <= WIDTHS_MM[1]):
        raise NoHeadError(f"what is highest in it measures {length:.0f} by {width:.0f} mm, which is no head")
    return _Found(
        top, float(rows[0]), float(length), (int(rows[0]), int(rows[-1])), (int(columns[0]), int(columns[-1]))
    )


def _nose(head: Mask, smooth: Mask, found: _Found, step: float) -> float | None:
    """The level of its tip: the foremost of what sticks out far in the middle of the front; None where nothing does."""
    sticking_out = head & ~smooth
    z, y, x = np.ogrid[tuple(map(slice, head.shape))]
    where = (y < found.front + 0.2 * found.length_mm / step) & (abs(x - found.middle) * step < ASIDE_MM)
    where = where & ((found.top - z) * step < found.length_mm)  # no higher landmark: it is the top plane here
    labels, count = ndimage.label(sticking_out & where)
    sizes = ndimage.sum_labels(sticking_out, labels, range(1, count + 1)) * step**3
    reach = ndimage.maximum(ndimage.distance_transform_edt(~smooth), labels, range(1, count + 1)) * step
    large = [k + 1 for k in range(count) if sizes[k] >= NOSE_MM3 and reach[k] >= NOSE_MM]
    if not large:
        return None
    points = np.argwhere(np.isin(labels, large))
    foremost = points[points[:, 1] == points[:, 1].min()]
    return float(foremost[:, 0].mean())


def _to_side(body: Mask) -> NDArray[np.float64]:
    """Voxels to the nearest point outside within its plane: what a scan cuts off above is no surface."""
    found: NDArray[np.float64] = ndimage.distance_transform_edt(body, sampling=(1e4, 1.0, 1.0))
    return found


def _opened(head: Mask, radius: float, step: float) -> Mask:
    """What a ball of a radius in voxels reaches from inside; what a scan cuts off above and below goes on."""
    areas = head.sum((1, 2)) * step**2
    levels, (highest, _) = np.flatnonzero(areas), _highest(areas)
    within = slice(int(levels[0]), highest + 1)
    reach = int(np.ceil(radius)) + 1
    longer = np.pad(head[within], ((reach, reach), (0, 0), (0, 0)), mode="edge")
    eroded = ndimage.distance_transform_edt(longer) > radius
    opened = np.zeros_like(head)
    opened[within] = (ndimage.distance_transform_edt(~eroded) <= radius)[reach:-reach]
    return opened
