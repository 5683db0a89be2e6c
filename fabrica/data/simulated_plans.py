"""Plans for patients who have none: targets and organs drawn into a CT, and the dose that nine beams would give.

For whoever has no plans to learn from, and for tests: beams are conformal and even, nothing is optimised.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ..contracts import Case, Field, Image
from ..io import Scan
from ..io.planning import POSSIBLE
from ..physics.dose import Beam, aperture, density_of, dose
from ..physics.plan import middle_of
from ..rng import derive
from .beams import ANGLES, inside_body
from .cohort import Cohort, Derived, Member, origin, with_added

LEVELS = {"PTV70": 70.0, "PTV56": 56.0}  # Gy
ORGANS = ("Brainstem", "SpinalCord")
SPARED = 0.4  # of the light goes where an organ's shadow lies, and no target's
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class SimulatedPlans:
    """`margin_mm`: by how much beams are wider than their targets."""

    margin_mm: float = 5.0

    def __post_init__(self) -> None:
        if not 0 <= self.margin_mm <= 30:
            raise ValueError(f"margin_mm is {self.margin_mm:g}, expected 0 to 30.")

    def added_to(self, cohort: Cohort) -> Cohort:
        """Every case that has a CT and no dose gets a plan."""
        return with_added(cohort, "CT", "dose", lambda member: _Irradiated(*origin(member), member, self))


@dataclass(frozen=True)
class _Irradiated(Derived):
    inner: Member
    plans: SimulatedPlans

    def contrasts(self) -> tuple[str, ...]:
        return (*self.inner.contrasts(), *LEVELS, *ORGANS, POSSIBLE, "dose")

    def scans_of(self, contrasts: Iterable[str]) -> tuple[Scan, ...]:
        made = {*LEVELS, *ORGANS, POSSIBLE, "dose"}
        return self.inner.scans_of(dict.fromkeys("CT" if name in made else name for name in contrasts))

    def load(self, contrasts: Iterable[str]) -> Case:
        wanted = tuple(contrasts)
        made = {*LEVELS, *ORGANS, POSSIBLE, "dose"} & {*wanted}
        case = self.inner.load(dict.fromkeys((*(n for n in wanted if n not in made), *(["CT"] if made else []))))
        images = {n: i for n, i in case.images.items() if n in wanted}
        if made:
            ct = case.images["CT"]
            body = inside_body(ct.data[0].numpy())
            masks = drawn(ct, body, self.patient)
            for name in made - {"dose"}:
                mask = body if name == POSSIBLE else masks[name]
                data = torch.from_numpy(mask.astype(np.float32))[None]
                images[name] = replace(ct, data=data, meaning=Field(name, "label", 2, ""))
            if "dose" in made:
                given = irradiated(ct, body, masks, self.plans.margin_mm)
                images["dose"] = replace(ct, data=given[None], meaning=Field("dose", "intensity", 1, "Gy"))
        return replace(case, images=images)


def drawn(ct: Image, body: Mask, patient: str) -> dict[str, Mask]:
    """Targets at a place of the patient's own, the wider around the narrower; organs behind the middle."""
    rng = np.random.default_rng(derive(0, "plan", patient))
    affine = ct.affine.double().numpy()
    index = np.stack(np.meshgrid(*[np.arange(n) for n in body.shape], indexing="ij"), -1)
    lps = index @ affine[:3, :3].T + affine[:3, 3]
    middle = lps[body].mean(0) if body.any() else lps.reshape(-1, 3).mean(0)
    place = middle + rng.uniform(-1, 1, 3) * np.array([30.0, 30.0, 15.0])
    sides = rng.uniform(12, 20, 3)
    wider = sides + rng.uniform(10, 18)  # what lies between is beyond the reach of the narrow field's margin

    def ball(centre: NDArray[np.float64], radii: NDArray[np.float64] | tuple[float, float, float]) -> Mask:
        inside: Mask = (((lps - centre) / np.asarray(radii)) ** 2).sum(-1) < 1
        return inside & body

    stem = middle + np.array([0.0, 25.0, 0.0])
    cord = np.hypot(lps[..., 0] - stem[0], lps[..., 1] - stem[1] - 8) < 6
    return {
        "PTV70": ball(place, sides), "PTV56": ball(place, wider), "Brainstem": ball(stem, (14.0, 12.0, 22.0)),
        "SpinalCord": cord & (lps[..., 2] < middle[2] - 22) & body,
    }  # fmt: skip


def irradiated(ct: Image, body: Mask, masks: Mapping[str, Mask], margin_mm: float) -> torch.Tensor:
    """Gy (z, y, x) of even beams as wide as each target, weaker where an organ is in the way; 70 Gy in the middle."""
    density = density_of(ct.data[0])
    target = torch.from_numpy(masks["PTV70"])
    if not bool(target.any()):
        return torch.zeros(body.shape)
    affine = ct.affine.double()
    isocentre = middle_of(target, affine)
    beams = [Beam(float(a), isocentre, _fluence(masks, affine, float(a), isocentre, margin_mm)) for a in ANGLES]
    plain = dose(density, affine, beams)
    return plain * (LEVELS["PTV70"] / float(plain[target].mean())) * torch.from_numpy(body)


def _fluence(
    masks: Mapping[str, Mask], affine: torch.Tensor, angle: float, isocentre: tuple[float, float, float], margin: float
) -> torch.Tensor:
    share = LEVELS["PTV56"] / LEVELS["PTV70"]
    shadows = {
        n: aperture(torch.from_numpy(m), affine, angle, isocentre, margin if n in LEVELS else 0.0)
        for n, m in masks.items() if m.any()
    }  # fmt: skip
    size = max(s.shape[0] for s in shadows.values())
    wide = {n: _centred(s, size) for n, s in shadows.items()}
    nothing = torch.zeros(size, size, dtype=torch.float64)
    narrow = wide.get("PTV70", nothing)
    light = share * torch.maximum(wide.get("PTV56", nothing), narrow) + (1 - share) * narrow
    organs = torch.stack([wide[n] for n in ORGANS if n in wide]).amax(0) if {*ORGANS} & {*wide} else nothing
    return torch.where((organs > 0) & (narrow == 0), SPARED * light, light)


def _centred(shadow: torch.Tensor, size: int) -> torch.Tensor:
    found = torch.zeros(size, size, dtype=torch.float64)
    start = (size - shadow.shape[0]) // 2
    found[start : start + shadow.shape[0], start : start + shadow.shape[1]] = shadow
    return found
