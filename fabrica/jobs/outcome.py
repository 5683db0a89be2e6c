"""From images to a class or a number: what a scan says about the patient who lies in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..contracts import Batch, Field, Job, Problem, Scale, Signature
from ..data.vocabulary import field_of
from ..rng import Rng
from .imaging import Axes, condition_of, varied
from .values import NONE


class Outcome(Job):
    """Images -> one value of the case: a class (`classes` names them) or a number on the scale (number - centre) /
    width.

    Slices of a volume are asked one by one and their answers averaged. `vary` changes the intensity curve in training.
    """

    answer = "value"
    competitors = ("usual",)

    def __init__(
        self, source: Sequence[str], x: str, *, classes: Sequence[str] = (), centre: float = 0.0, width: float = 1.0,
        unit: str = "", axes: Axes = "yx", vary: float = 0.1,
    ) -> None:  # fmt: skip
        if len(classes) == 1:
            raise ValueError(
                f"outcome.classes holds only {classes[0]}. Write at least two: classes: [benign, malignant]"
            )
        if width <= 0:
            raise ValueError(f"outcome.width is {width}, expected a positive scale, such as the spread of {x}.")
        self.source, self.name, self.classes = tuple(map(field_of, source)), x, tuple(map(str, classes))
        self.centre, self.width, self.unit, self.axes, self.vary = centre, width, unit, axes, vary
        self.metrics = ("auc", "brier") if classes else ("absolute error",)

    def signature(self) -> Signature:
        scale = Scale(self.centre, self.width)
        x = (
            Field(self.name, "class", len(self.classes), "", self.classes)
            if self.classes
            else Field(self.name, "number", 1, self.unit, stated=scale)
        )
        return Signature((x,), "", self.source, given_axes=self.axes)

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        images = {f.name: varied(batch.images[f.name], f, self.vary, rng) for f in self.source}
        value, known = batch.values[self.name], batch.present.get(self.name)
        target = F.one_hot(value.long(), len(self.classes)).float() if self.classes else self._scaled(value)
        weight = torch.ones_like(target) if known is None else known.float()[:, None].expand_as(target)
        asked = self._ask(batch, images)
        return Problem(asked.cases, asked.shape, asked.condition, target=target, weight=weight)

    def question(self, batch: Batch, rng: Rng) -> Problem:
        return self._ask(batch, {f.name: batch.images[f.name] for f in self.source})

    def _ask(self, batch: Batch, images: dict[str, Tensor]) -> Problem:
        return Problem(batch.cases, (max(1, len(self.classes)),), condition_of(self.source, images, batch, NONE))

    def _scaled(self, value: Tensor) -> Tensor:
        return ((value - self.centre) / self.width)[:, None]
