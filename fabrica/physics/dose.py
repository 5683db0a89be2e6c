"""Dose of photons by pencil beams on radiological depth (Ahnesjö, Saxner and Trepp 1992): independent of networks.

A beam is a fluence in the plane of the isocentre, spread by a kernel whose lateral shape is a sum of exp(-m r) / r,
which Fourier space knows in closed form. Depth is counted in water: what lies beside the ray changes nothing, so that
edges of lungs and air are less sure than soft tissue. There are no electrons from the head, and no scatter of it: the
first millimetres are too low. For comparing two images of one patient; no machine has been measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

SOURCE_MM = 1000.0  # from the source to the isocentre
REFERENCE = (100.0, 100.0)  # mm: side of the square field and depth, at the isocentre, where weight 1 gives 1 Gy
GANTRY_DEGREES = (0.0, 72.0, 144.0, 216.0, 288.0)  # of beams where nobody says other ones
HU_TO_DENSITY = ((-1000.0, 0.0), (0.0, 1.0), (1000.0, 1.55), (3000.0, 2.65))  # electrons relative to water
STEP_MM = 2.5  # of the grid in the beam's eye view
TAIL_MM = 120.0  # how far beyond a field its scatter is followed


@dataclass(frozen=True)
class Kernel:
    """Dose of a pencil of unit fluence in water: at each depth a sum of weight x m / (2 pi r) exp(-m r)."""

    depths_mm: NDArray[np.float64]  # (D,)
    decays_per_mm: NDArray[np.float64]  # (J,), the m
    weights: NDArray[np.float64]  # (D, J)


@cache
def kernel() -> Kernel:
    """6 MV: fitted by benchmarks/dose_kernel.py to Monte Carlo of the spectrum that the file names."""
    plain = json.loads((Path(__file__).parent / "kernel_6mv.json").read_text())
    return Kernel(*(np.asarray(plain[name], np.float64) for name in ("depths_mm", "decays_per_mm", "weights")))


@dataclass(frozen=True)
class Beam:
    """From a gantry angle (IEC 61217, degrees; patient head first, supine), at an isocentre in LPS mm.

    fluence (V, U): openness 0 to 1 in the isocentre's plane, pixels of STEP_MM, its centre on the axis; v runs to the
    head, u to the patient's left where the gantry is at 0.
    """

    gantry_degrees: float
    isocentre_mm: tuple[float, float, float]
    fluence: Tensor
    weight: float = 1.0

    def axes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Along the beam, u and v, in LPS."""
        s, c = math.sin(math.radians(self.gantry_degrees)), math.cos(math.radians(self.gantry_degrees))
        along, u, v = (torch.tensor(a, dtype=torch.float64) for a in ((-s, c, 0.0), (c, s, 0.0), (0.0, 0.0, 1.0)))
        return along, u, v

    def source(self) -> Tensor:
        """Where the source is, in LPS mm."""
        return torch.tensor(self.isocentre_mm, dtype=torch.float64) - SOURCE_MM * self.axes()[0]


def rectangle(width_mm: float, height_mm: float) -> Tensor:
    """The fluence of a rectangular field: shares of pixels at its edges."""
    sides = []
    for side in (height_mm, width_mm):
        count = 2 * math.ceil(side / 2 / STEP_MM) + 1
        edges = (np.arange(count + 1) - count / 2) * STEP_MM
        sides.append(torch.from_numpy(np.diff(np.clip(edges, -side / 2, side / 2)) / STEP_MM))
    return sides[0][:, None] * sides[1]


def aperture(
    target: Tensor, affine: Tensor, gantry_degrees: float, isocentre: Sequence[float], margin_mm: float
) -> Tensor:
    """The fluence that a target (z, y, x) throws into the isocentre's plane, wider by a margin."""
    beam = Beam(gantry_degrees, (isocentre[0], isocentre[1], isocentre[2]), torch.zeros(1, 1))
    inside = target.nonzero().double() @ affine[:3, :3].double().T + affine[:3, 3].double()
    _, u, v = _seen(beam, inside)
    reach = float(torch.stack([u.abs().max(), v.abs().max()]).max()) + margin_mm + 4 * STEP_MM
    half = math.ceil(reach / STEP_MM)
    shadow = torch.zeros(2 * half + 1, 2 * half + 1, dtype=torch.float64)
    shadow[(v / STEP_MM).round().long() + half, (u / STEP_MM).round().long() + half] = 1
    wide = margin_mm + 0.5 * float(affine[:3, :3].norm(dim=0).mean())  # the target ends half a voxel beyond centres
    disc = math.ceil(wide / STEP_MM)
    line = torch.arange(-disc, disc + 1) * STEP_MM
    round_ = ((line[:, None] ** 2 + line**2).sqrt() <= wide + 1e-6).double()
    return (F.conv2d(shadow[None, None], round_[None, None], padding=disc)[0, 0] > 0.5).double()


def _seen(beam: Beam, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, 3) in LPS mm -> mm along the axis from the source; u and v in the isocentre's plane."""
    along, across, up = beam.axes()
    away = places - beam.source()
    depth = away @ along
    return depth, away @ across * SOURCE_MM / depth, away @ up * SOURCE_MM / depth


def curve_of(points: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """HU to density as a recipe writes it: pairs, rising in HU. Raises ValueError for what is none."""
    if any(len(point) != 2 for point in points):
        raise ValueError("hu_to_density: expected pairs of HU and density, such as [[-1000, 0], [0, 1]].")
    curve = [(float(hu), float(density)) for hu, density in points]
    density_of(torch.zeros(1), curve)
    return curve


def curve_in_words(curve: Sequence[tuple[float, float]]) -> str:
    return "HU to electron density " + ", ".join(f"{hu:g}: {density:g}" for hu, density in curve)


def density_of(hounsfield: Tensor, points: Sequence[tuple[float, float]] = HU_TO_DENSITY) -> Tensor:
    """Electron density relative to water, by straight lines between points (HU, density)."""
    hu, density = (np.array(column) for column in zip(*points, strict=True))
    if not (np.diff(hu) > 0).all() or (density < 0).any():
        raise ValueError(f"hu_to_density is {list(points)}, expected rising HU and densities of 0 and more.")
    found = np.interp(hounsfield.numpy(), hu, density)
    return torch.from_numpy(found.astype(np.float32))


def dose(density: Tensor, affine: Tensor, beams: Sequence[Beam]) -> Tensor:
    """Gy (z, y, x) of beams on a volume of electron density relative to water; affine: index -> LPS mm.

    A beam of weight 1 gives 1 Gy at a depth of 100 mm in the isocentre of a square field of 100 mm. Raises ValueError
    for a source inside the volume.
    """
    return dose_and_depths(density, affine, beams)[0]


def dose_and_depths(density: Tensor, affine: Tensor, beams: Sequence[Beam]) -> tuple[Tensor, list[Tensor]]:
    """What `dose` gives, and for each beam mm of water (z, y, x) between its source and a voxel; NaN beyond its field
    and what surrounds it.
    """
    total, depths = torch.zeros(density.shape, dtype=torch.float32), []
    places = _places(density.shape, affine)
    for beam in beams:
        seen = _seen(beam, places)
        grid = _grid(beam, seen)
        water = _radiological(density, affine, beam, grid)
        given = beam.weight / _reference() * _of_beam(beam, grid, seen, water)
        total += given.reshape(density.shape).float()
        depths.append(_sampled(water, grid, seen).reshape(density.shape).float())
    return total, depths


def _places(shape: Sequence[int], affine: Tensor) -> Tensor:
    """(N, 3): LPS mm of every voxel."""
    lines = [torch.arange(n, dtype=torch.float64) for n in shape]
    index = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).reshape(-1, 3)
    return index @ affine[:3, :3].double().T + affine[:3, 3].double()


@dataclass(frozen=True)
class _Grid:
    """The beam's eye view: mm from the source (T,), v (V,) and u (U,) in the isocentre's plane."""

    along: Tensor
    v: Tensor
    u: Tensor


def _grid(beam: Beam, seen: tuple[Tensor, Tensor, Tensor]) -> _Grid:
    along, u, v = seen
    if float(along.min()) < 50:
        raise ValueError(
            "The source of a beam lies in the image. Check its isocentre: LPS mm of the image's own frame."
        )
    first, last = float(along.min()) - STEP_MM, float(along.max()) + STEP_MM
    sides = []
    for values, pixels in ((v, beam.fluence.shape[0]), (u, beam.fluence.shape[1])):
        half = min(pixels / 2 * STEP_MM + TAIL_MM, float(values.abs().max()) + STEP_MM)
        count = max(math.ceil(half / STEP_MM), pixels // 2)
        sides.append(torch.arange(-count, count + 1, dtype=torch.float64) * STEP_MM)
    return _Grid(torch.arange(first, last + STEP_MM, STEP_MM, dtype=torch.float64), sides[0], sides[1])


def _of_beam(beam: Beam, grid: _Grid, seen: tuple[Tensor, Tensor, Tensor], depth: Tensor) -> Tensor:
    """(N,) of unit weight; `depth`: mm of water on the grid."""
    surface = _surface(depth, grid)
    spread = _spread(beam, grid, surface)
    cube = _at_depth(spread, depth) * (SOURCE_MM / grid.along[:, None, None]) ** 2
    return _sampled(cube.float(), grid, seen).nan_to_num(0.0)


def _radiological(density: Tensor, affine: Tensor, beam: Beam, grid: _Grid) -> Tensor:
    """mm of water (T, V, U) up to each point of the grid, half of its own step included."""
    along, across, up = beam.axes()
    share = grid.along / SOURCE_MM
    lines = grid.v[:, None, None] * up + grid.u[:, None] * across + SOURCE_MM * along  # (V, U, 3), to the isocentre
    back = torch.linalg.inv(affine.double())
    size = torch.tensor(density.shape, dtype=torch.float64)
    start = back[:3, :3] @ beam.source() + back[:3, 3]
    slope = lines @ back[:3, :3].T  # (V, U, 3) voxels for each share of the way
    points = start + share[:, None, None, None] * slope
    unit = ((2 * points + 1) / size - 1).flip(-1).float()[None]
    volume = density[None, None].float()
    found = F.grid_sample(volume, unit, mode="bilinear", padding_mode="zeros", align_corners=False)[0, 0]
    length = (lines.norm(dim=-1) / SOURCE_MM * STEP_MM).float()
    steps: Tensor = found * length
    return torch.cumsum(steps, 0) - steps / 2


def _surface(depth: Tensor, grid: _Grid) -> float:
    """mm from the source at which the middle of the beam meets tissue."""
    line = depth[:, len(grid.v) // 2, len(grid.u) // 2]
    met = (line > 1.0).nonzero()
    return float(grid.along[int(met[0])] if len(met) else grid.along[-1])


def _spread(beam: Beam, grid: _Grid, surface_mm: float) -> Tensor:
    """(D, V, U): the fluence spread by the kernel at each of its depths, as wide as a field is there."""
    k = kernel()
    high, wide = len(grid.v), len(grid.u)
    room = math.ceil(TAIL_MM * 2 / STEP_MM)  # what leaves at one side must not come in at the other
    rows, columns = _fast(high + room), _fast(wide + room)
    open_ = torch.zeros(rows, columns, dtype=torch.float64)
    top, left = (high - beam.fluence.shape[0]) // 2, (wide - beam.fluence.shape[1]) // 2
    open_[top : top + beam.fluence.shape[0], left : left + beam.fluence.shape[1]] = beam.fluence.double()
    waves = torch.fft.rfft2(open_)
    rate = 2 * math.pi / STEP_MM
    squared = (torch.fft.fftfreq(rows) * rate)[:, None].double() ** 2 + (
        torch.fft.rfftfreq(columns) * rate
    ).double() ** 2
    found = []
    for depth, weights in zip(k.depths_mm, k.weights, strict=True):
        magnified = k.decays_per_mm * (surface_mm + depth) / SOURCE_MM
        transfer = sum(w * m / torch.sqrt(m * m + squared) for w, m in zip(weights, magnified, strict=True))
        found.append(torch.fft.irfft2(waves * transfer, s=(rows, columns))[:high, :wide].float())
    return torch.stack(found)


def _fast(count: int) -> int:
    """The next number of few small factors."""
    from scipy.fft import next_fast_len

    return int(next_fast_len(count, real=True))


def _at_depth(spread: Tensor, depth: Tensor) -> Tensor:
    """(T, V, U): between the kernel's depths by straight lines; nothing before there is tissue."""
    depths = torch.from_numpy(kernel().depths_mm).float()
    wanted = depth.clamp(float(depths[0]), float(depths[-1]))
    above = torch.searchsorted(depths, wanted.contiguous()).clamp(1, len(depths) - 1)
    share = (wanted - depths[above - 1]) / (depths[above] - depths[above - 1])
    low, high = torch.gather(spread, 0, above - 1), torch.gather(spread, 0, above)
    return torch.where(depth > 0, low + share * (high - low), torch.zeros(()))


def _sampled(cube: Tensor, grid: _Grid, seen: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """(N,) of a cube (T, V, U) at places as the beam sees them; NaN beyond its sides."""
    along, u, v = seen
    index = torch.stack(
        [
            (along - grid.along[0]) / STEP_MM,
            (v - grid.v[0]) / STEP_MM,
            (u - grid.u[0]) / STEP_MM,
        ],
        -1,
    )
    size = torch.tensor(cube.shape, dtype=torch.float64)
    unit = ((2 * index + 1) / size - 1).flip(-1).float()
    found = F.grid_sample(cube[None, None].float(), unit[None, None, None], mode="bilinear", align_corners=False)[
        0, 0, 0, 0
    ]
    return torch.where(((index > -0.5) & (index < size - 0.5)).all(-1), found, torch.full((), torch.nan))


@cache
def _reference() -> float:
    """Dose of unit fluence at the reference, by the kernel alone: a square field at depth, with the source 1 m away."""
    side, depth = REFERENCE
    beam = Beam(0.0, (0.0, 0.0, 0.0), rectangle(side, side))
    line = torch.arange(-60, 61, dtype=torch.float64) * STEP_MM
    grid = _Grid(torch.tensor([SOURCE_MM], dtype=torch.float64), line, line)
    spread = _spread(beam, grid, SOURCE_MM - depth)
    water = torch.full((1, len(line), len(line)), depth, dtype=torch.float32)
    return float(_at_depth(spread, water)[0, 60, 60])
