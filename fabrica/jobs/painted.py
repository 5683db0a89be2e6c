"""A synthesis of which part is known: what painting asks. Its y is x itself behind a mask, without noise."""

from __future__ import annotations

from dataclasses import replace

from ..contracts import Batch, Job, Measured, Problem, Signature
from ..physics import Exact, Mask
from ..rng import Rng

KNOWN = "known"  # the name of the measurement


class Painted(Job):
    """The inner job's questions, with what the batch says is known of x."""

    def __init__(self, inner: Job) -> None:
        self.inner, self.metrics = inner, inner.metrics

    def signature(self) -> Signature:
        return replace(self.inner.signature(), measurements={KNOWN: Measured(Mask, Exact)})

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        return replace(self.inner.problem(batch, rng), measurements=dict(batch.measurements))

    def question(self, batch: Batch, rng: Rng) -> Problem:
        return replace(self.inner.question(batch, rng), measurements=dict(batch.measurements))
