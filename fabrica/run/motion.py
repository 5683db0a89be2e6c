"""Answers that say what moved, judged: how far off they bring each point, whether space folds, what registers without
learning.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.cases import Prepared
from ..data.grid import foreground
from ..data.moving import MOTION, along_axes
from ..evaluate.report.pictures import Beside
from ..evaluate.result import Row
from ..physics.registration import registered, similarity
from ..physics.warp import composed, exponential, folded, moved
from .stage import PreparedStage

STILL, CLIMBED = "nothing moved", "registered without learning"


@dataclass(frozen=True)
class Motion:
    """Two images on the prepared grid; velocities between them are (1, 3, z, y, x) in mm along the grid's axes."""

    fixed: Tensor  # (1, 1, z, y, x)
    moving: Tensor
    affine: Tensor
    width_mm: float  # what 1 of a network's answer is

    @staticmethod
    def of(case: Prepared, names: tuple[str, str], width_mm: float) -> Motion:
        fixed, moving = (case.tensors[name][None].float() for name in names)
        return Motion(fixed, moving, case.grid.affine, width_mm)

    @property
    def spacing_mm(self) -> list[float]:
        spacing: list[float] = self.affine[:3, :3].norm(dim=0).tolist()
        return spacing

    def velocity(self, x: Tensor) -> Tensor:
        """Of an answer (3, z, y, x) on the network's scale, along LPS."""
        return along_axes(x.float() * self.width_mm, self.affine)[None]

    def field(self, velocity: Tensor) -> Tensor:
        return exponential(velocity, self.spacing_mm)

    def brought(self, velocity: Tensor) -> Tensor:
        """The moving image where the fixed one is."""
        return moved(self.moving, self.field(velocity), self.spacing_mm)


def motion_rows(ready: PreparedStage, case: Prepared, x: Tensor) -> tuple[list[Row], Mapping[str, Beside]]:
    """Of draws x (draws, 3, z, y, x), of nothing, and of the classical solver: rows, and pictures of the mean."""
    names = ready.job.moves
    assert names is not None
    motion = Motion.of(case, names, ready.preparation.draw_scale(MOTION[0], "mm").width)
    answers = {"model: one draw" if len(x) > 1 else "model": motion.velocity(x[0])}
    if len(x) > 1:
        answers["model: mean of draws"] = motion.velocity(x.mean(0))
    answers[STILL] = torch.zeros_like(motion.velocity(x[0]))
    started = time.perf_counter()
    answers[CLIMBED] = registered(motion.fixed, motion.moving, motion.spacing_mm)
    seconds = time.perf_counter() - started
    truth = None
    if all(name in case.tensors for name in MOTION):
        truth = motion.field(motion.velocity(torch.cat([case.tensors[name] for name in MOTION])))
    body = foreground(motion.fixed[0, 0])
    own = (case.name, case.case.patient, "motion")
    rows = [Row(*own, CLIMBED, "seconds", seconds, "s")]
    for by, velocity in answers.items():
        for name, (value, unit) in _figures(motion, velocity, truth, body).items():
            rows.append(Row(*own, by, name, value, unit))
    best = answers.get("model: mean of draws", next(iter(answers.values())))
    return rows, _pictures(motion, best)


def _figures(motion: Motion, velocity: Tensor, truth: Tensor | None, body: Tensor) -> dict[str, tuple[float, str]]:
    field, spacing = motion.field(velocity), motion.spacing_mm
    found: dict[str, tuple[float, str]] = {}
    if truth is not None:
        off = (field - truth).norm(dim=1)[0][body]
        found["target registration error"] = float(off.mean()), "mm"
        found["target registration error, 95th percentile"] = (
            float(torch.quantile(off[:: max(1, len(off) // 10**6)], 0.95)),
            "mm",
        )
    found["folded voxels"] = 100 * folded(field, spacing), "%"
    back = composed(field, motion.field(-velocity), spacing)
    found["inverse consistency error"] = float(back.norm(dim=1)[0][body].mean()), "mm"
    found["local correlation"] = float(similarity(motion.fixed, motion.brought(velocity))), ""
    return found


def _pictures(motion: Motion, velocity: Tensor) -> dict[str, Beside]:
    brought = motion.brought(velocity)
    reach = float((motion.fixed - motion.moving).abs().max().clamp(min=1e-3))
    size = motion.field(velocity).norm(dim=1)
    return {
        "brought onto the fixed image": Beside(brought[0], 0.0, 1.0, "grey"),
        "difference before": Beside((motion.fixed - motion.moving)[0].abs(), 0.0, reach, "heat"),
        "difference after": Beside((motion.fixed - brought)[0].abs(), 0.0, reach, "heat"),
        "moved by (mm)": Beside(size, 0.0, float(size.max().clamp(min=1.0)), "heat"),
    }
