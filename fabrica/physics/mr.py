"""Magnetic resonance on a Cartesian grid: coils, the Fourier transform, and which of its samples were measured."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .algebra import Gridded


def to_k_space(image: Tensor, axes: int) -> Tensor:
    """The orthonormal Fourier transform over the last axes, with its zero frequency in the middle."""
    dims = tuple(range(-axes, 0))
    k_space: Tensor = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(image, dims), dim=dims, norm="ortho"), dims)
    return k_space


def to_image(k_space: Tensor, axes: int) -> Tensor:
    """The inverse of `to_k_space`."""
    dims = tuple(range(-axes, 0))
    image: Tensor = torch.fft.fftshift(
        torch.fft.ifftn(torch.fft.ifftshift(k_space, dims), dim=dims, norm="ortho"), dims
    )
    return image


class CartesianSense(Gridded):
    """y = M F S w x (SENSE, Pruessmann et al. 1999): x real (B, 1, *sides), y complex (B, coils, *axes), 0 where
    unmeasured.

    `maps` (B or 1, coils, *axes) are the coils' sensitivities; `mask` (B or 1, 1, *axes) bool says what was measured;
    `weight` (B or 1, 1, *axes) is the phase of the image times the gain that brings x to about [0, 1]. `sides`: a grid
    around that of the scanner, whose middle is measured; none = the scanner's own.
    """

    per_row = ("maps", "mask", "weight")
    classical, details = "CG-SENSE", "spectrum"
    maps: Tensor
    mask: Tensor
    weight: Tensor

    def __init__(self, maps: Tensor, mask: Tensor, weight: Tensor, sides: Sequence[int] | None = None) -> None:
        super().__init__()
        self.sides = tuple(sides or maps.shape[2:])
        if any(n < m for n, m in zip(self.sides, maps.shape[2:], strict=True)):
            raise ValueError(f"The scanner's grid is {tuple(maps.shape[2:])}, larger than the grid of x, {self.sides}.")
        self.register_buffer("maps", maps)
        self.register_buffer("mask", mask.bool())
        self.register_buffer("weight", weight)

    @property
    def axes(self) -> int:
        return self.maps.ndim - 2

    def with_gain(self, gain: Tensor | float) -> CartesianSense:
        """The same physics for images whose 1 is another brightness."""
        size = self.weight.abs().flatten(1).amax(1).reshape(-1, *[1] * (self.weight.ndim - 1)).clamp(min=1e-12)
        return CartesianSense(self.maps, self.mask, self.weight / size * gain, self.sides)

    def on_grid(self, sides: Sequence[int]) -> CartesianSense:
        """The same physics for an x on a grid around the scanner's."""
        return CartesianSense(self.maps, self.mask, self.weight, sides)

    def corner(self, sides: tuple[int, ...]) -> CartesianSense:
        cut = (slice(None), slice(None), *(slice(n) for n in sides))
        maps, mask, weight = self.maps[cut], self.mask[cut], self.weight[cut]
        return CartesianSense(maps, mask, weight, sides if len(maps.shape) - 2 == len(sides) else None)

    def _inside(self) -> tuple[slice, ...]:
        """Where the scanner's grid lies in that of x, rows and channels included."""
        starts = [(n - m) // 2 for n, m in zip(self.sides, self.maps.shape[2:], strict=True)]
        inner = (slice(s, s + m) for s, m in zip(starts, self.maps.shape[2:], strict=True))
        return (slice(None), slice(None), *inner)

    def _spread(self, image: Tensor) -> Tensor:
        """From the scanner's grid to that of x, zero around it."""
        if self.sides == tuple(image.shape[2:]):
            return image
        wide = image.new_zeros(*image.shape[:2], *self.sides)
        wide[self._inside()] = image
        return wide

    def apply_to(self, x: Tensor) -> Tensor:
        seen = x[self._inside()] * self.weight
        return to_k_space(seen * self.maps, self.axes) * self.mask

    def adjoint(self, y: Tensor) -> Tensor:
        combined = (to_image(y * self.mask, self.axes) * self.maps.conj()).sum(1, keepdim=True)
        return self._spread((combined * self.weight.conj()).real)

    def support(self) -> Tensor:
        """Where any coil sees something: signal elsewhere would have shown in what the maps were learned from."""
        return self._spread((self.maps.abs().amax(1, keepdim=True) > 0).float()) > 0

    def feasible(self, x: Tensor) -> Tensor:
        return x * self.support()

    def normal(self, x: Tensor) -> Tensor:
        """A^H A x. Shifts commute with what the mask does to an image, and axes that it leaves alone need no
        transform.
        """
        dims = self._masked_axes()
        coils = x[self._inside()] * self.weight * self.maps
        if dims:
            kept = torch.fft.ifftshift(self.mask, tuple(range(2, self.mask.ndim)))
            coils = torch.fft.ifftn(torch.fft.fftn(coils, dim=dims) * kept, dim=dims)
        combined = (coils * self.maps.conj()).sum(1, keepdim=True)
        return self._spread((combined * self.weight.conj()).real)

    def _masked_axes(self) -> tuple[int, ...]:
        """Axes along which the mask varies: readouts are measured whole."""
        if not hasattr(self, "_varying"):
            first = [self.mask.select(d, 0).unsqueeze(d) for d in range(2, self.mask.ndim)]
            self._varying = tuple(d + 2 for d, one in enumerate(first) if not bool((self.mask == one).all()))
        return self._varying

    def measured(self, y: Tensor) -> Tensor:
        return self.mask.expand(len(y), *self.mask.shape[1:])

    def crude(self, y: Tensor) -> Tensor | None:
        """Zero-filled: coils combined, nothing put where nothing was measured."""
        gain = self.weight.abs().flatten(1).amax(1).clamp(min=1e-12).reshape(-1, *[1] * (y.ndim - 1))
        return self.adjoint(y) / gain**2
