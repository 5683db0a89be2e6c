"""Whole synthetic patients from a trained synthesis: as many as asked, of the classes and covariates asked, with a
table of who is who.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from .. import io
from ..contracts import Case, Field, Image
from ..data.cases import Prepared
from ..data.grid import Grid
from ..jobs.values import said
from ..machine.device import find_device, writing
from ..recipe.values import Stage
from ..run.answering import Answering
from ..run.draw import draw, images_of
from ..run.folder import RunFolder
from ..run.question import Shown
from ..run.shift import weights_of
from ..safeguards.gate import UNAUDITED, standing

ROWS = 64  # slices or volumes drawn at once
TABLE = "patients.csv"
PLAIN_SPACING_MM = (1.0, 1.0, 1.0)


def draw_patients(
    run: Path, out: Path, count: int, values: Mapping[str, str], *, seed: int = 0,
    device: str = "auto", depth: int = 1, say: Callable[[str], None] = print,
) -> Path:  # fmt: skip
    """Write out/PATIENT/CONTRAST.nii.gz and patients.csv, which a recipe takes as `table:`; returns that table.

    `values` fixes a class or covariate for all; classes that are left out are drawn in turn. `depth`: slices of a
    patient where the model draws slices. Raises ValueError for a run that needs scans, an unknown value, or a covariate
    that is left out.
    """
    opened = RunFolder.open(run, "recipes/synthesis.yaml")
    stage = synthesising_stage(opened)
    answering = Answering(opened, stage, find_device(device))
    if answering.unfinished:
        say(answering.unfinished)
    _obey(run, opened.home(stage), say)
    groups = asked_patients(answering, count, values, depth)
    asked, done = [one.case.values for group in groups for one in group], 0
    out.mkdir(parents=True, exist_ok=True)
    with writing(out / TABLE), (out / TABLE).open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["file", "member", "patient", "visit", "contrast", *asked[0]])
        for group in groups:
            shown = [Shown(one) for one in group]
            drawn = draw(answering.family, answering.job, shown, answering.layout, seed, say, answering.window)
            for one, x in zip(group, drawn, strict=True):
                for name, image in _images(answering, one, x, run).items():
                    path = out / one.name / f"{name}.nii.gz"
                    io.write_nifti(image, path)
                    writer.writerow([path.relative_to(out), "", one.name, "", name, *one.case.values.values()])
            done += len(group)
            say(f"{done} of {count} patients drawn.")
    return out / TABLE


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
    prepared = [_blank(answering, f"synthetic-{i:05d}", v, depth) for i, v in enumerate(asked)]
    at_once = max(1, ROWS // (depth if answering.layout.axes == "yx" else 1))
    return [prepared[start : start + at_once] for start in range(0, count, at_once)]


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


def _images(answering: Answering, one: Prepared, x: Tensor, run: Path) -> dict[str, Image]:
    fields: Sequence[Field] = answering.signature.x
    return images_of(x, fields, one, answering.preparation, f"{run.name}/{answering.stage.name}/{one.name}")
