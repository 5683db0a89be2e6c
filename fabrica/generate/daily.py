"""A finished run of computed stages applied to new patients: contours and doses of their days, and a table of what
became of the plan.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from .. import io
from ..contracts import Image
from ..data.cases import left_out
from ..data.cohort import Member, Source, unreadable
from ..data.daily import PLANNED
from ..data.moving import MOTION
from ..evaluate.judging.constraints import Constraint
from ..evaluate.judging.daily import Factors, Reading
from ..io import UnreadableError
from ..machine.device import find_device
from ..run.computing import Chain, Say
from ..run.daily import Calibrated, read_factors, readings_of
from ..run.folder import RunFolder
from .motion import write_motion

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
    for day in chain.days:
        try:
            written += _write_day(chain, day, stage, draws, out)
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
    return written


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


def _write_day(chain: Chain, day: Member, stage: str | None, draws: int, out: Path) -> list[Path]:
    written: list[Path] = []
    named = [stage] if stage else _stages(chain)
    for name in named:
        for number, images in enumerate(chain.draws(name, day, draws)):
            written += _write(images, day, out / day.name, number)
    return written


def _stages(chain: Chain) -> list[str]:
    """All that compute, after those that they build on and that draw."""
    needed = {plan.stage for s in chain.stages.values() for plan in s.inputs.values()}
    return [*(s.name for s in chain.run.recipe.stages if s.name in needed), *chain.stages]


def _write(images: Mapping[str, Image], day: Member, folder: Path, number: int) -> list[Path]:
    """A motion as a displacement field with the planning CT where it brings it; everything else as it is."""
    written = []
    if all(name in images for name in MOTION):
        found, _ = write_motion(images, day, ("CT", PLANNED + "CT"), folder, number)
        written += found
    for name, image in images.items():
        if name not in MOTION:
            path = folder / f"{name}-{number}.nii.gz"
            io.write_nifti(image, path)
            written.append(path)
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
