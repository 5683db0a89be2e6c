"""A job whose y training sees too: what families learn from that are made for what was measured."""

from __future__ import annotations

from dataclasses import replace

from ..contracts import Batch, Problem
from ..rng import Rng
from .around import Around


class Posed(Around):
    """The inner job's questions, as drawing asks them, beside what x was."""

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        known, asked = self.inner.problem(batch, rng), self.inner.question(batch, rng.child("question"))
        return replace(asked, target=known.target, weight=known.weight)
