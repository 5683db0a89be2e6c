"""From two images of a patient to what has moved between them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..contracts import Batch, Job, Problem, Signature
from ..data.moving import FIXED, LEAST_MM, MOTION, MOVING, START, pairs_of, started, visits_of
from ..io import UnreadableError
from ..rng import Rng
from .imaging import Axes, Translation

LOUDER = 8.0  # how much a difference from the start is scaled up: about a millimetre becomes 1


def _start(problem: Problem) -> Tensor:
    """(B, 3, *axes) on the scale of x."""
    return torch.cat([problem.condition.values[name] for name in START], 1)


class Registration(Job):
    """A fixed and a moving image -> the velocity (mm, along LPS z, y, x) whose field brings the second onto the first.

    Learned on images moved by smooth fields that are known, `pairs` of each, up to `largest_mm`; `vary` changes the
    intensity curve of both in training. The field is diffeomorphic: it is the velocity scaled and squared. `generate`
    takes two visits of a patient; the first, or the one called planning, is the moving one.

    `start`: what registration without learning tells of a pair is given, and how the motion differs from it is learned.
    """

    metrics = ()
    competitors = ()

    def __init__(
        self, image: str = "T1w", *, pairs: int = 4, largest_mm: float = 10.0, vary: float = 0.1, start: bool = True,
        axes: Axes = "zyx",
    ) -> None:  # fmt: skip
        if axes != "zyx":
            raise ValueError("registration needs volumes. Write: axes: zyx")
        if not 1 <= pairs <= 100:
            raise ValueError(f"registration.pairs is {pairs}, expected 1 to 100 of each image.")
        if not LEAST_MM <= largest_mm <= 60:
            raise ValueError(f"registration.largest_mm is {largest_mm:g}, expected {LEAST_MM:g} to 60 mm.")
        self.image, self.pairs, self.largest_mm, self.start = image, pairs, largest_mm, start
        self.reference, self.moves = FIXED + image, (FIXED + image, MOVING + image)
        given = [*self.moves, *(START if start else ())]
        self._inner = Translation(given, list(MOTION), axes="zyx", vary=vary)

    def signature(self) -> Signature:
        return self._inner.signature()

    def gathered(self, members: Sequence[Any], new: bool = False) -> tuple[Any, ...]:
        pairs = functools.partial(pairs_of, contrast=self.image, pairs=self.pairs, largest_mm=self.largest_mm)
        found = visits_of(members, self.image) if new else pairs(members)
        return tuple(started(member, self.image) for member in found) if self.start else found

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        asked = self._inner.problem(batch, rng)
        if not self.start or asked.target is None:
            return asked
        return replace(asked, target=(asked.target - _start(asked)) * LOUDER)

    def finished(self, x: Tensor, problem: Problem) -> Tensor:
        return _start(problem).to(x) + x / LOUDER if self.start else x

    def question(self, batch: Batch, rng: Rng) -> Problem:
        """Raises UnreadableError for a pair that comes without what it starts from."""
        known = batch.present.get(START[0])
        if self.start and known is not None and not bool(known.all()):
            name = batch.cases[0].partition("/")[0]
            raise UnreadableError(f"{name} comes without a start.", "Ask job.gathered(members, True) for pairs.")
        return self._inner.question(batch, rng)
