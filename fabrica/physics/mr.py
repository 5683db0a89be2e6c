"""Magnetic resonance: coils, the Fourier transform, and which of its samples were measured, on a grid or anywhere."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Self

import torch
from torch import Tensor

from .algebra import Gridded
from .nufft import Nufft, Toeplitz

KEPT = 8  # trajectories whose tables stay in memory


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


class Coils(Gridded):
    """What coils see of a real image (B, 1, *sides): S w x, complex.

    `maps` (B or 1, coils, *axes) are the coils' sensitivities; `weight` (B or 1, 1, *axes) is the phase of the image
    times the gain that brings x to about [0, 1]. `sides`: a grid around that of the scanner, whose middle is measured;
    none = the scanner's own.
    """

    maps: Tensor
    weight: Tensor

    def __init__(self, maps: Tensor, weight: Tensor, sides: Sequence[int] | None = None) -> None:
        super().__init__()
        self.sides = tuple(sides or maps.shape[2:])
        if any(n < m for n, m in zip(self.sides, maps.shape[2:], strict=True)):
            raise ValueError(f"The scanner's grid is {tuple(maps.shape[2:])}, larger than the grid of x, {self.sides}.")
        self.register_buffer("maps", maps)
        self.register_buffer("weight", weight)
        self._both: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self._supported: tuple[Tensor, Tensor] | None = None

    def _weighted(self) -> tuple[Tensor, Tensor]:
        """(maps times weight, its conjugate), made once for these rows."""
        if self._both is None or self._both[0] is not self.maps or self._both[1] is not self.weight:
            both = self.maps * self.weight
            self._both = self.maps, self.weight, both, both.conj().resolve_conj()
        return self._both[2], self._both[3]

    @abstractmethod
    def made(self, maps: Tensor, weight: Tensor, sides: Sequence[int] | None) -> Self:
        """The same samples of other coils or images."""

    @property
    def axes(self) -> int:
        return self.maps.ndim - 2

    def with_gain(self, gain: Tensor | float) -> Self:
        """The same physics for images whose 1 is another brightness."""
        size = self.weight.abs().flatten(1).amax(1).reshape(-1, *[1] * (self.weight.ndim - 1)).clamp(min=1e-12)
        return self.made(self.maps, self.weight / size * gain, self.sides)

    def on_grid(self, sides: Sequence[int]) -> Self:
        """The same physics for an x on a grid around the scanner's."""
        return self.made(self.maps, self.weight, sides)

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

    def seen(self, x: Tensor) -> Tensor:
        """(B, coils, *axes): what each coil sees of x."""
        return x[self._inside()] * self._weighted()[0]

    def combined(self, coils: Tensor) -> Tensor:
        """The transpose of `seen`."""
        return self._spread((coils * self._weighted()[1]).sum(1, keepdim=True).real)

    def support(self) -> Tensor:
        """Where any coil sees something: signal elsewhere would have shown in what the maps were learned from."""
        if self._supported is None or self._supported[0] is not self.maps:  # made once for these rows
            self._supported = self.maps, self._spread((self.maps.abs().amax(1, keepdim=True) > 0).float()) > 0
        return self._supported[1]

    def feasible(self, x: Tensor) -> Tensor:
        return x * self.support()

    def _brightness(self, y: Tensor) -> Tensor:
        gain = self.weight.abs().flatten(1).amax(1).clamp(min=1e-12)
        return gain.reshape(-1, *[1] * (self.axes + 1))


class CartesianSense(Coils):
    """y = M F S w x (SENSE, Pruessmann et al. 1999), complex (B, coils, *axes), 0 where unmeasured.

    `mask` (B or 1, 1, *axes) bool says what was measured.
    """

    per_row = ("maps", "mask", "weight")
    classical, details = "CG-SENSE", "spectrum"
    mask: Tensor

    def __init__(self, maps: Tensor, mask: Tensor, weight: Tensor, sides: Sequence[int] | None = None) -> None:
        super().__init__(maps, weight, sides)
        self.register_buffer("mask", mask.bool())
        self._shifted: tuple[Tensor, Tensor] | None = None

    def made(self, maps: Tensor, weight: Tensor, sides: Sequence[int] | None) -> CartesianSense:
        return CartesianSense(maps, self.mask, weight, sides)

    def corner(self, sides: tuple[int, ...]) -> CartesianSense:
        cut = (slice(None), slice(None), *(slice(n) for n in sides))
        maps, mask, weight = self.maps[cut], self.mask[cut], self.weight[cut]
        return CartesianSense(maps, mask, weight, sides if len(maps.shape) - 2 == len(sides) else None)

    def apply_to(self, x: Tensor) -> Tensor:
        return to_k_space(self.seen(x), self.axes) * self.mask

    def adjoint(self, y: Tensor) -> Tensor:
        return self.combined(to_image(y * self.mask, self.axes))

    def normal(self, x: Tensor) -> Tensor:
        """A^H A x. Shifts commute with what the mask does to an image, and axes that it leaves alone need no
        transform.
        """
        dims, coils = self._masked_axes(), self.seen(x)
        if dims:
            coils = torch.fft.ifftn(torch.fft.fftn(coils, dim=dims).mul_(self._kept(dims)), dim=dims)
        return self.combined(coils)

    def _kept(self, dims: tuple[int, ...]) -> Tensor:
        """The mask as numbers, zero frequency first, once along axes that it leaves alone; made once for these rows."""
        if self._shifted is None or self._shifted[0] is not self.mask:
            narrow = self.mask
            for d in set(range(2, self.mask.ndim)) - set(dims):
                narrow = narrow.narrow(d, 0, 1)
            self._shifted = self.mask, torch.fft.ifftshift(narrow.to(self.weight.real.dtype), dims)
        return self._shifted[1]

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
        return self.adjoint(y) / self._brightness(y) ** 2


class NonCartesianSense(Coils):
    """y = F S w x at any places of k-space (Pruessmann et al. 2001), complex (B, coils, readouts, samples).

    `trajectory` (readouts, samples, axes): places in cycles per field of view, 0 in the middle; axes as those of the
    scanner's grid. Rows share it.
    """

    per_row = ("maps", "weight")
    classical, details = "CG-SENSE", "lines"
    trajectory: Tensor

    def __init__(self, maps: Tensor, trajectory: Tensor, weight: Tensor, sides: Sequence[int] | None = None) -> None:
        super().__init__(maps, weight, sides)
        self.register_buffer("trajectory", trajectory)
        self._transform: Nufft | None = None
        self._convolution: Toeplitz | None = None

    def made(self, maps: Tensor, weight: Tensor, sides: Sequence[int] | None) -> NonCartesianSense:
        other = NonCartesianSense(maps, self.trajectory, weight, sides)
        other._transform, other._convolution = self._transform, self._convolution  # of the scanner's grid
        return other

    def corner(self, sides: tuple[int, ...]) -> NonCartesianSense:
        cut = (slice(None), slice(None), *(slice(n) for n in sides))
        scale = torch.tensor([n / m for n, m in zip(sides, self.maps.shape[2:], strict=True)])
        return NonCartesianSense(self.maps[cut], self.trajectory * scale, self.weight[cut])

    @property
    def transform(self) -> Nufft:
        if self._transform is None:
            self._transform = _transform_at(*self._key())
        return self._transform

    @property
    def convolution(self) -> Toeplitz:
        if self._convolution is None:
            self._convolution = _convolution_of(*self._key())
        return self._convolution

    def _key(self) -> tuple[bytes, tuple[int, ...]]:
        """What its tables depend on."""
        return self.trajectory.flatten(0, 1).float().cpu().numpy().tobytes(), tuple(self.maps.shape[2:])

    @property
    def radius(self) -> Tensor:
        ends = torch.tensor([n / 2 for n in self.maps.shape[2:]], device=self.trajectory.device)
        found: Tensor = (self.trajectory / ends).square().sum(-1).sqrt()
        return found

    def apply_to(self, x: Tensor) -> Tensor:
        samples = self.transform.forward(self.seen(x))
        return samples.reshape(*samples.shape[:2], *self.trajectory.shape[:2])

    def adjoint(self, y: Tensor) -> Tensor:
        return self.combined(self.transform.adjoint(y.flatten(2)))

    def normal(self, x: Tensor) -> Tensor:
        """A^H A x as a convolution on twice the grid."""
        return self.combined(self.convolution.times(self.seen(x)))

    def crude(self, y: Tensor) -> Tensor | None:
        """Gridded: every sample counts the less the more there are around it; as bright as explains y best."""
        lines, count = self.transform, self.trajectory[..., 0].numel()
        density = (lines.gather @ (lines.spread @ torch.ones(count, 1, device=y.device))).reshape(y.shape[2:])
        image = self.feasible(self.adjoint(y / density))
        told = self.apply_to(image)
        sums = [(y.conj() * told).real.flatten(1).sum(1), told.abs().square().flatten(1).sum(1).clamp(min=1e-30)]
        return image * (sums[0] / sums[1]).reshape(-1, *[1] * (image.ndim - 1))


def _places(trajectory: bytes, axes: int) -> Tensor:
    return torch.frombuffer(bytearray(trajectory), dtype=torch.float32).reshape(-1, axes)


@lru_cache(maxsize=KEPT)
def _transform_at(trajectory: bytes, sides: tuple[int, ...]) -> Nufft:
    return Nufft.at(_places(trajectory, len(sides)), sides)


@lru_cache(maxsize=KEPT)
def _convolution_of(trajectory: bytes, sides: tuple[int, ...]) -> Toeplitz:
    return Toeplitz.of(_places(trajectory, len(sides)), sides)
