"""From earlier visits to the next: how a patient will look, years ahead. Never an acquisition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..contracts import Batch, Job, Problem, Signature
from ..data.followed import (
    AHEAD,
    BEFORE,
    EARLIER,
    LAST,
    SINCE,
    TREATED_AHEAD,
    TREATED_BEFORE,
    followed,
)
from ..rng import Rng
from .imaging import Axes, Translation

YEARS, SHARES = (2.0, 2.0), (0.5, 0.5)  # centre and width of gaps between visits, and of shares of them
LOUDER = 4.0  # how much a change is scaled up: networks expect numbers about as large as images


class Progression(Job):
    """Up to `earlier` visits of a patient at any times, the years since and ahead -> the image of the visit to come.

    Every visit that at least `least` others came before is a case; of those, the last has to be there. `generate` draws
    the one after the last, `years_ahead` later (or as `--value "years ahead=2"` says). `treatment: true`: the
    share of the years ahead (and before) under treatment is given, from a column `treated_years` of each visit, or
    `--value "treated ahead=1"`. `form`: direct draws the image, change how it differs from the last one. Rivals:
    nothing changes; the change goes on as it was.
    """

    metrics = ("mae", "psnr", "ssim", "csf_volume_error")
    competitors = ("mean", "crude")
    judged_with = ("brain_mask",)

    def __init__(
        self, x: str = "T1w", *, years_ahead: float = 1.0, earlier: int = 2, least: int = 2,
        covariates: Sequence[str] = ("age",), treatment: bool = False, form: str = "direct", axes: Axes = "yx",
    ) -> None:  # fmt: skip
        if years_ahead <= 0:
            raise ValueError(f"progression.years_ahead is {years_ahead:g}, expected years above 0.")
        if not 1 <= earlier <= len(EARLIER):
            raise ValueError(f"progression.earlier is {earlier}, expected 1 to {len(EARLIER)} visits.")
        if not least >= 1:
            raise ValueError(f"progression.least is {least}, expected 1 earlier visit at least.")
        if form not in ("direct", "change"):
            raise ValueError(f"progression.form is {form!r}. Write: form: direct, or form: change")
        shares = (TREATED_AHEAD, *((TREATED_BEFORE,) if earlier > 1 else ())) if treatment else ()
        scales = {AHEAD: YEARS, **dict.fromkeys(SINCE[1:earlier], YEARS), **dict.fromkeys(shares, SHARES)}
        scales |= dict.fromkeys(covariates, (50.0, 20.0))
        self.contrast, self.years_ahead, self.earlier, self.form = x, years_ahead, earlier, form
        self.least = min(least, earlier)
        self.treated = TREATED_AHEAD if treatment else ""
        given = [mark + x for mark in EARLIER[:earlier]]
        values = {"covariates": {name: list(scale) for name, scale in scales.items()}}
        self._inner = Translation(given, [x], axes=axes, vary=0.0, values=values)
        self.hidden: tuple[str, ...] = ()

    def signature(self) -> Signature:
        return self._inner.signature()

    def gathered(self, members: Sequence[Any], new: bool = False) -> tuple[Any, ...]:
        ahead = self.years_ahead if new else None
        return followed(members, self.contrast, ahead, fewest=self.least, most=self.earlier)

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        asked = self._inner.problem(batch, rng)
        if self.form == "direct" or asked.target is None:
            return asked
        return replace(asked, target=(asked.target - batch.images[LAST + self.contrast]) * LOUDER)

    def question(self, batch: Batch, rng: Rng) -> Problem:
        return self._inner.question(batch, rng)

    def finished(self, x: Tensor, problem: Problem) -> Tensor:
        if self.form == "direct":
            return x
        last = problem.condition.values[LAST + self.contrast].to(x)
        return torch.clamp(last + x / LOUDER, min=0)

    def rivals(self, problem: Problem) -> Mapping[str, Tensor]:
        values = problem.condition.values
        last = values[LAST + self.contrast]
        found = {"nothing changes": last}
        if self.earlier > 1:
            centre, width = YEARS
            ahead, apart = (centre + width * values[n].float() for n in (AHEAD, SINCE[1]))
            rate = (ahead / apart.clamp(min=1e-3)).reshape(-1, *[1] * (last.ndim - 1))
            before, known = values[BEFORE + self.contrast], problem.condition.present.get(BEFORE + self.contrast)
            if known is not None:  # whoever was seen once stays as he is
                before = torch.where(known.reshape(-1, *[1] * (last.ndim - 1)), before, last)
            found["the change goes on"] = torch.clamp(last + rate * (last - before), min=0)
        return found
