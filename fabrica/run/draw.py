"""A trained stage put to use: its family, its draws, and the images that they become; the next stage's input."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..contracts import Family, Field, Image, Job, Problem
from ..data.cases import Prepared
from ..data.filmed import film_of
from ..data.prepare import GridPreparation
from ..data.store import Layout
from ..networks.tiled import Windows, tiled
from ..physics.mask import settled
from ..rng import Rng, derive
from .memory import drawing_room, windows_said
from .question import ROWS, Shown, background, nothing_given, question_of, whole_answer

VOXELS = 2**25  # of all rows that share a batch: more are drawn one after the other, and need no more memory together


def draw(
    family: Family, job: Job, shown: Sequence[Shown], layout: Layout, seed: int, say: Callable[[str], None],
    window: Windows | Sequence[int] | None = None,
) -> list[Tensor]:  # fmt: skip
    """A draw of each of `shown`: (C, z, y, x), or (C,) for values (the mean over slices). Small cases share a batch.

    `window`: sides of the windows that the networks work by; none = the whole grid, or what memory allows. Each row has
    its own seed, from the case, the number of the draw and the slice. Computed where the family is, returned on the
    CPU.
    """
    return list(drawn_in_turn(family, job, shown, layout, seed, say, window))


def drawn_in_turn(
    family: Family, job: Job, shown: Sequence[Shown], layout: Layout, seed: int, say: Callable[[str], None],
    window: Windows | Sequence[int] | None = None,
) -> Iterator[Tensor]:  # fmt: skip
    """As `draw`, one batch after the other: what was taken and let go needs no memory any more."""
    family.eval()
    device = next(family.parameters()).device
    for group in _together(shown, layout):
        with torch.no_grad():  # not around the whole: its wrapper would hold what was yielded
            problem = question_of(job, group, layout, seed, device)
            each = len(problem.cases) // len(group)
            seeds = [derive(seed, "draw", name, group[i // each].number) for i, name in enumerate(problem.cases)]
            x = rows_drawn(family, job, problem, seeds, say, window)
        answers = [whole_answer(rows_of, layout) for rows_of in torch.split(x, each)]
        del problem, x
        while answers:  # what was yielded is not held here
            yield answers.pop(0)


@torch.no_grad()
def rows_drawn(
    family: Family, job: Job, problem: Problem, seeds: Sequence[int], say: Callable[[str], None],
    window: Windows | Sequence[int] | None = None,
) -> Tensor:  # fmt: skip
    """(B, C, *axes) on the CPU: every row of a question drawn, as many at once as memory allows; rows in which nothing
    is shown, or all of x was measured, are left as they are.
    """
    device = next(family.parameters()).device
    rows, fitting = drawing_room(family, problem, min(ROWS, len(problem.cases)), device.type)
    if fitting and window is None:
        say(windows_said(problem.cases[0].split("/")[0], fitting))
    x = background(job.signature().x, problem)
    done = nothing_given(job, problem)
    for measured in problem.measurements.values():
        whole = settled(measured, len(done))
        if bool(whole.any()):
            x[whole], done = measured.value[whole.to(device)].float().cpu(), done | whole
    filled = (~done).nonzero().flatten().cpu()
    for index in torch.split(filled, rows) if len(filled) else ():
        with tiled(family, window or fitting):
            x[index] = family.sample(problem.rows(index), Rng([seeds[i] for i in index.tolist()])).float().cpu()
    return job.finished(x, problem)


def _together(shown: Sequence[Shown], layout: Layout) -> list[list[Shown]]:
    """Neighbours on one grid, as long as their rows fit one batch and its voxels stay few."""
    groups: list[list[Shown]] = []
    for one in shown:
        shape = one.case.grid.shape
        each = shape[0] if layout.axes == "yx" else 1
        count = len(groups[-1]) + 1 if groups else 0
        few = count * each <= ROWS and count * math.prod(shape) <= VOXELS
        alike = groups and groups[-1][0].case.grid.shape == shape and few
        groups = [*groups[:-1], [*groups[-1], one]] if alike else [*groups, [one]]
    return groups


def images_of(
    x: Tensor, fields: Sequence[Field], prepared: Prepared, preparation: GridPreparation, source: str
) -> dict[str, Image]:
    """One drawn x (C, z, y, x) as images on the source's grid; labels by their most probable class."""
    images, start = {}, 0
    for field in fields:
        part = x[start : start + field.channels]
        start += field.channels
        if field.kind == "label":
            part = part.argmax(0, keepdim=True).float()
        image = replace(image_of(part, field, prepared, preparation), source=source)
        images[field.name] = film_of(image, _times(prepared, field.frames)) if field.frames > 1 else image
    return images


def _times(prepared: Prepared, frames: int) -> Tensor | None:
    """Seconds of a film's frames, even between those of the case; None where it states none."""
    for image in prepared.case.images.values():
        if image.times is not None and len(image.times) > 1:
            first, second = image.meaning.moments[:2] or (0, 1)
            step = float(image.times[1] - image.times[0]) / (second - first)
            return torch.arange(frames).double() * step
    return None


def image_of(part: Tensor, field: Field, prepared: Prepared, preparation: GridPreparation) -> Image:
    """One field of a draw (1, z, y, x) on the source's grid, in the training cohort's unit: what is written and what is
    measured.
    """
    trace = prepared.traces.get(field.name) or next(iter(prepared.traces.values()))
    unit = "" if field.kind == "label" else preparation.unit_of(field.name, field.unit)
    meaning = replace(field, channels=field.frames, unit=unit)
    return preparation.back(part, replace(trace, like=replace(trace.like, meaning=meaning)))
