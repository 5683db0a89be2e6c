"""A finished run applied to new scans."""

from __future__ import annotations

import csv
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from ..data.cases import left_out
from ..data.cohort import Member, Source, unreadable
from ..deliver.approvals import Approvals
from ..deliver.record import Answer, write_answers
from ..io import UnreadableError
from ..jobs.values import said
from ..machine.executors import Executor, Local
from ..machine.folders import writing_into
from ..machine.stores import fetched, named
from ..run.answering import Answering
from ..run.judge_courses import foretold
from ..run.sequence import Say
from ..run.shift import look
from ..safeguards.watermark import read_key
from .record import record_of
from .tasks import (
    DECIDED,
    DRAW,
    PLAIN,
    Order,
    answering_of,
    done_before,
    key_of,
    places_of,
    results_of,
    state_of,
)

MOST = 5  # lines on what is odd about scans
ANSWER = "answer.json"  # CASE/answer.json: what was said of a case, for delivery


def generate_images(
    run: Path,
    data: Path | Source,
    out: Path,
    *,
    say: Say = print,
    executor: Executor | None = None,
    **wanted: Unpack[Order],
) -> list[Path]:
    """Apply a trained run to new scans: NIfTI on their grids, under out/CASE/, or out/answers.csv. Returns the files
    written.

    `wanted`: draws, stage, values and shift, see `Order`. A `Source` says units that files leave open. `executor`: who
    draws the cases and on what, this process when left out. A case that was drawn before from the same inputs is kept.
    Raises ValueError when the folder is no run, CheckpointError when it is not trained, UnreadableError for the scans.
    """
    order: Order = {**PLAIN, **wanted}
    by, token = executor or Local(), secrets.token_hex(8)
    answering = answering_of(token, named(run), order["stage"], by.device, order["compiled"])
    job, source = answering.job, Source.of(data)
    needed = ", ".join(dict.fromkeys((*answering.signature.given, *job.simulates)))
    said(answering.signature.values, order["values"])  # refuses what the run does not know
    answering.listen(order["values"])
    if answering.unfinished:
        say(answering.unfinished)
    if order["registry"]:
        Approvals(Path(order["registry"])).check(answering.scans.weights, run)
    if order["watermark"]:
        read_key(Path(order["watermark"]))  # refused before anything is drawn
        order["watermark"] = str(Path(order["watermark"]).resolve())
    if (why := answering.scans.why_not) and order["shift"] == "refuse":
        raise ValueError(f"--shift refuse needs to know training's scans: {why}. Leave it out, or train on more.")
    if job.answer in ("value", "course"):
        if order["watermark"]:
            raise ValueError("Answers in a table bear no mark. Leave --watermark out.")
        return [
            _write_answers(
                answering, job.gathered(_found(source, say), True), source.folder, out / "answers.csv", order, say
            )
        ]
    cases = {m.name: m for m in job.gathered(_found(source, say), True)}
    shared = {
        **places_of(run, source, out), "token": token, "device": by.device, **order, "values": dict(order["values"]),
    }  # fmt: skip
    tasks = [{**shared, "case": name} for name in cases]
    _keyed(answering, tasks, cases)
    recorded: list[tuple[Member, Mapping[str, Sequence[Path]]]] = []
    decided, doubts = dict[Path, Path](), dict[str, str]()
    with writing_into(out):
        for name, result in results_of(DRAW, tasks, lambda task: done_before(out, task["case"], task["key"]), by, say):
            files = {contrast: [out / p for p in own] for contrast, own in result["files"].items()}
            if files:
                recorded.append((cases[name], files))
                doubts[name] = str(result.get("doubt", ""))
            decided |= _decided(out / name, files, {out / p for p in result.get("beside", ())})
    answering_of.cache_clear()  # the model is not kept beyond the call
    fetched(out)  # of a place in a store, what workers of other machines sent there
    places = {name: k for k, name in enumerate(cases)}
    recorded.sort(key=lambda one: places[one[0].name])
    written = [path for _, files in recorded for own in files.values() for path in own]
    if not written:
        why = " or all were left out as unlike those of training" if order["shift"] == "refuse" else ""
        raise ValueError(
            f"No case in {source.folder} has {needed}{why}. See what is there: fabrica inspect {source.folder}"
        )
    record_of(answering.run, answering.stage, out, recorded, decided=decided, doubts=doubts).write()
    return written


def _decided(folder: Path, files: Mapping[str, Sequence[Path]], beside: Collection[Path]) -> dict[Path, Path]:
    """First draw of a contrast -> the file that says what of it the prior decided."""
    named = {own[0]: folder / f"{contrast}-{DECIDED}.nii.gz" for contrast, own in files.items()}
    return {first: path for first, path in named.items() if path in beside}


def _keyed(answering: Answering, tasks: Sequence[dict[str, Any]], cases: Mapping[str, Member]) -> None:
    """Each task with the key of its inputs."""
    state = state_of(answering.run)
    for task in tasks:
        member = cases[task["case"]]
        task["key"] = key_of(state, task, member, answering.given(member))


def _found(source: Source, say: Say) -> tuple[Member, ...]:
    """Cases of a folder of new scans; what cannot be read, or not all of it, is said."""
    cohort = source.find()
    if cohort.looks_like:
        say(cohort.looks_like)
    for line in unreadable(cohort):
        say(line)
    warnings = [str(o) for o in cohort.oddities if o.severity == "warning"]
    for line in warnings[:MOST]:
        say(f"Read all the same: {line}")
    if len(warnings) > MOST:
        say(f"... and {len(warnings) - MOST} more: fabrica inspect {source.folder}")
    return cohort.members


def _answered(
    answering: Answering,
) -> tuple[list[tuple[str, str]], Callable[[NDArray[np.float64]], NDArray[np.float64]]]:
    """What an answer's numbers are called with their units, and how they leave the network's scale."""
    job, (field,) = answering.job, answering.signature.x
    if (course := job.course) is not None:
        heads = [(f"chance of {course.event} within {h:g} {course.unit}", "") for h in course.horizons]
        home = answering.run.home(answering.stage)
        return heads, lambda x: 1 - foretold(course, x[None], home).survival(np.array(course.horizons))[0]
    return [(f"chance of {c}", "") for c in field.classes] or [(field.name, field.unit)], field.in_unit


def _write_answers(
    answering: Answering, members: Sequence[Member], data: Path, path: Path, order: Order, say: Say
) -> Path:
    """A row per case: the chance of each class, the number, or the chance of an event within each horizon."""
    heads, told = _answered(answering)
    found = [m for m in members if answering.can(m)]
    if not found:
        raise ValueError(
            f"No case in {data} has {', '.join(answering.signature.given)}. See what is there: fabrica inspect {data}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    recorded: list[tuple[Member, Mapping[str, Sequence[Path]]]] = []
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", *(f"{name} {unit}".strip() for name, unit in heads)])
        for member in found:
            looked = look(answering.scans, member, answering.scanned)
            if looked.words:
                say(f"{member.name}: {looked.words}.")
            if looked.refused and order["shift"] == "refuse":
                say(f"{member.name} is left out: --shift refuse.")
                continue
            try:
                values = told(answering.values(member, order["draws"], say).double().numpy())
            except UnreadableError as error:
                say(left_out(member, error))
                continue
            writer.writerow([member.name, *(f"{v:.6g}" for v in values)])
            own = path.parent / member.name / ANSWER
            write_answers(own, [Answer(n, float(v), unit) for (n, unit), v in zip(heads, values, strict=True)])
            recorded.append((member, {answering.signature.x[0].name: [own]}))
    if recorded:
        record_of(answering.run, answering.stage, path.parent, recorded).write()
    say(f"{len(recorded)} cases answered.")
    return path
