"""From a CT, its structures and a prescription to a dose in Gy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..contracts import Batch, Job, Problem, Signature
from ..data.planned import BODY_HU, DISTANCE, PRESCRIPTION, planned
from ..data.vocabulary import field_of
from ..io.planning import ORGANS, POSSIBLE
from ..rng import Rng
from .imaging import Axes, Translation

PRESCRIBED = {"PTV70": 70.0, "PTV63": 63.0, "PTV56": 56.0}  # Gy, of the OpenKBP challenge


class Dose(Job):
    """CT, signed distances to targets and organs (mm), prescription, mask of possible dose -> dose in Gy.

    `prescription` names targets with their level in Gy; structures that a patient does not have are missing, not empty.
    Answers are never negative, and 0 outside the possible dose where a case gives it, else outside the body.
    """

    metrics = ("mae",)
    competitors = ("mean",)
    reference = "CT"

    def __init__(
        self,
        prescription: Mapping[str, float] | None = None,
        organs: Sequence[str] = ORGANS,
        *,
        axes: Axes = "yx",
        neighbours: int = 0,
    ) -> None:
        self.prescription = {str(n): float(v) for n, v in (prescription or PRESCRIBED).items()}
        if wrong := {n: v for n, v in self.prescription.items() if not 0 < v < 200}:
            raise ValueError(f"dose.prescription is {wrong}, expected Gy up to 200. Divide cGy by 100.")
        self.organs = tuple(organs)
        structures = (*self.prescription, *self.organs)
        given = ["CT", PRESCRIPTION, *(DISTANCE + name for name in structures)]
        self._inner = Translation([*given, POSSIBLE], ["dose"], axes=axes, neighbours=neighbours, vary=0.0)
        self.neighbours, self.judged_with = neighbours, (POSSIBLE, *structures)

    def signature(self) -> Signature:
        return self._inner.signature()

    def gathered(self, members: Sequence[Any], new: bool = False) -> tuple[Any, ...]:
        return tuple(planned(member, self.prescription) for member in members)

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        asked = self._inner.problem(batch, rng)
        weight = self._possible(asked)
        return replace(asked, weight=weight if asked.weight is None else asked.weight * weight)

    def question(self, batch: Batch, rng: Rng) -> Problem:
        return self._inner.question(batch, rng)

    def finished(self, x: Tensor, problem: Problem) -> Tensor:
        return x.clamp(min=0) * self._possible(problem).to(x)

    def _possible(self, problem: Problem) -> Tensor:
        """(B, 1, *axes), 1 where there can be dose."""
        ct, mask = problem.condition.values["CT"], problem.condition.values[POSSIBLE][:, 1:2]
        scale = field_of("CT").scale
        assert scale is not None  # HU have a constant
        known = problem.condition.present.get(POSSIBLE)
        if known is None or bool(known.all()):
            return mask
        body = _filled(ct[:, self.neighbours : self.neighbours + 1] > (BODY_HU - scale.offset) / scale.width)
        return torch.where(known.reshape(-1, *[1] * (mask.ndim - 1)), mask, body)


def _filled(inside: Tensor) -> Tensor:
    """(B, 1, *axes) with the air within the body, slice by slice: airways get dose too."""
    planes = inside.reshape(-1, *inside.shape[-2:]).cpu().numpy()
    found = np.stack([ndimage.binary_fill_holes(plane) for plane in planes])
    return torch.from_numpy(found).reshape(inside.shape).float().to(inside.device)
