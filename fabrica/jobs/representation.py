"""From images to features that nobody has named: what a self-supervised encoder learns on the user's own scans."""

from __future__ import annotations

from collections.abc import Sequence

from ..contracts import Batch, Condition, Field, Job, Problem, Signature
from ..data.vocabulary import field_of
from ..rng import Rng
from .imaging import Axes, one_hot


class Representation(Job):
    """Images -> a vector of `width` features; there is no answer to compare with, so only families that learn
    embeddings take it.
    """

    answer = "features"
    competitors = ()

    def __init__(self, source: Sequence[str], *, width: int = 64, axes: Axes = "yx") -> None:
        if width < 2:
            raise ValueError(f"representation.width is {width}, expected at least 2 features, such as 64.")
        self.source, self.width, self.axes = tuple(map(field_of, source)), width, axes

    def signature(self) -> Signature:
        return Signature((Field("features", "embedding", self.width, ""),), "", self.source, given_axes=self.axes)

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        return self.question(batch, rng)

    def question(self, batch: Batch, rng: Rng) -> Problem:
        labels = {f.name: f.channels for f in self.source if f.kind == "label"}
        images = {f.name: batch.images[f.name] for f in self.source}
        given = {n: one_hot(i, labels[n]) if n in labels else i for n, i in images.items()}
        present = {n: batch.present[n] for n in images if n in batch.present}
        return Problem(batch.cases, (self.width,), Condition(given, present))
