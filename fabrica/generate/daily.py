"""A finished run of computed stages applied to new patients: contours and doses of their days, and a table of what
became of the plan.
"""

from __future__ import annotations

import csv
import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from .. import io
from ..contracts import Image
from ..data.cases import left_out
from ..data.cohort import Member, Source, unreadable
from ..data.daily import PLANNED
from ..data.moving import MOTION
from ..deliver.approvals import Approvals
from ..deliver.record import Drawn, Record, hash_of
from ..evaluate.judging.constraints import Constraint
from ..evaluate.judging.daily import Factors, Reading
from ..io import UnreadableError
from ..machine.device import find_device, threads
from ..machine.executors import Executor, Local
from ..machine.folders import writing_into
from ..machine.stores import fetched, place, sent
from ..recipe.values import Stage
from ..run.computing import Chain, Say
from ..run.daily import FILE as FACTORS
from ..run.daily import read_factors, readings_of
from ..run.folder import RunFolder
from ..run.shift import weights_of
from .motion import write_motion
from .record import Files, record_of, sources_of
from .tasks import DONE, key_of, note_done, noted, places_of, results_of, state_of

TABLE = "constraints.csv"
ASKED = "fabrica.generate.daily:compute_patient"
COLUMNS = ("case", "constraint", "unit", "at planning", "moment", "value", "low", "high", "light")


def gives_days(run: Path, stage: str | None) -> bool:
    """Whether a run, asked for a stage or for its last, computes days."""
    computed = RunFolder.open(run).recipe.computed
    return bool(computed) if stage is None else stage in {s.name for s in computed}


def check_approved(run: Path, stage: str | None, registry: Path) -> None:
    """Raises ValueError where a model is not approved that answers: of days, each that they are computed of."""
    opened = RunFolder.open(run)
    drawing = [opened.last_stage(stage)] if not gives_days(run, stage) else _learned(opened)
    for one in drawing:
        Approvals(registry).check(weights_of(opened.home(one)), run)


def generate_days(
    run: Path, data: Path | Source, out: Path, draws: int = 1, stage: str | None = None, say: Say = print,
    executor: Executor | None = None,
) -> list[Path]:  # fmt: skip
    """Every day of every patient who was planned: OUT/CASE/NAME-K.nii.gz of each computed stage and of the CT that it
    builds on, and constraints.csv. Returns the files written. A patient who was asked about the same before is kept.
    `executor`: who computes, a patient a task; this process when left out.

    Raises ValueError for a folder that is no run and where nobody was seen on a day after planning; UnreadableError for
    a folder without scans. What is wrong with one day is said, and the others are done.
    """
    opened, source, by = RunFolder.open(run), Source.of(data), executor or Local()
    cohort = source.find()
    for line in unreadable(cohort):
        say(line)
    chain = Chain(opened, cohort.members, find_device(by.device), say)
    if not chain.days:
        raise ValueError(
            f"Nobody in {source.folder} was seen on a day after planning. Name visits by folders: PATIENT/planning/ and"
            f" PATIENT/today/DATE/. See what is there: fabrica inspect {source.folder}"
        )
    _check_calibrated(opened, draws, say)
    shared = {
        **places_of(run, source, out), "token": secrets.token_hex(8), "stage": stage, "device": by.device,
        "draws": draws,
    }  # fmt: skip
    people: dict[str, list[Member]] = {}
    for day in chain.days:
        people.setdefault(day.patient, []).append(day)
    tasks = [{**shared, "patient": patient, "case": own[0].name} for patient, own in people.items()]
    with writing_into(out):
        _keyed(opened, tasks, cohort.members)
        found = dict(results_of(ASKED, tasks, partial(_asked_before, out), by, say))
    _chain_of.cache_clear()  # what was drawn is not kept beyond the call
    fetched(out)
    return _gathered(chain, [found[t["case"]] for t in tasks if t["case"] in found], out, source)


def _gathered(chain: Chain, found: Sequence[Mapping[str, Any]], out: Path, source: Source) -> list[Path]:
    """The files of all patients, with the table and the record of them."""
    done = {day: own for one in found for day, own in one["files"].items()}
    recorded = [
        (day, {name: [out / p for p in paths] for name, paths in done[day.name].items()})
        for day in chain.days if day.name in done
    ]  # fmt: skip
    written = [path for _, files in recorded for own in files.values() for path in own]
    if not written:
        raise ValueError(f"No day in {source.folder} could be computed. See: fabrica inspect {source.folder}")
    if lines := [line for one in found for line in one["lines"]]:
        written.append(_write_table(out / TABLE, lines))
    if (record := _record(chain, recorded, out)) is not None:
        record.write()
    return written


def _keyed(run: RunFolder, tasks: Sequence[dict[str, Any]], members: Sequence[Member]) -> None:
    """Each task with the key of all that was made of its patient, on any day, and of what intervals were told on."""
    state, told = state_of(run), run.path / FACTORS
    factors = hash_of(told) if told.is_file() else ""
    for task in tasks:
        asked = {**task, "values": {}, "shift": "warn", "watermark": None}
        own = [key_of(state, asked, m, m.contrasts()) for m in members if m.patient == task["patient"]]
        task["key"] = hashlib.sha256(json.dumps([*own, factors]).encode()).hexdigest()


def _asked_before(out: Path, task: Mapping[str, Any]) -> dict[str, Any] | None:
    before = noted(out, task["case"], task["key"])
    if before is None or "lines" not in before:
        return None
    return {**before, "said": [f"{task['case']} and later: computed before of the same; kept."]}


@lru_cache(maxsize=1)
def _chain_of(token: str, run: str, device: str, folder: str, units: tuple[tuple[str, str], ...]) -> Chain:
    """The run and everybody's days, found once for all tasks of a call that this process does."""
    found = Source(fetched(folder), dict(units)).find()
    return Chain(RunFolder.open(fetched(run)), found.members, find_device(device))


def compute_patient(task: Mapping[str, Any]) -> dict[str, Any]:
    """Every day of one patient; {"files": day -> name -> paths below `out`, "lines": of the table, "said"}.

    Its threads are those of whoever asked, so that bytes are the same wherever it is done.
    """
    chain = _chain_of(task["token"], task["run"], task["device"], task["folder"], tuple(map(tuple, task["units"])))
    said, out = list[str](), place(task["out"])
    chain.say = said.append
    files: dict[str, dict[str, list[str]]] = {}
    lines: list[list[str]] = []
    with threads(task["threads"]):
        for day in chain.days:
            if day.patient == task["patient"]:
                _compute_day(chain, day, task, files, lines)
    result = {"files": files, "lines": lines, "said": said}
    names = [name for day in files.values() for own in day.values() for name in own]
    if names:
        note_done(out, task["case"], task["key"], names, result)
        for made in (*(out / day for day in files), out / DONE / f"{task['case']}.json"):
            sent(made)
    return result


def _compute_day(
    chain: Chain, day: Member, task: Mapping[str, Any], files: dict[str, dict[str, list[str]]], lines: list[list[str]]
) -> None:
    """Files and lines are added to; what is wrong with the day is said."""
    out, draws, stage = place(task["out"]), task["draws"], task["stage"]
    known = read_factors(chain.run.path)
    factors = known.factors if known is not None and known.draws == draws else {}
    constraints = [Constraint.of(text) for text in chain.run.recipe.evaluate.constraints]
    try:
        made = _write_day(chain, day, stage, draws, out)
        files[day.name] = {name: [str(p.relative_to(out)) for p in own] for name, own in made.items()}
        readings = readings_of(chain, day, constraints, draws) if stage is None else []
    except UnreadableError as error:
        chain.say(left_out(day, error))
        return
    for cells in (_line(day, one, factors) for one in readings):
        lines.append(cells)
        before, now = f"{cells[3]} {cells[2]} at planning", f"{cells[5]} {cells[2]} {cells[4]}"
        chain.say(f"{day.name}: {cells[1]}: {before}, {now}: {cells[8]}.")


def _record(chain: Chain, recorded: Sequence[tuple[Member, Files]], out: Path) -> Record | None:
    """What can be handed over: drawn images of the day, with contours and doses computed of them, which lie on its
    image. What lies on planning stays here. None where nothing was drawn: there are no weights to name.
    """
    learned = _learned(chain.run)
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


def _check_calibrated(run: RunFolder, draws: int, say: Say) -> None:
    """Says where readings have no intervals, and why."""
    known = read_factors(run.path)
    if known is not None and known.draws != draws:
        say(f"No intervals: they were told on means of {known.draws} draws. Type: --draws {known.draws}")
    if known is None and run.recipe.evaluate.constraints:
        say(
            "No intervals and no lights: the run was not calibrated. Write: evaluate: {coverage: 0.9}, and run it again"
        )


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
    return [*(s.name for s in _learned(chain.run)), *chain.stages]


def _learned(run: RunFolder) -> list[Stage]:
    """Stages with weights that computed ones build on."""
    needed = {plan.stage for s in run.recipe.computed for plan in s.inputs.values()}
    return [s for s in run.recipe.stages if s.name in needed]


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
