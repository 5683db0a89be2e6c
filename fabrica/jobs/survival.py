"""From images, and what else is known of a patient, to how long he stays without an event."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..contracts import Batch, Course, Field, Job, Problem, Signature
from ..data.vocabulary import field_of
from ..rng import Rng
from .imaging import Axes, condition_of, varied
from .values import Values

FEWEST = 10  # events among whoever trains: fewer teach nothing
WORDS = ("event", "time", "unit", "happened", "censored")
Form = Literal["hazards", "proportional"]


class Survival(Job):
    """Images (and `values: {covariates: [age]}`) -> the course until an event, of cases that say when and whether.

    `course: {event: died, time: months, unit: months, happened: yes, censored: no}` names two columns and their words.
    `form`: hazards gives the chance of the event in each of `intervals` up to the last of the `horizons`, by whoever
    was without it before (Brown 1975; Gensheimer and Narasimhan 2019); proportional gives one log-risk, taught by Cox's
    partial likelihood among the rows of a batch, on a baseline told after training (Breslow). Slices are asked one by
    one and averaged. `vary` changes the intensity curve in training.
    """

    answer = "course"
    competitors = ("usual",)

    def __init__(
        self, source: Sequence[str], *, course: Mapping[str, str] | None = None, horizons: Sequence[float] = (1, 3, 5),
        intervals: int = 10, form: Form = "hazards", values: Mapping[str, Any] | None = None, axes: Axes = "yx",
        vary: float = 0.1,
    ) -> None:  # fmt: skip
        if unknown := {*(course or {})} - {*WORDS}:
            raise ValueError(f"survival.course has {', '.join(map(str, unknown))}; it knows {', '.join(WORDS)}.")
        if not 2 <= intervals <= 200:
            raise ValueError(f"survival.intervals is {intervals}, expected 2 to 200 up to the last horizon.")
        named = {name: str(word) for name, word in (course or {}).items()}
        self._course = Course(**named, horizons=tuple(map(float, horizons)), proportional=form == "proportional")
        self.source, self.vary, self.axes = tuple(map(field_of, source)), vary, axes
        self.intervals = 1 if self._course.proportional else intervals
        self.known, self.recorded = Values.within("survival", values), self._course.fields()
        self.course = self._course

    def signature(self) -> Signature:
        x = Field(self._course.event, "event", self.intervals, self._course.unit)
        return Signature((x,), "", (*self.source, *self.known.fields()), given_axes=self.axes)

    def gathered(self, members: Sequence[Any], new: bool = False) -> tuple[Any, ...]:
        """Raises ValueError for a course that means nothing: half of it missing, or a time that is none."""
        for member in () if new else members:
            if fault := self._course.fault(member.values):
                raise ValueError(f"{member.name} {fault}")
        return tuple(members)

    def fitted(self, members: Sequence[Any], home: Path, seed: int, say: Callable[[str], None]) -> Job:
        """Itself. Raises ValueError where training holds too few events."""
        events = sum(self._course.has_event(m.values) for m in members)
        if members and events < FEWEST:
            raise ValueError(
                f"{events} of {len(members)} training cases had the event ({self._course.event} "
                f"{self._course.happened}), expected {FEWEST} at least: where nearly all are censored nothing is"
                " learned. Follow them longer, or name another event: course: {event: COLUMN}"
            )
        return self

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        images = {f.name: varied(batch.images[f.name], f, self.vary, rng) for f in self.source}
        time, event = (batch.values[f.name] for f in self.recorded)
        target, weight = self._lived(time.float(), event > 0)
        asked = self._ask(batch, images)
        return Problem(asked.cases, asked.shape, asked.condition, target=target, weight=weight)

    def question(self, batch: Batch, rng: Rng) -> Problem:
        return self._ask(batch, {f.name: batch.images[f.name] for f in self.source})

    def _ask(self, batch: Batch, images: dict[str, Tensor]) -> Problem:
        return Problem(batch.cases, (self.intervals,), condition_of(self.source, images, batch, self.known))

    def _lived(self, time: Tensor, happened: Tensor) -> tuple[Tensor, Tensor]:
        """(target, weight): an interval counts where it was lived through, or at least half of it by whoever was
        censored in it. Of one log-risk: the time, negative where censored.
        """
        if self._course.proportional:
            signed = torch.where(happened, time, -time)[:, None]
            return signed, torch.ones_like(signed)
        ends = torch.linspace(0, self._course.until, self.intervals + 1, device=time.device)
        there = (time[:, None] > ends[:-1]) & (time[:, None] <= ends[1:])
        middle = (ends[:-1] + ends[1:]) / 2
        lived = torch.where(happened[:, None], time[:, None] > ends[:-1], time[:, None] >= middle)
        return (there & happened[:, None]).float(), lived.float()
