"""From a few frames of a film to all of them: what lies in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..contracts import POSITION, Batch, Condition, Field, Job, Problem, Signature
from ..data.filmed import GIVEN, filmed
from ..rng import Rng
from .imaging import Axes

LOUDER = 4.0  # how much a difference is scaled up: networks expect numbers about as large as images


class Interpolation(Job):
    """Each `every`-th of `frames` frames, evenly spaced in time -> all of them, slice by slice, at once.

    What is learned is how frames differ from a linear blend of the given ones. Given frames come back as they were.
    `periodic`: the last frame is followed by the first, as in a heart's cycle. `generate` takes films of the given
    frames alone. Rivals: linear blending; the nearest frame held.
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
        self.film, self.frames, self.every, self.periodic = x, frames, every, periodic
        self.given_frames = torch.arange(0, frames, every)
        self.asked_frames = tuple(t for t in range(frames) if t % every)

    def signature(self) -> Signature:
        count = len(self.given_frames)
        asked = Field(self.film, "intensity", self.frames, frames=self.frames)
        return Signature((asked,), "yx", (Field(GIVEN + self.film, "intensity", count, frames=count), POSITION))

    def gathered(self, members: Sequence[Any], new: bool = False) -> tuple[Any, ...]:
        return tuple(filmed(m, self.film, self.frames, self.every, new) for m in members)

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        film = batch.images[self.film]
        given = film[:, self.given_frames]  # on the film's own scale, which those stored alone are not
        target = (film - self._blended(given, False)) * LOUDER
        weight = torch.ones(1, self.frames, *[1] * (target.ndim - 2), device=target.device)
        weight[:, self.given_frames] = 0.1  # they are put back in the end
        asked = self.question(replace(batch, images={**batch.images, GIVEN + self.film: given}), rng)
        return replace(asked, target=target, weight=weight.expand(len(target), -1, *[-1] * (target.ndim - 2)))

    def question(self, batch: Batch, rng: Rng) -> Problem:
        name = GIVEN + self.film
        given = batch.images[name]
        present = {name: batch.present[name]} if name in batch.present else {}
        condition = Condition({name: given, POSITION.name: batch.values[POSITION.name]}, present)
        return Problem(batch.cases, (self.frames, *given.shape[2:]), condition)

    def finished(self, x: Tensor, problem: Problem) -> Tensor:
        given = problem.condition.values[GIVEN + self.film].to(x)
        whole = self._blended(given, False) + x / LOUDER
        whole[:, self.given_frames] = given
        return whole

    def rivals(self, problem: Problem) -> Mapping[str, Tensor]:
        given = problem.condition.values[GIVEN + self.film]
        return {"linear blending": self._blended(given, False), "nearest frame": self._blended(given, True)}

    def _blended(self, given: Tensor, held: bool) -> Tensor:
        """(B, frames, y, x): between two given frames by the time that has passed."""
        frames = []
        for t in range(self.frames):
            before = t // self.every
            start = int(self.given_frames[before])
            last = before + 1 == len(self.given_frames)
            after, end = (0, self.frames) if last and self.periodic else (before + 1, start + self.every)
            share = 0.0 if last and not self.periodic else (t - start) / (end - start)
            share = round(share) if held else share
            one, other = given[:, before], given[:, after if share else before]
            frames.append((1 - share) * one + share * other)
        return torch.stack(frames, 1)
