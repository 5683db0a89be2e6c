"""From k-space alone to its physics: coil maps, the phase of the image, the noise, the gain."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..contracts import Measurement
from .classical import conjugate_gradients
from .mr import CartesianSense, Coils, NonCartesianSense, to_image, to_k_space
from .noise import Gaussian
from .nufft import Nufft

KERNEL = 6  # samples a side of the neighbourhoods that coils are learned from
LEAST, MOST = 12, 48  # samples a side of the middle that coils are learned from: fewer tell too little
SINGULAR = 0.02  # of the largest singular value: neighbourhoods that are signal
WIDE, WIDE_KERNEL, WIDE_SINGULAR = 24, 8, 0.03  # the same of middles at least so wide
VOXELS = 4096  # whose coils are told at once
SQUARINGS = 5  # of the matrix whose main eigenvector is sought: its 32nd power
VALID = 0.85  # of an eigenvalue of 1: where coils see something
AROUND = 12  # samples that are gridded beyond the disc, for what lies outside leaks into its edge
DENSE = 0.95  # of the cells of k-space around the middle: so many hold a sample where readouts cover it
EDGE = 0.7  # of the way to the corner of k-space: samples beyond are taken for noise
SEEN = 1e-3  # of the largest length of maps that are told: coils see nothing below
TOP = 0.995  # of the magnitudes that are brought to 1


def calibrated(
    k_space: Tensor, mask: Tensor, noise: Tensor | None = None, *, deviation: float | None = None,
    maps: Tensor | None = None,
) -> Measurement:  # fmt: skip
    """y (1, coils, y, x) with its operator and noise, from k-space (coils, y, x) whose unmeasured samples are 0.

    Coils are whitened by `noise` (coils, samples) of a noise scan, or by the outer samples. Raises ValueError where the
    middle of k-space was not measured whole, for a coil without signal, and where the noise cannot be told.
    `deviation`: of the noise in each part of every coil, where it is known and images are on the network's scale
    already. `maps` (coils, y, x): what each coil sees, where it is known; their common size stays in the image.
    """
    told = None if deviation is None else 1 / (2**0.5 * deviation)  # from the network's scale to noise of size 1
    whole, mixing = _unmixed_by_noise(k_space * mask, _edge(mask), noise, told)
    sides = middle_of(mask)
    maps = coil_maps(whole, sides, *_told_by(sides)) if maps is None else _of_length_one(maps, mixing)
    phase = smooth_phase(whole, maps, sides)
    unit = CartesianSense(maps[None], mask[None, None], phase[None, None])
    gain = _gain(unit, whole) if told is None else told
    return Measurement(whole[None], unit.with_gain(gain), Gaussian(0.5**0.5))


def calibrated_anywhere(
    samples: Tensor, trajectory: Tensor, sides: tuple[int, int], noise: Tensor | None = None, *,
    deviation: float | None = None, maps: Tensor | None = None,
) -> Measurement:  # fmt: skip
    """The same of samples (coils, readouts, samples) at any places, `trajectory` (readouts, samples, 2) in cycles per
    field of view: coils are learned from the middle, brought to a grid by least squares.
    """
    told = None if deviation is None else 1 / (2**0.5 * deviation)
    places = trajectory.flatten(0, 1)
    far = (2 * places / torch.tensor(sides)).norm(dim=-1).reshape(trajectory.shape[:2]) > EDGE
    whole, mixing = _unmixed_by_noise(samples, far, noise, told)
    covered = middle_of_samples(places, sides)
    side = 2 * int((covered + AROUND) / 2**0.5 / 2)  # of the box within the disc that is gridded
    middle = _zero_around(_centre(_gridded(whole.flatten(1), places, covered + AROUND), (side, side)), sides)
    maps = coil_maps(middle, (side, side), *_told_by((side, side))) if maps is None else _of_length_one(maps, mixing)
    phase = smooth_phase(middle, maps, (side, side))
    unit = NonCartesianSense(maps[None], trajectory, phase[None, None])
    gain = _gain(unit, whole) if told is None else told
    return Measurement(whole[None], unit.with_gain(gain), Gaussian(0.5**0.5))


def _told_by(sides: tuple[int, int]) -> tuple[int, float]:
    """Neighbourhoods and what of them is signal: small middles have too few to tell wide ones by."""
    return (WIDE_KERNEL, WIDE_SINGULAR) if min(sides) >= WIDE else (KERNEL, SINGULAR)


def middle_of_samples(places: Tensor, sides: tuple[int, int]) -> int:
    """The side of the largest disc around the middle whose cells nearly all hold a sample, at most MOST; raises
    ValueError where no box of LEAST a side lies within.
    """
    cells = torch.unique(places.round().long(), dim=0)
    radius = cells.float().norm(dim=-1)
    found = 0
    for side in range(2, min(*sides, MOST) + 1, 2):
        line = torch.arange(-(side // 2), side // 2 + 1)
        inside = int(((line[:, None] ** 2 + line**2) <= (side / 2) ** 2).sum())
        if int((radius <= side / 2).sum()) < DENSE * inside:
            break
        found = side
    if found < LEAST * 2**0.5:
        raise ValueError(
            f"the middle of k-space that its readouts cover is {found} samples wide, expected at least"
            f" {math.ceil(LEAST * 2**0.5)} to learn coil maps from."
        )
    return found


def _gridded(samples: Tensor, places: Tensor, side: int) -> Tensor:
    """(coils, side, side): k-space on a grid that explains the samples (coils, n) within its reach."""
    near = places.norm(dim=-1) <= side / 2
    transform = Nufft.at(places[near], (side, side))
    right = torch.view_as_real(transform.adjoint(samples[:, near]))

    def normal(x: Tensor) -> Tensor:
        there = transform.adjoint(transform.forward(torch.view_as_complex(x)))
        return torch.view_as_real(there) + 1e-3 * x

    return to_k_space(torch.view_as_complex(conjugate_gradients(normal, right, iterations=20)), 2)


def _zero_around(middle: Tensor, sides: tuple[int, int]) -> Tensor:
    whole = middle.new_zeros(len(middle), *sides)
    _centre(whole, (middle.shape[-2], middle.shape[-1])).copy_(middle)
    return whole


def _gain(unit: Coils, k_space: Tensor) -> float:
    """How bright the brightest of the least squares answer are: what is brought to 1."""
    (image,) = unit.solved(k_space[None]).values()
    inside = image.abs()[image.abs() > 0.1 * image.abs().max()]
    return float(torch.quantile(inside[:: max(1, len(inside) // 100_000)], TOP))


def middle_of(mask: Tensor) -> tuple[int, int]:
    """Sides of the centred box that was measured whole: the one whose shorter side is longest, at most MOST a side.

    Raises ValueError where there is none that coils could be learned from.
    """
    height, width = mask.shape
    sides = (0, 0)
    for half in range(1, min(height, MOST) // 2 + 1):
        rows = mask[height // 2 - half : height // 2 + half].all(0)
        left, right = rows[: width // 2].flip(0), rows[width // 2 :]
        whole = min(int(side.long().cumprod(0).sum()) for side in (left, right))
        sides = max(sides, (2 * half, min(2 * whole, MOST)), key=lambda s: (min(s), sum(s)))
    if min(sides) < LEAST:
        raise ValueError(
            f"the middle of k-space that was measured whole is {sides[0]} x {sides[1]} samples, expected at least"
            f" {LEAST} a side to learn coil maps from."
        )
    return sides


def _centre(k_space: Tensor, sides: tuple[int, int]) -> Tensor:
    (height, width), (a, b) = k_space.shape[-2:], sides
    return k_space[..., height // 2 - a // 2 : height // 2 - a // 2 + a, width // 2 - b // 2 : width // 2 - b // 2 + b]


def _unmixed_by_noise(
    samples: Tensor, far: Tensor, noise: Tensor | None, told: float | None
) -> tuple[Tensor, Tensor | None]:
    """Samples whose noise is independent and of size 1, and how that was mixed; scaled alone where it is told."""
    if told is not None:
        return told * samples, None
    mixing = _mixing(samples, far, noise)
    return _unmixed(samples, mixing), mixing


def _mixing(k_space: Tensor, far: Tensor, noise: Tensor | None) -> Tensor:
    """(coils, coils), lower triangular: how independent noise of size 1 (both parts together) is mixed into that of the
    coils; `far`: measured samples that are taken for noise where there is no scan of it.
    """
    dead = (k_space.abs().flatten(1).amax(1) == 0).nonzero().flatten().tolist()
    if dead:
        raise ValueError(f"coil {dead[0]} holds no signal at all.")
    samples = k_space[:, far] if noise is None else noise
    if samples.shape[1] < 4 * len(k_space):
        raise ValueError("too few samples lie at the edge of k-space to tell the noise by.")
    size = samples.abs().square().sum(0)
    quiet = samples[:, size <= torch.quantile(size, 0.9)] if noise is None else samples  # a bright edge is signal
    covariance = (quiet @ quiet.conj().T) / quiet.shape[1]
    if noise is None:
        covariance = covariance / _kept(len(k_space))
    mixing: Tensor = torch.linalg.cholesky(
        covariance + 1e-6 * covariance.diagonal().real.mean() * torch.eye(len(k_space))
    )
    return mixing


def _unmixed(coils: Tensor, mixing: Tensor) -> Tensor:
    """What coils (coils, ...) hold or see, so that their noise is independent and of size 1."""
    flat: Tensor = torch.linalg.solve_triangular(mixing, coils.flatten(1), upper=False)
    return flat.reshape(coils.shape)


def _of_length_one(maps: Tensor, mixing: Tensor | None) -> Tensor:
    """Maps of unmixed coils, of length 1 over coils and 0 where they see nothing, as `coil_maps` has them."""
    maps = maps.to(torch.complex64)
    maps = maps if mixing is None else _unmixed(maps, mixing)
    size = maps.norm(dim=0)
    return torch.where(size > SEEN * size.max(), maps / size.clamp(min=1e-30), torch.zeros((), dtype=maps.dtype))


def _kept(coils: int) -> float:
    """Of the energy of Gaussian noise, the part below its ninth decile: chi-square with two degrees a coil."""
    from scipy.stats import chi2

    limit = chi2.ppf(0.9, 2 * coils)
    return float(chi2.cdf(limit, 2 * coils + 2) / 0.9)


def _edge(mask: Tensor) -> Tensor:
    """bool (y, x): measured samples far from the middle."""
    lines = [torch.linspace(-1, 1, n) for n in mask.shape]
    far = torch.stack(torch.meshgrid(*lines, indexing="ij")).abs().amax(0) > EDGE
    return far & mask


def coil_maps(k_space: Tensor, sides: tuple[int, int], kernel: int = KERNEL, singular: float = SINGULAR) -> Tensor:
    """(coils, y, x), of length 1 over coils and 0 where they see nothing: ESPIRiT (Uecker et al. 2014).

    Neighbourhoods of the measured middle span a small space; images that lie in it are eigenvectors, with eigenvalue 1,
    of what projecting on it does at each voxel. Their phase is that of the coils' common part.
    """
    centre = _centre(k_space, sides)
    coils, (height, width) = len(k_space), k_space.shape[-2:]
    blocks = centre.unfold(1, kernel, 1).unfold(2, kernel, 1).permute(1, 2, 0, 3, 4).reshape(-1, coils * kernel**2)
    values, vectors = torch.linalg.eigh(blocks.conj().T @ blocks)
    signal = vectors[:, values.clamp(min=0).sqrt() > singular * values[-1].clamp(min=0).sqrt()]
    kernels = signal.T.conj().reshape(-1, coils, kernel, kernel)
    (down, across), common = [_waves(n, kernel) for n in (height, width)], _reference(centre)
    found = torch.zeros(coils, height, width, dtype=k_space.dtype)
    for rows in torch.split(torch.arange(height), max(1, VOXELS // width)):  # all at once would take gigabytes
        seen = torch.einsum("ncij,yi,xj->yxcn", kernels, down[rows], across)
        maps, value = _main_vectors(seen @ seen.conj().transpose(-1, -2), common)
        found[:, rows] = (maps * (value > VALID)[..., None]).permute(2, 0, 1)
    return found


def _waves(side: int, kernel: int) -> Tensor:
    """(side, kernel): what each sample of a neighbourhood adds to each voxel, of size 1 / kernel^0.5."""
    places, samples = torch.arange(side) - side // 2, torch.arange(kernel) - kernel // 2
    return torch.exp(2j * math.pi * places[:, None] * samples / side) / math.sqrt(kernel)


def _main_vectors(gram: Tensor, common: Tensor) -> tuple[Tensor, Tensor]:
    """((y, x, coils) of length 1, (y, x)): main eigenvectors and their values, by squaring; phases told against
    `common`.
    """
    power = gram
    for _ in range(SQUARINGS):
        power = power @ power
        power = power / power.diagonal(dim1=-2, dim2=-1).real.sum(-1).clamp(min=1e-30)[..., None, None]
    vectors = power @ common
    weak = vectors.norm(dim=-1) < 1e-6  # where the common part sees nothing, another column does
    vectors = torch.where(weak[..., None], power.sum(-1), vectors)
    vectors = vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    value = ((gram @ vectors[..., None])[..., 0] * vectors.conj()).sum(-1).real
    phase = (vectors * common.conj()).sum(-1).angle()
    return vectors * torch.exp(-1j * phase)[..., None], value


def _reference(centre: Tensor) -> Tensor:
    """(coils,): the mixture that holds most of the signal; phases are told against it."""
    flat = centre.flatten(1)
    _, vectors = torch.linalg.eigh(flat @ flat.conj().T)
    main: Tensor = vectors[:, -1]
    return main


def smooth_phase(k_space: Tensor, maps: Tensor, sides: tuple[int, int]) -> Tensor:
    """(y, x) of length 1: the phase of the image that the middle of k-space alone gives, windowed by Hann."""
    window = [torch.zeros(n) for n in k_space.shape[-2:]]
    for line, side in zip(window, sides, strict=True):
        start = len(line) // 2 - side // 2
        line[start : start + side] = torch.hann_window(side, periodic=False)
    low = to_image(k_space * window[0][:, None] * window[1], 2)
    image = (low * maps.conj()).sum(0)
    return torch.exp(1j * image.angle())
