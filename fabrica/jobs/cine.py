"""From one or two moments of a heart to its whole cycle, as much ejected as is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..contracts import POSITION, Batch, Condition, Job, Problem, Signature
from ..data.filmed import EJECTED, GIVEN, filmed
from ..rng import Rng
from .films import Frames
from .imaging import Axes
from .values import Values

SCALE = (45.0, 15.0)  # percent: centre and width


class Cine(Job):
    """The `given` frames of a heart's cycle, the first at end-diastole -> all `frames`, evenly spaced, periodic.

    `ejection: true`: the ejection fraction (percent, a value `ejection_fraction`) is given too, so that one frame is
    enough and a beat that nobody has seen can be asked for (`--value ejection_fraction=30`). What is learned is how
    frames differ from a linear blend of those given, of a single one from that one. Slices are drawn one by one.
    """

    answer = "film"
    metrics = ("psnr", "ssim")
    competitors = ()
    judged_with = ("ventricle",)

    def __init__(
        self, x: str = "cine", *, frames: int = 20, given: Sequence[int] = (0,), ejection: bool = True,
        axes: Axes = "yx",
    ) -> None:  # fmt: skip
        if axes != "yx":
            raise ValueError("cine needs slices. Write: axes: yx")
        if len(given) == 1 and not ejection:
            raise ValueError("One frame does not say how the heart beats. Write: ejection: true, or given: [0, 7]")
        self.frames = Frames(x, frames, tuple(given), periodic=True)
        self.asked_frames = self.frames.asked
        self.known = Values.of("cine", None, {EJECTED: SCALE} if ejection else (), None)

    def signature(self) -> Signature:
        film, given = self.frames.fields()
        return Signature((film,), "yx", (given, *self.known.fields(), POSITION))

    def gathered(self, members: Sequence[Any], new: bool = False) -> tuple[Any, ...]:
        known = self.frames
        return tuple(filmed(m, known.film, known.frames, known.given, new) for m in members)

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        shown = {**batch.images, GIVEN + self.frames.film: self.frames.seen(batch)}
        return self.frames.taught(self.question(replace(batch, images=shown), rng), batch.images[self.frames.film])

    def question(self, batch: Batch, rng: Rng) -> Problem:
        name = GIVEN + self.frames.film
        given = batch.images[name]
        values = {name: given, **self.known.given(batch), POSITION.name: batch.values[POSITION.name]}
        present = {n: batch.present[n] for n in (name, *self.known.names) if n in batch.present}
        return Problem(batch.cases, (self.frames.frames, *given.shape[2:]), Condition(values, present))

    def finished(self, x: Tensor, problem: Problem) -> Tensor:
        return self.frames.finished(x, problem.condition.values[GIVEN + self.frames.film].to(x))

    def rivals(self, problem: Problem) -> Mapping[str, Tensor]:
        given = problem.condition.values[GIVEN + self.frames.film]
        if len(self.frames.given) == 1:
            return {"nothing moves": self.frames.blended(given)}
        return {"linear blending": self.frames.blended(given), "optical flow": self.frames.flowed(given)}
