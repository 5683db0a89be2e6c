"""From a patient to images: tissue fractions in slabs, one matrix product for all contrasts, then the imaging chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...machine.device import free_bytes, threads
from ...rng import Rng
from . import anatomy as head
from .fields import blur, noise
from .kept import Kept
from .lesions import lesion_fields, paint
from .tissue import MR, NAMES, SCANNERS, PulseSequence, Scanner, mixing_matrix

CONTRASTS = (*MR, "CT", "PET")
SLAB = 7  # planes of the coarse grid worked on at once: they stay in the cache


@dataclass(frozen=True)
class Simulated:
    """A scanned head and the truth about it. Arrays are (x, y, z), RAS, first voxel at `anatomy.ORIGIN`."""

    images: Mapping[str, Tensor]  # MR relative to white matter, CT in HU, PET in SUV
    fractions: Tensor  # (3, x, y, z) CSF, grey, white
    brain: Tensor  # fraction of the voxel inside the pial hull, lesions and CSF included
    masks: Mapping[str, Tensor]  # fraction of the voxel inside the lesion
    spacing_mm: float
    smallest_jacobian: float


def _anatomy_bytes(made: head.Anatomy) -> int:
    return sum(v.nbytes for v in (*made.fields.values(), made.warp))


# the same head in other contrasts, or on another scanner
ANATOMIES = Kept(min(1_000_000_000, (free_bytes() or 12_000_000_000) // 48), _anatomy_bytes)


@torch.inference_mode()
def simulate(
    patient: head.Patient, scanner: str = "A", contrasts: Sequence[str] = CONTRASTS, spacing_mm: int = 1
) -> Simulated:
    """One head in all contrasts asked for, at 1, 2, 3 or 4 mm; to the bit the same for the same arguments.

    Raises ValueError for an unknown scanner, contrast or spacing.
    """
    check_request(scanner, contrasts, spacing_mm)
    with threads(1):  # the same bits everywhere; a cohort is better made by several processes
        return _simulate(patient, SCANNERS[scanner], contrasts, spacing_mm)


def check_request(scanner: str, contrasts: Sequence[str], spacing_mm: int) -> None:
    """Raise ValueError for what cannot be simulated, before any time is spent on it."""
    unknown = [c for c in contrasts if c not in CONTRASTS]
    if unknown or scanner not in SCANNERS or spacing_mm not in (1, 2, 3, 4):
        raise ValueError(
            f"Cannot simulate scanner {scanner!r}, contrasts {list(contrasts)}, {spacing_mm} mm; expected scanner "
            f"{' or '.join(SCANNERS)}, contrasts among {', '.join(CONTRASTS)}, spacing 1, 2, 3 or 4 mm."
        )


def _simulate(patient: head.Patient, scanner: Scanner, contrasts: Sequence[str], spacing: int) -> Simulated:
    rng = Rng([patient.seed])
    coarse = max(2, spacing)
    made = ANATOMIES.get((patient, coarse), lambda: head.anatomy(patient, rng.child("anatomy"), float(coarse)))
    names = [*made.fields, "lesion", "zone"]
    marks = lesion_fields(patient, rng.child("anatomy"), made)
    stack = torch.cat([torch.stack([*made.fields.values(), marks["lesion"], marks["zone"]]), made.warp])
    mixing = mixing_matrix(scanner, contrasts, patient.atrophy)
    inside = _around_the_head(made.fields["skull"])
    shape = tuple(n // spacing for n in head.EXTENT_MM)
    images = torch.zeros(len(contrasts), *shape)
    fractions, brain = torch.zeros(3, *shape), torch.zeros(shape)
    masks: dict[str, Tensor] = {}
    factor = coarse // spacing
    y, z = (slice(s.start * factor, min((s.stop - 1) * factor, n)) for s, n in zip(inside[1:], shape[1:], strict=True))
    room = torch.empty(len(NAMES), SLAB * factor, y.stop - y.start, z.stop - z.start)
    for start in range(inside[0].start, inside[0].stop - 1, SLAB):
        stop = min(start + SLAB + 1, inside[0].stop)
        part = _finer(stack[:, start:stop, inside[1], inside[2]], factor)
        x = slice(start * factor, min(start * factor + part.shape[1], shape[0]))
        part = part[:, : x.stop - x.start, : y.stop - y.start, : z.stop - z.start]
        found = _slab(patient, dict(zip(names, part, strict=False)), part[-3:], mixing, contrasts, spacing, room)
        images[:, x, y, z], fractions[:, x, y, z] = found[0], found[1][:3]
        brain[x, y, z] = torch.sigmoid((part[names.index("outer")] + 0.5) / 0.5)
        for name, mask in found[2].items():
            masks.setdefault(name, torch.zeros(shape))[x, y, z] = mask
    scanned = _acquire(patient, scanner, contrasts, images, spacing)
    return Simulated(scanned, fractions, brain, masks, float(spacing), made.smallest_jacobian)


def _around_the_head(skull: Tensor) -> tuple[slice, slice, slice]:
    """The box within which there is anything but air: the scalp ends 16 mm outside the skull's inner surface."""
    near = (skull > -18).nonzero()
    low, high = near.min(0).values.tolist(), near.max(0).values.tolist()
    x, y, z = (slice(max(0, a - 1), min(n, b + 2)) for a, b, n in zip(low, high, skull.shape, strict=True))
    return x, y, z


def _finer(slab: Tensor, factor: int) -> Tensor:
    """Linear interpolation half-way between the coarse grid's points; the last planes belong to the neighbours."""
    for axis in (1, 2, 3) if factor == 2 else ():
        n = slab.shape[axis]
        fine = slab.new_empty([2 * m - 1 if k == axis else m for k, m in enumerate(slab.shape)])
        fine[(slice(None),) * axis + (slice(0, None, 2),)] = slab
        middle = fine[(slice(None),) * axis + (slice(1, None, 2),)]
        torch.add(slab.narrow(axis, 0, n - 1), slab.narrow(axis, 1, n - 1), out=middle)
        middle.mul_(0.5)
        slab = fine
    return slab[:, :-1, :-1, :-1]


def _slab(
    patient: head.Patient,
    v: Mapping[str, Tensor],
    warp: Tensor,
    mixing: Tensor,
    contrasts: Sequence[str],
    spacing: int,
    room: Tensor,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(images, fractions, masks) of some planes."""
    fractions = head.healthy_fractions(patient, v, warp, float(spacing), room)
    masks = paint(fractions, patient, v)
    u1 = 0.035 * v["mid1"] + 0.03 * v["fine1"] + 0.03 * v["slow"] - v["myelin"] * fractions[1]
    iron = v["iron"] * (0.6 + 0.5 * min(patient.age / 60, 1))
    u2 = (
        0.035 * v["mid2"]
        + 0.035 * v["fine2"]
        + 0.02 * v["mid1"]
        + 0.02 * v["slow"]
        - iron * (fractions[1] + 0.5 * fractions[2])
    )
    mixed = (mixing @ fractions.flatten(1)).view(-1, *fractions.shape[1:])
    images, row = [], 0
    for name in contrasts:
        if name in MR:
            images.append((mixed[row] + mixed[row + 1] * u1 + mixed[row + 2] * u2).clamp_(min=0))
            row += 3
        else:
            images.append(mixed[-2] if name == "CT" else mixed[-1] * (1 + 1.2 * u1))
    return torch.stack(images) if images else mixed[:0], fractions, masks


def _acquire(
    patient: head.Patient, scanner: Scanner, contrasts: Sequence[str], images: Tensor, spacing: int
) -> dict[str, Tensor]:
    rng = Rng([patient.seed]).child("scan", scanner.name, round(100 * patient.years))
    done = {}
    for name, image in zip(contrasts, images, strict=True):
        stream = rng.child(name)
        if name == "CT":
            grain = blur(stream.normal(*image.shape)[0], 0.8 / spacing)
            done[name] = (blur(image, 0.6 / spacing) - 1000 + 11 * grain).clamp_(-1024, 3071)
        elif name == "PET":
            done[name] = _acquire_pet(image, stream, spacing)
        else:
            done[name] = _acquire_mr(image, scanner, scanner.sequences[name], stream, spacing)
    return done


def _acquire_mr(image: Tensor, scanner: Scanner, sequence: PulseSequence, rng: Rng, spacing: int) -> Tensor:
    """Receive field, noise before and after the slice profile and blur, magnitude (Rician)."""
    field = noise(rng.child("bias"), (16, 18, 16), 14.0, 110.0, band=None)[None, None]
    gain = F.interpolate(1 + 0.4 * scanner.bias * field, size=image.shape, mode="trilinear", align_corners=True)
    level = scanner.noise / spacing**1.5
    slices = max(1.0, sequence.slice_mm / spacing)  # averaging them must leave the scanner's noise
    image = image * gain[0, 0] + 1.9 * slices**0.5 * level * rng.child("noise").normal(*image.shape)[0]
    image = blur(_thick(image, slices), scanner.blur_mm / spacing)
    return torch.hypot(image, 0.7 * level * rng.child("imaginary").normal(*image.shape)[0])


def _acquire_pet(image: Tensor, rng: Rng, spacing: int) -> Tensor:
    """2 mm voxels, about 5 mm resolution, noise that grows with the root of the activity."""
    low = F.avg_pool3d(image[None], 2)[0] if spacing == 1 else image
    low = blur(blur(low, 2.0 / max(spacing, 2)), 1.6 / max(spacing, 2))
    grain = blur(rng.normal(*low.shape)[0], 0.8)
    low = low + 0.2 * grain * low.clamp(min=0.1).sqrt()
    return F.interpolate(low[None, None], size=image.shape, mode="trilinear", align_corners=False)[0, 0].clamp_(min=0)


def _thick(volume: Tensor, slices: float) -> Tensor:
    """Average into thicker slices along z and interpolate back."""
    if slices <= 1:
        return volume
    count = round(volume.shape[2] / slices)
    low = F.interpolate(volume[None], size=(volume.shape[1], count), mode="area")
    return F.interpolate(low, size=volume.shape[1:], mode="bilinear", align_corners=False)[0]
