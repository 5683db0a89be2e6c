"""From a few frames of a film to all of them: what lies in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..contracts import POSITION, Batch, Job, Problem, Signature
from ..rng import Rng
from .films import Frames
from .imaging import Axes
from .values import NONE


class Interpolation(Job):
    """Each `every`-th of `frames` frames, evenly spaced in time -> all of them, slice by slice, at once.

    What is learned is how frames differ from a linear blend of the given ones. Given frames come back as they were.
    `periodic`: the last frame is followed by the first, as in a heart's cycle. `generate` takes films of the given
    frames alone. Rivals: linear blending; the nearest frame held; both neighbours moved along their optical flow.
    """

    answer = "film"
    metrics = ("psnr", "ssim")
    competitors = ()
    judged_with = ("ventricle",)

    def __init__(
        self, x: str = "cine", *, frames: int = 20, every: int = 2, periodic: bool = True, axes: Axes = "yx"
    ) -> None:
        if axes != "yx":
            raise ValueError("interpolation needs slices. Write: axes: yx")
        if not 2 <= every <= frames // 2:
            raise ValueError(f"interpolation.every is {every} of {frames} frames, expected 2 to {frames // 2}.")
        self.frames = Frames(x, frames, tuple(range(0, frames, every)), periodic)
        self.asked_frames = self.frames.asked

    def signature(self) -> Signature:
        film, given = self.frames.fields()
        return Signature((film,), "yx", (given, POSITION))

    def gathered(self, members: Sequence[Any], new: bool = False) -> tuple[Any, ...]:
        return self.frames.gathered(members, new)

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        return self.frames.problem(batch, NONE)

    def question(self, batch: Batch, rng: Rng) -> Problem:
        return self.frames.question(batch, NONE)

    def finished(self, x: Tensor, problem: Problem) -> Tensor:
        return self.frames.finished(x, problem)

    def rivals(self, problem: Problem) -> Mapping[str, Tensor]:
        given, frames = self.frames.shown(problem), self.frames
        return {
            "linear blending": frames.blended(given), "nearest frame": frames.blended(given, held=True),
            "optical flow": frames.flowed(given),
        }  # fmt: skip
