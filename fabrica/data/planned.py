"""What a planner knows beside the scan: how far a voxel lies from each structure, and its prescription."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ..contracts import Case, Field, Image
from ..io import Scan
from .cohort import Derived, Member, origin

DISTANCE = "distance "  # before the name of a structure: an image in mm, negative inside
PRESCRIPTION = "prescription"  # an image in Gy: the highest level whose target holds the voxel
FARTHEST_MM = 60.0  # distances end there


def planned(member: Member, prescriptions: Mapping[str, float]) -> Member:
    """The same case with images computed from its structures; `prescriptions`: target -> Gy."""
    return _Planned(*origin(member), member, prescriptions)


@dataclass(frozen=True)
class _Planned(Derived):
    inner: Member
    prescriptions: Mapping[str, float]

    def contrasts(self) -> tuple[str, ...]:
        own = self.inner.contrasts()
        more = tuple(DISTANCE + name for name in own)
        return (*own, *more, *((PRESCRIPTION,) if set(self.prescriptions) & set(own) else ()))

    def scans_of(self, contrasts: Iterable[str]) -> tuple[Scan, ...]:
        wanted = tuple(contrasts)
        targets = self.prescriptions if PRESCRIPTION in wanted else ()
        return self.inner.scans_of([*(name.removeprefix(DISTANCE) for name in wanted), *targets])

    def load(self, contrasts: Iterable[str]) -> Case:
        wanted = tuple(contrasts)
        far = [name.removeprefix(DISTANCE) for name in wanted if name.startswith(DISTANCE)]
        targets = [n for n in self.prescriptions if n in self.inner.contrasts()] if PRESCRIPTION in wanted else []
        case = self.inner.load(dict.fromkeys((*wanted, *far, *targets)))
        images = {n: i for n, i in case.images.items() if n in wanted}
        for name in far:
            if name in case.images:
                images[DISTANCE + name] = distance_to(case.images[name], DISTANCE + name)
        if targets:
            images[PRESCRIPTION] = prescribed(
                [case.images[n] for n in targets], [self.prescriptions[n] for n in targets]
            )
        return replace(case, images=images)


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
