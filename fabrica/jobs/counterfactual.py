"""A patient's image as it would be if one thing about him were otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..contracts import Batch, Job, Problem, Signature, class_name
from ..data.changed import CHANGED, changed_value, with_truths
from ..data.vocabulary import field_of
from ..rng import Rng
from .imaging import Axes, Synthesis
from .seen import KIND, as_it_is, check_deviation
from .values import Values


class Counterfactual(Job):
    """Images x of a patient -> x with one of his `values` changed (`change: {disease: none}`, `{age: "+10"}`).

    A prior learns x by its values (`values: {by: {disease: [none, ms]}, covariates: {age: [50, 20]}}`). Drawing knows
    the image as if it had noise of `deviation` (1 is the brightest tissue) and is told the changed value: what the
    values do not explain has to stay as it is. The report asks for the effect on a classifier, for what changes outside
    of lesions, and whether the patient is still himself; of simulated patients the truth is known.
    """

    answer = "change"
    competitors = ()

    def __init__(
        self, x: Sequence[str], change: Mapping[str, str | float], values: Mapping[str, Any], *, deviation: float = 0.2,
        mask: str = "lesion", drop: float = 0.1, axes: Axes = "yx",
    ) -> None:  # fmt: skip
        known = Values.within("counterfactual", values)
        self._change = {str(name): str(to) for name, to in change.items()}
        self.changes = self._change
        if len(self._change) != 1 or not {*self._change} <= {*known.by, *known.covariates}:
            raise ValueError(
                f"counterfactual.change is {dict(change)}, expected one of its values, {', '.join(known.names)}: "
                "change: {disease: none}"
            )
        ((name, to),) = self._change.items()
        if name in known.by and to not in known.by[name]:
            raise ValueError(f"counterfactual.change says {name} {to}, which is none of {', '.join(known.by[name])}.")
        check_deviation("counterfactual", deviation)
        self.known, self.deviation = known, deviation
        self.simulates = tuple(field_of(n).name for n in x)
        self.judged_with = (mask, *(CHANGED + n for n in self.simulates))
        covariates = {n: list(scale) for n, scale in known.covariates.items()}
        self._inner = Synthesis(x, axes=axes, by=known.by, covariates=covariates, drop=drop)
        self.hidden = self._inner.hidden

    def signature(self) -> Signature:
        return replace(self._inner.signature(), measurements=KIND)

    def gathered(self, members: Sequence[Any], new: bool = False) -> tuple[Any, ...]:
        return tuple(members) if new else with_truths(members, self.simulates, self._change)

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        return self._inner.problem(batch, rng)

    def question(self, batch: Batch, rng: Rng) -> Problem:
        ((name, to),) = self._change.items()
        said = batch.values[name]
        if name in self.known.by:
            wanted = torch.full_like(said, self.known.by[name].index(class_name(to)))
        else:
            wanted = torch.tensor([float(changed_value(float(v), to)) for v in said]).to(said)
        asked = self._inner.question(replace(batch, values={**batch.values, name: wanted}), rng)
        return replace(asked, measurements=as_it_is(batch, self.simulates, self.deviation))
