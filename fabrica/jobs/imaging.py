"""From images to images: translation, synthesis and segmentation, which differ in what is given and what is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..contracts import PLACE, POSITION, Batch, Condition, Field, Job, Problem, Signature
from ..data.cases import COVERED
from ..data.filmed import with_films
from ..data.vocabulary import film_or_image
from ..registry import unknown
from ..rng import Rng
from .values import Covariates, Values

Axes = Literal["yx", "zyx"]
RARELY = 0.01  # of the cases: conditions that are hidden less often are no answer to be guided by


def stack_fields(fields: Sequence[Field], batch: Batch) -> Tensor:
    """(B, C, *axes) of several fields; labels become one-hot channels."""
    parts = []
    for field in fields:
        value = batch.images[field.name]
        parts.append(one_hot(value, field.channels) if field.kind == "label" else value)
    return torch.cat(parts, 1)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """(B, 1, *axes) whole numbers -> (B, classes, *axes); raises ValueError for a number that is no class."""
    index = labels[:, 0].round().long()
    if index.numel() and not index.is_meta and (int(index.min()) < 0 or int(index.max()) >= classes):
        raise ValueError(
            f"A label is {int(index.max())}, expected 0 to {classes - 1}. Give the field more classes:"
            f" label:{int(index.max()) + 1}"
        )
    return F.one_hot(index, classes).movedim(-1, 1).float()


def condition_of(fields: Sequence[Field], images: Mapping[str, Tensor], batch: Batch, known: Values) -> Condition:
    """Images (label maps one-hot) and values of a batch, with what rows lack, for jobs that ask for no image."""
    given = {f.name: one_hot(images[f.name], f.channels) if f.kind == "label" else images[f.name] for f in fields}
    names = (*given, *known.names)
    return Condition({**given, **known.given(batch)}, {n: batch.present[n] for n in names if n in batch.present})


def varied(value: Tensor, field: Field, spread: float, rng: Rng) -> Tensor:
    """A random gain and gamma per row, for intensities: scanners differ in both. Millimetres are no intensity."""
    if not spread or field.kind != "intensity" or field.unit == "mm":
        return value
    draws = rng.child("vary", field.name).normal(2).to(value.device).clamp(-2, 2) * spread
    wide = [1] * (value.ndim - 1)
    gain, gamma = draws[:, 0].mul(0.5).exp().reshape(-1, *wide), draws[:, 1].exp().reshape(-1, *wide)
    return gain * value.sign() * value.abs().clamp(min=1e-6) ** gamma


def _check_share(job: str, drop: float) -> None:
    if not 0 <= drop < 1:
        raise ValueError(f"{job}.drop is {drop}, expected a chance from 0 to below 1, such as 0.1.")


def _described(job: str, values: Values, fields: Sequence[Field], axes: str) -> Mapping[str, str]:
    """Which texts are written from which label map; raises ValueError for a map that is none of the job's."""
    labels = [f.name for f in fields if f.kind == "label"]
    for name, label in values.described.items():
        if label not in labels:
            raise unknown(f"label map of {job}.text.{name}.of", label, labels)
        if axes != "yx":
            raise ValueError(f"{job}.text.{name} is written from slices. Write: axes: yx, or leave `of` out")
    return values.described


def _present(batch: Batch, name: str) -> Tensor:
    rows = len(batch.cases)
    return batch.present.get(name, torch.ones(rows, dtype=torch.bool, device=batch.affine.device))


def _films(fields: Sequence[Field]) -> dict[str, int]:
    """Frames of those that are films."""
    return {f.name: f.frames for f in fields if f.frames > 1}


def _middle(value: Tensor, neighbours: int) -> Tensor:
    return value[:, neighbours : neighbours + 1] if neighbours else value


class Translation(Job):
    """Given contrasts -> missing contrasts. A name that is both given and asked for is completed when it is missing.

    `drop` is the chance that a given contrast is hidden in training, so that one model serves whatever is missing, and
    can be guided where all of them are hidden in at least one of 100 cases; `neighbours` adds that many slices on each
    side of a slice (2.5D); `vary` changes the intensity curve of the inputs in training, which is what makes a model
    hold on a scanner that it has not seen. A name with frames (cine@20) is a film: frames are channels, so `yx` makes
    it tyx, and `zyx` tzyx. `values` are of the case ({by: {sex: [F, M]}, covariates: [age], text:
    {report: 64}}, as `Synthesis` has them) and stand beside the images: `drop` hides them together, and guidance then
    strengthens them alone.
    """

    metrics = ("mae", "rmse", "nmse", "psnr", "ssim")
    weighed_by = (COVERED,)  # a small field of view says nothing of what lies beyond it

    def __init__(
        self, source: Sequence[str], x: Sequence[str], *, axes: Axes = "yx", neighbours: int = 0, drop: float = 0.0,
        vary: float = 0.1, values: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        _check_share("translation", drop)
        if neighbours and axes != "yx":
            raise ValueError("translation.neighbours belongs to slices; write axes: yx, or neighbours: 0.")
        if neighbours and set(source) & set(x):
            raise ValueError(
                "translation.neighbours of a contrast that is also asked for would show it; write neighbours: 0."
            )
        self.source, self.x, self.axes = tuple(map(film_or_image, source)), tuple(map(film_or_image, x)), axes
        self.films = _films((*self.source, *self.x))
        if neighbours and self.films:
            raise ValueError("translation.neighbours has no place beside films. Write neighbours: 0.")
        self.neighbours, self.drop, self.vary = neighbours, drop, vary
        self.both = tuple(f.name for f in self.x if f.name in {s.name for s in self.source})
        self.values = Values.within("translation", values)
        often = drop ** len(self.source) >= RARELY  # the answer without any of them has to be learned
        images = tuple(f.name for f in self.source) if often else ()
        self.hidden = (self.values.names if drop else ()) or images
        self.described = _described("translation", self.values, self.source, axes)  # of x it would tell the answer

    def signature(self) -> Signature:
        depth = 2 * self.neighbours + 1
        given = tuple(replace(f, channels=f.channels * depth) for f in self.source)
        position = (POSITION,) if self.axes == "yx" else ()
        return Signature(self.x, self.axes, (*given, *self.values.fields(), *position))

    def gathered(self, members: Sequence[Any], new: bool = False) -> tuple[Any, ...]:
        return with_films(members, self.films)

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        rows = len(batch.cases)
        hidden = {f.name: rng.child("drop", f.name).uniform().to(batch.affine.device) < self.drop for f in self.source}
        if self.both:  # at least one of these is asked for in every row
            chosen = rng.child("hide").integers(0, len(self.both)).to(batch.affine.device)
            for i, name in enumerate(self.both):
                hidden[name] = hidden[name] | (chosen == i)
        asked = [
            _present(batch, f.name) & hidden.get(f.name, torch.ones(rows, dtype=torch.bool, device=batch.affine.device))
            for f in self.x
        ]
        weight = torch.cat([a.float()[:, None].expand(-1, f.channels) for a, f in zip(asked, self.x, strict=True)], 1)
        images = {f.name: varied(batch.images[f.name], f, self.vary, rng) for f in self.source}
        problem = self._ask(batch, hidden, images)
        condition = self.values.hidden(problem.condition, batch, self.drop, rng)
        target = stack_fields(self.x, self._centred(batch))
        wide = weight.reshape(*weight.shape, *[1] * (target.ndim - 2))
        if COVERED in batch.images:
            told = _present(batch, COVERED).reshape(-1, *[1] * (target.ndim - 1))
            wide = wide * torch.where(told, batch.images[COVERED], torch.ones((), device=target.device))
        return Problem(problem.cases, problem.shape, condition, target=target, weight=wide)

    def question(self, batch: Batch, rng: Rng) -> Problem:
        return self._ask(batch, {}, {f.name: batch.images[f.name] for f in self.source})

    def _ask(self, batch: Batch, hidden: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Problem:
        given, present = {}, {}
        for field in self.source:
            name, value = field.name, values[field.name]
            given[name] = one_hot(value, field.channels) if field.kind == "label" else value
            present[name] = _present(batch, field.name)
            if field.name in hidden:
                present[name] = present[name] & ~hidden[field.name]
        given |= self.values.given(batch)
        present |= {n: batch.present[n] for n in self.values.names if n in batch.present}
        if self.axes == "yx":
            given["position"] = batch.values["position"]
        grid = next(iter(batch.images.values())).shape[2:]
        return Problem(batch.cases, (sum(f.channels for f in self.x), *grid), Condition(given, present))

    def _centred(self, batch: Batch) -> Batch:
        around = {f.name: self.neighbours for f in self.source}
        images = {n: _middle(v, around.get(n, 0)) for n, v in batch.images.items()}
        return replace(batch, images=images)


class Synthesis(Job):
    """Patients that do not exist: x of one or several fields, unconditional, by class and by covariates.

    `by` names categorical values of the cases with their classes ({class: [Hand, CXR]}); `covariates` are numbers, with
    centre and width where they are not small ({weight_kg: [70, 15]}); `text` names columns of words with the length of
    the vector that they become ({report: 64}), or with what a network reads that is trained with them ({report: {words:
    256, length: 32}}; with `of: lesion` they are written from each slice's own mask, see `data.findings`). `drop` is
    the chance that training hides all of them, which guidance needs. Slices are told where they lie, and every voxel of
    a volume, so that patches of training (`prepare: {size: ...}`) draw whole patients; `place: false`: not, as a codec
    wants it. Films as `Translation` has them.
    """

    metrics = ()  # unpaired: distances between sets come with the evaluation tiers

    def __init__(
        self, x: Sequence[str], *, axes: Axes = "yx", by: Mapping[str, Sequence[str]] | None = None,
        covariates: Covariates = (), text: Mapping[str, Any] | None = None, drop: float = 0.0, place: bool = True,
    ) -> None:  # fmt: skip
        _check_share("synthesis", drop)
        self.values = Values.of("synthesis", by, covariates, text)
        self.x, self.axes, self.drop, self.place = tuple(map(film_or_image, x)), axes, drop, place
        self.hidden = self.values.names if drop else ()
        self.described = _described("synthesis", self.values, self.x, axes)

    def signature(self) -> Signature:
        position = () if not self.place else (POSITION,) if self.axes == "yx" else (PLACE,)
        return Signature(self.x, self.axes, (*self.values.fields(), *position))

    def gathered(self, members: Sequence[Any], new: bool = False) -> tuple[Any, ...]:
        return with_films(members, _films(self.x))

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        question = self.question(batch, rng)
        target = stack_fields(self.x, batch)
        shown = torch.cat([_present(batch, f.name).float()[:, None].expand(-1, f.channels) for f in self.x], 1)
        weight = shown.reshape(*shown.shape, *[1] * (target.ndim - 2))
        condition = self.values.hidden(question.condition, batch, self.drop, rng)
        return Problem(question.cases, question.shape, condition, target=target, weight=weight)

    def question(self, batch: Batch, rng: Rng) -> Problem:
        given = self.values.given(batch)
        if self.place and self.axes == "yx":
            given["position"] = batch.values["position"]
        elif self.place:
            given["place"] = batch.images["place"]
        present = {n: batch.present[n] for n in given if n in batch.present}
        grid = next(iter(batch.images.values())).shape[2:]
        return Problem(batch.cases, (sum(f.channels for f in self.x), *grid), Condition(given, present))


class Segmentation(Job):
    """Images -> a label map. The regression family on it is the downstream model of later evaluations."""

    metrics = ("dice",)

    def __init__(
        self, source: Sequence[str], x: Sequence[str], *, axes: Axes = "yx", neighbours: int = 0, vary: float = 0.1
    ) -> None:
        if wrong := [name for name in x if film_or_image(name).kind != "label"]:
            raise ValueError(f"segmentation.x is {wrong}, expected label maps, such as lesion or label:3.")
        self._inner = Translation(source, x, axes=axes, neighbours=neighbours, vary=vary)
        self.source, self.x, self.axes, self.neighbours = self._inner.source, self._inner.x, axes, neighbours

    def signature(self) -> Signature:
        return self._inner.signature()

    def gathered(self, members: Sequence[Any], new: bool = False) -> tuple[Any, ...]:
        return self._inner.gathered(members, new)

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        return self._inner.problem(batch, rng)

    def question(self, batch: Batch, rng: Rng) -> Problem:
        return self._inner.question(batch, rng)
