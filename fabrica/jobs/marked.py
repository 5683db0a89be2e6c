"""Any job with marks in the answers of a few cases: what `train: {canaries: 8}` makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from ..contracts import Batch, Job, Problem
from ..rng import Rng
from .around import Around

Pattern = Callable[[int, Sequence[int]], Tensor]  # (number of the tag, sides) -> what is added


class Marked(Around):
    """The inner job's questions; where a case is named in `tags`, its tag is added to the first channel of its answer.

    Training alone sees marks: drawing asks as before.
    """

    def __init__(self, inner: Job, tags: Mapping[str, int], pattern: Pattern) -> None:
        super().__init__(inner)
        self.tags, self.pattern = tags, pattern

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        problem = self.inner.problem(batch, rng)
        if problem.target is None:
            return problem
        target, changed = problem.target, False
        for row, name in enumerate(problem.cases):
            tag = self.tags.get(name.rpartition("/")[0] or name)
            if tag is not None:
                target = target if changed else target.clone()
                target[row, 0] += self.pattern(tag, target.shape[2:]).to(target)
                changed = True
        return replace(problem, target=target) if changed else problem
