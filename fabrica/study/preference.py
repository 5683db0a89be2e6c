"""Raters' taste taught to a generator, with a bound to what it was: rated draws, a reward that foretells ratings, draws
that it likes best, and a thin change learned from those beside the run's own training images.

Reward-ranked fine-tuning (Dong et al. 2023, RAFT); the bound is threefold: a low-rank change, few steps,
and no more liked
patients than real ones. What raters like is not what is true: realism and diversity stand beside.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from .. import io
from ..evaluate.judging.reading import read_answers
from ..evaluate.report.page import render
from ..evaluate.result import Figure
from ..evaluate.sets.feature import kernel_distance, vendi
from ..generate.patients import TABLE, draw_patients
from ..machine.executors import Local
from ..recipe.checks import from_plain
from ..run.folder import RunFolder
from ..run.prepare import split_stage
from ..run.sequence import RunResult, found_cohorts, run_recipe
from ..run.train import Watch
from ..safeguards.privacy.spaces import encoded
from .adaptation import check_adaptable, continued

Say = Callable[[str], None]
FEWEST_RATED = 20  # images, of which a reward can be learned
FEWEST_READERS = 3  # of whom one is left out, to judge
LIKED = "liked"  # RUN2/liked: the draws that taught
TRUSTED = 0.1  # correlation with ratings of unseen images below which a reward foretells nothing
ALPHAS = np.logspace(-1, 5, 13)  # of the ridge, chosen by leaving images out
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Taste:
    """Where ratings lie (`fabrica readers --kind ratings`), and the images that were rated. `held`: the reader who
    judges; `draws`: so many new images are scored, of which a share `keep` teaches.
    """

    readers: Path
    draws: Path
    held: str | None = None
    count: int = 400
    keep: float = 0.25
    rank: int = 8
    steps: int = 100


@dataclass(frozen=True)
class Reward:
    """A ridge from features of an image to what raters say of it, each reader's ratings standardised."""

    middle: Array
    spread: Array
    weights: Array
    level: float
    foretold: float  # correlation with ratings of images that it has not seen

    def __call__(self, images: Sequence[Tensor]) -> Array:
        z = (encoded(images) - self.middle) / self.spread
        found: Array = z @ self.weights + self.level
        return found


def reward_of(images: Sequence[Tensor], ratings: Array) -> Reward:
    """Raises ValueError for fewer than FEWEST_RATED images, or ratings that are all the same."""
    if len(images) < FEWEST_RATED:
        raise ValueError(f"{len(images)} images are rated, {FEWEST_RATED} are needed.")
    if float(np.std(ratings)) < 1e-9:
        raise ValueError("All images are rated alike: there is no taste to learn.")
    rows = encoded(images)
    middle, spread = rows.mean(0), rows.std(0)
    spread = np.where(spread > 1e-9, spread, 1.0)
    z = (rows - middle) / spread / rows.shape[1] ** 0.5
    u, s, vt = np.linalg.svd(z, full_matrices=False)
    centred = ratings - ratings.mean()
    best: tuple[float, Array, float] | None = None
    for alpha in ALPHAS / len(images):
        shrunk = s**2 / (s**2 + alpha)
        hat = (u * shrunk) @ u.T
        left = (centred - hat @ centred) / np.clip(1 - np.diag(hat) - 1 / len(images), 1e-6, None)
        error = float((left**2).mean())
        if best is None or error < best[0]:
            told = centred - left
            foretold = float(stats.pearsonr(told, centred)[0]) if float(np.std(told)) > 1e-12 else 0.0
            best = error, (vt.T * (s / (s**2 + alpha))) @ (u.T @ centred), foretold
    assert best is not None
    return Reward(middle, spread * rows.shape[1] ** 0.5, best[1], float(ratings.mean()), best[2])


def prefer(
    run: Path, taste: Taste, out: Path, *, device: str = "auto", say: Say = print, watch: Watch | None = None
) -> RunResult:
    """A run in `out` whose generator was taught what readers like; its report tells ratings foretold of a reader whom
    it never learned from, realism and diversity, before and after.

    Raises ValueError for ratings that teach nothing, or a run that synthesises nothing.
    """
    base = RunFolder.open(run.resolve())
    stage = base.last_stage(None)
    facts = base.trained(stage)
    check_adaptable(base, stage, facts)
    images, ratings = _rated(taste)
    held = taste.held or sorted(ratings)[-1]
    if held not in ratings:
        raise ValueError(f"There is no reader {held!r}. Readers: {', '.join(sorted(ratings))}.")
    taught = {name: own for name, own in ratings.items() if name != held}
    reward, judge = (_learned(images, who) for who in (taught, {held: ratings[held]}))
    say(f"The reward foretells ratings of images that it has not seen: correlation {reward.foretold:.2f}.")
    work = out.parent / f".{out.name}-draws"
    before = _drawn(run, work / "before", taste.count, base.recipe.seed + 1, device, say)
    most = len({m.patient for m in split_stage(base.recipe, stage, found_cohorts(base.recipe)).parts["train"]})
    chosen = _best(before, reward, min(taste.keep, most / taste.count), work, out / LIKED)
    say(f"{len(chosen)} of {len(before)} draws teach, those that the reward likes best, beside {most} real patients.")
    recipe = from_plain(_recipe(base, out / LIKED, taste), str(base.path / "recipe.yaml"))
    result = run_recipe(recipe, out, say=say, watch=watch, device=device)
    after = _drawn(result.folder, work / "after", taste.count, base.recipe.seed + 2, device, say)
    figures = _told(stage.name, before, after, (reward, judge), held, _real(base))
    result.report.stages[-1].figures += figures
    plain = [[f.name, f.by, f.value, f.interval, f.n] for f in figures]
    (result.folder / "preference.json").write_text(json.dumps({"held": held, "figures": plain}, indent=1) + "\n")
    render(result.report, result.folder / "report")
    for f in figures:
        say(f"{f.name}: {f.value if isinstance(f.value, str) else f'{f.value:.3f}'}")
    shutil.rmtree(work, ignore_errors=True)
    return result


def _rated(taste: Taste) -> tuple[dict[str, Tensor], dict[str, dict[str, float]]]:
    """(generated images by name, reader -> name -> rating)."""
    kind, answers = read_answers(taste.readers)
    if kind != "ratings":
        raise ValueError(f"{taste.readers} holds {kind}. Make sheets of ratings: fabrica readers --kind ratings")
    if len(answers) < FEWEST_READERS:
        raise ValueError(f"{len(answers)} readers have answered, {FEWEST_READERS} are needed: one of them judges.")
    ratings: dict[str, dict[str, float]] = {}
    for reader, items in answers.items():
        shown = [(item.shown[0], float(answer)) for item, answer in items]
        ratings[reader] = {name: value for (side, name), value in shown if side == "generated"}
    scans = io.by_name(taste.draws, io.scan_folder(taste.draws).scans)
    wanted = sorted({name for own in ratings.values() for name in own})
    if lost := [name for name in wanted if name not in scans]:
        raise ValueError(f"{lost[0]} was rated and is not in {taste.draws}. Name the folder that the sheets are of.")
    return {name: _plane(io.read(scans[name])) for name in wanted}, ratings


def _plane(image: Any) -> Tensor:
    """(1, 1, y, x): the middle slice, as readers see it, its bright end at 1."""
    values = image.data[0].float()
    plane = values if values.ndim == 2 else values[len(values) // 2]
    top = max(float(torch.quantile(plane.flatten(), 0.995)), 1e-6)
    scaled: Tensor = (plane / top)[None, None]
    return scaled


def _learned(images: Mapping[str, Tensor], ratings: Mapping[str, Mapping[str, float]]) -> Reward:
    told: dict[str, list[float]] = {}
    for own in ratings.values():
        values = np.array(list(own.values()))
        spread = max(float(values.std()), 1e-9)
        for name, value in own.items():
            told.setdefault(name, []).append((value - float(values.mean())) / spread)
    names = sorted(told)
    return reward_of([images[n] for n in names], np.array([float(np.mean(told[n])) for n in names]))


def _drawn(run: Path, out: Path, count: int, seed: int, device: str, say: Say) -> dict[str, Tensor]:
    """Patients of a run by name, their first image."""
    shutil.rmtree(out, ignore_errors=True)
    draw_patients(run, out, count, {}, seed=seed, executor=Local(device), say=lambda text: None)
    say(f"{count} draws of {run.name}.")
    found: dict[str, Tensor] = {}
    for row in _table(out):
        if row["patient"] not in found:
            found[row["patient"]] = _plane(io.read_image(out / row["file"]))
    return found


def _table(folder: Path) -> list[dict[str, str]]:
    with (folder / TABLE).open(newline="") as file:
        return list(csv.DictReader(file))


def _best(drawn: Mapping[str, Tensor], reward: Reward, keep: float, work: Path, liked: Path) -> list[str]:
    """Those that are liked best, written into the new run with their table: it is their cohort from then on."""
    names = list(drawn)
    order = np.argsort(-reward([drawn[n] for n in names]), kind="stable")
    chosen = [names[k] for k in order[: max(2, round(keep * len(names)))]]
    shutil.rmtree(liked, ignore_errors=True)
    liked.mkdir(parents=True)
    rows = [row for row in _table(work / "before") if row["patient"] in set(chosen)]
    with (liked / TABLE).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for name in chosen:
        shutil.copytree(work / "before" / name, liked / name)
    return chosen


def _recipe(base: RunFolder, liked: Path, taste: Taste) -> dict[str, Any]:
    """The run's recipe with the liked draws as patients who only train, and its weights to start from."""
    stage = base.last_stage(None)
    plain = continued(base, stage, base.trained(stage), {"steps": taste.steps, "rank": taste.rank})
    whole = base.recipe.plain()
    split = {**whole.get("split", {}), "only_train": [*whole.get("split", {}).get("only_train", ()), "liked"]}
    place = liked.resolve()
    cohorts = {**whole["cohorts"], "liked": {"path": str(place), "table": str(place / TABLE)}}
    kept: dict[str, Any] = {key: whole[key] for key in ("evaluate", "seed") if key in whole}
    return {**kept, "cohorts": cohorts, "split": split, "baseline": "none", **plain}


def _real(base: RunFolder) -> list[Tensor]:
    """Test patients of the run, as readers would see them."""
    stage = base.last_stage(None)
    field = next(f for f in stage.build_job().signature().x if f.kind == "intensity")
    members = split_stage(base.recipe, stage, found_cohorts(base.recipe)).parts["test"]
    return [_plane(m.load([field.name]).images[field.name]) for m in members if field.name in m.contrasts()]


def _told(
    stage: str, before: Mapping[str, Tensor], after: Mapping[str, Tensor], taste: tuple[Reward, Reward], held: str,
    real: Sequence[Tensor],
) -> list[Figure]:  # fmt: skip
    """What both say, how far draws are from real images, and how many different ones there are."""
    sides, figures = {"before": list(before.values()), "after": list(after.values())}, list[Figure]()
    for who, reward in (("readers it learned from", taste[0]), (f"{held}, whom it never saw", taste[1])):
        scores = {side: reward(images) for side, images in sides.items()}
        gain: float | str = float(scores["after"].mean() - scores["before"].mean())
        if reward.foretold < TRUSTED:
            gain = f"not evaluated: ratings are foretold with a correlation of {reward.foretold:.2f}"
        name = f"rating foretold of {who}, after minus before (deviations)"
        how = f"a ridge; correlation with ratings of unseen images {reward.foretold:.2f}; its own error is not told"
        figures.append(Figure(stage, "model", name, gain, None, len(after), how))
    rows = {side: encoded(images) for side, images in sides.items()}
    truth = encoded(real) if len(real) >= 2 else None
    for side, own in rows.items():
        figures.append(Figure(stage, side, f"diversity (Vendi), {side}", vendi(own), None, len(own), "encoder"))
        if truth is not None:
            far = kernel_distance(own, truth)
            figures.append(
                Figure(stage, side, f"kernel distance to real, {side}", float(far), far.interval, len(own), "encoder")
            )
    return figures
