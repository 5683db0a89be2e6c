"""Cone-beam CT of a whole turn: rays from a point to a flat panel, and their reconstruction by FDK.

Feldkamp, Davis and Kress (1984): projections are weighted by the cosine of their rays, filtered row by row, and brought
back weighted by the squared distance. It is exact in the plane of the source alone; what lies far above and below it
is approximate, as in every machine that turns once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Volume = NDArray[np.float32]


@dataclass(frozen=True)
class Panel:
    """Where source and panel are (mm), and the panel's pixels; the axis of the turn is that of the patient."""

    rows: int = 96
    columns: int = 160
    pixel_mm: float = 4.0  # on the panel
    source_mm: float = 1000.0  # from the source to the axis
    panel_mm: float = 1536.0  # from the source to the panel

    def __post_init__(self) -> None:
        if min(self.rows, self.columns) < 8 or self.pixel_mm <= 0 or not 0 < self.source_mm < self.panel_mm:
            raise ValueError("A panel has at least 8 x 8 pixels of a size, and lies behind the axis.")

    @property
    def pixel_at_axis_mm(self) -> float:
        return self.pixel_mm * self.source_mm / self.panel_mm

    def width_mm(self) -> float:
        """What it sees across the axis."""
        return self.columns * self.pixel_at_axis_mm


def angles(views: int) -> NDArray[np.float64]:
    """Radians of a whole turn."""
    return 2 * np.pi * np.arange(views) / views


def projected(
    attenuation: Volume, spacing_mm: tuple[float, float, float], panel: Panel, turns: NDArray[np.float64],
    shifts_mm: NDArray[np.float64] | None = None,
) -> Volume:  # fmt: skip
    """Line integrals (views, rows, columns) of a volume (z, y, x) per mm, centred on the axis and the middle plane.

    `shifts_mm` (views, 3): by how much the patient has moved (z, y, x) at each view.
    """
    from .cone_rays import summed
    from .rays import in_threads

    moved = np.zeros((len(turns), 3)) if shifts_mm is None else np.asarray(shifts_mm, np.float64)
    step = 0.5 * min(spacing_mm)
    with in_threads(torch.get_num_threads()):
        found: Volume = summed(
            np.ascontiguousarray(attenuation, np.float32), np.asarray(spacing_mm, np.float64), np.asarray(turns), moved,
            (panel.rows, panel.columns), (panel.pixel_mm, panel.source_mm, panel.panel_mm), step,
        )  # fmt: skip
    return found


def reconstructed(
    integrals: Volume, panel: Panel, turns: NDArray[np.float64], shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
) -> Volume:  # fmt: skip
    """Attenuation per mm (z, y, x) by FDK, with a Hann window; rows that end in tissue are continued smoothly.

    Voxels that a view does not see get nothing of it: beyond the panel's cone values are too low.
    """
    from .cone_rays import brought_back
    from .rays import in_threads

    filtered = _filtered(integrals, panel) * np.float32(math.pi / len(turns))
    with in_threads(torch.get_num_threads()):
        found: Volume = brought_back(
            filtered, np.asarray(turns), np.asarray(shape), np.asarray(spacing_mm, np.float64), panel.pixel_at_axis_mm,
            panel.source_mm,
        )  # fmt: skip
    return found


def _filtered(integrals: Volume, panel: Panel) -> Volume:
    """Weighted by the cosine and ramp-filtered along rows, on a panel scaled to the axis."""
    step = panel.pixel_at_axis_mm
    rows = (np.arange(panel.rows) - (panel.rows - 1) / 2) * step
    columns = (np.arange(panel.columns) - (panel.columns - 1) / 2) * step
    cosine = panel.source_mm / np.sqrt(panel.source_mm**2 + rows[:, None] ** 2 + columns**2)
    room = panel.columns  # cut rows go on to nothing within it
    wide = np.pad(integrals * cosine, ((0, 0), (0, 0), (room, room)), mode="edge")
    fade = np.cos(np.linspace(0, np.pi / 2, room)) ** 2
    wide[..., -room:] *= fade
    wide[..., :room] *= fade[::-1]
    count = 1 << (2 * wide.shape[-1] - 1).bit_length()
    line = np.zeros(count)  # the ramp in space (Kak and Slaney 1988), which has the right mean
    line[0] = 1 / (4 * step**2)
    odd = np.arange(1, count // 2, 2)
    line[odd] = line[-odd] = -1 / (np.pi * odd * step) ** 2
    window = 0.5 * (1 + np.cos(2 * np.pi * np.fft.rfftfreq(count)))
    transfer = np.fft.rfft(line).real * window * step
    done = np.fft.irfft(np.fft.rfft(wide, count) * transfer, count)[..., room : room + panel.columns]
    return np.ascontiguousarray(done, np.float32)
