"""The memory that training and drawing will need, counted on small problems before the real one starts; what fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from ..contracts import Batch, Family, Job, Problem
from ..data.prepare import MULTIPLE
from ..data.store import Layout, Loader, Store, to_device
from ..machine.device import free_bytes
from ..machine.memory import PROBE_ROWS, ROOM, Need, bytes_a_row
from ..networks.tiled import cut
from ..rng import Rng

PROBE_SIDE = {"yx": 32, "zyx": 16}  # voxels: large enough that activations outweigh everything else
COPIES = {"cpu": 8, "cuda": 4}  # of the weights: gradients, average, two moments; and what checkpoints are written from
FROZEN = 3  # copies of weights that nothing moves: theirs, the average's, what a checkpoint is written from
PLENTY = 8192  # bytes a voxel: with more than this free nothing need be counted


def training_need(family: Family, job: Job, store: Store, layout: Layout) -> Need:
    """Counted on two and on four rows of a small patch: activations grow in proportion to rows and voxels."""

    def train(batch: Batch) -> None:
        rng = Rng(list(range(len(batch.cases))))
        problem = job.problem(batch, rng.child("problem"))
        for group in family.groups():
            terms = family.loss(problem, group, rng.child(group), 0.0)
            torch.stack([t.mean() for t in terms.values()]).sum().backward()  # type: ignore[no-untyped-call]

    parameters = list(family.parameters())
    for parameter in parameters:
        parameter.grad = (
            torch.zeros_like(parameter) if parameter.requires_grad else None
        )  # so that only activations are counted
    family.train()
    side = _probe(family, layout.axes)
    z, y, x = (min(n, side) for n in layout.size)
    small, device = replace(layout, size=(z, y, x)), parameters[0].device
    batches = {rows: to_device(Loader(store, small, rows, 0).load(0), device) for rows in PROBE_ROWS}
    row = bytes_a_row(lambda rows: train(batches[rows]), small.size, layout.size)
    for parameter in parameters:
        parameter.grad = None
    moving = sum(p.nbytes for p in parameters if p.requires_grad)
    frozen = sum(p.nbytes for p in parameters) - moving  # a codec's: they and their copy in the average
    return Need(COPIES[parameters[0].device.type] * moving + FROZEN * frozen, row)


def _probe(family: Family, axes: str) -> int:
    """Sides of the small problem: what the networks can be called with."""
    step = family.multiple
    return -(-PROBE_SIDE[axes] // step) * step


def drawing_bytes(family: Family, problem: Problem) -> int:
    """Of one row of a whole draw, counted on a corner of its grid."""
    small = corner(family, problem)

    @torch.no_grad()
    def draw(rows: int) -> None:
        family.sample(small.rows(torch.zeros(rows, dtype=torch.long)), Rng(list(range(rows))))

    return bytes_a_row(draw, small.shape[1:], problem.shape[1:])


def corner(family: Family, problem: Problem) -> Problem:
    """The question on a corner of its grid, which any machine can draw."""
    grid = problem.shape[1:]
    side = _probe(family, "zyx" if len(grid) == 3 else "yx")
    sides = tuple(min(n, side) for n in grid)
    place = tuple(slice(n) for n in sides)
    shape = (problem.shape[0], *sides)
    measured = {name: m.corner(shape) for name, m in problem.measurements.items()}
    return Problem(problem.cases, shape, cut(problem.condition, grid, place), measured)


def drawing_room(family: Family, problem: Problem, most_rows: int, device: str) -> tuple[int, tuple[int, ...] | None]:
    """(rows drawn at once, window): as many rows as fit up to `most_rows`; when not even one does, the largest window
    that does.
    """
    grid, free = tuple(problem.shape[1:]), free_bytes(device)
    if free is None or most_rows * math.prod(grid) * PLENTY < free:
        return most_rows, None
    row = drawing_bytes(family, problem)
    if rows := Need(0, row).most_rows(free, most_rows):
        return rows, None
    window, step = list(grid), math.lcm(MULTIPLE, family.multiple)
    while row * math.prod(window) / math.prod(grid) > ROOM * free and max(window) > step:
        longest = window.index(max(window))
        window[longest] = -(-window[longest] // (2 * step)) * step
    return 1, tuple(window)


def window_that_fits(family: Family, problem: Problem) -> tuple[int, ...] | None:
    """For one row; None when the whole grid does."""
    return drawing_room(family, problem, 1, next(family.parameters()).device.type)[1]


def windows_said(case: str, window: Sequence[int]) -> str:
    return (
        f"{case}: memory does not hold a whole draw; drawn by blended windows of {' x '.join(map(str, window))} voxels."
    )
