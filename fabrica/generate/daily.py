"""A finished run of computed stages applied to new patients: contours and doses of their days, and a table of what
became of the plan.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from .. import io
from ..contracts import Image
from ..data.cases import left_out
from ..data.cohort import Member, Source, unreadable
from ..data.daily import PLANNED
from ..data.moving import MOTION
from ..deliver.record import Drawn, Record, hash_of
from ..evaluate.judging.constraints import Constraint
from ..evaluate.judging.daily import Factors, Reading
from ..io import UnreadableError
from ..machine.device import find_device
from ..run.computing import Chain, Say
from ..run.daily import Calibrated, read_factors, readings_of
from ..run.folder import RunFolder
from .motion import write_motion
from .record import Files, record_of, sources_of

TABLE = "constraints.csv"
COLUMNS = ("case", "constraint", "unit", "at planning", "moment", "value", "low", "high", "light")


def gives_days(run: Path, stage: str | None) -> bool:
    """Whether a run, asked for a stage or for its last, computes days."""
    computed = RunFolder.open(run).recipe.computed
    return bool(computed) if stage is None else stage in {s.name for s in computed}


def generate_days(
    run: Path, data: Path | Source, out: Path, draws: int = 1, stage: str | None = None, say: Say = print,
    device: str = "auto",
) -> list[Path]:  # fmt: skip
    """Every day of every patient who was planned: OUT/CASE/NAME-K.nii.gz of each computed stage and of the CT that it
    builds on, and constraints.csv. Returns the files written.

    Raises ValueError for a folder that is no run and where nobody was seen on a day after planning; UnreadableError for
    a folder without scans. What is wrong with one day is said, and the others are done.
    """
    opened, source = RunFolder.open(run), Source.of(data)
    cohort = source.find()
    for line in unreadable(cohort):
        say(line)
    chain = Chain(opened, cohort.members, find_device(device), say)
    if not chain.days:
        raise ValueError(
            f"Nobody in {source.folder} was seen on a day after planning. Name visits by folders: PATIENT/planning/ and"
            f" PATIENT/today/DATE/. See what is there: fabrica inspect {source.folder}"
        )
    known = _calibrated(opened, draws, say)
    constraints = [Constraint.of(text) for text in opened.recipe.evaluate.constraints]
    written: list[Path] = []
    lines: list[list[str]] = []
    recorded: list[tuple[Member, Files]] = []
    for day in chain.days:
        try:
            files = _write_day(chain, day, stage, draws, out)
            written += [path for own in files.values() for path in own]
            recorded.append((day, files))
            readings = readings_of(chain, day, constraints, draws) if stage is None else []
        except UnreadableError as error:
            say(left_out(day, error))
            continue
        own = [_line(day, one, known.factors if known else {}) for one in readings]
        lines += own
        for cells in own:
            before, now = f"{cells[3]} {cells[2]} at planning", f"{cells[5]} {cells[2]} {cells[4]}"
            say(f"{day.name}: {cells[1]}: {before}, {now}: {cells[8]}.")
    if not written:
        raise ValueError(f"No day in {source.folder} could be computed. See: fabrica inspect {source.folder}")
    if lines:
        written.append(_write_table(out / TABLE, lines))
    if (record := _record(chain, recorded, out)) is not None:
        record.write()
    return written


def _record(chain: Chain, recorded: Sequence[tuple[Member, Files]], out: Path) -> Record | None:
    """What can be handed over: drawn images of the day, with contours and doses computed of them, which lie on its
    image. What lies on planning stays here. None where nothing was drawn: there are no weights to name.
    """
    learned = [s for s in chain.run.recipe.stages if s.name in _stages(chain)]
    if len(learned) != 1:
        return None
    (stage,) = learned
    asked = {f.name for f in stage.build_job().signature().x}
    record = record_of(
        chain.run, stage, out, [(d, {n: f for n, f in own.items() if n in asked}) for d, own in recorded]
    )
    stays = {*MOTION, *(name for one in chain.computations.values() for name in one.on_planning)}
    made = {f.name: f for one in chain.computations.values() for f in one.makes() if f.name not in stays}
    images = list(record.images)
    for day, own in recorded:
        shown = tuple(n for n in stage.build_job().signature().given if n in day.contrasts())
        sources = sources_of(day, shown)
        for name, paths in own.items():
            if (field := made.get(name)) is None:
                continue
            names, hashes = tuple(str(p.relative_to(out)) for p in paths), tuple(map(hash_of, paths))
            classes = field.channels if field.kind == "label" else 0
            images.append(Drawn(day.name, name, field.unit, field.kind, names, hashes, shown, sources, classes))
    return replace(record, images=tuple(images)) if images else None


def _calibrated(run: RunFolder, draws: int, say: Say) -> Calibrated | None:
    known = read_factors(run.path)
    if known is not None and known.draws != draws:
        say(f"No intervals: they were told on means of {known.draws} draws. Type: --draws {known.draws}")
        return None
    if known is None and run.recipe.evaluate.constraints:
        say(
            "No intervals and no lights: the run was not calibrated. Write: evaluate: {coverage: 0.9}, and run it again"
        )
    return known


def _write_day(chain: Chain, day: Member, stage: str | None, draws: int, out: Path) -> Files:
    """Name -> a file each draw."""
    written: dict[str, list[Path]] = {}
    for name in [stage] if stage else _stages(chain):
        for number, images in enumerate(chain.draws(name, day, draws)):
            for what, path in _write(images, day, out / day.name, number).items():
                written.setdefault(what, []).append(path)
    return written


def _stages(chain: Chain) -> list[str]:
    """All that compute, after those that they build on and that draw."""
    needed = {plan.stage for s in chain.stages.values() for plan in s.inputs.values()}
    return [*(s.name for s in chain.run.recipe.stages if s.name in needed), *chain.stages]


def _write(images: Mapping[str, Image], day: Member, folder: Path, number: int) -> dict[str, Path]:
    """A motion as a displacement field with the planning CT where it brings it; everything else as it is."""
    written = {}
    if all(name in images for name in MOTION):
        found, _ = write_motion(images, day, ("CT", PLANNED + "CT"), folder, number)
        written = dict(zip(("displacement", "moved"), found, strict=True))
    for name, image in images.items():
        if name not in MOTION:
            written[name] = folder / f"{name}-{number}.nii.gz"
            io.write_nifti(image, written[name])
    return written


def _line(day: Member, one: Reading, factors: Factors) -> list[str]:
    ends = one.interval(factors)
    apart = [f"{end:.2f}" for end in ends] if ends else ["", ""]
    return [
        day.name, one.constraint.text, one.constraint.unit, f"{one.planned:.2f}", one.moment, f"{one.mean:.2f}", *apart,
        one.light(factors),
    ]  # fmt: skip


def _write_table(path: Path, lines: Sequence[Sequence[str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(lines)
    return path
