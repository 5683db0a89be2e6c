"""How many evaluations of its network a draw takes: chosen on validation patients, before anybody is tested.

More evaluations make draws more like real images; fewer make them more like the mean of all answers, which pixel errors
prefer. The fewest that are as good as the best by both, within what another seed would change, are enough.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..contracts import Condition, Denoiser, Family, Problem
from ..data.grid import foreground
from ..evaluate.sets import feature
from ..evaluate.sets.embedding import Picture, embed
from ..families import Latent, with_steps
from ..io import UnreadableError
from ..jobs.imaging import stack_fields
from ..machine.device import writing
from ..networks.tiled import cut
from ..rng import Rng, derive
from .costs import CHOICE, Choice, Tried, kept_choice
from .costs import evaluations as count_evaluations
from .family import drawer
from .question import questions, without
from .stage import PreparedStage

COUNTS = (2, 4, 8)  # tried beside what the family does by itself
SEEDS = 3
ROWS = (6, 24)  # slices, or planes of volumes, that are compared: at least and at most
PATIENTS = 4
FEWEST = 3  # pictures that have a distance; constant draws are none, as nothing real is constant
SIDE = 48  # voxels of the middle of a volume that are drawn
SHARE = 0.1  # of the training's time that the choice may take
EMBEDDING = "radiomics"  # textures


def chosen(ready: PreparedStage, trained: Family, seconds: float) -> Choice | str | None:
    """The choice for a finished training, kept beside its checkpoint; words why there is none, None where nothing is to
    be chosen.

    A recipe that names its sampler has chosen by itself. What another run trained draws as chosen there, and nothing is
    written to that run. `seconds`: what training took.
    """
    family, place = drawer(ready.stage, trained).eval(), ready.home
    if ready.stage.sampler is not None or not _walks(family) or ready.job.answer != "image":
        return None
    if (known := kept_choice(place)) is not None:
        return known
    name = ready.name
    if ready.stage.trained is not None:
        return f"{name}: the run it was trained in has chosen no number of evaluations; draws take the family's own."
    if not ready.split.parts["validate"]:
        return (
            f"{name}: nobody validates, so that draws take as many evaluations as the family does by itself. "
            "Fewer may do: split: {train: 0.7, validate: 0.1, test: 0.2}"
        )
    found = _compared(ready, family, SHARE * seconds)
    if isinstance(found, Choice):
        place.mkdir(parents=True, exist_ok=True)
        with writing(place / CHOICE):
            (place / CHOICE).write_text(json.dumps(asdict(found), indent=1, allow_nan=False))
    return found


def _walks(family: Family) -> bool:
    return isinstance(family.prior if isinstance(family, Latent) else family, Denoiser)


@dataclass(frozen=True, slots=True)
class _Trial:
    """Rows of validation patients and their truth."""

    problem: Problem
    truth: Tensor  # (B, C, *axes)
    patients: tuple[str, ...]  # of the rows


def _compared(ready: PreparedStage, family: Family, seconds: float) -> Choice | str:
    trial = _trial(ready, family)
    name, seed = ready.name, ready.seed
    if trial is None:
        return (
            f"{name}: no validation patient has what is asked for; draws take as many evaluations as the family does."
        )
    own = count_evaluations(family, trial.problem)
    counts = [n for n in COUNTS if n < own]
    plans = {n: plan for n in counts if (plan := with_steps(family, n)) is not None} | {own: family}
    started = time.perf_counter()
    _drawn(plans[min(plans)], trial, [0], seed)  # warms up, and tells what a row costs
    each = (time.perf_counter() - started) / min(plans)
    rows = min(ROWS[1], len(trial.patients), int(seconds / max(1e-9, SEEDS * sum(plans) * each)))
    if rows < ROWS[0]:
        return f"{name}: comparing numbers of evaluations would take too long beside this training; draws take {own}."
    index = [int(i) for i in np.linspace(0, len(trial.patients) - 1, rows)]
    scores = _scores(ready, plans, trial, index)
    tried = tuple(_mean(n, found) for n, found in scores.items())
    best = _fewest(scores)
    return Choice(best, best == own, len({trial.patients[i] for i in index}), tried)


_Score = tuple[float | None, float, float]  # distortion, realism, seconds a row


def _scores(
    ready: PreparedStage, plans: Mapping[int, Family], trial: _Trial, index: Sequence[int]
) -> dict[int, list[_Score]]:
    """Of each number of evaluations a score a seed; textures are scaled by all draws and truths together."""
    truth, paired = trial.truth[list(index)], bool(ready.signature.given)
    found: dict[int, list[_Score]] = {}
    sets = {"real": _planes(truth)}
    for n, family in plans.items():
        for k in range(SEEDS):
            started = time.perf_counter()
            x = _drawn(family, trial, index, derive(ready.seed, "evaluations", k))
            seconds = (time.perf_counter() - started) / len(index)
            error = float((x - truth).square().mean().sqrt()) if paired else None
            found.setdefault(n, []).append((error, float("inf"), seconds))
            sets[f"{n}/{k}"] = _planes(x)
    usable = {name: pictures for name, pictures in sets.items() if len(pictures) >= FEWEST}
    if "real" not in usable:
        return found
    features = embed(usable, EMBEDDING)
    for n, own in found.items():
        for k, (error, distance, seconds) in enumerate(own):
            if (drawn := features.get(f"{n}/{k}")) is not None:
                distance = max(0.0, float(feature.kernel_distance(drawn, features["real"])))
            own[k] = (error, distance, seconds)
    return found


def _fewest(scores: Mapping[int, Sequence[_Score]]) -> int:
    """The smallest number that is within the spread over seeds of the best by both measures; else by realism alone."""
    able = set(scores)
    for measure in (1, 0):  # realism first: pixel errors alone would choose blur
        values = {n: [s[measure] for s in found] for n, found in scores.items()}
        if any(v is None for own in values.values() for v in own):
            continue
        means = {n: float(np.mean(own)) for n, own in values.items()}  # type: ignore[arg-type]
        best = min(means, key=means.__getitem__)
        spread = max(values[best]) - min(values[best])  # type: ignore[type-var, operator]
        fit = {n for n in able if means[n] <= means[best] + spread}
        able = fit or able
    return min(able)


def _mean(count: int, found: Sequence[_Score]) -> Tried:
    errors = [e for e, _, _ in found if e is not None]
    distortion = float(np.mean(errors)) if errors else None
    realism = float(np.mean([d for _, d, _ in found]))
    seconds = float(np.median([s for *_, s in found]))
    return Tried(count, distortion, realism if math.isfinite(realism) else None, seconds)


@torch.no_grad()
def _drawn(family: Family, trial: _Trial, index: Sequence[int], seed: int) -> Tensor:
    problem = trial.problem.rows(torch.tensor(list(index)))
    rng = Rng([derive(seed, "row", case) for case in problem.cases])
    return family.sample(problem, rng).float().cpu()


def _planes(x: Tensor) -> list[Picture]:
    """The first channel as slices with some structure."""
    planes = x[:, 0] if x.ndim == 4 else x[:, 0].flatten(0, 1)
    pictures = []
    for k, plane in enumerate(planes.numpy().astype(np.float64)):
        inside = foreground(torch.from_numpy(plane)).numpy()
        if inside.any() and np.ptp(plane) > 0:
            pictures.append(Picture(f"{k}", f"{k}", plane, inside, (1.0, 1.0)))
    return pictures


def _trial(ready: PreparedStage, family: Family) -> _Trial | None:
    """Rows of a few validation patients: slices in which the patient is, or the middle of a volume."""
    fields, device = ready.signature.x, next(family.parameters()).device
    problems: list[Problem] = []
    truths: list[Tensor] = []
    patients: list[str] = []
    for member in ready.split.parts["validate"]:
        if len(problems) == PATIENTS:
            break
        try:
            prepared = ready.case(member)
        except UnreadableError:
            continue  # said when the stage was prepared
        if not ready.knows(prepared):
            continue
        hidden = questions(ready.job, prepared)[0]
        truth = stack_fields(fields, _centred(ready.rows(prepared), ready))
        problem = ready.question(without(prepared, hidden), device)
        place = _middle(problem.shape[1:], ready, family)
        rows = _useful(truth)
        condition = cut(problem.condition, problem.shape[1:], place)
        small = replace(problem, condition=condition, shape=(problem.shape[0], *(s.stop - s.start for s in place)))
        problems.append(small.rows(rows))
        truths.append(truth[rows][(slice(None), slice(None), *place)])
        patients += [member.patient] * len(rows)
    alike = [k for k, p in enumerate(problems) if p.shape == problems[0].shape]
    if not alike:
        return None
    kept = [name for k in alike for name in patients[sum(len(t) for t in truths[:k]) :][: len(truths[k])]]
    return _Trial(_stacked([problems[k] for k in alike]), torch.cat([truths[k] for k in alike]), tuple(kept))


def _centred(batch: Any, ready: PreparedStage) -> Any:
    """Without the neighbouring slices that inputs bring."""
    around = ready.layout.context
    images = {
        n: v[:, around[n] : around[n] + 1] if around.get(n) and ready.layout.axes == "yx" else v
        for n, v in batch.images.items()
    }
    return replace(batch, images=images)


def _useful(truth: Tensor) -> Tensor:
    """Rows in which there is something, evenly spread; all of them when there is nothing anywhere."""
    filled = (truth[:, 0].flatten(1) > 0.1).float().mean(1)
    rows = (filled > 0.02).nonzero().flatten()
    rows = rows if len(rows) else torch.arange(len(truth))
    return rows[torch.linspace(0, len(rows) - 1, min(len(rows), ROWS[1])).round().long()]


def _middle(grid: Sequence[int], ready: PreparedStage, family: Family) -> tuple[slice, ...]:
    """The whole of a slice; of a volume the middle, in sides that the network can be called with."""
    if ready.layout.axes == "yx":
        return tuple(slice(0, n) for n in grid)
    step = family.multiple
    sides = [min(n, max(step, SIDE // step * step)) for n in grid]
    return tuple(slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip(grid, sides, strict=True))


def _stacked(problems: Sequence[Problem]) -> Problem:
    conditions = [p.condition for p in problems]
    values = {n: torch.cat([c.values[n] for c in conditions]) for n in conditions[0].values}
    present = {n: torch.cat([c.present[n] for c in conditions]) for n in conditions[0].present}
    cases = tuple(case for p in problems for case in p.cases)
    return Problem(cases, problems[0].shape, Condition(values, present))
