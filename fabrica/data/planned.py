"""What a planner knows beside the scan: distances to structures, prescriptions, where dose is known, a first guess."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ..contracts import Case, Field, Image
from ..io import Scan, UnreadableError
from ..io.planning import POSSIBLE
from ..io.radiotherapy import prescribed_to
from .beams import Anatomy, check_axial, inside_body
from .cohort import Derived, Member, origin
from .dose_table import DoseTable
from .grid import Grid, grid_of, inside_of, resample, same_grid
from .signed import signed_distance

DISTANCE = "distance "  # before the name of a structure: an image in mm, negative inside
PRESCRIPTION = "prescription"  # an image in Gy: the highest level whose target holds the voxel
TABLE, EVEN = "table dose", "even beams"  # images in Gy: what trees guess, and what even beams would give
_GUESSES = (TABLE, EVEN)


def planned(member: Member, prescriptions: Mapping[str, float], table: DoseTable | None = None) -> Member:
    """The same case with images computed from its structures; `prescriptions`: target -> Gy, where its plan says none.

    Where a dose comes with a grid of its own and no mask of possible dose, that mask is the body within the grid.
    Loading raises UnreadableError where the grid leaves out a part of a target. With a `table` there are its guesses.
    A case that was planned before gets the table alone.
    """
    if isinstance(member, _Planned):
        return replace(member, table=table)
    return _Planned(*origin(member), member, prescriptions, table)


def anatomy_of(member: Member, names: Iterable[str]) -> tuple[Anatomy, NDArray[np.float32] | None]:
    """What of a planned case a table is asked with, and its dose in Gy, on the grid of its CT; None without one."""
    assert isinstance(member, _Planned)
    return member.anatomy(tuple(names))


@dataclass(frozen=True)
class _Planned(Derived):
    inner: Member
    prescriptions: Mapping[str, float]
    table: DoseTable | None = None

    def contrasts(self) -> tuple[str, ...]:
        own = self.inner.contrasts()
        more = tuple(DISTANCE + name for name in own)
        known = (POSSIBLE,) if self._computes_possible() else ()
        guesses = _GUESSES if self.table is not None and "CT" in own else ()
        return (*own, *more, *known, *guesses, *((PRESCRIPTION,) if set(self.prescriptions) & set(own) else ()))

    def _computes_possible(self) -> bool:
        own = set(self.inner.contrasts())
        return {"dose", "CT"} <= own and POSSIBLE not in own

    def scans_of(self, contrasts: Iterable[str]) -> tuple[Scan, ...]:
        wanted = tuple(contrasts)
        guessing = bool({*_GUESSES} & {*wanted})
        targets = self.prescriptions if PRESCRIPTION in wanted or guessing else ()
        asked = (*self.table.names, "CT") if self.table is not None and guessing else ()
        return self.inner.scans_of([*(n.removeprefix(DISTANCE) for n in wanted), *targets, *asked])

    def _level(self, target: str) -> float:
        """Gy: what the patient's plan says wins."""
        stated = self.inner.values.get(prescribed_to(target))
        return stated if isinstance(stated, float) else self.prescriptions[target]

    def load(self, contrasts: Iterable[str]) -> Case:
        wanted = tuple(contrasts)
        table = self.table if {*_GUESSES} & {*wanted} else None
        far = [name.removeprefix(DISTANCE) for name in wanted if name.startswith(DISTANCE)]
        mine = [n for n in self.prescriptions if n in self.inner.contrasts()]
        covering = POSSIBLE in wanted and self._computes_possible()
        targets = mine if PRESCRIPTION in wanted or covering else []
        more = self._asked(table.names) if table is not None else ("CT", "dose") if covering else ()
        case = self.inner.load(dict.fromkeys((*wanted, *far, *targets, *more)))
        images = {n: i for n, i in case.images.items() if n in wanted}
        for name in far:
            if name in case.images:
                images[DISTANCE + name] = distance_to(case.images[name], DISTANCE + name)
        if PRESCRIPTION in wanted and targets:
            images[PRESCRIPTION] = prescribed([case.images[n] for n in targets], [self._level(n) for n in targets])
        if covering:
            for name in targets:
                _check_covered(case.images["dose"], case.images[name], name)
            images[POSSIBLE] = known_dose(case.images["dose"], case.images["CT"])
        if table is not None:
            anatomy, _ = self._anatomy(case, table.names)
            guess, ct = table.guess(self.patient, anatomy), case.images["CT"]
            for name, values in ((TABLE, guess.table), (EVEN, guess.even)):
                field = Field(name, "intensity", 1, "Gy")
                images[name] = replace(ct, data=torch.from_numpy(values)[None], meaning=field)
        return replace(case, images=images)

    def _asked(self, names: Iterable[str]) -> tuple[str, ...]:
        """What a table has to see of a case that it guesses."""
        return ("CT", POSSIBLE, "dose", *names, *self.prescriptions)

    def anatomy(self, names: tuple[str, ...]) -> tuple[Anatomy, NDArray[np.float32] | None]:
        return self._anatomy(self.inner.load(dict.fromkeys(self._asked(names))), names)

    def _anatomy(self, case: Case, names: Iterable[str]) -> tuple[Anatomy, NDArray[np.float32] | None]:
        """Raises UnreadableError for a case without a CT, and for slices that do not lie across the patient."""
        if (ct := case.images.get("CT")) is None:
            raise UnreadableError("has no CT to guess a dose on.", "Give its CT, or write job: {table: 0}.", self.name)
        check_axial(ct)
        grid, dose = grid_of(ct), case.images.get("dose")
        drawn = {*names, *self.prescriptions} & {*case.images}
        masks = {n: _on(case.images[n], grid).data[0].numpy() > 0.5 for n in drawn}
        if POSSIBLE in case.images:
            possible = _on(case.images[POSSIBLE], grid).data[0].numpy() > 0.5
        elif dose is not None:
            possible = known_dose(dose, ct).data[0].numpy() > 0.5
        else:
            possible = inside_body(ct.data[0].numpy())
        levels = {n: self._level(n) for n in self.prescriptions}
        stated = POSSIBLE in case.images
        found = Anatomy(ct.data[0].numpy(), masks, possible, ct.affine.numpy(), levels, stated)
        return found, None if dose is None else _on(dose, grid).data[0].numpy()


def _on(image: Image, grid: Grid) -> Image:
    return image if same_grid(grid_of(image), grid) else resample(image, grid)


def _check_covered(dose: Image, target: Image, name: str) -> None:
    """Raises UnreadableError where a target reaches beyond the grid of the dose."""
    held = target.data[0] > 0.5
    left = int((held & ~inside_of(dose, grid_of(target))).sum())
    if left:
        text = f"its dose grid leaves out {left / int(held.sum()):.0%} of {name}."
        raise UnreadableError(text, "Export the dose on a grid that covers the targets.", dose.source or "")


def known_dose(dose: Image, ct: Image) -> Image:
    """1 on the CT's grid where a dose was computed and there is a body, airways included."""
    body = torch.from_numpy(inside_body(ct.data[0].numpy()))
    known = (body & inside_of(dose, grid_of(ct)))[None].float()
    return replace(ct, data=known, meaning=Field(POSSIBLE, "label", 2, ""))


def distance_to(mask: Image, name: str) -> Image:
    """(1, *axes) in mm to the surface of a mask, negative inside, at most FARTHEST_MM away."""
    spacing = mask.affine[:3, :3].norm(dim=0).tolist()
    volume = mask.data[0].numpy() > 0.5
    values = signed_distance(volume if volume.ndim == 3 else volume[None], spacing)
    data = torch.from_numpy(values.reshape(mask.data.shape))
    return replace(mask, data=data, meaning=Field(name, "intensity", 1, "mm"))


def prescribed(masks: list[Image], levels_gy: list[float]) -> Image:
    """The highest level among the targets that hold a voxel, 0 outside all of them."""
    data = torch.zeros_like(masks[0].data)
    for mask, level in zip(masks, levels_gy, strict=True):
        data = torch.maximum(data, (mask.data > 0.5).float() * level)
    return replace(masks[0], data=data, meaning=Field(PRESCRIPTION, "intensity", 1, "Gy"))
