"""Line integrals through a slice by parallel beams: a cached matrix with its transpose; another way to simulate."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

KEPT = 32  # geometries whose matrices stay in memory; subsets of views are their own
STEP = 0.25  # of a pixel, between the samples of a ray where sinograms are simulated


@dataclass(frozen=True)
class ParallelGeometry:
    """Slices of `shape` (y, x) pixels seen from `angles` (radians) by `detectors` bins of `width` pixels.

    At angle 0 rays run along y; the middle of the slice falls on the middle of the detector, moved by `centre` bins.
    """

    shape: tuple[int, int]
    angles: tuple[float, ...]
    detectors: int
    width: float = 1.0
    centre: float = 0.0

    @staticmethod
    def around(shape: Sequence[int], views: int, *, degrees: float = 180.0, width: float = 1.0) -> ParallelGeometry:
        """`views` angles spread evenly over `degrees`, and as many bins as the diagonal of the slice needs."""
        angles = tuple(math.radians(degrees) * k / views for k in range(views))
        height, breadth = shape
        return ParallelGeometry((height, breadth), angles, math.ceil(math.hypot(height, breadth) / width) + 1, width)

    @property
    def bins(self) -> NDArray[np.float64]:
        """Where the middle of each bin lies, in pixels from the middle of the slice."""
        places = np.arange(self.detectors, dtype=np.float64) - (self.detectors - 1) / 2 - self.centre
        return np.asarray(places * self.width, np.float64)


@dataclass(frozen=True)
class Projector:
    """P and its transpose as sparse matrices: sums of pixels by the length of a ray in them, in pixels."""

    geometry: ParallelGeometry
    forward_matrix: Tensor  # (views * detectors, y * x) sparse CSR
    backward_matrix: Tensor  # (y * x, views * detectors) sparse CSR

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, y, x) -> (B, 1, views, detectors)."""
        flat = self.forward_matrix.to(x.device) @ x.reshape(len(x), -1).T
        return flat.T.reshape(len(x), 1, len(self.geometry.angles), self.geometry.detectors)

    def backward(self, y: Tensor) -> Tensor:
        """The transpose: (B, 1, views, detectors) -> (B, 1, y, x)."""
        flat = self.backward_matrix.to(y.device) @ y.reshape(len(y), -1).T
        return flat.T.reshape(len(y), 1, *self.geometry.shape)


@lru_cache(maxsize=KEPT)
def projector(geometry: ParallelGeometry) -> Projector:
    """By Joseph's method (1982): a ray is followed along the axis it is closest to, linear between two pixels."""
    from .rays import joseph

    rows, columns, values = joseph(geometry.shape, np.array(geometry.angles), geometry.bins)
    size = (len(geometry.angles) * geometry.detectors, geometry.shape[0] * geometry.shape[1])
    return Projector(geometry, _csr(rows, columns, values, size), _csr(columns, rows, values, (size[1], size[0])))


def _csr(
    rows: NDArray[np.int64], columns: NDArray[np.int64], values: NDArray[np.float32], size: tuple[int, int]
) -> Tensor:
    from scipy.sparse import coo_matrix

    matrix = coo_matrix((values, (rows, columns)), shape=size).tocsr()
    starts, places = (torch.from_numpy(part.astype(np.int32)) for part in (matrix.indptr, matrix.indices))
    with warnings.catch_warnings():  # CSR tensors say that they are young
        warnings.filterwarnings("ignore", message="Sparse")
        return torch.sparse_csr_tensor(starts, places, torch.from_numpy(matrix.data), size, check_invariants=True)


def simulated(image: Tensor, geometry: ParallelGeometry, finer: int = 2, rays: int = 3) -> Tensor:
    """(1, y, x) -> (1, views, detectors) in pixels of the slice: what bins of a real width see of a finer slice.

    Not the matrix that reconstructs: `finer` times smaller pixels, sampled along each of `rays` rays a bin. A sinogram
    by the same matrix would be explained by it too well (an inverse crime).
    """
    from .rays import sampled

    fine = torch.nn.functional.interpolate(image[None].double(), scale_factor=finer, mode="bilinear")[0, 0]
    seen = sampled(
        fine.numpy(), np.array(geometry.angles), geometry.bins * finer, geometry.width * finer, rays, STEP * finer
    )
    return torch.from_numpy(seen / finer).float()[None]


def filtered(sinogram: Tensor, geometry: ParallelGeometry) -> Tensor:
    """(B, 1, y, x): filtered back projection by a ramp with a Hann window, of views spread evenly over half a turn.

    The ramp is the band-limited one in space (Kak and Slaney 1988, eq. 3.61), so that a level is kept. Views that do
    not cover half a turn are weighted as if they did; what they leave out stays out.
    """
    size = 2 ** math.ceil(math.log2(2 * geometry.detectors))
    n = torch.fft.fftfreq(size, 1 / size).round()
    odd = n.long() % 2 != 0
    kernel = torch.where(odd, -1 / (math.pi * n.clamp(max=-1).where(n < 0, n.clamp(min=1))) ** 2, torch.zeros(size))
    kernel[0] = 0.25
    ramp = torch.fft.rfft(kernel).real / geometry.width
    ramp = ramp * (0.5 + 0.5 * torch.cos(math.pi * torch.linspace(0, 1, len(ramp))))
    spectrum = torch.fft.rfft(sinogram, n=size) * ramp.to(sinogram.device)
    turned = torch.fft.irfft(spectrum, n=size)[..., : geometry.detectors].contiguous()
    scale = math.pi / len(geometry.angles) * geometry.width
    return projector(geometry).backward(turned) * scale
