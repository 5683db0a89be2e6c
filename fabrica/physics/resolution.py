"""Blur and fewer voxels: what a pixel of a coarser image gathers of a finer one, axis by axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .algebra import LinearOperator


def gathered(fine: int, coarse: int, first: float, width: float) -> Tensor:
    """(coarse, fine): pixel k gathers evenly what lies within `width` fine voxels around `first` + k `width`."""
    middle = first + width * torch.arange(coarse, dtype=torch.float64)
    low, high = middle[:, None] - width / 2, middle[:, None] + width / 2
    voxel = torch.arange(fine, dtype=torch.float64)
    shares = (torch.minimum(high, voxel + 0.5) - torch.maximum(low, voxel - 0.5)).clamp(min=0)
    return (shares / width).float()


class Resolution(LinearOperator):
    """y = R_y x R_x^T: x (B, 1, *axes), y (B, 1, *coarser axes). `matrices`: one (coarse, fine) for each axis, or none
    where an axis stays as it is; a plain noisy image has none.
    """

    details = "image"

    def __init__(self, matrices: Sequence[Tensor | None]) -> None:
        super().__init__()
        for axis, matrix in enumerate(matrices):
            self.register_buffer(f"matrix_{axis}", matrix)
        self.axes = len(matrices)

    @property
    def matrices(self) -> tuple[Tensor | None, ...]:
        return tuple(getattr(self, f"matrix_{axis}") for axis in range(self.axes))

    @property
    def coarser(self) -> bool:
        return any(m is not None for m in self.matrices)

    def _moved(self, x: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
        for axis, matrix in enumerate(matrices):
            if matrix is not None:
                where = axis - self.axes
                x = (x.movedim(where, -1) @ matrix.T.to(x)).movedim(-1, where)
        return x

    def apply_to(self, x: Tensor) -> Tensor:
        return self._moved(x, self.matrices)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._moved(y, [None if m is None else m.T for m in self.matrices])

    def crude(self, y: Tensor) -> Tensor:
        """Each voxel from the pixels that gather it: what it shows when it is only made larger."""
        return self._moved(y, [None if m is None else (m / m.sum(0).clamp(min=1e-12)).T for m in self.matrices])

    def solved(self, y: Tensor) -> Mapping[str, Tensor]:
        """Cubic interpolation of a coarse image, non-local means of a noisy one (Buades et al. 2005)."""
        return {"cubic": self._cubic(y)} if self.coarser else {"non-local means": _non_local_means(y)}

    def _cubic(self, y: Tensor) -> Tensor:
        """Splines through the middles of the pixels."""
        import numpy as np
        from scipy.ndimage import map_coordinates

        lines = []
        for n, matrix in zip(y.shape[2:], self.matrices, strict=True):
            if matrix is None:
                lines.append(torch.arange(n, dtype=torch.float64))
                continue
            middle = (matrix.double() @ torch.arange(matrix.shape[1], dtype=torch.float64)) / matrix.double().sum(1)
            width = float(middle[1] - middle[0]) if n > 1 else 1.0
            lines.append((torch.arange(matrix.shape[1], dtype=torch.float64) - float(middle[0])) / width)
        places = torch.stack(torch.meshgrid(*lines, indexing="ij")).numpy()
        rows = [map_coordinates(row[0].double().numpy(), places, order=3, mode="nearest") for row in y.cpu()]
        return torch.from_numpy(np.stack(rows)[:, None]).to(y)

    def corner(self, sides: tuple[int, ...]) -> Resolution:
        """The first voxels, and as many coarse ones as see any of them."""
        cut = []
        for n, matrix in zip(sides, self.matrices, strict=False):
            part = None if matrix is None else matrix[:, :n]
            cut.append(part if part is None else part[part.sum(1) > 0])
        return Resolution(cut)


def _non_local_means(y: Tensor) -> Tensor:
    import numpy as np
    from skimage.restoration import denoise_nl_means

    rows = []
    for row in y.cpu().numpy():
        sigma = noise_of(torch.from_numpy(row))
        rows.append(denoise_nl_means(row[0], 5, 6, h=0.8 * sigma, sigma=sigma, fast_mode=True) if sigma else row[0])
    return torch.from_numpy(np.stack(rows)[:, None]).to(y)


def noise_of(image: Tensor) -> float:
    """The deviation of white Gaussian noise in an image (1, *axes), from second differences along both axes at once.

    They are blind to slopes and to edges along an axis (Immerkaer 1996); their median magnitude where they are not
    exactly 0 (Donoho and Johnstone 1994): corners are few, a background that a mask has blanked tells nothing.
    """
    down = image[..., 2:, :] - 2 * image[..., 1:-1, :] + image[..., :-2, :]
    both = (down[..., 2:] - 2 * down[..., 1:-1] + down[..., :-2]) / 6
    told = both[both != 0].abs()
    return float(told.median() / 0.6745) if told.numel() else 0.0
