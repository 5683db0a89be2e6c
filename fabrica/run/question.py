"""What is asked about cases: a problem with nothing of the answer but through its physics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..contracts import Field, Job, Measurement, Problem, Scattered
from ..data.cases import Prepared
from ..data.store import Layout, joined, question_batch, to_device
from ..physics.algebra import LinearOperator
from ..physics.variation import total_variation
from ..physics.wavelets import few_wavelets
from ..rng import Rng, derive
from ..safeguards.hallucination import FITS, abstains, fixed_by_data, misfit_by_band

ROWS = 32  # rows drawn at once
EDGES = "total variation"  # what the answer of the fewest edges is called
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
    """What is asked about cases of one grid; each row's chance is its own, from the case and the slice.

    All draws of a case are asked the same: what was measured of it is one thing.
    """
    cases = list({id(one.case): one.case for one in shown}.values())
    asked = joined([question_batch(case, layout) for case in cases])
    each, places = len(asked.cases) // len(cases), {id(case): k for k, case in enumerate(cases)}
    problem = job.question(to_device(asked, device), Rng([derive(seed, "question", name) for name in asked.cases]))
    if len(cases) == len(shown):
        return problem
    index = [places[id(one.case)] * each + row for one in shown for row in range(each)]
    return problem.rows(torch.tensor(index, device=device))


def data_answers(problem: Problem, layout: Layout) -> dict[str, Tensor]:
    """What the measurements of a case say by themselves, (C, z, y, x) by name: crude ones, classical solvers', those of
    the fewest edges and, of k-space, of the fewest wavelets.
    """
    found: dict[str, Tensor] = {}
    for name, m in problem.measurements.items():
        if (crude := m.operator.crude(m.value)) is not None:
            found[f"{name} alone"] = crude
        found |= m.operator.solved(m.value)
        if isinstance(m.operator, LinearOperator) and isinstance(m.noise, Scattered):
            found[EDGES] = total_variation(m.operator, m.noise, m.value)
            if m.operator.details == "spectrum":
                found["L1-wavelet"] = few_wavelets(m.operator, m.noise, m.value)
    return {name: whole_answer(x.float(), layout) for name, x in found.items()}


def residual(problem: Problem, x: Tensor, layout: Layout) -> Tensor | None:
    """(C, z, y, x) of what an answer leaves unexplained, brought back to the image as crudely as the data
    themselves.
    """
    rows = _rows(x, layout)
    for m in problem.measurements.values():
        left = m.operator.crude(m.value - m.operator(rows.to(m.value.device)))
        return None if left is None else whole_answer(left.float(), layout)
    return None


def misfit(problem: Problem, x: Tensor, layout: Layout) -> dict[str, float]:
    """Of an answer (C, z, y, x): how far A(x) lies off y, as a multiple of what noise alone would leave; by
    measurement.
    """
    rows = _rows(x, layout)
    found = {}
    for name, m in problem.measurements.items():
        if isinstance(m.noise, Scattered):
            off, seen = m.noise.misfit(m.value, m.operator(rows.to(m.value.device))), m.operator.measured(m.value)
            found[name] = float(off[seen.expand_as(off)].mean()) if bool(seen.any()) else 0.0
    return found


@dataclass(frozen=True)
class Invented:
    """What of an answer (C, z, y, x) the data do not carry."""

    figures: Mapping[str, float]
    decided: Tensor | None = None  # the part that the prior decided
    abstained: str = ""


def invented(problem: Problem, x: Tensor, layout: Layout, plain: Tensor | None = None) -> Invented:
    """Of one draw: misfits by detail, the share that data fix, what they do not, and whether to read it at all.

    `plain`: the answer of the fewest edges, where it is known already.
    """
    if (told := _telling(problem)) is None:
        return Invented({})
    name, m = told
    there = _rows(x, layout).to(m.value.device)
    bands = misfit_by_band(m, there)
    figures = {f"misfit of {name} ({band})": float(value.mean()) for band, value in bands.items()}
    fixed = fixed_by_data(m, there)
    figures["share fixed by the data"] = float((fixed * there).sum() / (there * there).sum().clamp(min=1e-12))
    decided = whole_answer((there - fixed).float().cpu(), layout)
    return Invented(figures, decided, not_to_be_read(problem, x, layout, plain))


def decided_by_prior(problem: Problem, x: Tensor, layout: Layout) -> Tensor | None:
    """(C, z, y, x): what of an answer no datum fixes; None where no measurement can tell."""
    if (told := _telling(problem)) is None:
        return None
    there = _rows(x, layout).to(told[1].value.device)
    return whole_answer((there - fixed_by_data(told[1], there)).float().cpu(), layout)


def _telling(problem: Problem) -> tuple[str, Measurement] | None:
    """The first measurement whose physics is linear and whose noise has a variance."""
    for name, m in problem.measurements.items():
        if isinstance(m.noise, Scattered) and isinstance(m.operator, LinearOperator):
            return name, m
    return None


def _rows(x: Tensor, layout: Layout) -> Tensor:
    """An answer (C, z, y, x) as rows of a problem."""
    return x.transpose(0, 1) if layout.axes == "yx" else x[None]


def not_to_be_read(problem: Problem, x: Tensor, layout: Layout, plain: Tensor | None = None) -> str:
    """Of one draw: why it contradicts what was measured, or what to know of the physics; '' where all agrees."""
    for name, off in misfit(problem, x, layout).items():
        m, least = problem.measurements[name], 1.0
        if off > FITS[1] and isinstance(m.operator, LinearOperator) and isinstance(m.noise, Scattered):
            if plain is None:
                plain = whole_answer(total_variation(m.operator, m.noise, m.value).float(), layout)
            least = misfit(problem, plain, layout)[name]
        if why := abstains(off, least):
            return why
    return ""


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
