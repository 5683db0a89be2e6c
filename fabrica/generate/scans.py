"""A finished run applied to new scans."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from .. import io
from ..data import cohort as cohorts
from ..data.cohort import Member, Source, unreadable
from ..data.store import left_out
from ..io import UnreadableError
from ..jobs import reads
from ..jobs.outcome import Outcome
from ..jobs.values import Values
from ..machine.device import find_device
from ..recipe.checks import from_plain
from ..recipe.values import Recipe, Stage
from ..run.answering import Answering
from ..run.sequence import Say


def generate_images(
    run: Path, data: Path | Source, out: Path, draws: int = 1, stage: str | None = None, say: Say = print, device: str = "auto",
    values: Mapping[str, str] | None = None,
) -> list[Path]:  # fmt: skip
    """Apply a trained run to new scans: NIfTI on their grids, under out/CASE/, or out/answers.csv. Returns the files written.

    `values` stand for those that the cases say (a class, a covariate, words); a `Source` says units that files leave open.
    Raises ValueError when the folder is no run, CheckpointError when it is not trained, UnreadableError for the scans.
    """
    plain = yaml.safe_load((run / "recipe.yaml").read_text()) if (run / "recipe.yaml").is_file() else None
    if plain is None:
        raise ValueError(f"{run} is not a run: it holds no recipe.yaml. Start one: fabrica run RECIPE")
    recipe = from_plain(plain, str(run / "recipe.yaml"))
    answering = Answering(run, recipe, _last_stage(recipe, stage), find_device(device))
    job, written, source = answering.job, list[Path](), Source.of(data)
    known = getattr(job, "values", Values({}, {}, {}))
    needed = ", ".join(dict.fromkeys((*reads(job), *job.simulates)))
    asked = known.asked(values or {})
    if isinstance(job, Outcome):
        return [_write_answers(answering, job, _found(source, say), source.folder, out / "answers.csv", draws, say)]
    if answering.unfinished:
        say(answering.unfinished)
    for found in _found(source, say):
        member = cohorts.overlaid(found, {}, asked)
        if not answering.can(member):
            say(f"{member.name}: has none of {needed}; left out.")
            continue
        if missing := [name for name in known.names if name not in member.values]:
            say(
                f"{member.name}: drawn without its {', '.join(missing)}, which nothing says. Name it: --value {missing[0]}=..."
            )
        try:
            drawn = answering.draws(member, draws, say)
        except UnreadableError as error:
            say(left_out(member, error))
            continue
        for number, images in enumerate(drawn):
            for name, image in images.items():
                path = out / member.name / f"{name}-{number}.nii.gz"
                io.write_nifti(image, path)
                written.append(path)
        say(f"{member.name}: {draws} draw{'s' * (draws > 1)} written.")
    if not written:
        raise ValueError(f"No case in {source.folder} has {needed}. See what is there: fabrica inspect {source.folder}")
    return written


def _found(source: Source, say: Say) -> tuple[Member, ...]:
    """Cases of a folder of new scans; files that cannot be read are said."""
    cohort = source.find()
    for line in unreadable(cohort):
        say(line)
    return cohort.members


def _write_answers(
    answering: Answering, job: Outcome, members: Sequence[Member], data: Path, path: Path, draws: int, say: Say
) -> Path:
    """A row per case: the chance of each class, or the number."""
    if answering.unfinished:
        say(answering.unfinished)
    found = [m for m in members if answering.can(m)]
    if not found:
        raise ValueError(f"No case in {data} has {', '.join(reads(job))}. See what is there: fabrica inspect {data}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", *([f"chance of {c}" for c in job.classes] or [f"{job.name} {job.unit}".strip()])])
        count = 0
        for member in found:
            try:
                values = job.in_units(answering.values(member, draws, say).double().numpy())
            except UnreadableError as error:
                say(left_out(member, error))
                continue
            writer.writerow([member.name, *(f"{v:.6g}" for v in values)])
            count += 1
    say(f"{count} cases answered.")
    return path


def _last_stage(recipe: Recipe, name: str | None) -> Stage:
    """The stage named, or the only one that no other stage builds on; baselines are chosen by name alone."""
    used = {s.input.stage for s in recipe.stages if s.input}
    used |= {s.codec for s in recipe.stages if s.codec}
    ends = [s for s in recipe.stages if s.name not in used and not s.name.endswith("-baseline")]
    found = [s for s in (recipe.stages if name else ends) if name in (None, s.name)]
    if len(found) != 1:
        known = ", ".join(s.name for s in recipe.stages)
        what = f"There is no stage {name!r}." if name else "The run has several last stages."
        raise ValueError(f"{what} Name one: --stage STAGE. Stages: {known}.")
    return found[0]
