"""Plans of even beams, as wide as their target and scaled to what it is to have; and what fractions add up to.

Nothing is optimised: such plans compare images of one patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .dose import Beam, aperture, dose_and_depths


@dataclass(frozen=True)
class Plan:
    """Beams with their weights; what they give (z, y, x) in Gy, and mm of water before each voxel, a beam each."""

    beams: tuple[Beam, ...]
    dose: Tensor
    depths: Sequence[Tensor]


def middle_of(target: Tensor, affine: Tensor) -> tuple[float, float, float]:
    """The centre of a mask (z, y, x) in LPS mm."""
    centre = affine[:3, :3].double() @ target.nonzero().double().mean(0) + affine[:3, 3].double()
    x, y, z = centre.tolist()
    return x, y, z


def conformal(
    density: Tensor, affine: Tensor, target: Tensor, *, gantry_degrees: Sequence[float], margin_mm: float,
    prescription_gy: float,
) -> Plan:  # fmt: skip
    """Even beams at the middle of a target (z, y, x), wider by a margin; the target's mean dose is the prescription.

    Raises ValueError for an empty target, and where beams give it nothing.
    """
    if not bool(target.any()):
        raise ValueError("The target is empty: beams have nothing to aim at.")
    isocentre = middle_of(target, affine)
    beams = [
        Beam(float(a), isocentre, aperture(target, affine, float(a), isocentre, margin_mm)) for a in gantry_degrees
    ]
    plain, depths = dose_and_depths(density, affine, beams)
    reached = float(plain[target].mean())
    if not reached > 0:
        raise ValueError("The beams give the target nothing: is it in the patient?")
    scale = prescription_gy / reached
    return Plan(tuple(replace(beam, weight=scale) for beam in beams), scale * plain, depths)


def eqd2(dose_gy: Tensor, fractions: float, alpha_beta_gy: float) -> Tensor:
    """The dose in fractions of 2 Gy that does the same as a total in so many equal ones (Fowler 1989)."""
    if not fractions > 0 or not alpha_beta_gy > 0:
        raise ValueError(f"Got {fractions:g} fractions and alpha/beta {alpha_beta_gy:g} Gy, expected both above 0.")
    return dose_gy * (dose_gy / fractions + alpha_beta_gy) / (2 + alpha_beta_gy)


def accumulated(doses_gy: Sequence[Tensor], fractions: float, alpha_beta_gy: float | None = None) -> Tensor:
    """What a course adds up to, each of these days standing for an equal share of its fractions.

    doses_gy: what the whole course would give were every fraction as on that day, all of them on one anatomy (z, y, x).
    With `alpha_beta_gy` as EQD2, day by day: equal physical sums of unequal days do more. Raises ValueError for no
    days.
    """
    if not doses_gy:
        raise ValueError("Got no day, expected one at least.")
    days = doses_gy if alpha_beta_gy is None else [eqd2(d, fractions, alpha_beta_gy) for d in doses_gy]
    total: Tensor = torch.stack(list(days)).mean(0)
    return total
