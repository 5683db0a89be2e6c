"""What a run keeps, and where."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
import yaml

from .. import io
from ..contracts import Field, Image
from ..data.cohort import Member, overlaid
from ..learning.checkpoint import FORMAT
from ..machine.device import writing
from ..machine.processes import Processes
from ..recipe.checks import from_plain
from ..recipe.values import Recipe, Stage


def draw_file(folder: Path, stage: Stage, case: str, number: int, name: str) -> Path:
    """Where a run keeps one drawn image; its name is in the file's when the stage draws several."""
    several = len(stage.build_job().signature().x) > 1
    return folder / "stages" / stage.name / "draws" / case / f"{number}{'-' + name if several else ''}.nii.gz"


def versions(member: Member, drawn: Sequence[Mapping[str, Image]], how: str) -> list[Member]:
    """The case as the next stage is shown it: with each draw, with their mean, or with the first alone."""
    if how == "all":
        return [overlaid(member, images) for images in drawn]
    if how == "one":
        return [overlaid(member, drawn[0])]
    mean = {
        name: replace(image, data=torch.stack([images[name].data for images in drawn]).mean(0))
        for name, image in drawn[0].items()
    }
    return [overlaid(member, mean)]


def read_draws(folder: Path, stage: Stage, case: str, wanted: Sequence[str]) -> list[dict[str, Image]]:
    """The draws of an earlier stage that a run has written; raises ValueError when there are none."""
    fields = {f.name: f for f in stage.build_job().signature().x if f.name in wanted}
    drawn: list[dict[str, Image]] = []
    while all(draw_file(folder, stage, case, len(drawn), name).is_file() for name in fields):
        files = {name: draw_file(folder, stage, case, len(drawn), name) for name in fields}
        drawn.append({name: _as(io.read_image(path), fields[name]) for name, path in files.items()})
    if not drawn:
        raise ValueError(f"Stage {stage.name} has not drawn {case} yet. Type: fabrica run {folder} --only {stage.name}")
    return drawn


def _as(image: Image, field: Field) -> Image:
    stated = image.meaning.unit != "a.u." or field.unit != "HU"  # runs of before wrote HU without saying so
    unit = image.meaning.unit if stated else field.unit
    return replace(image, meaning=replace(field, channels=1, unit="" if field.kind == "label" else unit))


def check_settings(folder: Path, recipe: Recipe) -> None:
    """Refuse a recipe that differs from the run's where nothing would follow it; what is only judged may change.

    Raises ValueError with the line that starts a new run. The recipe that the run keeps says what its report was made with.
    """
    file = folder / "recipe.yaml"
    kept = from_plain(yaml.safe_load(file.read_text()), str(file))
    begun = {s.name for s in kept.stages if (s.home(folder) / "checkpoint.json").is_file() and not s.trained}
    if not begun:
        return
    new, old = recipe.plain(), kept.plain()
    for key in sorted(new.keys() | old.keys()):
        if new.get(key) == old.get(key) or key in ("evaluate", "cohorts"):
            continue
        stages = [s for s in new.get("stages", {}) if new["stages"][s] != old.get("stages", {}).get(s)]
        if key == "stages" and not begun & set(stages):
            continue
        changed = f"stages.{stages[0]}" if key == "stages" and stages else key
        raise ValueError(
            f"{folder} was begun with another {changed}; changing it now changes nothing that was trained. "
            f"Start a new run: fabrica run {file} --set ..."
        )


def common_folder(runs: Path, processes: Processes) -> Path:
    """A new run folder: the first process makes it, all of them use it."""
    return processes.agree(new_folder(runs) if processes.first else runs)


def new_folder(runs: Path) -> Path:
    """runs/NNNN with the next free number."""
    taken = [int(p.name) for p in runs.glob("[0-9]*") if p.name.isdigit()] if runs.is_dir() else []
    number = max(taken, default=0) + 1
    while True:
        folder = runs / f"{number:04d}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1


def write_recipe(folder: Path, recipe: Recipe) -> None:
    path = folder / "recipe.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    plain = recipe.plain()
    if not path.exists() or yaml.safe_load(path.read_text()) != plain:
        with writing(path):
            path.write_text(yaml.safe_dump(plain, sort_keys=False))


def write_environment(folder: Path, recipe: Recipe, digests: Mapping[str, str]) -> None:
    """Versions, machine, seeds and data hashes beside the results; the commit when run from a checkout."""
    packages = ("fabrica", "torch", "numpy", "scipy", "nibabel", "pydicom")
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    plain = {
        "format": FORMAT, "seed": recipe.seed, "data_sha256": dict(digests), "python": platform.python_version(),
        "machine": platform.machine(), "threads": torch.get_num_threads(), "cores": os.cpu_count(), "commit": commit,
        "packages": {name: version(name) for name in packages},
    }  # fmt: skip
    with writing(folder / "environment.json"):
        (folder / "environment.json").write_text(json.dumps(plain, indent=1))
