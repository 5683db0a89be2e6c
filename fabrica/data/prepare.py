"""From a source's grid and scale to the network's and back: resample, crop, pad, scale. All of it invertible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..contracts import ARBITRARY, SCALES, Case, Image, Preparation, Scale, Trace
from ..io import UnreadableError
from .grid import Grid, foreground, grid_of, resample

MULTIPLE = 16  # sides of a prepared grid: what a U-Net with a stem of 2 and three levels needs
WHOLE = 1e-3  # how far from a whole number a label may be stored


def intensity_scale(image: Image, percentile: float = 99.5) -> tuple[float, float]:
    """(offset, scale) that bring an image to about [0, 1]; fixed for units that have a constant, the foreground's
    percentile otherwise.

    One number per image holds across scanners that differ by a gain, needs no setting, and keeps contrasts.
    """
    if image.meaning.kind == "label":
        return 0.0, 1.0
    if (fixed := image.meaning.scale) is not None:
        return fixed.offset, fixed.width
    values = image.data[foreground(image.data)]
    if not len(values):
        return 0.0, 1.0
    top = float(np.percentile(values.numpy()[:: max(1, len(values) // 500_000)], percentile))
    return 0.0, top if top > 0 else 1.0


@dataclass(frozen=True)
class GridPreparation(Preparation):
    """Patient axes in LPS order, a spacing, a box around the patient, an intensity scale.

    `scales` holds, per contrast, the training cohort's (offset, scale): what draws leave on. Units with a constant have
    that; nothing of the case asked about is ever used. Given images and truths of arbitrary units come to it by their
    own percentiles.
    """

    axes: str  # "yx": slices keep the source's own distance along z; "zyx": volumes
    spacing_mm: tuple[float, float, float] | None  # (z, y, x); None = as the source
    size: tuple[int, int, int]  # smallest box (z, y, x) in voxels; z is free for slices
    scales: Mapping[str, tuple[float, float]]
    multiple: int = MULTIPLE  # of which sides are multiples; z is free for slices
    units: Mapping[str, str] = field(default_factory=dict)  # per contrast, where they are no arbitrary ones
    classes: Mapping[str, int] = field(default_factory=dict)  # per label map: what its whole numbers stay below
    learned_mm: tuple[float, float, float] | None = None  # the training cohort's own spacing, the median
    words: Mapping[str, str] = field(default_factory=dict)  # per text: what was learned of its words, see `Subwords`

    def grid(self, image: Image, crop: bool = True) -> Grid:
        """The box around the patient on this preparation's spacing, at least `size`; pictures keep the frame they were
        given.
        """
        source = grid_of(image)
        volume = image.data[0] if image.axes == "zyx" else image.data[:1]
        affine, shape = _canonical(source)
        spacing = affine[:3, :3].norm(dim=0)
        wanted = spacing if self.spacing_mm is None or not image.calibrated else torch.tensor(self.spacing_mm).double()
        if self.axes == "yx":
            wanted = torch.stack([spacing[0], *wanted[1:]])
        step = wanted / spacing
        extent = [max(1, round(float((n - 1) / s)) + 1) for n, s in zip(shape, step.tolist(), strict=True)]
        boxed = crop and image.calibrated
        low, high = _box(volume, source, affine, step, extent) if boxed else ([0, 0, 0], extent)
        size = [max(h - n, own) for n, h, own in zip(low, high, self.size, strict=True)]
        size = [
            n if self.axes == "yx" and k == 0 else -(-n // self.multiple) * self.multiple for k, n in enumerate(size)
        ]
        if self.axes == "yx":
            low[0], size[0] = 0, extent[0]
        start = [
            (n + h - s) // 2 if k or self.axes != "yx" else 0
            for k, (n, h, s) in enumerate(zip(low, high, size, strict=True))
        ]
        move = torch.eye(4).double()
        move[:3, :3] = torch.diag(step)
        move[:3, 3] = torch.tensor(start).double() * step
        return Grid(affine @ move, (size[0], size[1], size[2]))

    def as_it_is(self, image: Image) -> Grid:
        """The image's own voxels, its axes in the order and direction of prepared grids."""
        affine, shape = _canonical(grid_of(image))
        return Grid(affine, shape)

    def as_learned(self) -> GridPreparation:
        """The same, on the training cohort's spacing whatever an image has: for jobs that bring images to it."""
        return replace(self, spacing_mm=self.spacing_mm or self.learned_mm)

    def scale_of(self, image: Image) -> Scale:
        """How a given image or a truth comes to the network's scale; raises UnreadableError for another unit than the
        cohort's.
        """
        name, unit = image.meaning.name, image.meaning.unit
        known = self.units.get(name)
        if image.meaning.kind == "label":
            return Scale()
        if known is not None and unit != known:
            raise UnreadableError(
                f"its {name} is in {unit}, that of the training cohort in {known}.",
                f"Say so if it is: --unit {name}={known}", image.source or "",
            )  # fmt: skip
        if unit in ARBITRARY or (image.meaning.scale is None and name not in self.scales):
            return Scale(*intensity_scale(image))
        return self.draw_scale(name, unit)

    def draw_scale(self, name: str, unit: str) -> Scale:
        """How a draw leaves the network's scale: by the constant of its unit, else by what the training cohort has."""
        return SCALES.get(unit) or Scale(*self.scales.get(name, (0.0, 1.0)))

    def unit_of(self, name: str, otherwise: str) -> str:
        """In which unit a contrast is drawn: the training cohort's."""
        return self.units.get(name, otherwise if otherwise in SCALES and not self.units else "a.u.")

    def forward(self, image: Image, grid: Grid | None = None) -> tuple[Tensor, Trace]:
        """(C, z, y, x) float32 in about [0, 1] (labels stay whole numbers), on `grid` or on the image's own box.

        Raises UnreadableError for another unit than the cohort's, ValueError for labels that do not fit the classes.
        """
        if image.meaning.kind == "label":
            check_labels(image, self.classes.get(image.meaning.name))
        scale = self.scale_of(image)
        target = grid or self.grid(image)
        moved = resample(image, target)
        volume = moved.data if image.axes == "zyx" else moved.data[:, None]
        blank = replace(image, data=torch.zeros(1).expand(image.data.shape))
        trace = Trace(blank, target.affine, scale.width, scale.offset)
        return (volume - scale.offset) / scale.width, trace

    def back(self, tensor: Tensor, trace: Trace) -> Image:
        """(C, z, y, x) -> the source's grid, in the unit of `trace.like`: by its constant, arbitrary units on the
        cohort's scale.
        """
        like, meaning = trace.like, trace.like.meaning
        label = meaning.kind == "label"
        own = Scale(trace.offset, trace.scale) if trace.own else self.draw_scale(meaning.name, meaning.unit)
        scale = Scale() if label else own
        values = (tensor * scale.width).add_(scale.offset)
        volume = Image(values.float(), "zyx", trace.grid, meaning)
        moved = resample(volume, grid_of(like), fill=scale.offset)
        return replace(like, data=moved.data if like.axes == "zyx" else moved.data[:, 0])


def check_labels(image: Image, classes: int | None) -> None:
    """Raises ValueError for values that are no labels, or that the classes have no place for: they are never
    clamped.
    """
    name, file = image.meaning.name, image.source or "a label map"
    ids = torch.unique(image.data)
    if len(ids) > 1000 or bool(((ids - ids.round()).abs() > WHOLE).any()) or float(ids.min()) < 0:
        raise ValueError(
            f"{file}: its {name} holds values that are no labels, expected whole numbers from 0. "
            "Name what it is in a table: fabrica inspect DIR --write-table files.csv"
        )
    if classes is not None and float(ids.max()) > classes - 1 + WHOLE:
        shown = ", ".join(f"{v:g}" for v in ids[:12].tolist())
        raise ValueError(
            f"{file}: its {name} holds the labels {shown}, and the recipe gives {name} {classes} classes (0 to"
            f" {classes - 1}). "
            f'Write "{name}:{int(ids.max().round()) + 1}" in place of {name}'
        )


def fit(
    cases: Iterable[Case], reference: str, axes: str, spacing_mm: Sequence[float] | None, multiple: int = MULTIPLE,
    classes: Mapping[str, int] | None = None, resample: bool = True,
) -> GridPreparation:  # fmt: skip
    """The preparation of a training cohort: its spacing (the median, when patients differ), box, units and scales.

    Without `resample` every case stays on its own voxels, and boxes are counted in them.

    Cases are looked at one by one: a cohort may be larger than memory. Raises ValueError where a contrast has several
    units, and for labels that do not fit `classes`.
    """
    spacings, extents_mm = [], []
    units: dict[str, dict[str, str]] = {}  # contrast -> unit -> a patient who has it
    found: dict[str, list[tuple[float, float]]] = {}
    blank = GridPreparation(axes, None, (1, 1, 1), {}, 1 if multiple < MULTIPLE else MULTIPLE)
    for case in cases:
        grid = blank.grid(case.images[reference])
        own = grid.affine[:3, :3].norm(dim=0)
        spacings.append(own.tolist())
        extents_mm.append((own * torch.tensor(grid.shape)).tolist())
        for name, image in case.images.items():
            if image.meaning.kind == "label":
                check_labels(image, (classes or {}).get(name))
            found.setdefault(name, []).append(intensity_scale(image))
            units.setdefault(name, {}).setdefault(image.meaning.unit, case.patient)
    if not spacings:
        raise ValueError(
            "There is nothing to train on: the training part holds no readable cases. See: fabrica inspect DIR."
        )
    inner = np.array(spacings)[:, 1:] if axes == "yx" else np.array(spacings)
    middle = np.median(np.array(spacings), axis=0)
    chosen: tuple[float, float, float] | None = None
    if spacing_mm is not None:
        chosen = (float(spacing_mm[0]), float(spacing_mm[-2]), float(spacing_mm[-1]))
    elif resample and float((inner.max(0) / inner.min(0)).max()) > 1.02:
        chosen = (float(middle[0]), float(middle[1]), float(middle[2]))
    step = np.array(chosen) if chosen is not None else middle
    extents = np.array(extents_mm) / (np.array(spacings) if not resample else step)
    sides = [-(-int(n) // multiple) * multiple for n in np.ceil(extents.max(0) - 0.1)]
    scales = {n: (float(np.median([o for o, _ in v])), float(np.median([s for _, s in v]))) for n, v in found.items()}
    size = (1 if axes == "yx" else sides[0], sides[1], sides[2])
    learned = (float(step[0]), float(step[1]), float(step[2]))
    return GridPreparation(axes, chosen, size, scales, multiple, _one_unit_each(units), dict(classes or {}), learned)


def _one_unit_each(units: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Contrast -> unit, where it is no arbitrary one; raises ValueError where patients differ."""
    for name, own in units.items():
        if len(own) > 1:
            (one, first), (other, second) = list(own.items())[:2]
            raise ValueError(
                f"{name} is in {one or 'no unit'} for {first} and in {other or 'no unit'} for {second}: numbers of two"
                f" meanings. Say what it is for all (--unit {name}={one or other}), or give files a unit in a table."
            )
    return {name: unit for name, own in units.items() for unit in own if unit not in ARBITRARY}


def _canonical(grid: Grid) -> tuple[Tensor, tuple[int, int, int]]:
    """The same voxels with axes reordered and flipped to run superior, posterior, left (LPS z, y, x)."""
    linear = grid.affine[:3, :3].double()
    directions = linear / linear.norm(dim=0)
    order: list[int] = []
    for row in (2, 1, 0):  # z, y, x of the patient
        free = [k for k in range(3) if k not in order]
        order.append(max(free, key=lambda k: float(directions[row, k].abs())))
    move, shape = torch.zeros(4, 4).double(), []
    move[3, 3] = 1.0
    for new, (old, row) in enumerate(zip(order, (2, 1, 0), strict=True)):
        n = grid.shape[old]
        forward = float(directions[row, old]) >= 0
        move[old, new] = 1.0 if forward else -1.0
        move[old, 3] = 0.0 if forward else n - 1.0
        shape.append(n)
    return grid.affine.double() @ move, (shape[0], shape[1], shape[2])


def _box(
    volume: Tensor, source: Grid, affine: Tensor, step: Tensor, extent: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Bounding box of the foreground in voxels of the prepared grid, with a margin of 2."""
    inside = foreground(volume).nonzero()
    if not len(inside):
        return [0, 0, 0], list(extent)
    ends = torch.stack([inside.min(0).values, inside.max(0).values]).double()
    corners = torch.cartesian_prod(*ends.T)
    homogeneous = torch.cat([corners, torch.ones(len(corners), 1).double()], 1)
    index = (torch.linalg.inv(affine) @ source.affine.double() @ homogeneous.T)[:3].T / step
    low = [max(0, int(v) - 2) for v in index.min(0).values.floor().tolist()]
    high = [min(n, int(v) + 3) for v, n in zip(index.max(0).values.ceil().tolist(), extent, strict=True)]
    return low, high


def plain_preparation(preparation: GridPreparation) -> dict[str, Any]:
    plain = asdict(preparation)
    plain["scales"] = {k: list(v) for k, v in preparation.scales.items()}
    return plain if preparation.words else {k: v for k, v in plain.items() if k != "words"}


def preparation_from(plain: Mapping[str, Any]) -> GridPreparation:
    spacing = plain["spacing_mm"]
    scales = {k: (float(v[0]), float(v[1])) for k, v in plain["scales"].items()}
    size, multiple = tuple(plain["size"]), plain.get("multiple", MULTIPLE)
    units = {str(k): str(v) for k, v in plain.get("units", {}).items()}
    classes = {str(k): int(v) for k, v in plain.get("classes", {}).items()}
    learned = tuple(plain.get("learned_mm") or ()) or None
    words = {str(k): str(v) for k, v in plain.get("words", {}).items()}
    return GridPreparation(
        plain["axes"], tuple(spacing) if spacing else None, size, scales, multiple, units, classes, learned, words
    )
