"""Whatever is known of a patient -> whatever is not: images, masks, words, numbers and classes by one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..contracts import POSITION, Batch, Condition, Field, Job, Problem, Signature
from ..data.vocabulary import field_of
from ..registry import unknown
from ..rng import Rng
from .imaging import one_hot, stack_fields, varied
from .values import Covariates, Values, text_plan


class Foundation(Job):
    """Any subset of x and of the values -> the rest; patients train who lack some of them.

    `x` are images and label maps. `text` names texts: {findings: {of: lesion, words: 256, length: 32}} is written from
    the lesions of each slice (`data.findings`), has so many subwords in its vocabulary and so many at most; without
    `of` it is a column of the cohort's table. `covariates` and `by` are numbers and classes, as `Synthesis` has them.
    `directions` are what the report asks of test patients, such as "T1w, T2w -> FLAIR" or "findings -> FLAIR, lesion";
    where none is named, each part from all others. `vary` changes the intensity curve of given images in training.
    """

    answer = "parts"
    metrics = ("mae", "psnr", "ssim")
    competitors = ("copied", "mean", "crude")

    def __init__(
        self, x: Sequence[str], *, text: Mapping[str, Mapping[str, Any]] | None = None, covariates: Covariates = (),
        by: Mapping[str, Sequence[str]] | None = None, directions: Sequence[str] = (), vary: float = 0.1,
        axes: Literal["yx", "zyx"] = "yx",
    ) -> None:  # fmt: skip
        if axes != "yx":
            raise ValueError("foundation needs slices so far. Write: axes: yx")
        self.x, self.axes, self.vary = tuple(map(field_of, x)), axes, vary
        self.values, texts = Values.of("foundation", by, covariates, None), dict(text or {})
        plans = {name: text_plan(f"foundation.text.{name}", plan) for name, plan in texts.items()}
        self.texts = tuple(Field(n, "token", p["words"], "", length=p["length"]) for n, p in plans.items())
        self.described = {name: str(plan["of"]) for name, plan in plans.items() if plan["of"]}
        labels = [f.name for f in self.x if f.kind == "label"]
        for name, label in self.described.items():
            if label not in labels:
                raise unknown(f"label map of foundation.text.{name}.of", label, labels)
        self.names = (*(f.name for f in self.x), *(f.name for f in self.beside))
        if len(set(self.names)) < max(2, len(self.names)):
            raise ValueError(f"foundation has the parts {', '.join(self.names)}, expected at least two, each once.")
        self.directions = tuple(self._direction(one) for one in directions) or tuple(
            (tuple(n for n in self.names if n != name), (name,)) for name in self.names
        )
        self.hidden = tuple(f.name for f in self.beside)

    @property
    def beside(self) -> tuple[Field, ...]:
        """Parts that lie on no grid."""
        return (*self.texts, *self.values.fields())

    def signature(self) -> Signature:
        return Signature(self.x, self.axes, (*self.x, *self.beside, POSITION), beside=self.beside)

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        """Each row shows each part with a chance of its own, from none to all; at least one that it has is asked."""
        there = {name: self._there(batch, name) for name in self.names}
        given = self._shown(there, rng)
        asked = {name: there[name] & ~given[name] for name in self.names}
        target = stack_fields(self.x, batch)
        weight = torch.cat([asked[f.name].float()[:, None].expand(-1, f.channels) for f in self.x], 1)
        images = {f.name: varied(batch.images[f.name], f, self.vary, rng) for f in self.x}
        question = self._ask(batch, images, given)
        return Problem(
            question.cases, question.shape, question.condition, target=target,
            weight=weight.reshape(*weight.shape, *[1] * (target.ndim - 2)),
            beside={f.name: question.condition.values[f.name] for f in self.beside},
            wanted={f.name: asked[f.name] for f in self.beside},
        )  # fmt: skip

    def question(self, batch: Batch, rng: Rng) -> Problem:
        """What the batch has is given, the rest is asked for."""
        images = {f.name: batch.images[f.name] for f in self.x}
        return self._ask(batch, images, {name: self._there(batch, name) for name in self.names})

    def _there(self, batch: Batch, name: str) -> Tensor:
        known = torch.ones(len(batch.cases), dtype=torch.bool, device=batch.affine.device)
        if name in self.hidden and name not in batch.values:
            return ~known
        return batch.present.get(name, known)

    def _shown(self, there: Mapping[str, Tensor], rng: Rng) -> dict[str, Tensor]:
        device = next(iter(there.values())).device
        share = rng.child("share").uniform().to(device)
        shown = {n: own & (rng.child("show", n).uniform().to(device) < share) for n, own in there.items()}
        chance = torch.stack([rng.child("ask", n).uniform().to(device) * own for n, own in there.items()], 1)
        first = chance.argmax(1)  # a part that the row has
        return {n: own & (first != k) for k, (n, own) in enumerate(shown.items())}

    def _ask(self, batch: Batch, images: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Problem:
        """Every part with its marks: networks see only what is marked as given."""
        values = {f.name: one_hot(images[f.name], f.channels) if f.kind == "label" else images[f.name] for f in self.x}
        numbers = self.values.given(_with_blanks(batch, self.values.names))
        rows, device = len(batch.cases), batch.affine.device
        blank = {f.name: torch.zeros(rows, f.length, dtype=torch.long, device=device) for f in self.texts}
        values |= numbers | {f.name: batch.values.get(f.name, blank[f.name]) for f in self.texts}
        values["position"] = batch.values["position"]
        grid = next(iter(batch.images.values())).shape[2:]
        return Problem(batch.cases, (sum(f.channels for f in self.x), *grid), Condition(values, dict(given)))

    def _direction(self, text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        before, arrow, after = text.partition("->")
        given, asked = (tuple(n.strip() for n in part.split(",") if n.strip()) for part in (before, after))
        if not arrow or not asked:
            raise ValueError(f'foundation.directions holds {text!r}, expected "T1w, T2w -> FLAIR".')
        for name in (*given, *asked):
            if name not in self.names:
                raise unknown("part of foundation", name, list(self.names))
        if both := set(given) & set(asked):
            raise ValueError(f"foundation.directions gives what it asks for: {', '.join(sorted(both))} in {text!r}.")
        return given, asked


def _with_blanks(batch: Batch, names: Sequence[str]) -> Batch:
    """Values that no row of the batch has are zero; they are marked as absent."""
    missing = {n: torch.zeros(len(batch.cases), device=batch.affine.device) for n in names if n not in batch.values}
    return replace(batch, values={**batch.values, **missing})
