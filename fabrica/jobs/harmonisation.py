"""An image of any site as the site that all are brought to would have made it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..contracts import Batch, Job, Problem, Signature
from ..data.travelling import ELSEWHERE, travelled
from ..rng import Rng
from .imaging import Axes, Translation


class Harmonisation(Job):
    """The image `x` of another site -> that of the site `to`, of the same patient.

    Learned of patients who were scanned at both within a month (travelling patients), or, with `pairing: none`, without
    using that the answer is the same patient's. The report asks whether a classifier that is trained anew still tells
    sites apart, beside histogram matching and ComBat, and whether the effect of age and lesions stay. `vary` changes
    the intensity curve of what is given in training.
    """

    metrics = ("mae", "psnr", "ssim")
    competitors = ("copied", "histogram")
    judged_with = ("brain_mask", "lesion")

    def __init__(
        self, x: str = "T1w", *, to: str = "A", neighbours: int = 0, vary: float = 0.1, axes: Axes = "yx"
    ) -> None:
        self.contrast, self.to = x, to
        self.standardises = (ELSEWHERE + x, x)
        self._inner = Translation([ELSEWHERE + x], [x], axes=axes, neighbours=neighbours, vary=vary)

    def signature(self) -> Signature:
        return self._inner.signature()

    def gathered(self, members: Sequence[Any], new: bool = False) -> tuple[Any, ...]:
        return travelled(members, self.contrast, self.to, new)

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        return self._inner.problem(batch, rng)

    def question(self, batch: Batch, rng: Rng) -> Problem:
        return self._inner.question(batch, rng)
