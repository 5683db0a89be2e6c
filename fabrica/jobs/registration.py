"""From two images of a patient to what has moved between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..contracts import Batch, Job, Problem, Signature
from ..data.moving import FIXED, LEAST_MM, MOTION, MOVING, pairs_of, visits_of
from ..rng import Rng
from .imaging import Axes, Translation


class Registration(Job):
    """A fixed and a moving image -> the velocity (mm, along LPS z, y, x) whose field brings the second onto the first.

    Learned on images moved by smooth fields that are known, `pairs` of each, up to `largest_mm`; `vary` changes the
    intensity curve of both in training. The field is diffeomorphic: it is the velocity scaled and squared. `generate`
    takes two visits of a patient; the first, or the one called planning, is the moving one.
    """

    metrics = ()
    competitors = ()

    def __init__(
        self, image: str = "T1w", *, pairs: int = 4, largest_mm: float = 10.0, vary: float = 0.1, axes: Axes = "zyx"
    ) -> None:
        if axes != "zyx":
            raise ValueError("registration needs volumes. Write: axes: zyx")
        if not 1 <= pairs <= 100:
            raise ValueError(f"registration.pairs is {pairs}, expected 1 to 100 of each image.")
        if not LEAST_MM <= largest_mm <= 60:
            raise ValueError(f"registration.largest_mm is {largest_mm:g}, expected {LEAST_MM:g} to 60 mm.")
        self.image, self.pairs, self.largest_mm = image, pairs, largest_mm
        self.reference, self.moves = FIXED + image, (FIXED + image, MOVING + image)
        self._inner = Translation(list(self.moves), list(MOTION), axes="zyx", vary=vary)

    def signature(self) -> Signature:
        return self._inner.signature()

    def gathered(self, members: Sequence[Any], new: bool = False) -> tuple[Any, ...]:
        if new:
            return visits_of(members, self.image)
        return pairs_of(members, self.image, self.pairs, self.largest_mm)

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        return self._inner.problem(batch, rng)

    def question(self, batch: Batch, rng: Rng) -> Problem:
        return self._inner.question(batch, rng)
