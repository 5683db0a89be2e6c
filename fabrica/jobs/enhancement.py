"""From a poor image to a better one: less noise, finer voxels. The prior learns images alone; y comes when drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..contracts import (
    POSITION,
    Batch,
    Condition,
    Image,
    Job,
    Measured,
    Measurement,
    Preparation,
    Problem,
    Signature,
)
from ..contracts.measured import joined
from ..data.grid import Grid, resample
from ..data.prepare import GridPreparation
from ..data.vocabulary import field_of
from ..io import UnreadableError
from ..physics import Gaussian, Resolution
from ..physics.resolution import gathered, noise_of
from ..rng import Rng
from .imaging import Axes
from .reconstruction import prior_problem

POOR = "given image"  # what the measurement is called
LEAST = 0.002  # of the network's scale: noise is never told to be less
ALIKE = 0.01  # of a pixel: how far grids may lie apart and still be one


class Enhancement(Job):
    """A noisy or coarse image -> x, slice by slice. `generate` takes the image that it is given for what was measured.

    In a run poor images are simulated from those of the cohort: pixels `factor` times as wide along y and x, noise of
    `deviation` (1 is the brightest tissue). How much noise an image has is told from it, simulated or given.
    """

    metrics = ("mae", "psnr", "ssim")
    competitors = ("mean", "crude")
    restores = True

    def __init__(
        self, x: str = "T1w", *, factor: Sequence[float] = (1.0, 1.0), deviation: float = 0.1, axes: Axes = "yx"
    ) -> None:
        if axes != "yx":
            raise ValueError("enhancement needs slices. Write: axes: yx")
        if len(factor) != 2 or min(factor) < 1 or not 0 < deviation < 1:
            raise ValueError(
                f"enhancement has factor {list(factor)}, deviation {deviation:g}, expected two numbers from 1 (along y"
                " and x) and a deviation between 0 and 1."
            )
        self.x, self.factor, self.deviation = field_of(x), (float(factor[0]), float(factor[1])), deviation
        if self.x.kind != "intensity":
            raise ValueError(f"enhancement.x is {x}, expected an image, such as T1w.")
        self.simulates = (self.x.name,)

    def signature(self) -> Signature:
        return Signature((self.x,), "yx", (POSITION,), {POOR: Measured(Resolution, Gaussian)})

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        return prior_problem(self.x.name, batch)

    def question(self, batch: Batch, rng: Rng) -> Problem:
        images = batch.images[self.x.name]
        measured = batch.measurements.get(POOR)
        if measured is None:
            rows = [self._simulated(image, rng.rows(torch.tensor([k]))) for k, image in enumerate(images.cpu())]
            measured = joined(rows).to(images.device)
        condition = Condition({POSITION.name: batch.values[POSITION.name]})
        return Problem(batch.cases, (1, *images.shape[2:]), condition, {POOR: measured})

    def _simulated(self, image: Tensor, rng: Rng) -> Measurement:
        """One slice (1, y, x) as a poorer scanner would have given it."""
        matrices = [_evenly(n, f) for n, f in zip(image.shape[1:], self.factor, strict=True)]
        clean = Resolution(matrices)(image[None])
        return _told(clean + self.deviation * rng.child("noise").normal(*clean.shape[1:]), matrices)

    def measured(
        self, images: Mapping[str, Image], grid: Tensor, shape: Sequence[int], preparation: Preparation
    ) -> Mapping[str, Measurement]:
        image = images.get(self.x.name)
        if image is None:
            return {}
        assert isinstance(preparation, GridPreparation)  # what images are prepared by
        scale, poor = preparation.scale_of(image), preparation.as_it_is(image)
        fine = Grid(grid, (shape[0], shape[1], shape[2]))
        (down, rows), (across, columns) = (_between(poor, fine, axis) for axis in (1, 2))
        if down is None and across is None:  # the same voxels; what lies around them is background
            poor, rows, columns = fine, slice(None), slice(None)
        moved = resample(image, poor).data
        slices = (moved if image.axes == "zyx" else moved[:, None])[0][:, rows][..., columns]
        return {POOR: joined([_told(((s - scale.offset) / scale.width)[None, None], (down, across)) for s in slices])}


def _evenly(n: int, factor: float) -> Tensor | None:
    """Pixels `factor` voxels wide from the first voxel on; None where they are the voxels."""
    if factor == 1:
        return None
    return gathered(n, int(n / factor), (factor - 1) / 2, factor)


def _told(values: Tensor, matrices: Sequence[Tensor | None]) -> Measurement:
    """One row (1, 1, *axes) with the noise that it shows."""
    return Measurement(values, Resolution(matrices), Gaussian(max(LEAST, noise_of(values[0]))))


def _between(poor: Grid, fine: Grid, axis: int) -> tuple[Tensor | None, slice]:
    """How pixels of an image gather voxels of x along an axis, and which pixels lie within x as a whole.

    Raises UnreadableError for grids that are turned against each other, and for an image that is finer than x.
    """
    step = torch.linalg.inv(fine.affine.double()) @ poor.affine.double()  # index of the image -> index of x
    width, first, n = float(step[axis, axis]), float(step[axis, 3]), fine.shape[axis]
    turned = step[:3, :3] - torch.diag(step[:3, :3].diagonal())
    if float(turned.abs().max()) > ALIKE or abs(float(step[0, 3])) > ALIKE or abs(float(step[0, 0]) - 1) > ALIKE:
        raise UnreadableError("lies askew to the slices that it is to be brought to.", "Resample it to its slices.")
    if width < 1 - ALIKE:
        raise UnreadableError(
            f"has pixels {width:.2g} times as wide as those that the run learned: it is finer already.",
            "Train on finer images, or give the scan as it was acquired.",
        )
    edges = [first + (k - 0.5) * width for k in range(poor.shape[axis] + 1)]
    inside = [k for k, (low, high) in enumerate(pairwise(edges)) if low >= -0.5 - ALIKE and high <= n - 0.5 + ALIKE]
    if not inside:
        raise UnreadableError("has no pixel within the grid of the run.", "Give a larger image.")
    start, kept = first + inside[0] * width, slice(inside[0], inside[-1] + 1)
    same = abs(width - 1) <= ALIKE and abs(start - round(start)) <= ALIKE
    return (None if same else gathered(n, len(inside), start, width)), kept
