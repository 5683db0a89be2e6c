"""One case read, aligned and prepared: images on one grid, or raw data with the grid that they become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..contracts import Case, Field, Image, Measurement, Trace
from ..io import UnreadableError
from ..physics.algebra import Gridded
from .cohort import Member
from .grid import Grid, align, coverage, grid_of, inside_of, offset_mm
from .moving import MOVING
from .prepare import GridPreparation

LEFT_OUT = "is left out"
COVERED = "covered"  # a label map: 1 where every image of a case has data; only of cases where one has not everywhere


PLANNED = ("mm", "Gy")  # of images that are computed from others: they need not look alike
WHOLLY = 0.995  # of a grid: what is less is said, and weighed
FAR_MM = 4.0  # misregistration that is reported: twice the resolution of the check


@dataclass(frozen=True)
class Prepared:
    """One case on the prepared grid, with all that is needed to bring an answer back to the source's."""

    name: str
    case: Case
    tensors: Mapping[str, Tensor]  # (C, z, y, x)
    traces: Mapping[str, Trace]
    grid: Grid
    remarks: tuple[str, ...] = ()
    measurements: Mapping[str, Measurement] = field(default_factory=dict)  # of as many rows as are asked about


def load_aligned(member: Member, contrasts: Sequence[str], reference: str) -> tuple[Case, tuple[str, ...]]:
    """The case with all images on the grid of `reference` (or of the first that exists)."""
    case = member.load([name for name in contrasts if name != COVERED])
    if case.measurements and not case.images:
        return case, ()
    if not case.images:
        raise UnreadableError(f"{member.name} has none of {', '.join(contrasts)}.", "See: fabrica inspect DIR.")
    for name, image in case.images.items():
        _check_single(name, image)
    aligned, remarks = align(case, reference if reference in case.images else next(iter(case.images)))
    if COVERED in contrasts and (mask := _covered(case, aligned)) is not None:
        aligned = replace(aligned, images={**aligned.images, COVERED: mask})
    return aligned, remarks


def _covered(case: Case, aligned: Case) -> Image | None:
    """Where all images lie that were brought to the others' grid: beyond one's edge it is not known, not dark."""
    like = next(iter(aligned.images.values()))
    grid, found = grid_of(like), None
    for image in case.images.values():
        if image.meaning.kind == "label" or coverage(image, grid) >= WHOLLY:
            continue
        inside = inside_of(image, grid)
        found = inside if found is None else found & inside
    if found is None:
        return None
    data = found.float().reshape(1, *like.data.shape[1:])
    return replace(like, data=data, meaning=Field(COVERED, "label", 2, ""))


def left_out(member: Member, error: UnreadableError) -> str:
    """What is said of a case that cannot be used; everything else goes on."""
    return f"{member.name} {LEFT_OUT}: {error}"


def _check_single(name: str, image: Image) -> None:
    """Raises UnreadableError for a series of frames or several channels, where a job is given one image."""
    file = image.source or ""
    if "t" in image.axes:
        frames = image.data.shape[1]
        raise UnreadableError(
            f"its {name} is a series of {frames} frames, expected one image.",
            "Save the frame that is meant as a file of its own, or leave this one out with a table.", file,
        )  # fmt: skip
    if len(image.data) not in (1, image.meaning.frames):
        raise UnreadableError(
            f"its {name} has {len(image.data)} colour channels, expected one.",
            "Save it in grey, or its channels as files of their own.", file,
        )  # fmt: skip


def prepare_case(member: Member, contrasts: Sequence[str], reference: str, preparation: GridPreparation) -> Prepared:
    """Read, align and prepare one member; the box is that of the reference image, or of what was measured."""
    case, remarks = load_aligned(member, contrasts, reference)
    if not case.images:
        return _prepare_measured(member, case, reference, preparation)
    anchor = case.images.get(reference) or next(iter(case.images.values()))
    grid = preparation.grid(anchor)
    done = {name: preparation.forward(image, grid) for name, image in case.images.items()}
    tensors = {name: tensor for name, (tensor, _) in done.items()}
    unused = (f"{case.patient}: its {name} is not used beside its finished images." for name in case.measurements)
    remarks = (*remarks, *_misregistered(case, tensors, grid), *unused)
    return Prepared(member.name, case, tensors, {name: trace for name, (_, trace) in done.items()}, grid, remarks)


def _prepare_measured(member: Member, case: Case, reference: str, preparation: GridPreparation) -> Prepared:
    """A case of raw data alone: a grid that networks divide around the scanner's, which is measured in its middle."""
    ((name, measured),) = case.measurements.items()
    meaning = Field(reference, "intensity", 1, preparation.unit_of(reference, "a.u."))
    operator, slices = measured.operator, len(measured.value)
    assert isinstance(operator, Gridded)  # what raw data are measured by has a grid
    shape = operator.sides
    affine = torch.eye(4).double()[[2, 1, 0, 3]] if measured.affine is None else measured.affine
    source = Image(
        torch.zeros(1).expand(1, slices, *shape),
        "zyx",
        affine,
        meaning,
        source=member.name,
        calibrated=measured.affine is not None,
    )
    sides = tuple(-(-n // preparation.multiple) * preparation.multiple for n in shape)
    move = torch.eye(4).double()
    move[1:3, 3] = torch.tensor([-((n - m) // 2) for n, m in zip(sides, shape, strict=True)]).double()
    grid = Grid(affine @ move, (slices, sides[0], sides[1]))
    trace = Trace(source, grid.affine, 1.0, 0.0)
    wide = replace(measured, operator=operator.on_grid(sides))
    return Prepared(member.name, case, {}, {reference: trace}, grid, (), {name: wide})


def _misregistered(case: Case, tensors: Mapping[str, Tensor], grid: Grid) -> tuple[str, ...]:
    """One sentence for each image that lies off the first by more than FAR_MM: paired training would learn the
    shift.
    """
    images = [
        n for n, i in case.images.items()
        if i.meaning.kind == "intensity" and i.meaning.unit not in PLANNED and not n.startswith(MOVING)
    ]  # fmt: skip
    spacing, box = grid.spacing_mm, _box_of(tensors.get(COVERED))
    remarks = []
    for name in images[1:]:
        one, other = (tensors[n][0] if box is None else tensors[n][0][box] for n in (images[0], name))
        off = offset_mm(one, other, spacing, cut=box is not None)
        if off > FAR_MM:
            remarks.append(
                f"{case.patient}: {name} lies about {off:.0f} mm off {images[0]}; register them before training."
            )
    return tuple(remarks)


def _box_of(covered: Tensor | None) -> tuple[slice, ...] | None:
    """The box (z, y, x) of what all images cover; None where they cover all."""
    if covered is None or not bool((inside := covered[-1] > 0.5).any()):
        return None
    found = inside.nonzero()
    lows, highs = found.min(0).values.tolist(), found.max(0).values.tolist()
    return tuple(slice(low, high + 1) for low, high in zip(lows, highs, strict=True))
