"""The lesion test of a stage: lesions of known size and contrast put into what is measured of its test patients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..contracts import Batch, Family, Scattered
from ..data.cases import Prepared
from ..evaluate.result import Figure
from ..networks.tiled import tiled
from ..physics.algebra import LinearOperator
from ..recipe.values import LesionPlan
from ..rng import Rng, derive
from ..safeguards.lesions import Lesion, invented, placed, preserved, rate, wilson
from ..sampling.restorers import fewest_edges
from .coverage import body_of
from .question import EDGES
from .stage import PreparedStage, draws_of

Say = Callable[[str], None]
PER = 20  # slices that false lesions are counted by


@dataclass(frozen=True)
class _Slice:
    """One slice of a test case, whose y is made from its image."""

    case: Prepared
    batch: Batch
    row: int
    seed: int


@dataclass
class _Count:
    """Of one method and one diameter."""

    kept: list[float]
    preserved: int = 0
    lesions: int = 0
    false: int = 0
    slices: int = 0


def lesion_figures(ready: PreparedStage, family: Family, say: Say) -> list[Figure]:
    """Of the model and of total variation: lesions preserved, contrast kept, false lesions; nothing where none is asked
    for, or no case has an image that y could be made of.
    """
    plan, asked = ready.evaluate.lesions, ready.job.simulates
    if plan is None or not asked or ready.layout.axes != "yx":
        return []
    found: dict[tuple[str, float], _Count] = {}
    for one in _slices(ready, plan.slices):
        _try(ready, family, one, plan, found)
    most = max((count.slices for count in found.values()), default=0)
    say(f"{ready.name}: lesions of {_plain(plan.diameters_mm)} mm put into {most} slices of {plan.slices} asked for.")
    return [figure for (method, size), count in found.items() for figure in _figures(ready, plan, method, size, count)]


def _slices(ready: PreparedStage, most: int) -> Iterator[_Slice]:
    """As many of each patient, from the middle outwards; cases with raw data of their own have no known lesions."""
    each = -(-most // max(1, len(ready.test)))
    left = most
    for member in ready.test:
        case = ready.case(member)
        if case.measurements or not ready.knows(case):
            continue
        batch, middle = ready.rows(case), case.grid.shape[0] // 2
        rows = sorted(range(len(batch.cases)), key=lambda row: abs(row - middle))
        for row in rows[: min(each, left)]:
            yield _Slice(case, batch, row, derive(ready.seed, "lesion", batch.cases[row]))
        left -= min(each, left, len(rows))


def _try(
    ready: PreparedStage, family: Family, one: _Slice, plan: LesionPlan, found: dict[tuple[str, float], _Count]
) -> None:
    """One slice without a lesion and with one of each diameter: the same noise, the same samples, the same chance."""
    name = ready.job.simulates[0]
    image, body = one.batch.images[name][one.row], body_of(one.case)[one.row]
    pixel_mm = float(one.batch.affine[one.row, :3, 1].norm())
    before = _answers(ready, family, one, image)
    for size in plan.diameters_mm:
        lesion = placed(body, size, pixel_mm, plan.contrast, Rng([derive(one.seed, "place", f"{size:g}")]))
        if lesion is None:
            continue
        after = _answers(ready, family, one, lesion.put_into(image))
        for method, draws in after.items():
            count = found.setdefault((method, size), _Count([]))
            _count(count, lesion, before[method], draws)
            count.slices += 1
            count.false += invented(image[0].numpy(), before[method][0], body, size, pixel_mm, plan.contrast)


def _count(count: _Count, lesion: Lesion, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> None:
    kept = [lesion.kept(b, a) for b, a in zip(before, after, strict=True)]
    count.kept.append(float(np.mean(kept)))
    count.preserved += preserved(kept)
    count.lesions += 1


def _answers(ready: PreparedStage, family: Family, one: _Slice, image: Tensor) -> Mapping[str, list[np.ndarray]]:
    """Draws (y, x) of the model, and the answer without one, of a y made from this image (1, y, x)."""
    index = torch.tensor([one.row])
    images = {n: v[index] for n, v in one.batch.images.items()} | {ready.job.simulates[0]: image[None]}
    values, present = ({n: v[index] for n, v in part.items()} for part in (one.batch.values, one.batch.present))
    batch = replace(
        one.batch, cases=(one.batch.cases[one.row],), images=images, affine=one.batch.affine[index], values=values,
        present=present,
    )  # fmt: skip
    problem = ready.job.question(batch, Rng([derive(one.seed, "question")]))
    count = draws_of(ready, family)
    rows = problem.rows(torch.zeros(count, dtype=torch.long))
    with tiled(family.eval(), ready.evaluate.windows):
        x = ready.job.finished(family.sample(rows, Rng([derive(one.seed, "draw", k) for k in range(count)])), rows)
    found = {"model": [draw[0].cpu().numpy() for draw in x]}
    for m in problem.measurements.values():
        if isinstance(m.operator, LinearOperator) and isinstance(m.noise, Scattered):
            found[EDGES] = [fewest_edges(m, problem.cases)[0, 0].numpy()]
    return found


def _figures(ready: PreparedStage, plan: LesionPlan, method: str, size: float, count: _Count) -> list[Figure]:
    what, n = f"lesions of {size:g} mm", count.lesions
    how = (
        f"contrast {plan.contrast:g} of the model's scale; half to one and a half times it in 80 % of the draws; Wilson"
    )
    share = Figure(ready.name, method, f"{what}: preserved", count.preserved / n, wilson(count.preserved, n), n, how)
    kept = Figure(
        ready.name, method, f"{what}: contrast kept", float(np.mean(count.kept)), None, n, "mean over lesions"
    )
    each = Figure(
        ready.name, method, f"{what}: false ones in {PER} slices", PER * count.false / count.slices,
        rate(count.false, count.slices / PER), count.slices, "one draw, without a lesion put in; exact Poisson",
    )  # fmt: skip
    return [share, kept, each]


def _plain(sizes: Sequence[float]) -> str:
    return ", ".join(f"{size:g}" for size in sizes)
