"""The Fourier transform at any places of k-space: gridding by Kaiser-Bessel, forth and exactly back (Fessler 2003)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import i0
from torch import Tensor

from .sparse import csr

FINER = 2  # times the grid of the image
REACH = 6  # grid points that a sample is told by, along each axis
BEATTY = math.pi * math.sqrt((REACH / FINER) ** 2 * (FINER - 0.5) ** 2 - 0.8)  # shape of the kernel (Beatty 2005)


@dataclass(frozen=True)
class Nufft:
    """F at `samples` places of an image of `sides` (y, x), scaled as the orthonormal transform is at whole places."""

    sides: tuple[int, ...]
    gather: Tensor  # (samples, points of the finer grid) sparse CSR
    spread: Tensor  # its transpose
    blur: Tensor  # (y, x): what the kernel does to an image

    @staticmethod
    def at(places: Tensor, sides: Sequence[int]) -> Nufft:
        """places (samples, axes) in cycles per field of view, 0 in the middle, as axes of the image are ordered."""
        fine = [FINER * n for n in sides]
        axes = [_weights(places[:, d].double().numpy(), n) for d, n in enumerate(fine)]
        rows, columns, values = [], [], []
        for offsets in itertools.product(range(REACH), repeat=len(fine)):
            column, value = np.zeros(len(places), np.int64), np.ones(len(places))
            for (near, weights), offset, n in zip(axes, offsets, fine, strict=True):
                column, value = column * n + near[:, offset], value * weights[:, offset]
            rows.append(np.arange(len(places)))
            columns.append(column)
            values.append(value.astype(np.float32))
        size, samples, points = (len(places), math.prod(fine)), np.concatenate(rows), np.concatenate(columns)
        shares = np.concatenate(values)
        blur = torch.ones(())
        for n in sides:
            blur = blur[..., None] * torch.from_numpy(_transform(n)).float()
        gather, spread = csr(samples, points, shares, size), csr(points, samples, shares, (size[1], size[0]))
        return Nufft(tuple(sides), gather, spread, blur)

    def forward(self, image: Tensor) -> Tensor:
        """(..., y, x) complex -> (..., samples)."""
        fine = self._fine(image / self.blur)
        return self._times(self.gather, fine.flatten(-len(self.sides))) / math.sqrt(math.prod(self.sides))

    def adjoint(self, samples: Tensor) -> Tensor:
        """(..., samples) complex -> (..., y, x): the transpose, conjugated."""
        grid = self._times(self.spread, samples).reshape(*samples.shape[:-1], *(FINER * n for n in self.sides))
        return self._coarse(grid) / self.blur / math.sqrt(math.prod(self.sides))

    def _fine(self, image: Tensor) -> Tensor:
        """Its spectrum, `FINER` times as dense, zero in the middle."""
        wide = image.new_zeros(*image.shape[: -len(self.sides)], *(FINER * n for n in self.sides))
        wide[_middle(self.sides)] = image
        dims = tuple(range(-len(self.sides), 0))
        found: Tensor = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(wide, dims), dim=dims), dims)
        return found

    def _coarse(self, grid: Tensor) -> Tensor:
        dims = tuple(range(-len(self.sides), 0))
        wide = torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(grid, dims), dim=dims, norm="forward"), dims)
        found: Tensor = wide[_middle(self.sides)]
        return found

    @staticmethod
    def _times(matrix: Tensor, values: Tensor) -> Tensor:
        """matrix @ values, both parts of all rows at once."""
        flat = torch.view_as_real(values.reshape(-1, values.shape[-1])).permute(1, 0, 2).flatten(1)
        found = (matrix.to(values.device) @ flat).reshape(matrix.shape[0], -1, 2).permute(1, 0, 2).contiguous()
        return torch.view_as_complex(found).reshape(*values.shape[:-1], matrix.shape[0])


@dataclass(frozen=True)
class Toeplitz:
    """A^H A of such a transform as one convolution: no sample is visited (Fessler et al. 2005)."""

    sides: tuple[int, ...]
    spectrum: Tensor  # of the response to a point, on twice the sides, zero frequency first

    @staticmethod
    def of(places: Tensor, sides: Sequence[int]) -> Toeplitz:
        double = [2 * n for n in sides]
        response = Nufft.at(2 * places, double).adjoint(torch.ones(len(places), dtype=torch.complex64))
        response = response * math.sqrt(math.prod(double)) / math.prod(sides)  # the scale of the smaller grid, twice
        for d in range(-len(sides), 0):  # the farthest point along an axis is its own opposite, and never used
            response.select(d, 0).zero_()
        dims = tuple(range(-len(sides), 0))
        return Toeplitz(tuple(sides), torch.fft.fftn(torch.fft.ifftshift(response, dims), dim=dims).real)

    def times(self, image: Tensor) -> Tensor:
        """(..., y, x) complex -> A^H A of it."""
        dims = tuple(range(-len(self.sides), 0))
        wide = [2 * n for n in self.sides]
        spectrum = torch.fft.fftn(image, s=wide, dim=dims) * self.spectrum.to(image.device)
        found: Tensor = torch.fft.ifftn(spectrum, dim=dims)[(..., *(slice(n) for n in self.sides))]
        return found


def _weights(places: NDArray[np.float64], fine: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(samples, REACH): grid points around each place, the ends of k-space being one, and the kernel there."""
    middle = places * FINER + fine // 2
    points = np.floor(middle - REACH / 2).astype(np.int64)[:, None] + 1 + np.arange(REACH)
    far = 2 * (points - middle[:, None]) / REACH
    return points % fine, i0(BEATTY * np.sqrt(np.clip(1 - far**2, 0, None)))


def _transform(n: int) -> NDArray[np.float64]:
    """(n,): of the kernel, at the voxels of an axis."""
    place = (np.arange(n) - n // 2) * math.pi * REACH / (FINER * n)
    root = np.sqrt(BEATTY**2 - place**2)  # real: voxels lie within the first lobe
    found: NDArray[np.float64] = REACH * np.sinh(root) / root
    return found


def _middle(sides: Sequence[int]) -> Any:
    """Of a grid `FINER` times as large, so that middles fall on each other."""
    return (..., *(slice(FINER * n // 2 - n // 2, FINER * n // 2 - n // 2 + n) for n in sides))
