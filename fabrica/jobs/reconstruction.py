"""From raw data to an image: MR, CT or PET. The prior learns images alone; y comes when drawing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..contracts import POSITION, Batch, Condition, Job, Problem, Signature
from ..contracts.measured import joined
from ..data.acquisition import ACQUISITIONS, Acquisition
from ..data.vocabulary import field_of
from ..physics.algebra import Gridded
from ..registry import build
from ..rng import Rng
from .imaging import Axes


class Reconstruction(Job):
    """Raw data -> x, slice by slice. Where a case has raw data they are used; else they are simulated from its image.

    `acquisition` says how: `mr` (k-space of several coils, undersampled), `ct` (parallel beams, few views, a dose),
    `pet` (few counts), with their options: `{name: ct, views: 60}`.
    """

    metrics = ("mae", "psnr", "ssim")
    competitors = ("mean", "crude")

    def __init__(self, x: str = "T1w", *, acquisition: str | Mapping[str, Any] = "mr", axes: Axes = "yx") -> None:
        if axes != "yx":
            raise ValueError("reconstruction needs slices. Write: axes: yx")
        self.x, self.acquisition = field_of(x), _acquisition(acquisition)
        if self.x.kind != "intensity":
            raise ValueError(f"reconstruction.x is {x}, expected an image, such as T1w.")
        if self.x.unit != self.acquisition.unit:
            raise ValueError(
                f"reconstruction.x is {x}, in {self.x.unit}; the acquisition measures images in"
                f" {self.acquisition.unit}. Write: acquisition: {{name: mr}}, ct with x: CT, pet with x: PET"
            )
        self.simulates = (self.x.name,)

    def signature(self) -> Signature:
        return Signature((self.x,), "yx", (POSITION,), {self.acquisition.name: self.acquisition.kind})

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        return prior_problem(self.x.name, batch)

    def question(self, batch: Batch, rng: Rng) -> Problem:
        name, images = self.acquisition.name, batch.images[self.x.name]
        measured = batch.measurements.get(name)
        if measured is None:
            pixels = batch.affine[:, :3, 1:3].norm(dim=1).tolist()  # mm of a step in y and in x
            rows = [
                self.acquisition.measure(image, (pixels[k][0], pixels[k][1]), rng.rows(torch.tensor([k])))
                for k, image in enumerate(images.cpu())
            ]
            measured = joined(rows).to(images.device)
        operator = measured.operator
        assert isinstance(operator, Gridded)  # what acquisitions measure by
        condition = Condition({POSITION.name: batch.values[POSITION.name]})
        return Problem(batch.cases, (1, *operator.sides), condition, {name: measured})


def prior_problem(name: str, batch: Batch) -> Problem:
    """What a prior of slices learns: images, and where they lie."""
    target, known = batch.images[name], batch.present.get(name)
    weight = None if known is None else known.float().reshape(-1, *[1] * (target.ndim - 1))
    condition = Condition({POSITION.name: batch.values[POSITION.name]})
    return Problem(batch.cases, tuple(target.shape[1:]), condition, target=target, weight=weight)


def _acquisition(plain: str | Mapping[str, Any]) -> Acquisition:
    """From a recipe's words; raises ValueError for one that is not known, or not so."""
    options = {"name": plain} if isinstance(plain, str) else dict(plain)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(f"reconstruction.acquisition has no name. Write: {{name: {ACQUISITIONS.names()[0]}}}")
    return build(f"acquisition {name!r}", ACQUISITIONS.find(name), options)
