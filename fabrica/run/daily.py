"""Constraints of a plan read on a day: at planning, today and so far; and the widths of their intervals on disk."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..computations import AT_PLANNING
from ..contracts import Image
from ..data.cohort import Member
from ..data.daily import PLANNED
from ..data.grid import grid_of, resample
from ..evaluate.judging.constraints import Constraint
from ..evaluate.judging.daily import TODAY, Factors, Reading, read
from ..machine.device import writing
from ..recipe.values import ComputedStage
from .computing import Chain

FILE = "daily.json"
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Calibrated:
    """What intervals were told with: so many draws of so many patients, and how far they reach."""

    level: float
    draws: int
    patients: int
    factors: Factors


def write_factors(folder: Path, known: Calibrated) -> None:
    """For whoever asks the run about new days."""
    lines = [{"moment": moment, "constraint": text, "factor": one} for (moment, text), one in known.factors.items()]
    plain = {"level": known.level, "draws": known.draws, "patients": known.patients, "factors": lines}
    with writing(folder / FILE):
        (folder / FILE).write_text(json.dumps(plain, indent=1) + "\n")


def read_factors(folder: Path) -> Calibrated | None:
    """What was written there; None where nobody was calibrated on. Raises ValueError for a damaged file."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        plain = json.loads(path.read_text())
        factors = {(str(one["moment"]), str(one["constraint"])): float(one["factor"]) for one in plain["factors"]}
        return Calibrated(float(plain["level"]), int(plain["draws"]), int(plain["patients"]), factors)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}). Run again: fabrica run RUN") from error


def gray_of(image: Image) -> NDArray[np.float64]:
    found: NDArray[np.float64] = image.data[0].double().numpy()
    return found


def mask_of(image: Image) -> Mask:
    found: Mask = image.data[0].numpy() > 0.5
    return found


def readings_of(chain: Chain, day: Member, constraints: Sequence[Constraint], draws: int) -> list[Reading]:
    """Every constraint at planning, today and so far, as far as there are doses and structures."""
    before = planned_dose(chain, day, draws)
    if before is None:
        return []
    found: list[Reading] = []
    for constraint in constraints:
        name = constraint.structure
        planned = chain.images(day, [PLANNED + name]).get(PLANNED + name)
        if planned is None:
            continue
        found += _today(chain, day, constraint, (before, planned), draws)
        found += _so_far(chain, day, constraint, (before, planned), draws)
    return found


def _today(
    chain: Chain, day: Member, constraint: Constraint, planned: tuple[Image, Image], draws: int
) -> Iterable[Reading]:
    stage, contours = dose_stage(chain), stage_of(chain, constraint.structure)
    if stage is None:
        return []
    name = constraint.structure
    own = chain.images(day, [name]).get(name)
    doses = [images["dose"] for images in chain.draws(stage.name, day, draws)]
    masks = [images[name] for images in chain.draws(contours.name, day, draws)] if contours else [own] if own else []
    if not masks:
        return []
    count = max(len(doses), len(masks))
    drawn = [
        (gray_of(doses[k % len(doses)]), mask_of(brought_to(masks[k % len(masks)], doses[0]))) for k in range(count)
    ]
    true = chain.truth(stage.name, day).get("dose")
    truth = None if true is None or own is None else (gray_of(true), mask_of(brought_to(own, true)))
    one = read(constraint, TODAY, _with_structure(*planned), drawn, truth, (planned[0].spacing_mm, doses[0].spacing_mm))
    return [] if one is None else [one]


def _so_far(
    chain: Chain, day: Member, constraint: Constraint, planned: tuple[Image, Image], draws: int
) -> Iterable[Reading]:
    stage = dose_stage(chain, so_far=True)
    if stage is None:
        return []
    (name,) = (f.name for f in chain.computations[stage.name].makes())
    doses = [images[name] for images in chain.draws(stage.name, day, draws)]
    inside = mask_of(brought_to(planned[1], doses[0]))
    true = chain.truth(stage.name, day).get(name)
    truth = None if true is None else (gray_of(true), inside)
    before = chain.computations[stage.name].measured(planned[0])
    one = read(
        constraint, name, _with_structure(before, planned[1]), [(gray_of(d), inside) for d in doses], truth,
        (before.spacing_mm, doses[0].spacing_mm),
    )  # fmt: skip
    return [] if one is None else [one]


def _with_structure(dose: Image, structure: Image) -> tuple[NDArray[np.float64], Mask]:
    return gray_of(dose), mask_of(brought_to(structure, dose))


def brought_to(mask: Image, like: Image) -> Image:
    return resample(mask, grid_of(like), 0.0)


def dose_stage(chain: Chain, so_far: bool = False) -> ComputedStage | None:
    """The stage whose doses are of the day, or of the days so far."""
    for name, computation in chain.computations.items():
        if computation.answer == "dose" and computation.looks_back == so_far:
            return chain.stages[name]
    return None


def stage_of(chain: Chain, image: str) -> ComputedStage | None:
    """The computed stage that makes an image of this name."""
    for name, computation in chain.computations.items():
        if image in {f.name for f in computation.makes()}:
            return chain.stages[name]
    return None


def planned_dose(chain: Chain, day: Member, draws: int) -> Image | None:
    stage = dose_stage(chain)
    return None if stage is None else chain.draws(stage.name, day, draws)[0][AT_PLANNING]
