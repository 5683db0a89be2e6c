"""What a treatment changes, as a stage foretells it: patients asked twice, and what is true of simulated ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from ..contracts import Family
from ..data.cases import Prepared
from ..data.cohort import Member, overlaid
from ..data.followed import AHEAD, visits_of_case
from ..data.virtual import VirtualMember
from ..evaluate.metrics.task import fluid_ml
from ..evaluate.result import Figure
from ..evaluate.statistics import interval
from .draw import draw
from .question import Shown
from .stage import PreparedStage

Array = NDArray[np.float64]
MOST = 40  # patients who are asked twice
NAME = "treatment effect (ml of fluid a year)"


def treatment_figures(ready: PreparedStage, family: Family, say: Callable[[str], None]) -> list[Figure]:
    """Fluid of the year with treatment less without, over patients; nothing where the job is told of no treatment."""
    if not ready.job.treated:
        return []
    told, true, people = list[float](), list[float](), list[str]()
    for member in ready.test[:MOST]:
        case = ready.case(member, ready.job.judged_with)
        mask = case.tensors.get("brain_mask")
        if mask is None:
            continue
        years = float(member.values[AHEAD])
        amounts = [_drawn_ml(ready, family, member, share, mask[0].numpy() > 0.5, say) for share in (1.0, 0.0)]
        told.append((amounts[0] - amounts[1]) / years)
        people.append(member.patient)
        if (truth := _true_ml(ready, member, mask[0].numpy() > 0.5)) is not None:
            true.append(truth / years)
    if not told:
        return []
    found = interval(told, people)
    figures = [Figure(ready.name, "model", NAME, float(found), found.interval, found.n, found.convention)]
    if len(true) == len(told):
        known = interval(true, people)
        how = "simulated twice"
        figures.append(Figure(ready.name, "the truth", NAME, float(known), known.interval, known.n, how))
    return figures


def _drawn_ml(
    ready: PreparedStage, family: Family, member: Member, share: float, inside: NDArray[np.bool_],
    say: Callable[[str], None],
) -> float:  # fmt: skip
    case = ready.case(overlaid(member, {}, {ready.job.treated: share}))
    (x,) = draw(family, ready.job, [Shown(case)], ready.layout, ready.seed, say, ready.evaluate.windows)
    return _ml(case, x[0], inside)


def _ml(case: Prepared, image: torch.Tensor, inside: NDArray[np.bool_]) -> float:
    values = image.double().numpy()
    return fluid_ml(values, inside, 0.5 * float(np.median(values[inside])), case.grid.spacing_mm)


def _true_ml(ready: PreparedStage, member: Member, inside: NDArray[np.bool_]) -> float | None:
    """Of a simulated patient, who can be simulated both ways."""
    visits = visits_of_case(member)
    if len(visits) < 2 or not all(isinstance(v, VirtualMember) for v in visits):
        return None
    asked, last = visits[0], visits[1]
    assert isinstance(asked, VirtualMember)
    assert isinstance(last, VirtualMember)
    contrast, found = ready.signature.asked[0], list[float]()
    for treated in (True, False):
        other = asked.otherwise(last.truth.years, treated)
        tensor = ready.case(other).tensors[contrast]
        case = ready.case(other)
        found.append(_ml(case, tensor[0], inside))
    return found[0] - found[1]
