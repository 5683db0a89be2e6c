"""A finished run laid out as folders of images, so that it is judged, and claims of it are, as anybody's images are."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from .. import io
from ..contracts import ARBITRARY, Field, Image
from ..data.cohort import Member
from ..data.filmed import film_of
from ..data.prepare import GridPreparation
from ..deliver.record import check_inside
from ..evaluate.honesty.claim import Claim, declare
from ..evaluate.judging.shelf import Folders
from ..io import UnreadableError
from ..recipe.values import Stage
from .folder import RunFolder
from .prepare import split_stage
from .sequence import Say


@dataclass(frozen=True)
class LaidOut:
    """Where its images lie, and the span of the truths' values."""

    folders: Folders
    data_range: float


def run_as_folders(
    path: Path, stage: str | None, contrast: str | None, claim: Claim | None, out: Path, say: Say
) -> tuple[LaidOut | None, str]:
    """(a run laid out below OUT/images, why its results were known before the claim). A claim is declared in the run's
    own folder; where nothing is there to judge yet, that is all.
    """
    opened, known = RunFolder.open(path), ""
    if out.resolve().is_relative_to(path.resolve()):
        raise ValueError(f"{out} lies within {path}, whose own report stays as it is. Give another --out.")
    if claim is not None:
        known = declare(claim, path)
        say(known or f"The claim was declared in {path} before results.")
        if not next(path.glob("stages/*/draws/*/*"), None):
            say(f"There is nothing to judge yet: fabrica run {path}")
            return None, known
    return lay_out(opened, opened.last_stage(stage), contrast, out / "images", say), known


def lay_out(run: RunFolder, stage: Stage, contrast: str | None, out: Path, say: Say) -> LaidOut:
    """The first draw of each test case, its truth, what trained, and the baseline's answers as its competitor, below
    `out`. Truths of arbitrary units come on the training cohort's scale, on which draws are.

    Raises ValueError where the stage draws no single image of that name, or has drawn none yet.
    """
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} holds something. Delete it, or judge into another folder: --out DIR")
    field, preparation = _asked(stage, contrast), run.trained(stage).grid_preparation
    split = split_stage(run.recipe, stage, {name: plan.find() for name, plan in run.recipe.cohorts.items()})
    baseline = next((s for s in run.recipe.stages if s.name == f"{stage.name}-baseline"), None)
    drawn = [m for m in split.parts["test"] if run.draw_file(stage, m.name, 0, field.name).is_file()]
    if not drawn:
        raise ValueError(f"{stage.name} has drawn no test case yet. Type: fabrica run {run.path}")
    for m in drawn:
        shutil.copy(run.draw_file(stage, m.name, 0, field.name), _place(out, "drawn", m, field))
        if baseline is not None and (answer := run.draw_file(baseline, m.name, 0, field.name)).is_file():
            shutil.copy(answer, _place(out, "competitor", m, field))
    low, high = _write(drawn, field, preparation, out, "real", say)
    _write(split.parts["train"], field, preparation, out, "training", say)
    if mask := run.recipe.evaluate.mask:
        _write(drawn, Field(mask, "label", 2, ""), preparation, out, "masks", say)
    there = {side: out / side if (out / side).is_dir() else None for side in ("masks", "training", "competitor")}
    return LaidOut(Folders(out / "drawn", out / "real", **there), high - low)


def _asked(stage: Stage, contrast: str | None) -> Field:
    """The image that is judged; raises ValueError."""
    job = stage.build_job()
    signature = job.signature()
    images = [f for f in signature.x if f.kind == "intensity"]
    if job.answer not in ("image", "film") or not images:
        raise ValueError(f"{stage.name} draws no images that could be judged as files.")
    found = [f for f in images if contrast in (None, f.name)]
    if not found:
        raise ValueError(f"{stage.name} draws no {contrast}. It draws: {', '.join(f.name for f in images)}.")
    if found[0].name in signature.given:
        raise ValueError(f"{stage.name} hides {found[0].name} in turn, so that a case has several answers.")
    return found[0]


def _write(
    members: Iterable[Member], field: Field, preparation: GridPreparation, out: Path, side: str, say: Say
) -> tuple[float, float]:
    """(smallest, largest) of all values; those of nobody are 0 and 1."""
    ends = list[float]()
    for member in members:
        if field.name not in member.contrasts():
            continue
        try:
            image = _scaled(member.load([field.name]).images[field.name], preparation)
            io.write_nifti(image, _place(out, side, member, field))
            ends += [float(image.data.min()), float(image.data.max())]
        except UnreadableError as error:
            say(f"{member.name} is left out of {side}: {error}")
    return min(ends, default=0.0), max(ends, default=1.0)


def _scaled(image: Image, preparation: GridPreparation) -> Image:
    meaning = image.meaning
    if meaning.kind != "label" and meaning.unit in ARBITRARY:
        own, scale = preparation.scale_of(image), preparation.draw_scale(meaning.name, meaning.unit)
        image = replace(image, data=(image.data - own.offset) / own.width * scale.width + scale.offset)
    return film_of(image, image.times) if meaning.frames > 1 else image


def _place(out: Path, side: str, member: Member, field: Field) -> Path:
    relative = f"{side}/{member.name}/{field.name}.nii.gz"
    check_inside(out, relative)
    path = out / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
