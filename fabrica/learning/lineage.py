"""Whom the weights of a stage have seen, in this run or another, and what their codes mean."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..data.prepare import GridPreparation
from ..data.split import LeakError, Split, patient_hash
from ..recipe.values import Recipe, Stage, TrainedPlan
from .facts import facts_of


def trained_elsewhere(trained: TrainedPlan, split: Split) -> GridPreparation:
    """The preparation of another run's stage; raises LeakError when that run was trained on patients that test here."""
    known = facts_of(trained.folder)
    if known is None:
        raise ValueError(f"{trained.folder} is not trained yet. Type: fabrica run {trained.run}")
    _check_unseen(str(trained.run), known.trained_on, split)
    return known.grid_preparation


def trained_before(recipe: Recipe, stage: Stage, folder: Path) -> set[str]:
    """Hashes of the patients whom the codec or the weights that training starts from have seen."""
    places = [recipe.stage(stage.codec).home(folder)] if stage.codec else []
    places += [Path(stage.train.start)] if stage.train.start else []
    found = [facts_of(place) for place in places]
    return {p for known in found if known for p in known.trained_on}


def check_start(start: str, split: Split) -> None:
    """Raise LeakError when the weights that training starts from have seen patients who test here."""
    known = facts_of(Path(start))
    if known is not None:
        _check_unseen(start, known.trained_on, split)


def check_codec(stage: Stage, codec: Stage, folder: Path, preparation: GridPreparation, split: Split) -> None:
    """Codes mean what they did in the codec's training: the same voxels, and patients whom it did not see test here."""
    known = facts_of(codec.home(folder))
    if known is None:
        return  # said where its weights are loaded
    theirs = known.grid_preparation
    if theirs.spacing_mm != preparation.spacing_mm:
        spacing = list(theirs.spacing_mm) if theirs.spacing_mm else None
        raise ValueError(
            f"{codec.name} learned voxels of {spacing or 'the scans'} mm, {stage.name} is prepared to"
            f" {list(preparation.spacing_mm or ()) or 'those of its own scans'}. Write: prepare: {{spacing_mm:"
            f" {spacing or '...'}}}"
        )
    _check_unseen(f"{codec.name}", known.trained_on, split)


def _check_unseen(name: str, seen: Iterable[str], split: Split) -> None:
    known = set(seen)
    if leaked := sorted({m.patient for m in split.parts["test"] if patient_hash(m.patient) in known}):
        raise LeakError(f"{name} was trained on {', '.join(leaked)}, who test here. Name others: split.test.")
