"""A stage that gives any part of a patient from any others: one direction asked, and who else answers it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..contracts import ARBITRARY, SCALES, Batch, Family, Field, Job, Problem, Speaker
from ..data.cases import Prepared
from ..data.prepare import GridPreparation
from ..data.store import Layout, question_batch, to_device
from ..data.worded import texts_of
from ..families import Drawn, Guided
from ..rng import Rng, derive
from .answering import Answering
from .draw import rows_drawn
from .question import nothing_given, whole_answer
from .stage import PreparedStage

Say = Callable[[str], None]


@dataclass(frozen=True)
class Direction:
    """What is given, what is asked for."""

    given: tuple[str, ...]
    asked: tuple[str, ...]

    @property
    def source(self) -> str:
        return ", ".join(self.given) or "nothing"

    def __str__(self) -> str:
        return f"{self.source} -> {', '.join(self.asked)}"


def only(batch: Batch, given: Sequence[str]) -> Batch:
    """The batch of somebody who has these parts alone; what else it holds is gone, not merely marked."""
    rows = len(batch.cases)
    images = {n: v if n in given else torch.zeros_like(v) for n, v in batch.images.items()}
    values = {n: v if n in given or n == "position" else torch.zeros_like(v) for n, v in batch.values.items()}
    absent = torch.zeros(rows, dtype=torch.bool, device=batch.affine.device)
    names = {*batch.images, *batch.values} - {"position"}
    present = {n: batch.present.get(n, ~absent) if n in given else absent for n in names}
    return Batch(batch.cases, images, batch.affine, values, present, batch.measurements)


@dataclass(frozen=True)
class Parts:
    """An answer: images (draws, C, z, y, x) of all fields of x, and what was told of each row, draw by draw."""

    images: Tensor | None
    told: Sequence[Mapping[str, Tensor]]
    shown: Tensor  # bool (B,): rows in which anything was given
    seconds: float


@dataclass(frozen=True)
class Asking:
    """Who is asked: a trained family, what its job and layout make of a case, and its seed."""

    family: Family
    job: Job
    layout: Layout
    seed: int

    def rows(self, case: Prepared, device: torch.device | str = "cpu") -> Batch:
        """Every slice of a case."""
        return to_device(question_batch(case, self.layout), torch.device(device))

    def question(self, case: Prepared, direction: Direction) -> Problem:
        """Of somebody who knows nothing but what is given."""
        batch = only(self.rows(case, next(self.family.parameters()).device), direction.given)
        return self.job.question(batch, Rng(range(len(batch.cases))))

    def answer(self, case: Prepared, direction: Direction, draws: int, say: Say) -> Parts:
        """Words first, then images that know them."""
        problem, signature = self.question(case, direction), self.job.signature()
        words = [f.name for f in signature.beside if f.name in direction.asked]
        images = any(f.name in direction.asked for f in signature.x)
        started, found, told = time.perf_counter(), list[Tensor](), list[Mapping[str, Tensor]]()
        for number in range(draws):
            seeds = [derive(self.seed, "draw", name, number, str(direction)) for name in problem.cases]
            told.append(dict(speaker(self.family).tell(problem, words, Rng(seeds))) if words else {})
            if images:
                drawn = rows_drawn(self.family, self.job, _knowing(problem, told[-1]), seeds, say)
                found.append(whole_answer(drawn, self.layout))
        seconds = (time.perf_counter() - started) / max(1, draws)
        return Parts(torch.stack(found) if found else None, told, ~nothing_given(self.job, problem), seconds)

    def expected(self, case: Prepared, direction: Direction, name: str) -> Tensor:
        """(K,) chances of a class, or (1,) mean of a number on the network's scale: over slices that show something."""
        problem = self.question(case, direction)
        seeds = [derive(self.seed, "tell", row, str(direction)) for row in problem.cases]
        each = speaker(self.family).expected(problem, name, Rng(seeds)).cpu()
        return each[~nothing_given(self.job, problem)].mean(0).reshape(-1)


def speaker(family: Family) -> Speaker:
    """Who tells the words of a family, whatever guides or samples its images."""
    inner = family
    while isinstance(inner, Drawn | Guided):
        inner = inner.prior
    if not isinstance(inner, Speaker):
        raise TypeError(f"{type(inner).__name__} tells no words. Write: family: {{name: flow}}")
    return inner


def _knowing(problem: Problem, told: Mapping[str, Tensor]) -> Problem:
    """The question of somebody who has been told."""
    given = problem.condition
    there = {n: torch.ones(len(problem.cases), dtype=torch.bool, device=t.device) for n, t in told.items()}
    condition = replace(given, values={**given.values, **told}, present={**given.present, **there})
    return replace(problem, condition=condition)


def chosen(fields: Sequence[Field], x: Tensor | None, names: Sequence[str]) -> Tensor:
    """Of (draws, C, z, y, x) the channels of some fields, in the order of all."""
    assert x is not None
    parts = torch.split(x, [f.channels for f in fields], 1)
    return torch.cat([part for f, part in zip(fields, parts, strict=True) if f.name in names], 1)


def usual(ready: PreparedStage, f: Field) -> float | str:
    """The commonest sentence or class, or the mean number, of the training part."""
    if f.kind != "token":
        said = [e.values[f.name] for e in ready.store.entries if f.name in e.values]
        known = [f.encoded(value) for value in said if f.says(value)]
        if not known:
            return 0.0
        return max(set(known), key=known.count) if f.classes else sum(known) / len(known)
    label = ready.job.described.get(f.name, "")
    entries = [e for e in ready.store.entries if label in e.files]
    texts = texts_of(
        ((ready.store.array(e, label)[0], e.useful, np.array(e.affine)) for e in entries),
        [e.values for e in ready.store.entries], f.name,
    )  # fmt: skip
    return Counter(texts).most_common(1)[0][0]


def alone(others: Sequence[Answering], given: Sequence[str], wanted: set[str]) -> list[Answering]:
    """Of stages of the same run those that were trained to answer this and nothing else."""
    return [a for a in others if set(a.signature.given) == set(given) and _answers(a) == wanted]


def _answers(other: Answering) -> set[str]:
    return {f.name for f in other.signature.x}


def readers(others: Sequence[Answering], label: str) -> list[Answering]:
    """Those that find a label in one image."""
    return [a for a in others if _answers(a) == {label} and len(a.signature.given) == 1]


def comparable(ready: PreparedStage, device: str, say: Callable[[str], None]) -> list[Answering]:
    """Trained stages of the run that see voxels and intensities as this one does; the others are said."""
    found = []
    for stage in ready.run.recipe.stages:
        known = None if stage.name == ready.name else ready.run.facts(stage)
        if known is None or not known.finished or stage.build_job().signature().beside:
            continue
        if _seen_alike(known.grid_preparation, ready.preparation):
            found.append(Answering(ready.run, stage, device))
        else:
            say(f"{ready.name}: {stage.name} is not set beside it: it learned another grid, unit or scale.")
    return found


def _seen_alike(theirs: GridPreparation, own: GridPreparation) -> bool:
    """Arbitrary units count by each image's own percentiles: what training patients had of them changes nothing."""
    shared = theirs.scales.keys() & own.scales.keys()
    return theirs.spacing_mm == own.spacing_mm and all(
        theirs.units.get(n) == own.units.get(n)
        and (own.units.get(n) in (*ARBITRARY, *SCALES) or theirs.scales[n] == own.scales[n])
        for n in shared
    )
