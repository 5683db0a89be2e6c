"""What a planner knows beside the scan: distances to structures, prescriptions, where dose is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ..contracts import Case, Field, Image
from ..io import Scan, UnreadableError
from ..io.planning import POSSIBLE
from ..io.radiotherapy import prescribed_to
from .cohort import Derived, Member, origin
from .grid import grid_of, inside_of

DISTANCE = "distance "  # before the name of a structure: an image in mm, negative inside
PRESCRIPTION = "prescription"  # an image in Gy: the highest level whose target holds the voxel
FARTHEST_MM = 60.0  # distances end there
BODY_HU = -500.0  # darker voxels are air, outside the body or within


def planned(member: Member, prescriptions: Mapping[str, float]) -> Member:
    """The same case with images computed from its structures; `prescriptions`: target -> Gy, where its plan says none.

    Where a dose comes with a grid of its own and no mask of possible dose, that mask is the body within the grid.
    Loading raises UnreadableError where the grid leaves out a part of a target.
    """
    return _Planned(*origin(member), member, prescriptions)


@dataclass(frozen=True)
class _Planned(Derived):
    inner: Member
    prescriptions: Mapping[str, float]

    def contrasts(self) -> tuple[str, ...]:
        own = self.inner.contrasts()
        more = tuple(DISTANCE + name for name in own)
        known = (POSSIBLE,) if self._computes_possible() else ()
        return (*own, *more, *known, *((PRESCRIPTION,) if set(self.prescriptions) & set(own) else ()))

    def _computes_possible(self) -> bool:
        own = set(self.inner.contrasts())
        return {"dose", "CT"} <= own and POSSIBLE not in own

    def scans_of(self, contrasts: Iterable[str]) -> tuple[Scan, ...]:
        wanted = tuple(contrasts)
        targets = self.prescriptions if PRESCRIPTION in wanted else ()
        return self.inner.scans_of([*(name.removeprefix(DISTANCE) for name in wanted), *targets])

    def _level(self, target: str) -> float:
        """Gy: what the patient's plan says wins."""
        stated = self.inner.values.get(prescribed_to(target))
        return stated if isinstance(stated, float) else self.prescriptions[target]

    def load(self, contrasts: Iterable[str]) -> Case:
        wanted = tuple(contrasts)
        far = [name.removeprefix(DISTANCE) for name in wanted if name.startswith(DISTANCE)]
        mine = [n for n in self.prescriptions if n in self.inner.contrasts()]
        covering = POSSIBLE in wanted and self._computes_possible()
        targets = mine if PRESCRIPTION in wanted or covering else []
        case = self.inner.load(dict.fromkeys((*wanted, *far, *targets, *(("CT", "dose") if covering else ()))))
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
        return replace(case, images=images)


def _check_covered(dose: Image, target: Image, name: str) -> None:
    """Raises UnreadableError where a target reaches beyond the grid of the dose."""
    held = target.data[0] > 0.5
    left = int((held & ~inside_of(dose, grid_of(target))).sum())
    if left:
        text = f"its dose grid leaves out {left / int(held.sum()):.0%} of {name}."
        raise UnreadableError(text, "Export the dose on a grid that covers the targets.", dose.source or "")


def known_dose(dose: Image, ct: Image) -> Image:
    """1 on the CT's grid where a dose was computed and there is a body, airways included."""
    body = torch.from_numpy(np.stack([ndimage.binary_fill_holes(plane) for plane in ct.data[0].numpy() > BODY_HU]))
    known = (body & inside_of(dose, grid_of(ct)))[None].float()
    return replace(ct, data=known, meaning=Field(POSSIBLE, "label", 2, ""))


def distance_to(mask: Image, name: str) -> Image:
    """(1, *axes) in mm to the surface of a mask, negative inside, at most FARTHEST_MM away."""
    spacing = mask.affine[:3, :3].norm(dim=0).tolist()
    volume = mask.data[0].numpy() > 0.5
    values = signed_distance(volume if volume.ndim == 3 else volume[None], spacing)
    data = torch.from_numpy(values.reshape(mask.data.shape))
    return replace(mask, data=data, meaning=Field(name, "intensity", 1, "mm"))


def signed_distance(mask: NDArray[np.bool_], spacing_mm: Iterable[float]) -> NDArray[np.float32]:
    """To the nearest voxel of the other kind, below 0 inside; exact, and counted near the mask alone."""
    spacing = tuple(spacing_mm)
    found = np.full(mask.shape, FARTHEST_MM, np.float32)
    if not mask.any():
        return found
    box = []
    for axis, step in enumerate(spacing):
        inside = np.flatnonzero(mask.any(tuple(k for k in range(mask.ndim) if k != axis)))
        room = int(np.ceil(FARTHEST_MM / step)) + 1
        box.append(slice(max(0, inside[0] - room), min(mask.shape[axis], inside[-1] + room + 1)))
    part = mask[tuple(box)]
    away = ndimage.distance_transform_edt(~part, sampling=spacing)
    within = ndimage.distance_transform_edt(part, sampling=spacing)
    found[tuple(box)] = np.clip(away - within, -FARTHEST_MM, FARTHEST_MM)
    return found


def prescribed(masks: list[Image], levels_gy: list[float]) -> Image:
    """The highest level among the targets that hold a voxel, 0 outside all of them."""
    data = torch.zeros_like(masks[0].data)
    for mask, level in zip(masks, levels_gy, strict=True):
        data = torch.maximum(data, (mask.data > 0.5).float() * level)
    return replace(masks[0], data=data, meaning=Field(PRESCRIPTION, "intensity", 1, "Gy"))
