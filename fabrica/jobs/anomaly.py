"""What an image would look like if it were healthy, learned of healthy ones alone: where it does not, something is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ..contracts import Batch, Health, Job, Problem, Signature
from ..data.vocabulary import field_of
from ..registry import check_type
from ..rng import Rng
from .imaging import Axes, Synthesis, Translation
from .seen import KIND, as_it_is, check_deviation

MARKS = {"mask": str, "smooth_mm": float, "false_positives": float}
Way = Literal["restored", "predicted"]


class Anomaly(Job):
    """Images x of a patient -> x as they would be if he were healthy (`healthy: {disease: [none]}`: who may train).

    `way`: restored draws x from the healthy prior knowing the image as if it had noise of `deviation` (1 is the
    brightest tissue): what is rarer among the healthy than so much noise does not come back (partial noising and
    return, as the posterior of a denoising problem; Wyatt et al. 2022; with the sampler round_trip through a codec's
    own codes); predicted tells x from other images of the patient (`from`). `marks: {mask: lesion, smooth_mm: 1,
    false_positives: 0.01}`: how what is left is marked and judged.
    """

    answer = "twin"
    competitors = ()

    def __init__(
        self, x: Sequence[str], healthy: Mapping[str, Sequence[str]], *, source: Sequence[str] = (),
        way: Way = "restored", deviation: float = 0.2, marks: Mapping[str, Any] | None = None, axes: Axes = "yx",
        place: bool = True,
    ) -> None:  # fmt: skip
        if (way == "predicted") != bool(source):
            raise ValueError(
                "anomaly tells x from other images where way is predicted. Write: way: predicted, from: [T1w]"
            )
        if set(source) & set(x):
            raise ValueError(f"anomaly is given {', '.join({*source} & {*x})} and asked for it. Take it out of from.")
        check_deviation("anomaly", deviation)
        for name, value in (marks or {}).items():
            if name not in MARKS:
                raise ValueError(f"anomaly.marks has {name}; it knows {', '.join(MARKS)}.")
            check_type(f"anomaly.marks.{name}", value, MARKS[name])
        self.x, self.way, self.deviation = tuple(map(field_of, x)), way, deviation
        if wrong := [f.name for f in self.x if f.kind != "intensity"]:
            raise ValueError(f"anomaly.x is {wrong}, expected images, such as T2w.")
        self._health = Health({str(n): tuple(map(str, words)) for n, words in healthy.items()}, **(marks or {}))
        self.simulates, self.judged_with = tuple(f.name for f in self.x), (self._health.mask,)
        self.health = self._health
        self._inner: Job = (
            Translation(source, x, axes=axes, vary=0.0) if source else Synthesis(x, axes=axes, place=place)
        )

    def signature(self) -> Signature:
        inner = self._inner.signature()
        return replace(inner, measurements=KIND) if self.way == "restored" else inner

    def fitted(self, members: Sequence[Any], home: Path, seed: int, say: Callable[[str], None]) -> Job:
        """Itself. Raises ValueError where somebody trains who is not said to be healthy."""
        if ill := next((m for m in members if not self._health.holds(m.values)), None):
            name = next(iter(self._health.columns))
            word = str(ill.values.get(name, "nothing"))
            raise ValueError(
                f"{ill.name} would train and is not said to be healthy ({name}: {word}). Keep such patients for the"
                f" test: split: {{train: 0.6, validate: 0.2, test: 0.2, by: {{{name}: [{word}]}}}}"
            )
        return self

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        return self._inner.problem(batch, rng)

    def question(self, batch: Batch, rng: Rng) -> Problem:
        asked = self._inner.question(batch, rng)
        if self.way != "restored":
            return asked
        return replace(asked, measurements=as_it_is(batch, self.simulates, self.deviation))
