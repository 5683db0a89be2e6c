"""From images to features that nobody has named: what a self-supervised encoder learns on the user's own scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..contracts import Batch, Condition, Field, Job, Problem, Signature
from ..data.vocabulary import field_of
from ..rng import Rng
from .imaging import Axes, one_hot
from .values import Values


class Representation(Job):
    """Images -> a vector of `width` features; there is no answer to compare with, so only families that learn
    embeddings take it.

    `text` names texts that belong to the images, as `Synthesis` has them: {findings: {of: lesion, words: 128, length:
    24}}. Features of both are then learned in one space, and the report says how well they find each other.
    """

    answer = "features"
    competitors = ()

    def __init__(
        self, source: Sequence[str], *, width: int = 64, axes: Axes = "yx", text: Mapping[str, Any] | None = None
    ) -> None:
        if width < 2:
            raise ValueError(f"representation.width is {width}, expected at least 2 features, such as 64.")
        self.source, self.width, self.axes = tuple(map(field_of, source)), width, axes
        self.values = Values.of("representation", None, (), text)
        if self.values.text:
            name = next(iter(self.values.text))
            raise ValueError(
                f"representation.text gives {name} a vector of hashed words, and texts are read here. Write: text:"
                f" {{{name}: {{words: 256, length: 32}}}}"
            )
        for name, label in self.values.described.items():
            if field_of(label).kind != "label" or axes != "yx":
                raise ValueError(
                    f"representation.text.{name} is written from {label}, expected a label map in slices: of: lesion,"
                    " with axes: yx"
                )
        self.described = self.values.described
        own = {f.name for f in self.source}
        self.weighed_by = tuple(label for label in self.described.values() if label not in own)  # read, never shown

    def signature(self) -> Signature:
        features = Field("features", "embedding", self.width, "")
        return Signature((features,), "", (*self.source, *self.values.fields()), given_axes=self.axes)

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        return self.question(batch, rng)

    def question(self, batch: Batch, rng: Rng) -> Problem:
        labels = {f.name: f.channels for f in self.source if f.kind == "label"}
        images = {f.name: batch.images[f.name] for f in self.source}
        given = {n: one_hot(i, labels[n]) if n in labels else i for n, i in images.items()}
        given |= {f.name: batch.values[f.name] for f in self.values.texts if f.name in batch.values}
        present = {n: batch.present[n] for n in given if n in batch.present}
        return Problem(batch.cases, (self.width,), Condition(given, present))
