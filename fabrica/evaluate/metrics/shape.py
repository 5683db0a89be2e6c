"""Shape of a region: IBSI-1 section 3.1 in 3D, from the mesh of the mask; outline, area and axes in 2D."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist
from scipy.special import eval_legendre

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Features = dict[str, float]


def features(values: Array, inside: Mask, spacing: Array) -> Features:
    """values and inside (z, y, x) or (y, x), spacing in mm per axis."""
    return _solid(values, inside, spacing) if inside.ndim == 3 else _flat(inside, spacing)


def _solid(values: Array, inside: Mask, spacing: Array) -> Features:
    """Oriented and minimum-volume boxes are left out: IBSI has no consensus on them."""
    vertices, faces = _mesh(inside, spacing)
    corners = vertices[faces]
    area = float(
        np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum() / 2
    )
    volume = abs(float(np.einsum("ij,ij->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])))) / 6
    points = np.argwhere(inside) * spacing
    axes = _axes(points)
    major, minor, least = axes
    hull_points, hull_volume, hull_area = _hull(vertices)
    box = np.ptp(vertices, axis=0)
    round_area = (36 * np.pi * volume**2) ** (1 / 3)
    ellipsoid = np.pi / 6 * major * minor * least
    x = values[inside]
    total = float(x.sum())
    moved = (points * x[:, None]).sum(0) / total if total else points.mean(0)
    found = {
        "mesh_volume_mm3": volume,
        "voxel_volume_mm3": float(len(points) * spacing.prod()),
        "surface_area_mm2": area,
        "surface_to_volume_ratio_per_mm": area / volume,
        "compactness_1": volume / (np.pi**0.5 * area**1.5),
        "compactness_2": 36 * np.pi * volume**2 / area**3,
        "spherical_disproportion": area / round_area,
        "sphericity": round_area / area,
        "asphericity": (area**3 / (36 * np.pi * volume**2)) ** (1 / 3) - 1,
        "centre_of_mass_shift_mm": float(np.linalg.norm(points.mean(0) - moved)),
        "maximum_diameter_mm": float(pdist(hull_points).max()),
        "major_axis_mm": major,
        "minor_axis_mm": minor,
        "least_axis_mm": least,
        "elongation": _over(minor, major),
        "flatness": _over(least, major),
        "volume_density_box": volume / float(box.prod()),
        "area_density_box": area / float(2 * (box[0] * box[1] + box[0] * box[2] + box[1] * box[2])),
        "volume_density_ellipsoid": _over(volume, ellipsoid),
        "area_density_ellipsoid": _over(area, _ellipsoid_area(axes)),
        "volume_density_hull": _over(volume, hull_volume),
        "area_density_hull": _over(area, hull_area),
        "integrated_intensity": float(x.mean() * volume),
    }
    return {name: float(v) for name, v in found.items()} | _autocorrelation(values, inside, spacing)


def _mesh(inside: Mask, spacing: Array) -> tuple[Array, NDArray[np.int64]]:
    """Marching cubes at one half (Lorensen and Cline 1987), in mm."""
    from skimage.measure import marching_cubes

    mesh: Any = marching_cubes
    vertices, faces, _, _ = mesh(np.pad(inside, 1).astype(np.float32), 0.5, spacing=tuple(spacing), method="lorensen")
    return np.asarray(vertices, np.float64), np.asarray(faces, np.int64)


def _axes(points: Array) -> Array:
    """Four standard deviations along the principal axes, longest first."""
    spread = np.atleast_2d(np.cov(points.T)) if len(points) > 1 else np.zeros((points.shape[1],) * 2)
    axes: Array = 4 * np.sqrt(np.clip(np.linalg.eigvalsh(spread)[::-1], 0, None))
    return axes


def _hull(vertices: Array) -> tuple[Array, float, float]:
    """(corners, volume or area, surface or outline) of the convex hull."""
    try:
        hull = ConvexHull(vertices)
    except QhullError:  # all points in a plane
        return vertices, 0.0, 0.0
    return vertices[hull.vertices], float(hull.volume), float(hull.area)


def _ellipsoid_area(axes: Array, terms: int = 20) -> float:
    """A series of Legendre polynomials (IBSI 3.1.20)."""
    a, b, c = axes / 2
    if c <= 0:
        return 0.0
    alpha, beta = (1 - (b / a) ** 2) ** 0.5, (1 - (c / a) ** 2) ** 0.5
    if alpha * beta < 1e-9:  # one of two equal axes: the series in its limit
        alpha, beta = max(alpha, 1e-6), max(beta, 1e-6)
    n = np.arange(terms + 1)
    x = (alpha**2 + beta**2) / (2 * alpha * beta)
    series = (alpha * beta) ** n / (1 - 4.0 * n**2) * eval_legendre(n, x)
    return float(4 * np.pi * a * b * series.sum())


def _over(one: float, other: float) -> float:
    return one / other if other > 0 else 0.0


def _autocorrelation(values: Array, inside: Mask, spacing: Array) -> Features:
    """Moran's I and Geary's C with weights 1/distance over all pairs, as convolutions: exact, without the pairs."""
    x = np.where(inside, values - values[inside].mean(), 0.0)
    shape = [fft.next_fast_len(2 * n) for n in inside.shape]
    steps = [s * np.minimum(np.arange(n), n - np.arange(n)) for n, s in zip(shape, spacing, strict=True)]
    distance = np.sqrt(sum(g**2 for g in np.meshgrid(*steps, indexing="ij")))
    kernel = fft.rfftn(np.divide(1.0, distance, where=distance > 0, out=np.zeros_like(distance)))
    crop = tuple(slice(n) for n in inside.shape)
    near_x, near = (fft.irfftn(fft.rfftn(v, shape) * kernel, shape)[crop] for v in (x, inside.astype(np.float64)))
    n, squares = int(inside.sum()), float((x**2).sum())
    weights, crossed = float(near[inside].sum()), float((x * near_x)[inside].sum())
    if n < 2 or squares == 0:
        return {"morans_i": 0.0, "gearys_c": 1.0}
    apart = 2 * float((x**2 * near)[inside].sum()) - 2 * crossed
    return {"morans_i": n / weights * crossed / squares, "gearys_c": (n - 1) / (2 * weights) * apart / squares}


def _flat(inside: Mask, spacing: Array) -> Features:
    """Outline by marching squares; IBSI defines no shape of slices, names follow the solid ones."""
    from skimage.measure import find_contours

    contours: Any = find_contours
    lines = [line * spacing for line in contours(np.pad(inside, 1).astype(np.float32), 0.5)]
    outline = sum(float(np.linalg.norm(b - a)) for line in lines for a, b in pairwise(line))
    area = abs(sum(float((line[:-1, 0] * line[1:, 1] - line[1:, 0] * line[:-1, 1]).sum()) / 2 for line in lines))
    points = np.argwhere(inside) * spacing
    major, minor = _axes(points)
    hull_points, hull_area, _ = _hull(np.concatenate(lines))
    return {
        "mesh_area_mm2": area,
        "pixel_area_mm2": float(len(points) * spacing.prod()),
        "outline_mm": outline,
        "circularity": float(2 * (np.pi * area) ** 0.5 / outline),
        "maximum_diameter_mm": float(pdist(hull_points).max()),
        "major_axis_mm": float(major),
        "minor_axis_mm": float(minor),
        "elongation": _over(float(minor), float(major)),
        "area_density_hull": _over(area, hull_area),
    }
