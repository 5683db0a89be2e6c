"""A job around another: what training is shown changes, what drawing asks does not."""

from __future__ import annotations

from ..contracts import Batch, Job, Problem, Signature
from ..rng import Rng


class Around(Job):
    """Asks as the inner job does; whoever is one says what `problem` changes."""

    def __init__(self, inner: Job) -> None:
        self.inner, self.metrics = inner, inner.metrics

    def signature(self) -> Signature:
        return self.inner.signature()

    def question(self, batch: Batch, rng: Rng) -> Problem:
        return self.inner.question(batch, rng)
