"""What is asked about cases: a problem with nothing of the answer but through its physics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..contracts import Field, Job, Problem
from ..data.store import Layout, Prepared, joined, question_batch, to_device
from ..rng import Rng, derive

ROWS = 32  # rows drawn at once
BACKGROUND = 0.01  # of the model's scale: given values that are no farther from 0 show nothing


@dataclass(frozen=True, slots=True)
class Shown:
    """A case as it is shown to a family, and which of its draws is asked for."""

    case: Prepared
    number: int = 0


@dataclass(frozen=True)
class Asked:
    """One question about a case of the test part, and how the case is shown for each draw."""

    name: str
    case: Prepared
    hidden: str
    shown: list[Prepared]


def question_of(job: Job, shown: Sequence[Shown], layout: Layout, seed: int, device: torch.device) -> Problem:
    """What is asked about cases of one grid; each row's chance is its own, from the case, the slice and the number of
    the draw.
    """
    asked = joined([question_batch(one.case, layout) for one in shown])
    each = len(asked.cases) // len(shown)
    seeds = [derive(seed, "question", name, shown[i // each].number) for i, name in enumerate(asked.cases)]
    return job.question(to_device(asked, device), Rng(seeds))


def crude_answers(job: Job, shown: Shown, layout: Layout, seed: int) -> dict[str, Tensor]:
    """What the measurements of a draw say by themselves, (C, z, y, x) by name; nothing where no operator has such an
    answer.
    """
    if not job.signature().measurements:
        return {}
    problem = question_of(job, [shown], layout, seed, torch.device("cpu"))
    found = {name: m.operator.crude(m.value) for name, m in problem.measurements.items()}
    return {f"{name} alone": whole_answer(x.float(), layout) for name, x in found.items() if x is not None}


def nothing_given(job: Job, problem: Problem) -> Tensor:
    """bool (B,): rows in which every image that is given shows background alone; there is nothing to draw there."""
    signature = job.signature()
    known, blank = torch.zeros(len(problem.cases), dtype=torch.bool), torch.ones(len(problem.cases), dtype=torch.bool)
    for f in signature.condition if signature.axes else ():
        if f.kind not in ("intensity", "label") or (value := problem.condition.values.get(f.name)) is None:
            continue
        present = problem.condition.present.get(f.name, known.new_ones(len(known))).cpu()
        marked = value[:, 1:] if f.kind == "label" else value  # the first class of a mask is what it does not mark
        empty = (marked.flatten(1).abs() <= BACKGROUND).all(1).cpu()
        known |= present
        blank &= empty | ~present
    return known & blank


def background(fields: Sequence[Field], problem: Problem) -> Tensor:
    """(B, C, *axes) of what lies around every patient: 0 on the model's scale (air, in HU), the first class of a
    mask.
    """
    x, start = torch.zeros(len(problem.cases), *problem.shape), 0
    for f in fields:
        if f.kind == "label":
            x[:, start] = 1.0
        start += f.channels
    return x


def whole_answer(rows: Tensor, layout: Layout) -> Tensor:
    """The rows of one draw as one answer."""
    if rows.ndim == 2:
        return rows.mean(0)
    return rows.transpose(0, 1) if layout.axes == "yx" else rows[0]


def questions(job: Job, prepared: Prepared) -> tuple[str, ...]:
    """Each contrast that is both given and asked for is hidden in turn; '' when there is none."""
    signature = job.signature()
    both = [f.name for f in signature.x if f.name in signature.given and f.name in prepared.tensors]
    return tuple(both) or ("",)


def without(prepared: Prepared, hidden: str) -> Prepared:
    return replace(prepared, tensors={n: t for n, t in prepared.tensors.items() if n != hidden}) if hidden else prepared
