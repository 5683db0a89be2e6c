"""From two earlier visits to the next: how a patient will look, years ahead. Never an acquisition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..contracts import Batch, Job, Problem, Signature
from ..data.followed import AHEAD, APART, BEFORE, LAST, followed
from ..rng import Rng
from .imaging import Axes, Translation

YEARS = (2.0, 2.0)  # centre and width of gaps between visits


class Progression(Job):
    """Two visits of a patient, the years between them and the years ahead -> the image of the visit to come.

    Every visit that two others came before is a case; `generate` draws the one after the last, `years_ahead` later (or
    as `--value "years ahead=2"` says). Rivals: nothing changes; the change goes on as it was.
    """

    metrics = ("mae", "psnr", "ssim", "csf_volume_error")
    competitors = ("mean", "crude")
    judged_with = ("brain_mask",)

    def __init__(
        self, x: str = "T1w", *, years_ahead: float = 1.0, covariates: Sequence[str] = ("age",), axes: Axes = "yx"
    ) -> None:
        if years_ahead <= 0:
            raise ValueError(f"progression.years_ahead is {years_ahead:g}, expected years above 0.")
        scales = {AHEAD: YEARS, APART: YEARS, **{name: [50.0, 20.0] for name in covariates}}
        self.contrast, self.years_ahead = x, years_ahead
        given = [LAST + x, BEFORE + x]
        self._inner = Translation(given, [x], axes=axes, vary=0.0, values={"covariates": scales})
        self.hidden: tuple[str, ...] = ()

    def signature(self) -> Signature:
        return self._inner.signature()

    def gathered(self, members: Sequence[Any], new: bool = False) -> tuple[Any, ...]:
        return followed(members, self.contrast, self.years_ahead if new else None)

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        return self._inner.problem(batch, rng)

    def question(self, batch: Batch, rng: Rng) -> Problem:
        return self._inner.question(batch, rng)

    def rivals(self, problem: Problem) -> Mapping[str, Tensor]:
        last, before = (problem.condition.values[mark + self.contrast] for mark in (LAST, BEFORE))
        centre, width = YEARS
        ahead, apart = (centre + width * problem.condition.values[n].float() for n in (AHEAD, APART))
        rate = (ahead / apart.clamp(min=1e-3)).reshape(-1, *[1] * (last.ndim - 1))
        return {"nothing changes": last, "the change goes on": torch.clamp(last + rate * (last - before), min=0)}
