"""Values of a case that a draw is given beside its images: classes, numbers, words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..contracts import Batch, Condition, Field, Scale
from ..data.followed import impossible
from ..data.vocabulary import field_of
from ..registry import check_type, unknown
from ..rng import Rng

_SCALES: Mapping[str, tuple[float, float]] = {"age": (50.0, 20.0), "days": (365.0, 365.0)}  # value -> (centre, width)
NARROWEST = 8  # numbers that words become
Covariates = Sequence[str] | Mapping[str, Sequence[float]]
KEYS: Mapping[str, Any] = {"by": Mapping[str, Sequence[str]], "covariates": Covariates, "text": Mapping[str, Any]}
WORDS, LENGTH = 256, 32  # of a text, where a recipe does not say: its vocabulary, and how many subwords it has
READ = {"of": "", "words": WORDS, "length": LENGTH}


@dataclass(frozen=True)
class Values:
    """`by`: classes by name; `covariates`: numbers by name with centre and width; `text`: columns of words with the
    length of their vector; `texts`: those that a network reads, subword by subword, and `described`: which of them are
    written from a label map of the slice.
    """

    by: Mapping[str, tuple[str, ...]]
    covariates: Mapping[str, tuple[float, float]]
    text: Mapping[str, int]
    unscaled: tuple[str, ...] = ()  # covariates that enter as they are, because nothing says their centre and width
    texts: tuple[Field, ...] = ()
    described: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(
        job: str, by: Mapping[str, Sequence[str]] | None, covariates: Covariates, text: Mapping[str, Any] | None
    ) -> Values:
        """From a recipe's options; raises ValueError for a scale that is none and for words of too few numbers."""
        vectors, plans = _vectors_and_plans(job, text or {})
        scales = (
            dict(covariates) if isinstance(covariates, Mapping) else {n: _SCALES.get(n, (0.0, 1.0)) for n in covariates}
        )
        for name, scale in scales.items():
            if len(scale) != 2 or not scale[1] > 0:
                raise ValueError(
                    f"{job}.covariates gives {name} the scale {list(scale)}, expected its centre and a width above 0: "
                    f"covariates: {{{name}: [70, 15]}}"
                )
        bare = () if isinstance(covariates, Mapping) else tuple(n for n in covariates if n not in _SCALES)
        return Values(
            {name: tuple(map(str, classes)) for name, classes in (by or {}).items()},
            {name: (float(centre), float(width)) for name, (centre, width) in scales.items()},
            vectors, bare,
            tuple(Field(n, "token", plan["words"], "", length=plan["length"]) for n, plan in plans.items()),
            {name: str(plan["of"]) for name, plan in plans.items() if plan["of"]},
        )  # fmt: skip

    @staticmethod
    def within(job: str, plain: Mapping[str, Any] | None) -> Values:
        """From one block of a recipe: values: {by: ..., covariates: ..., text: ...}; raises ValueError for another
        key.
        """
        given = dict(plain or {})
        for key in given:
            if key not in KEYS:
                raise unknown(f"key of {job}.values", str(key), list(KEYS))
            check_type(f"{job}.values.{key}", given[key], KEYS[key])
        return Values.of(job, given.get("by"), given.get("covariates", ()), given.get("text"))

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.by, *self.covariates, *self.text, *(f.name for f in self.texts))

    def fields(self) -> tuple[Field, ...]:
        """As a signature's conditions."""
        classes = [Field(name, "class", len(known), "", known) for name, known in self.by.items()]
        scales = {n: None if n in self.unscaled else Scale(*scale) for n, scale in self.covariates.items()}
        numbers = [
            replace(field_of(name) if name in _SCALES else Field(name, "number"), stated=scale)
            for name, scale in scales.items()
        ]
        vectors = (Field(name, "embedding", width) for name, width in self.text.items())
        return (*classes, *numbers, *vectors, *self.texts)

    def given(self, batch: Batch) -> dict[str, Tensor]:
        """Name -> value per row, on the scale of a network."""
        found = {name: batch.values[name] for name in self.names}
        return found | {n: (found[n] - centre) / width for n, (centre, width) in self.covariates.items()}

    def hidden(self, condition: Condition, batch: Batch, drop: float, rng: Rng) -> Condition:
        """The condition as training sees it: at times all values are hidden together, so that the answer without them
        is learned.
        """
        if not drop or not self.names:
            return condition
        kept = rng.child("drop").uniform().to(batch.affine.device) >= drop
        present = {n: condition.present.get(n, kept) & kept for n in self.names}
        return Condition(condition.values, {**condition.present, **present})


def text_plan(at: str, plan: Any) -> dict[str, Any]:
    """What a recipe says of a text that is read: {of, words, length}, whole; raises ValueError for another key."""
    if not isinstance(plan, Mapping):
        raise ValueError(f"{at} is {plan!r}. Write: {at.rpartition('.')[2]}: {{of: lesion}}, or {{}}")
    for key in plan:
        if key not in READ:
            raise unknown(f"key of {at}", str(key), list(READ))
    whole = {**READ, **plan}
    for key, least in (("words", 16), ("length", 2)):
        if type(whole[key]) is not int or whole[key] < least:
            raise ValueError(f"{at}.{key} is {whole[key]!r}, expected {least} or more.")
    return whole


def _vectors_and_plans(job: str, text: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, dict[str, Any]]]:
    """Texts that are hashed into vectors, and those that are read."""
    vectors, plans = dict[str, int](), dict[str, dict[str, Any]]()
    for name, how in text.items():
        if isinstance(how, Mapping):
            plans[name] = text_plan(f"{job}.text.{name}", how)
        elif type(how) is not int or how < NARROWEST:
            raise ValueError(
                f"{job}.text gives {name} a vector of {how!r}, expected at least {NARROWEST}, such as 64; or a text to"
                f" be read: text: {{{name}: {{words: 256, length: 32}}}}"
            )
        else:
            vectors[name] = how
    return vectors, plans


NONE = Values({}, {}, {})  # of jobs that are given images alone


def said(fields: Sequence[Field], fixed: Mapping[str, str]) -> dict[str, float | str]:
    """Values as somebody typed them, checked; raises ValueError for a name, class or number that is none."""
    known, found = {f.name: f for f in fields}, dict[str, float | str]()
    for name, value in fixed.items():
        if name not in known:
            raise ValueError(f"The run knows no {name}. It knows: {', '.join(known) or 'nothing'}.")
        asked = known[name]
        if asked.classes and value not in asked.classes:
            raise ValueError(f"{name} {value} is none of {', '.join(asked.classes)}.")
        try:
            found[name] = float(value) if asked.kind == "number" else value
        except ValueError as error:
            raise ValueError(f"A covariate is a number: {error}.") from error
        if asked.kind == "number" and not math.isfinite(float(found[name])):
            raise ValueError(f"A covariate is a number: {name} is {value}.")
        if asked.kind == "number" and (why := impossible(name, float(found[name]))):
            raise ValueError(why)
    return found


def wide_covariates(fields: Sequence[Field], cases: Sequence[Mapping[str, float | str]]) -> str:
    """Why covariates cannot enter as they are, with the line to type; '' when all of them are small numbers or have a
    scale.
    """
    for name in (f.name for f in fields if f.kind == "number" and f.stated is None):
        numbers = torch.tensor([float(v) for c in cases if isinstance(v := c.get(name), int | float)]).double()
        if len(numbers) and float(numbers.abs().quantile(0.9)) > 5:
            centre, width = float(numbers.median()), float(numbers.std()) if len(numbers) > 1 else 1.0
            return (
                f"{name} runs from {float(numbers.min()):g} to {float(numbers.max()):g}: networks want numbers near 1."
                f" Write: covariates: {{{name}: [{centre:.3g}, {max(width, 1e-3):.3g}]}} (its centre and width)"
            )
    return ""
