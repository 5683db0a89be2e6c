"""What a prepared stage draws of whole cases: asked, drawn, averaged, written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import io
from ..contracts import Family
from ..data.cases import Prepared
from ..data.cohort import Member
from .draw import draw, images_of
from .question import ROWS, Shown
from .stage import PreparedStage, draws_of

Say = Callable[[str], None]


@dataclass(frozen=True)
class DrawnCase:
    """A case with all its draws, (draws, C, z, y, x)."""

    member: Member
    case: Prepared
    x: Tensor


def each_drawn(
    ready: PreparedStage, family: Family, members: Sequence[Member], more: Sequence[str], say: Say
) -> Iterator[DrawnCase]:
    """Cases with `more` images of them, and their draws: pictures as many at once as one batch draws, volumes alone."""
    count = draws_of(ready, family)
    together = max(1, ROWS // count) if ready.pictures else 1
    for start in range(0, len(members), together):
        group = members[start : start + together]
        cases = [ready.case(member, more) for member in group]
        shown = [Shown(case, k) for case in cases for k in range(count)]
        drawn = iter(draw(family, ready.job, shown, ready.layout, ready.seed, say, ready.evaluate.windows))
        for member, case in zip(group, cases, strict=True):
            yield DrawnCase(member, case, torch.stack([next(drawn) for _ in range(count)]))


def write_draws(ready: PreparedStage, name: str, case: Prepared, x: Tensor) -> None:
    """Each draw of x (draws, C, z, y, x) as images on the case's own grid, in the folder of that name."""
    for number, one in enumerate(x):
        source = f"{ready.run.name}/{ready.name}/{name}/{number}"
        for field, image in images_of(one, ready.signature.x, case, ready.preparation, source).items():
            io.write_nifti(image, ready.run.draw_file(ready.stage, name, number, field))


def answers_of(
    ready: PreparedStage, family: Family, members: Sequence[Member], say: Say
) -> NDArray[np.float64]:  # fmt: skip
    """(n, K): of a job that asks for values the mean of each case's draws, as the network tells them."""
    found: list[NDArray[np.float64]] = []
    for start in range(0, len(members), ROWS):
        asked = [_asked(ready, family, member) for member in members[start : start + ROWS]]
        every = [shown for own in asked for shown in own]
        drawn = iter(draw(family, ready.job, every, ready.layout, ready.seed, say))
        found += [torch.stack([next(drawn) for _ in own]).mean(0).double().numpy() for own in asked]
    return np.stack(found)


def _asked(ready: PreparedStage, family: Family, member: Member) -> list[Shown]:
    """A case for each draw, and for each draw of an earlier stage."""
    cases = ready.shown(member)
    return [Shown(cases[k % len(cases)], k) for k in range(max(draws_of(ready, family), len(cases)))]
