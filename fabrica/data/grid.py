"""Where voxels lie: grids, images brought from one to another, and how far two images lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from ..contracts import Case, Image
from ..io import UnreadableError


@dataclass(frozen=True, slots=True)
class Grid:
    """Where voxels are: affine (4, 4) index (z, y, x, 1) -> LPS mm, and how many."""

    affine: Tensor
    shape: tuple[int, int, int]

    @property
    def spacing_mm(self) -> list[float]:
        """Of its axes."""
        spacing: list[float] = self.affine[:3, :3].norm(dim=0).tolist()
        return spacing


def grid_of(image: Image) -> Grid:
    shape = tuple(image.data.shape[-2:]) if image.axes[-3:] != "zyx" else tuple(image.data.shape[-3:])
    return Grid(image.affine, (1, *shape) if len(shape) == 2 else shape)  # type: ignore[arg-type]


def coarser(grid: Grid, step_mm: float) -> Grid:
    """As far as a grid reaches with voxels of at least `step_mm`; itself where its own are no finer."""
    step = (step_mm / grid.affine[:3, :3].norm(dim=0)).clamp(min=1.0).double()
    if bool((step == 1).all()):
        return grid
    affine = grid.affine.clone().double()
    affine[:3, :3] *= step
    z, y, x = (int(np.ceil(n / float(s))) for n, s in zip(grid.shape, step, strict=True))
    return Grid(affine, (z, y, x))


def same_grid(one: Grid, other: Grid, tolerance_mm: float = 0.01) -> bool:
    """Do two grids put every corner at the same place?"""
    if one.shape != other.shape:
        return False
    corners = torch.tensor([[0.0, 0, 0, 1], [*[n - 1.0 for n in one.shape], 1]]).double()
    return bool(((one.affine.double() - other.affine.double()) @ corners.T).abs().max() <= tolerance_mm)


def resample(image: Image, grid: Grid, fill: float | None = None) -> Image:
    """The image on another grid: exact where voxels coincide, else linear (labels: nearest), smoothed when coarser.

    Outside the source the value is `fill` (0; the darkest value in HU).
    """
    volume = image.data if image.axes == "zyx" else image.data[:, None]
    if fill is None:
        fill = float(volume.min()) if image.meaning.unit == "HU" else 0.0
    index = torch.linalg.inv(image.affine.double()) @ grid.affine.double()  # target index -> source index
    exact = _move(volume, index, grid.shape, fill)
    if exact is None:
        exact = _interpolate(volume, index, grid.shape, fill, image.meaning.kind == "label")
    data = exact if image.axes == "zyx" else exact[:, 0]
    return replace(image, data=data, affine=grid.affine)


def _move(volume: Tensor, index: Tensor, shape: Sequence[int], fill: float) -> Tensor | None:
    """Flip, permute, crop and pad when that is all there is to do; None otherwise."""
    linear, start = index[:3, :3], index[:3, 3]
    whole, begin = linear.round(), start.round()
    if (linear - whole).abs().max() > 1e-5 or (start - begin).abs().max() > 1e-2 or (whole.abs().sum(0) != 1).any():
        return None
    if (whole.abs().sum(1) != 1).any():
        return None
    out = volume.new_full((len(volume), *shape), fill)
    order = [int(whole[:, k].abs().argmax()) for k in range(3)]  # source axis of each target axis
    source = volume.permute(0, *[1 + axis for axis in order])
    target_slices, source_slices = [slice(None)], [slice(None)]
    for k, axis in enumerate(order):
        sign, first = int(whole[axis, k]), int(begin[axis])
        n, m = source.shape[1 + k], shape[k]
        if sign < 0:
            source, first = source.flip(1 + k), n - 1 - first
        low, high = max(0, -first), min(m, n - first)
        if low >= high:
            return out
        target_slices.append(slice(low, high))
        source_slices.append(slice(low + first, high + first))
    out[tuple(target_slices)] = source[tuple(source_slices)]
    return out


def _interpolate(volume: Tensor, index: Tensor, shape: Sequence[int], fill: float, label: bool) -> Tensor:
    if not label:
        steps = index[:3, :3].abs().max(dim=1).values  # source voxels per target voxel, along the source's axes
        sigma = [0.42 * float(s) if s > 1.5 else 0.0 for s in steps]
        if any(sigma):
            volume = torch.from_numpy(ndimage.gaussian_filter(volume.numpy(), [0.0, *sigma], mode="nearest"))
    unit, near = _places(tuple(index[:3].flatten().tolist()), tuple(shape), tuple(volume.shape[1:]))
    mode = "nearest" if label else "bilinear"
    values = F.grid_sample(volume[None].float(), unit, mode=mode, padding_mode="border", align_corners=True)[0]
    return torch.where(near, values, torch.tensor(fill, dtype=values.dtype))


@lru_cache(maxsize=1)  # a patient's images are brought from one grid to another one after the other
def _places(index: tuple[float, ...], shape: tuple[int, ...], size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Where target voxels lie in the source, in [-1, 1] as `grid_sample` wants it, and which of them lie inside."""
    matrix, sides = torch.tensor(index, dtype=torch.float64).reshape(3, 4), torch.tensor(size, dtype=torch.float64)
    axes = [torch.arange(n, dtype=torch.float64) for n in shape]
    target = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    source = target @ matrix[:, :3].T + matrix[:, 3]
    unit = (source / (sides - 1).clamp(min=1) * 2 - 1).flip(-1)[None].float()
    unit[..., sides.flip(0) == 1] = 0.0
    return unit, (source > -0.5).all(-1) & (source < sides - 0.5).all(-1)


def coverage(image: Image, grid: Grid) -> float:
    """Share of a grid's voxels that lie inside an image, told from at most 64 a side."""
    lines = [torch.linspace(0, n - 1, min(n, 64), dtype=torch.float64) for n in grid.shape]
    return float(_inside(image, grid, lines).double().mean())


def inside_of(image: Image, grid: Grid) -> Tensor:
    """bool (z, y, x): which voxels of a grid lie inside an image."""
    return _inside(image, grid, [torch.arange(n, dtype=torch.float64) for n in grid.shape])


def _inside(image: Image, grid: Grid, lines: Sequence[Tensor]) -> Tensor:
    index = torch.linalg.inv(image.affine.double()) @ grid.affine.double()
    size = torch.tensor(grid_of(image).shape, dtype=torch.float64)
    target = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1)
    source = target @ index[:3, :3].T + index[:3, 3]
    held: Tensor = ((source > -0.5) & (source < size - 0.5)).all(-1)
    return held


def align(case: Case, reference: str) -> tuple[Case, tuple[str, ...]]:
    """All images of a case on the grid of one of them, and one sentence for each that had to be resampled.

    Raises UnreadableError for an image that does not lie where the others do.
    """
    grid = grid_of(case.images[reference])
    remarks, images = [], {}
    for name, image in case.images.items():
        if same_grid(grid_of(image), grid):
            images[name] = image
            continue
        if not image.calibrated and not case.images[reference].calibrated:
            raise UnreadableError(
                f"its {name} is a picture of another size than its {reference}, and neither says how large a pixel is.",
                "Bring them to one size, or leave one out with a table.", image.source or "",
            )  # fmt: skip
        share = coverage(image, grid)
        if not share:
            raise UnreadableError(
                f"its {name} lies beside its {reference}: they share no place.",
                "Correct the geometry of one of them, or leave it out with a table.", image.source or "",
            )  # fmt: skip
        images[name] = resample(image, grid)
        spacing = " x ".join(f"{s:.3g}" for s in image.spacing_mm)
        partly = f", of which it covers {share:.0%}" if share < 0.995 else ""
        remarks.append(f"{case.patient}: {name} ({spacing} mm) was resampled to the grid of {reference}{partly}.")
    return replace(case, images=images), tuple(remarks)


def offset_mm(one: Tensor, other: Tensor, spacing_mm: Sequence[float], most: int = 96, *, cut: bool = False) -> float:
    """How far two volumes (z, y, x) of one grid are shifted against each other, by correlating their edges.

    Edges are shared by contrasts that share nothing else. Resolution is a voxel of a grid of at most `most` a side.
    `cut`: anatomy goes on beyond the volumes, whose ends are faded out: what is cut there is no edge.
    """
    strides = [-(-n // most) for n in one.shape]
    edges = []
    for volume in (one, other):
        small = F.avg_pool3d(volume[None, None].float(), strides, ceil_mode=True)[0, 0]
        slopes = [torch.gradient(small, dim=k)[0] ** 2 for k in range(3) if small.shape[k] > 1]
        steep = torch.stack(slopes).sum(0).sqrt()
        edges.append((steep - steep.mean()) * (_faded(steep.shape) if cut else 1.0))
    product = torch.fft.rfftn(edges[0]) * torch.fft.rfftn(edges[1]).conj()
    sharp = product / product.abs().clamp(min=1e-6 * float(product.abs().max())).sqrt()  # half-way to phase correlation
    cross = torch.fft.irfftn(sharp, s=edges[0].shape)
    peak = np.unravel_index(int(cross.argmax()), cross.shape)
    shift = [(p + n // 2) % n - n // 2 for p, n in zip(peak, cross.shape, strict=True)]
    return float(np.linalg.norm([s * k * mm for s, k, mm in zip(shift, strides, spacing_mm, strict=True)]))


def _faded(shape: Sequence[int]) -> Tensor:
    """1 in the middle, nearly 0 at the ends of every axis (von Hann)."""
    lines = [torch.hann_window(n + 2, periodic=False)[1:-1] if n > 1 else torch.ones(1) for n in shape]
    return torch.stack(torch.meshgrid(*lines, indexing="ij")).prod(0)


def foreground(volume: Tensor) -> Tensor:
    """bool of the same shape: brighter than the mean of the volume; the body, not the air, without a setting."""
    return volume > volume.mean()
