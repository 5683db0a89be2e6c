"""From one or two moments of a heart to its whole cycle, as much ejected as is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..contracts import POSITION, Batch, Job, Problem, Signature
from ..data.filmed import EJECTED
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
        return self.frames.gathered(members, new)

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        return self.frames.problem(batch, self.known)

    def question(self, batch: Batch, rng: Rng) -> Problem:
        return self.frames.question(batch, self.known)

    def finished(self, x: Tensor, problem: Problem) -> Tensor:
        return self.frames.finished(x, problem)

    def rivals(self, problem: Problem) -> Mapping[str, Tensor]:
        given = self.frames.shown(problem)
        if len(self.frames.given) == 1:
            return {"nothing moves": self.frames.blended(given)}
        return {"linear blending": self.frames.blended(given), "optical flow": self.frames.flowed(given)}
