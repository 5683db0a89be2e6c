"""A job whose y training sees too: what families learn from that are made for what was measured."""

from __future__ import annotations

from dataclasses import replace

from ..contracts import Batch, Job, Problem, Signature
from ..rng import Rng


class Posed(Job):
    """The inner job's questions, as drawing asks them, beside what x was."""

    def __init__(self, inner: Job) -> None:
        self.inner, self.metrics = inner, inner.metrics

    def signature(self) -> Signature:
        return self.inner.signature()

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        known, asked = self.inner.problem(batch, rng), self.inner.question(batch, rng.child("question"))
        return replace(asked, target=known.target, weight=known.weight)

    def question(self, batch: Batch, rng: Rng) -> Problem:
        return self.inner.question(batch, rng)
