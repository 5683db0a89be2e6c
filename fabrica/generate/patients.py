"""Whole synthetic patients from a trained synthesis: as many as asked, of the classes and covariates asked, with a
table of who is who.
"""

from __future__ import annotations

import csv
import hashlib
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__, io
from ..contracts import Case, Field, Image
from ..data.cases import Prepared
from ..data.grid import Grid
from ..jobs.values import said
from ..machine.device import threads, writing
from ..machine.executors import Executor, Local, SetAside
from ..machine.folders import writing_into
from ..machine.stores import fetched, named, place, sent
from ..recipe.values import Stage
from ..run.answering import Answering
from ..run.draw import draw, images_of
from ..run.folder import RunFolder
from ..run.question import Shown
from ..run.shift import weights_of
from ..safeguards.gate import UNAUDITED, standing
from .tasks import DONE, answering_of, note_done, noted, state_of

ROWS = 64  # slices or volumes drawn at once
TABLE = "patients.csv"
DRAW_GROUP = "fabrica.generate.patients:draw_group"
PLAIN_SPACING_MM = (1.0, 1.0, 1.0)


def draw_patients(
    run: Path, out: Path, count: int, values: Mapping[str, str], *, seed: int = 0,
    depth: int = 1, say: Callable[[str], None] = print, executor: Executor | None = None,
) -> Path:  # fmt: skip
    """Write out/PATIENT/CONTRAST.nii.gz and patients.csv, which a recipe takes as `table:`; returns that table.

    `values` fixes a class or covariate for all; classes that are left out are drawn in turn. `depth`: slices of a
    patient where the model draws slices. `executor`: who draws them and on what; those drawn before from the same are
    kept. Raises ValueError for a run that needs scans, an unknown value, or a covariate that is left out.
    """
    opened, by, token = RunFolder.open(run, "recipes/synthesis.yaml"), executor or Local(), secrets.token_hex(8)
    stage = synthesising_stage(opened)
    answering = answering_of(token, named(run), stage.name, by.device)
    if answering.unfinished:
        say(answering.unfinished)
    _obey(run, opened.home(stage), say)
    answering.listen(values)
    asked = _values(answering.signature.values, values, count)
    shared = {
        "token": token, "run": named(run), "name": run.name, "stage": stage.name, "out": named(out), "seed": seed,
        "values": dict(values), "depth": depth, "device": by.device, "threads": torch.get_num_threads(),
    }  # fmt: skip
    tasks = _tasks(shared, asked, _at_once(answering, depth), state_of(opened))
    out.mkdir(parents=True, exist_ok=True)
    with writing_into(out):
        rows = _drawn(tasks, out, by, count, say)
    answering_of.cache_clear()  # the model is not kept beyond the call
    fetched(out)
    if not rows:
        raise ValueError(f"No patient was drawn into {out}: every group was given up. Draw fewer at once, or here.")
    with writing(out / TABLE), (out / TABLE).open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["file", "member", "patient", "visit", "contrast", *asked[0]])
        for task in tasks:
            writer.writerows(rows.get(task["first"], []))
    return out / TABLE


def _tasks(
    shared: Mapping[str, Any], asked: Sequence[Mapping[str, float | str]], at_once: int, state: str
) -> list[dict[str, Any]]:
    """A group of patients each, as plain data, with the key of what its bytes depend on."""
    tasks = []
    for first in range(0, len(asked), at_once):
        task = {**shared, "first": first, "asked": asked[first : first + at_once]}
        tasks.append({**task, "key": _key(state, task)})
    return tasks


def _drawn(
    tasks: Sequence[Mapping[str, Any]], out: Path, by: Executor, count: int, say: Callable[[str], None]
) -> dict[int, list[list[Any]]]:
    """First patient of a group -> rows of the table; groups of before first."""
    rows, waiting, done = dict[int, list[list[Any]]](), list[Mapping[str, Any]](), 0
    for task in tasks:
        before = noted(out, _group_name(task["first"]), task["key"])
        if before is None:
            waiting.append(task)
            continue
        rows[task["first"]], done = before["rows"], done + len(task["asked"])
    if done:
        say(f"{done} of {count} patients were drawn before from the same; kept.")
    for number, result in by.results(DRAW_GROUP, waiting):
        task = waiting[number]
        done += len(task["asked"])
        if isinstance(result, SetAside):
            say(f"Patients from number {task['first']} are left out: {result.reason}.")
            continue
        rows[task["first"]] = result["rows"]
        for line in (*result["said"], f"{done} of {count} patients drawn."):
            say(line)
    return rows


def draw_group(task: Mapping[str, Any]) -> dict[str, Any]:
    """Draws the patients of one task and writes their files; {"rows": of the table, "said": lines}."""
    answering, out = answering_of(task["token"], task["run"], task["stage"], task["device"]), place(task["out"])
    said, rows = list[str](), list[list[Any]]()
    with threads(task["threads"]):
        answering.listen(task["values"])
        numbered = enumerate(task["asked"], task["first"])
        group = [_blank(answering, _patient_name(number), own, task["depth"]) for number, own in numbered]
        shown = [Shown(one) for one in group]
        drawn = draw(
            answering.family, answering.job, shown, answering.layout, task["seed"], said.append, answering.window
        )
        for one, x in zip(group, drawn, strict=True):
            for name, image in _images(answering, one, x, task["name"]).items():
                path = out / one.name / f"{name}.nii.gz"
                io.write_nifti(image, path)
                rows.append([path.relative_to(out).as_posix(), "", one.name, "", name, *one.case.values.values()])
    done = _group_name(task["first"])
    note_done(out, done, task["key"], [row[0] for row in rows], {"rows": rows})
    for made in (*(out / one.name for one in group), out / DONE / f"{done}.json"):
        sent(made)
    return {"rows": rows, "said": said}


def _key(state: str, task: Mapping[str, Any]) -> str:
    """What a group's bytes depend on."""
    asked = {k: task[k] for k in ("stage", "seed", "values", "depth", "device", "threads", "first", "asked", "name")}
    return hashlib.sha256(json.dumps([state, __version__, asked], sort_keys=True).encode()).hexdigest()


def _patient_name(number: int) -> str:
    return f"synthetic-{number:05d}"


def _group_name(first: int) -> str:
    return f"from-{first:05d}"


def _obey(run: Path, checkpoint: Path, say: Callable[[str], None]) -> None:
    """Raises ValueError for a run that an audit refuses; says that one was not audited."""
    found = standing(run, weights_of(checkpoint))
    if found == UNAUDITED:
        say(f"Nobody has audited these weights: its draws may be copies of patients. Type: fabrica audit {run}")
    elif found != "passed":
        raise ValueError(
            f"{run} was audited and {found}. See {run / 'audit'}; overrule it: fabrica audit {run} --override"
        )


def synthesising_stage(opened: RunFolder) -> Stage:
    """The one that draws images of nothing but values; raises ValueError where there is not exactly one."""
    codecs = {s.codec for s in opened.recipe.stages}
    able = [s for s in opened.recipe.stages if s.name not in codecs and _needs_nobody(s)]
    if len(able) != 1:
        raise ValueError(
            f"{opened.path} has {len(able)} stages that synthesise, expected one."
            f" With scans: fabrica generate {opened.path} --data DIR"
        )
    return able[0]


def asked_patients(
    answering: Answering, count: int, values: Mapping[str, str] | None = None, depth: int = 1
) -> list[list[Prepared]]:
    """Patients of whom only the grid and their values are known, in groups that are drawn at once."""
    answering.listen(values or {})
    asked = _values(answering.signature.values, values or {}, count)
    prepared = [_blank(answering, _patient_name(i), v, depth) for i, v in enumerate(asked)]
    at_once = _at_once(answering, depth)
    return [prepared[start : start + at_once] for start in range(0, count, at_once)]


def _at_once(answering: Answering, depth: int) -> int:
    return max(1, ROWS // (depth if answering.layout.axes == "yx" else 1))


def _needs_nobody(stage: Stage) -> bool:
    """Whether a stage draws images of nothing but values."""
    job = stage.build_job()
    signature = job.signature()
    return job.answer == "image" and not (signature.given or signature.measurements or job.simulates)


def _values(fields: Sequence[Field], fixed: Mapping[str, str], count: int) -> list[dict[str, float | str]]:
    """What each patient is asked to be."""
    asked = said(fields, fixed)
    numbers = {f.name: asked.get(f.name, "") for f in fields if f.kind == "number"}
    for name, value in numbers.items():
        if value == "":
            raise ValueError(f"The run asks for {name}. Write: --value {name}=60")
    turns = {f.name: [fixed[f.name]] if f.name in fixed else list(f.classes) for f in fields if f.classes}
    words = {f.name: fixed.get(f.name, "") for f in fields if f.kind in ("embedding", "token")}
    found = []
    for i in range(count):
        own: dict[str, float | str] = {}
        for name, classes in turns.items():
            own[name] = classes[i % len(classes)]
            i //= len(classes)
        found.append({**own, **numbers, **words})
    return found


def _blank(answering: Answering, name: str, values: Mapping[str, float | str], depth: int) -> Prepared:
    """A patient of whom only the grid is known."""
    preparation = answering.preparation
    size = (depth if preparation.axes == "yx" else preparation.size[0], *preparation.size[1:])
    affine = torch.zeros(4, 4).double()
    affine[2, 0], affine[1, 1], affine[0, 2] = torch.tensor(
        preparation.spacing_mm or PLAIN_SPACING_MM
    ).double()  # index z, y, x -> LPS
    affine[3, 3] = 1.0
    grid = Grid(affine, (size[0], size[1], size[2]))
    traces = {}
    for field in answering.signature.x:
        blank = Image(
            torch.zeros(1, *grid.shape),
            "zyx",
            affine,
            replace(field, channels=1, unit=preparation.units.get(field.name, field.unit)),
            calibrated=preparation.spacing_mm is not None,
        )
        traces[field.name] = preparation.forward(blank, grid)[1]
    return Prepared(name, Case(name, {}, values), {}, traces, grid)


def _images(answering: Answering, one: Prepared, x: Tensor, run: str) -> dict[str, Image]:
    fields: Sequence[Field] = answering.signature.x
    return images_of(x, fields, one, answering.preparation, f"{run}/{answering.stage.name}/{one.name}")
