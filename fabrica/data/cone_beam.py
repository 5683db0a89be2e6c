"""The cone-beam CT of the day that a machine would have made of a CT: noise, scatter, a narrow panel, motion."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ..contracts import Case, Image
from ..io import Scan, UnreadableError
from ..physics.cone_beam import Panel, angles, projected, reconstructed
from ..physics.ct import WATER_PER_MM
from ..rng import derive
from .cohort import Cohort, Derived, Member, origin, with_added

NAME, OF = "CBCT", "CT"
GRID_MM = 3.0  # on which rays are summed; what comes back is on the CT's own grid
BLUR_MM = 60.0  # of scatter, on the panel
LEAST = 1e-4  # of the light that passes air, where less is left


@dataclass(frozen=True)
class ConeBeam:
    """A machine, simulated: `scatter` to primary behind the thickest tissue, `photons` that a pixel sees through air,
    `cut`: the share of the panel's width that is left, `move_mm`: along the patient, to and fro once in the turn.
    """

    views: int = 180
    photons: float = 1e5
    scatter: float = 0.3
    cut: float = 1.0
    move_mm: float = 0.0

    def __post_init__(self) -> None:
        if not 16 <= self.views <= 2000 or self.photons < 10 or not 0 <= self.scatter <= 10:
            raise ValueError("expected 16 to 2000 views, 10 photons or more, and scatter from 0 to 10.")
        if not 0.2 <= self.cut <= 1 or not 0 <= self.move_mm <= 100:
            raise ValueError("expected cut from 0.2 to 1, and move_mm from 0 to 100.")

    def added_to(self, cohort: Cohort) -> Cohort:
        """Every case that has a CT gets the CBCT of it; those that have one of their own keep it."""
        return with_added(cohort, OF, NAME, lambda member: _Turned(*origin(member), member, self))


@dataclass(frozen=True)
class _Turned(Derived):
    inner: Member
    machine: ConeBeam

    def contrasts(self) -> tuple[str, ...]:
        return (*self.inner.contrasts(), NAME)

    def scans_of(self, contrasts: Iterable[str]) -> tuple[Scan, ...]:
        return self.inner.scans_of([OF if name == NAME else name for name in contrasts])

    def load(self, contrasts: Iterable[str]) -> Case:
        wanted = tuple(contrasts)
        case = self.inner.load(dict.fromkeys([OF if n == NAME else n for n in wanted]))
        images = {n: i for n, i in case.images.items() if n in wanted}
        if NAME in wanted and OF in case.images:
            chance = np.random.default_rng(derive(0, "cone beam", self.patient, self.visit))
            images[NAME] = cone_beam(case.images[OF], self.machine, chance)
        return replace(case, images=images)


def cone_beam(ct: Image, machine: ConeBeam, rng: np.random.Generator) -> Image:
    """A CT (HU) as the machine would show it, uncorrected, on the same grid; air where it sees nothing.

    Raises UnreadableError for images that are no volume in HU.
    """
    if ct.axes != "zyx" or len(ct.data) != 1 or ct.meaning.unit != "HU" or min(ct.data.shape[1:]) < 4:
        raise UnreadableError("is no CT volume in HU.", "A cone-beam CT is made of one.", ct.source or "")
    hounsfield, spacing = ct.data[0].numpy(), ct.spacing_mm
    shrink = [max(1.0, GRID_MM / s) for s in spacing]
    small = ndimage.zoom(hounsfield, [1 / s for s in shrink], order=1, grid_mode=True, mode="nearest")
    own = tuple(float(s * n / m) for s, n, m in zip(spacing, hounsfield.shape, small.shape, strict=True))
    grid = (own[0], own[1], own[2])
    attenuation = (WATER_PER_MM * np.clip(1 + small / 1000, 0, None)).astype(np.float32)
    panel = _panel(small.shape, grid, machine.cut)
    turns = angles(machine.views)
    shifts = np.zeros((machine.views, 3))
    shifts[:, 0] = machine.move_mm / 2 * np.sin(turns)
    light = np.exp(-projected(attenuation, grid, panel, turns, shifts).astype(np.float64))
    seen = _measured(light, machine, panel, rng)
    back = reconstructed(-np.log(seen).astype(np.float32), panel, turns, _three(small.shape), grid)
    values = 1000 * (back / WATER_PER_MM - 1)
    fine = ndimage.zoom(values, [n / m for n, m in zip(hounsfield.shape, small.shape, strict=True)], order=1,
                        grid_mode=True, mode="nearest")  # fmt: skip
    data = torch.from_numpy(np.clip(fine, -1024, 4000).astype(np.float32))[None]
    return replace(ct, data=data, meaning=replace(ct.meaning, name=NAME))


def _three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    return shape[0], shape[1], shape[2]


def _panel(shape: tuple[int, ...], spacing: tuple[float, float, float], cut: float) -> Panel:
    """Wide enough for the volume's diagonal, times `cut`; as high as the cone needs."""
    one = Panel()
    diagonal = float(np.hypot(shape[1] * spacing[1], shape[2] * spacing[2]))
    nearer = one.source_mm / (one.source_mm - diagonal / 2)
    columns = max(16, int(np.ceil(cut * 1.02 * diagonal * nearer / one.pixel_at_axis_mm)))
    rows = max(8, int(np.ceil(shape[0] * spacing[0] * nearer / one.pixel_at_axis_mm)) + 2)
    return Panel(rows, columns, one.pixel_mm, one.source_mm, one.panel_mm)


def _measured(
    light: NDArray[np.float64], machine: ConeBeam, panel: Panel, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Share of the light through air that a machine takes for the primary: with its scatter and its noise.

    Scatter comes from where light is lost and still comes through, p exp(-p), and is smooth (Ohnesorge et al. 1999).
    """
    lost = -np.log(np.maximum(light, LEAST))
    wide = BLUR_MM / panel.pixel_mm
    scatter = ndimage.gaussian_filter(lost * light, (0, wide, wide), mode="nearest")
    thick = lost >= 0.9 * lost.max()
    share = machine.scatter * float(np.median(light[thick] / np.maximum(scatter[thick], 1e-12)))
    counts = rng.poisson(machine.photons * (light + share * scatter))
    return np.maximum(counts / machine.photons, LEAST)
