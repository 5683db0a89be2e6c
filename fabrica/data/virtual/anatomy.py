"""One head: a deformed template whose folds are invented. Smooth fields first, then tissue fractions in slabs.

The template says where, random fields say how: the zero set of a band-pass field, held constant along the surface
normal, is a family of sheets that dive inwards: sulci. Distances become fractions through a sigmoid, so that edges stay
sharp after warping and partial volume is right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ...rng import Rng
from .fields import ball, distance_to_zero, exponential, noise, points, sample
from .template import ORIGIN as TEMPLATE_ORIGIN
from .template import template
from .tissue import INDEX, NAMES

ORIGIN = (-91.0, -126.0, -72.0)  # RAS mm of the first voxel of a simulated head
EXTENT_MM = (182, 218, 182)
VELOCITY_MM = 6.0
NOISE_ORIGIN = (-99.0, -134.0, -80.0)
NOISE_EXTENT_MM = (200, 236, 200)
# random fields: wavelength in mm and band width (None = low-pass); those that dive are constant along the normal
DIVING: dict[str, tuple[float, float | None]] = {
    "sulci": (22.0, 0.35), "gyri": (11.0, 0.35), "sulcal depth": (30.0, None), "vessel 0": (20.0, 0.35),
    "vessel 1": (20.0, 0.35), "perivascular 0": (9.0, 0.35), "perivascular 1": (9.0, 0.35),
}  # fmt: skip
PLAIN: dict[str, tuple[float, float | None]] = {
    "mid1": (16.0, None),
    "mid2": (16.0, None),
    "slow": (30.0, None),
    "fine1": (5.5, 0.5),
    "fine2": (6.0, 0.5),
    "folia": (11.0, 0.35),
}


@dataclass(frozen=True, slots=True)
class Patient:
    """Everything that is true about one simulated head at one visit."""

    seed: int = 0
    age: float = 45.0  # years, at the first visit
    sex: str = "F"
    disease: str = "none"  # none, ms, tumour, stroke
    severity: float = 1.0  # rate of atrophy relative to normal ageing; 2 to 3 in dementia
    years: float = 0.0  # since the first visit
    worn: float | None = None  # the same at the pace at which disease and age have gone on; None = as they passed
    lesion_volume_ml: float | None = None  # asked for; None = as the disease draws it
    lesion_contrast: float = 1.0  # 1 = as in the tissue table, 0 = invisible

    @property
    def atrophy(self) -> float:
        """0 at 30 years, 1 at about 80; grows with time, faster in disease."""
        rate = self.severity * (1.6 if self.disease == "ms" else 1.0)
        aged: float = max(0.0, (self.age - 30) / 50) ** 1.3
        return aged + 0.03 * rate * self.wear + 0.15 * (rate - 1)

    @property
    def wear(self) -> float:
        """Years of disease and age since the first visit."""
        return self.years if self.worn is None else self.worn


@dataclass(frozen=True)
class Anatomy:
    """Smooth fields of one head: name -> (x, y, z) at `spacing` mm, with the warp to the template."""

    fields: Mapping[str, Tensor]
    warp: Tensor  # (3, x, y, z) template position in mm
    spacing: float
    smallest_jacobian: float  # of the warp, on the grid of the fields


def grid_shape(spacing: float) -> tuple[int, int, int]:
    """Points that cover a head at a spacing in mm, one more than voxels so that slabs can be interpolated."""
    x, y, z = (int(n // spacing) + 1 for n in EXTENT_MM)
    return x, y, z


def anatomy(patient: Patient, rng: Rng, spacing: float) -> Anatomy:
    """All smooth quantities; anatomy streams depend on the seed alone, so visits share it."""
    known = template()
    here = points(grid_shape(spacing), ORIGIN, spacing)
    velocity = _velocity(patient, rng)
    displacement = exponential(velocity, VELOCITY_MM)
    warp = here + sample(displacement, here, ORIGIN, VELOCITY_MM).movedim(0, -1)
    depth, outer, ventricle, cerebellum, stem, skull, nx, ny, nz, t1 = sample(known.smooth, warp, TEMPLATE_ORIGIN, 2.0)
    inward = torch.stack([nx, ny, nz], -1)
    dive = warp + 0.75 * depth.clamp(0, 24)[..., None] * inward

    deep, plain = _noise_at(rng, dive, DIVING), _noise_at(rng, warp, PLAIN)
    sheet = deep["sulci"] + 0.3 * deep["gyri"]
    ends = F.softplus((depth - 14 - 4 * deep["sulcal depth"]) / 1.5) * 1.5 + 12 * stem
    tubes = [distance_to_zero(deep[f"vessel {i}"], spacing) for i in range(2)]
    spaces = [distance_to_zero(deep[f"perivascular {i}"], spacing) for i in range(2)]
    fields = {
        "depth": depth, "outer": outer, "ventricle": ventricle, "cerebellum": cerebellum, "skull": skull,
        "sulcus": distance_to_zero(sheet, spacing).abs_() + ends,
        "folia": distance_to_zero(plain["folia"], spacing).abs_(),
        "vessel": torch.hypot(tubes[0], tubes[1]), "perivascular": torch.hypot(spaces[0], spaces[1]),
        **{name: plain[name] for name in ("mid1", "fine1", "slow", "mid2", "fine2")},
        **deep_nuclei(warp, depth, t1), **head_regions(warp),
    }  # fmt: skip
    smallest = float(jacobian_minimum(warp, outer, spacing))
    return Anatomy(fields, warp.movedim(-1, 0), spacing, smallest)


def _noise_at(rng: Rng, at: Tensor, asked: Mapping[str, tuple[float, float | None]]) -> dict[str, Tensor]:
    """Random fields, each from its own stream, read at the same points: one interpolation per grid serves several."""
    found: dict[str, Tensor] = {}
    for step in (4.0, 2.0):
        names = tuple(n for n, (wavelength, _) in asked.items() if (wavelength >= 16) == (step == 4.0))
        found |= dict(zip(names, sample(_fields(rng.keys, names, step), at, NOISE_ORIGIN, step), strict=True))
    return found


@lru_cache(maxsize=4)  # the last head's, 50 MB: its other visits are read from the same
def _fields(keys: tuple[int, ...], names: tuple[str, ...], step: float) -> Tensor:
    """(field, x, y, z) of one head at `step` mm."""
    shape, asked = [int(n // step) for n in NOISE_EXTENT_MM], {**DIVING, **PLAIN}
    made = []
    for name in names:
        wavelength, band = asked[name]
        stretch = (0.3, 1.0, 1.0) if name == "folia" else (1.0, 1.0, 1.0)
        made.append(noise(Rng(keys).child(name), shape, step, wavelength, band=band, stretch=stretch))
    return torch.stack(made)


def jacobian_minimum(warp: Tensor, outer: Tensor, spacing: float) -> Tensor:
    """Smallest determinant of the warp inside the skull."""
    from .fields import jacobian_determinant

    return jacobian_determinant(warp, spacing)[outer > -4].min()


def _velocity(patient: Patient, rng: Rng) -> Tensor:
    """Shape of the head (noise, size, sex), ventricles that widen with atrophy, mass effect; mm, on 6 mm."""
    shape = tuple(n // int(VELOCITY_MM) + 2 for n in EXTENT_MM)
    at = points(shape, ORIGIN, VELOCITY_MM)
    depth = template().smooth[:1]
    inner = (sample(depth, at, TEMPLATE_ORIGIN, 2.0)[0] / 16).clamp(0.3, 1)  # heads are smoother than brains
    velocity = torch.stack([
        2.5 * inner * noise(rng.child("shape", i), shape, VELOCITY_MM, 54.0, band=None)
        + 2.5 * noise(rng.child("head", i), shape, VELOCITY_MM, 130.0, band=None) for i in range(3)
    ])  # fmt: skip
    size = 0.035 * rng.child("size").normal(3)[0] + (0.02 if patient.sex == "F" else -0.02)
    velocity += (at * size).movedim(-1, 0)
    away = sample(template().away, at, TEMPLATE_ORIGIN, 2.0)
    own = 0.8 * float(rng.child("ventricles").normal()[0])
    velocity -= away * (0.3 + 2.6 * patient.atrophy + own)
    if patient.disease == "tumour":
        centre, radius = tumour_place(patient, rng)
        gap = at - torch.tensor(centre)
        reach = gap.norm(dim=-1, keepdim=True).clamp(min=1.0)
        velocity -= (gap / reach * 0.22 * radius * torch.exp(-((reach / (2.2 * radius)) ** 2))).movedim(-1, 0)
    return velocity


def tumour_place(patient: Patient, rng: Rng) -> tuple[tuple[float, float, float], float]:
    """(template mm, radius mm): inside one hemisphere's white matter."""
    u = rng.child("tumour").uniform(4)[0].tolist()
    side = 1.0 if u[0] < 0.5 else -1.0
    return (side * (26 + 8 * u[1]), -45 + 65 * u[2], 12 + 22 * u[1]), 9 + 6 * u[3] + 2.0 * patient.wear


def deep_nuclei(at: Tensor, depth: Tensor, t1: Tensor) -> dict[str, Tensor]:
    """Iron (share of T2 lost) and myelin (share of T1 lost); edges follow the template's own T1 grey levels."""
    grey = torch.sigmoid((0.80 - t1) / 0.04)  # the template's T1 separates nuclei from the capsule
    pallidum = ball(at, (19.0, -4.0, 0.0), (6.0, 9.5, 7.5))
    thalamus = ball(at, (11.0, -19.0, 8.0), (9.5, 14.5, 9.5))
    putamen, caudate = ball(at, (26.0, 2.0, 1.0), (7.0, 16.0, 11.0)), ball(at, (13.0, 13.0, 9.0), (7.0, 10.0, 11.0))
    iron = 0.42 * pallidum + (0.24 * putamen + 0.22 * caudate + 0.16 * thalamus) * (0.4 + 0.6 * grey)
    iron += 0.45 * ball(at, (5.0, -20.0, -9.0), (3.5, 4.0, 4.0)) + 0.45 * ball(
        at, (10.0, -17.0, -13.0), (6.0, 3.5, 4.0)
    )
    iron += 0.3 * ball(at, (15.0, -58.0, -34.0), (7.0, 6.0, 5.0))
    return {"iron": iron, "myelin": 0.22 * pallidum + 0.16 * thalamus + 0.004 * depth.clamp(0, 30)}


def head_regions(at: Tensor) -> dict[str, Tensor]:
    """Above the skull base, under the temporal muscle, orbit, eye, lens."""
    x, y, z = at.unbind(-1)
    temporal = torch.sigmoid((x.abs() - 48) / 4) * torch.sigmoid((8 - z) / 5)
    temporal = temporal * torch.sigmoid((y + 25) / 6) * torch.sigmoid((42 - y) / 6)
    return {
        "base": torch.sigmoid((z + 34 + 0.2 * (y + 20)) / 4), "temporal": temporal,
        "orbit": ball(at, (32.0, 56.0, -38.0), (17.0, 20.0, 16.0), 0.6),
        "eye": ball(at, (32.0, 62.0, -38.0), (12.0, 12.0, 12.0), 0.6),
        "lens": ball(at, (32.0, 72.0, -38.0), (4.5, 2.0, 4.5), 0.6),
    }  # fmt: skip


def healthy_fractions(
    patient: Patient, v: Mapping[str, Tensor], warp: Tensor, spacing: float, room: Tensor | None = None
) -> Tensor:
    """(tissue, *slab) fractions of a head without lesions, in [0, 1] and summing to at most 1 (the rest is air).

    `room` is memory of that shape or longer along x, used again from slab to slab: fresh pages cost more than the sums.
    """
    a, depth, mid1, slow, cerebellum = patient.atrophy, v["depth"], v["mid1"], v["slow"], v["cerebellum"]
    edge = 0.38 * max(1.0, spacing)  # mm; a coarser voxel mixes more
    maps = sample(template().maps, warp.movedim(0, -1), TEMPLATE_ORIGIN, 1.0) * (v["outer"] > -2)
    gm, wm = maps[0], maps[1]
    white = _logit(wm / (wm + gm + 1e-3))
    half_width = (0.35 + 0.75 * a + 0.25 * slow) * (1.25 - depth / 20).clamp(0.35, 1.3)
    pial = torch.minimum(depth - 0.4 - 0.9 * a, v["sulcus"] - half_width + 0.8 * (white - 1.6).clamp(min=0))
    pial = torch.lerp(pial, torch.minimum(depth, v["folia"] + 0.3), cerebellum)
    ribbon = torch.lerp(2.05 - 0.3 * a + 0.2 * mid1, torch.tensor(1.1), cerebellum)
    cortex = torch.sigmoid((24 - depth) / 3) * (1 - 0.75 * cerebellum)
    water = (_logit(1 - gm - wm) - 0.35) * 4 + 0.5 * v["mid2"]
    f_csf = torch.maximum(torch.sigmoid(-pial / edge), torch.sigmoid(water) * (depth > 3))
    f_wm = torch.sigmoid(1.6 * white + 0.25 + 0.5 * v["fine1"] + cortex * 2.8 * (pial - ribbon).clamp(-4, 1.8))
    brain = torch.sigmoid((v["outer"] + 0.5) / 0.5)
    f = torch.zeros(len(NAMES), *gm.shape) if room is None else room[:, : len(gm)].zero_()
    f[0], f[1], f[2] = brain * f_csf, brain * (1 - f_csf) * (1 - f_wm), brain * (1 - f_csf) * f_wm
    spaces = torch.sigmoid((0.42 - v["perivascular"] + 0.12 * a) / 0.16) * f[2] * (cortex < 0.97) * (0.45 / spacing)
    f[0] += spaces
    f[2] -= spaces
    void = torch.sigmoid((0.75 - v["vessel"]) / 0.25) * f[0] * (depth < 12) * (v["ventricle"] > 4)
    f[INDEX["vessel"]] += void
    f[0] -= void
    _add_shell(f, brain, v)
    return f


def _logit(p: Tensor) -> Tensor:
    return torch.log((p + 0.012) / (1 - p + 0.012))


def _add_shell(f: Tensor, brain: Tensor, v: Mapping[str, Tensor]) -> None:
    """Meninges, skull, scalp, face and eyes: layers of the signed distance outside the hull."""
    out, base, temporal, slow, mid1, mid2 = -v["skull"], v["base"], v["temporal"], v["slow"], v["mid1"], v["mid2"]
    diploe = (2.8 + 0.15 * mid1 + 0.4 * slow).clamp(min=0.3) * (1 - 0.6 * temporal)
    widths = (("muscle", 0.9), ("bone", 1.5), ("marrow", diploe), ("bone", 1.6), ("muscle", 0.8 + 7 * temporal),
              ("fat", 3.2 + 0.25 * slow), ("muscle", 1.6))  # fmt: skip
    edge: Tensor = 1.0 + 0.2 * slow  # the subarachnoid space
    before = brain
    for name, width in (("csf", 0.0), *widths):
        edge = edge + width
        level = torch.maximum(before, torch.sigmoid((edge - out) / 0.4))
        f[INDEX[name]] += (level - before) * base
        before = level
    face = (1 - base) * (1 - brain) * torch.sigmoid((edge - 1.6 - out) / 0.5)
    mix = torch.softmax(torch.stack([2 + 2 * mid1, 2 * mid2, 1 - 2 * mid1]), 0)
    for i, name in enumerate(("muscle", "fat", "bone")):
        f[INDEX[name]] += face * mix[i]
    total = f.sum(0)
    f /= total.clamp(min=1.0)
    for region, name in (("orbit", "fat"), ("eye", "csf"), ("lens", "muscle")):
        share = v[region] * (1 - brain)
        f *= 1 - share
        f[INDEX[name]] += share
