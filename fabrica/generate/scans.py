"""A finished run applied to new scans."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from .. import io
from ..data import cohort as cohorts
from ..data.cases import left_out
from ..data.cohort import Member, Source, unreadable
from ..io import UnreadableError
from ..jobs.values import said
from ..machine.device import find_device
from ..run.answering import Answering
from ..run.folder import RunFolder
from ..run.sequence import Say
from .record import record_of


def generate_images(
    run: Path,
    data: Path | Source,
    out: Path,
    draws: int = 1,
    stage: str | None = None,
    say: Say = print,
    device: str = "auto",
    values: Mapping[str, str] | None = None,
) -> list[Path]:
    """Apply a trained run to new scans: NIfTI on their grids, under out/CASE/, or out/answers.csv. Returns the files
    written.

    `values` stand for those that the cases say (a class, a covariate, words); a `Source` says units that files leave
    open. Raises ValueError when the folder is no run, CheckpointError when it is not trained, UnreadableError for the
    scans.
    """
    opened = RunFolder.open(run)
    answering = Answering(opened, opened.last_stage(stage), find_device(device))
    job, written, source = answering.job, list[Path](), Source.of(data)
    recorded: list[tuple[Member, Mapping[str, Sequence[Path]]]] = []
    known = [f.name for f in answering.signature.values]
    needed = ", ".join(dict.fromkeys((*answering.signature.given, *job.simulates)))
    asked = said(answering.signature.values, values or {})
    if answering.unfinished:
        say(answering.unfinished)
    if job.answer == "value":
        return [
            _write_answers(
                answering, job.gathered(_found(source, say), True), source.folder, out / "answers.csv", draws, say
            )
        ]
    for found in job.gathered(_found(source, say), True):
        member = cohorts.overlaid(found, {}, asked)
        if not answering.can(member):
            say(f"{member.name}: has none of {needed}; left out.")
            continue
        if missing := [name for name in known if name not in member.values]:
            say(
                f"{member.name}: drawn without its {', '.join(missing)}, which nothing says. Name it: --value"
                f" {missing[0]}=..."
            )
        try:
            drawn = answering.draws(member, draws, say)
        except UnreadableError as error:
            say(left_out(member, error))
            continue
        files: dict[str, list[Path]] = {}
        for number, images in enumerate(drawn):
            for name, image in images.items():
                path = out / member.name / f"{name}-{number}.nii.gz"
                io.write_nifti(image, path)
                files.setdefault(name, []).append(path)
        recorded.append((found, files))
        written += [path for own in files.values() for path in own]
        say(f"{member.name}: {draws} draw{'s' * (draws > 1)} written.")
    if not written:
        raise ValueError(f"No case in {source.folder} has {needed}. See what is there: fabrica inspect {source.folder}")
    record_of(opened, answering.stage, out, recorded).write()
    return written


def _found(source: Source, say: Say) -> tuple[Member, ...]:
    """Cases of a folder of new scans; files that cannot be read are said."""
    cohort = source.find()
    for line in unreadable(cohort):
        say(line)
    return cohort.members


def _write_answers(
    answering: Answering, members: Sequence[Member], data: Path, path: Path, draws: int, say: Say
) -> Path:
    """A row per case: the chance of each class, or the number."""
    (field,) = answering.signature.x
    found = [m for m in members if answering.can(m)]
    if not found:
        raise ValueError(
            f"No case in {data} has {', '.join(answering.signature.given)}. See what is there: fabrica inspect {data}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["case", *([f"chance of {c}" for c in field.classes] or [f"{field.name} {field.unit}".strip()])]
        )
        count = 0
        for member in found:
            try:
                values = field.in_unit(answering.values(member, draws, say).double().numpy())
            except UnreadableError as error:
                say(left_out(member, error))
                continue
            writer.writerow([member.name, *(f"{v:.6g}" for v in values)])
            count += 1
    say(f"{count} cases answered.")
    return path
