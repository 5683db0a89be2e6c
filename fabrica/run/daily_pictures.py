"""A day as a report shows it: the plan, the dose of today, what changed, histograms, constraints with their lights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contracts import SCALES, Image
from ..data.cohort import Member
from ..data.daily import PLANNED
from ..evaluate.judging.daily import Factors, Reading, table
from ..evaluate.report.histogram import drawing
from ..evaluate.report.pictures import panel_of, washed
from .computing import Chain
from .daily import brought_to, dose_stage, gray_of, mask_of, planned_dose, stage_of

Panel = dict[str, Any]
Array = NDArray[np.floating[Any]]
CHANGE = 10.0 / 70.0  # of the network's scale: 10 Gy


@dataclass
class DailyPictures:
    """Of a few days."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    most: int = 6

    def add(self, chain: Chain, day: Member, draws: int, readings: Sequence[Reading], factors: Factors) -> None:
        """One more, where there is room and the run computes doses."""
        stage = dose_stage(chain)
        if stage is None or len(self.rows) >= self.most:
            return
        before = planned_dose(chain, day, draws)
        assert before is not None
        doses = [images["dose"] for images in chain.draws(stage.name, day, draws)]
        ct = _shown_ct(chain, day, draws, stage.inputs["CT"].stage if "CT" in stage.inputs else "")
        first = chain.images(day, [PLANNED + "CT"])[PLANNED + "CT"]
        mean = np.mean([gray_of(d) for d in doses], 0)
        z = _slice(mean)
        panels = _panels((first, before), (ct, mean, doses), z)
        structures = list(dict.fromkeys(one.constraint.structure for one in readings))
        drawn = _histogram(chain, day, draws, structures, doses)
        self.rows.append({"case": day.name, "slice": z, "panels": panels, "drawing": drawn + table(readings, factors)})


def _shown_ct(chain: Chain, day: Member, draws: int, stage: str) -> Image:
    """The CT of the day that the dose was computed on: drawn, or its own."""
    return chain.draws(stage, day, draws)[0]["CT"] if stage else chain.images(day, ["CT"])["CT"]


def _slice(mean: Array) -> int:
    """Through the middle of what gets most."""
    return int((mean > 0.9 * mean.max()).sum((1, 2)).argmax())


def _scaled(gray: Array) -> Array:
    return np.asarray(gray / SCALES["Gy"].width)


def _hounsfield(ct: Image, z: int) -> Array:
    scale = SCALES["HU"]
    return np.asarray((ct.data[0, z].numpy() - scale.offset) / scale.width)


def _panels(planned: tuple[Image, Image], today: tuple[Image, Array, Sequence[Image]], z: int) -> list[Panel]:
    (first, before), (ct, mean, doses) = planned, today
    plan = gray_of(brought_to(before, ct))
    on = _hounsfield(brought_to(first, ct), z)
    panels = [
        washed(panel_of("dose at planning", _scaled(plan[z]), "Gy"), on),
        panel_of("CT of today (used)", _hounsfield(ct, z), "HU"),
        washed(panel_of("dose today", _scaled(mean[z]), "Gy"), _hounsfield(ct, z)),
        panel_of("today minus planning", _scaled(mean[z] - plan[z]), "Gy", -CHANGE, CHANGE, "diverging"),
    ]
    if len(doses) > 1:
        spread = np.std([gray_of(d)[z] for d in doses], 0)
        panels.append(panel_of("spread of draws", _scaled(spread), "Gy", 0.0, CHANGE / 2, "heat"))
    return panels


def _histogram(chain: Chain, day: Member, draws: int, structures: Sequence[str], doses: Sequence[Image]) -> str:
    """Of today's dose in today's contours, the true ones dashed where they are known."""
    masks = {}
    for name in structures:
        stage = stage_of(chain, name)
        found = chain.draws(stage.name, day, draws)[0].get(name) if stage else chain.images(day, [name]).get(name)
        if found is not None:
            masks[name] = mask_of(brought_to(found, doses[0]))
    stage = dose_stage(chain)
    true = chain.truth(stage.name, day).get("dose") if stage else None
    draws_gy = [gray_of(d) for d in doses]
    return drawing(np.mean(draws_gy, 0), None if true is None else gray_of(true), masks, draws_gy)
