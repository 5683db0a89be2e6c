"""A run as it lies in its folder: its recipe, its checkpoints, its draws, its environment."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
import yaml
from torch import nn

from .. import io
from ..contracts import Field, Image
from ..data.cohort import Member, overlaid
from ..learning.checkpoint import FORMAT, load_weights
from ..learning.facts import Facts, facts_of
from ..machine.device import writing
from ..machine.processes import Processes
from ..recipe.checks import from_plain
from ..recipe.values import InputPlan, Recipe, Stage

RECIPE = "recipe.yaml"


@dataclass(frozen=True)
class RunFolder:
    """Where a run lies and what it runs."""

    path: Path
    recipe: Recipe

    @staticmethod
    def open(path: Path, start: str = "RECIPE") -> RunFolder:
        """The run in a folder; raises ValueError where there is none, RecipeError where its recipe is damaged."""
        file = path / RECIPE
        plain = yaml.safe_load(file.read_text()) if file.is_file() else None
        if plain is None:
            raise ValueError(f"{path} is not a run: it holds no {RECIPE}. Start one: fabrica run {start}")
        return RunFolder(path, from_plain(plain, str(file)))

    @property
    def name(self) -> str:
        return self.path.name

    def home(self, stage: Stage) -> Path:
        """Where a stage's checkpoint lies: here, or in the run that trained it."""
        return stage.home(self.path)

    def begun(self, stage: Stage) -> bool:
        """Whether there is a checkpoint."""
        return (self.home(stage) / "checkpoint.json").is_file()

    def facts(self, stage: Stage) -> Facts | None:
        """What its checkpoint says; None without one. Raises CheckpointError."""
        return facts_of(self.home(stage))

    def trained(self, stage: Stage) -> Facts:
        """As `facts`; raises ValueError where the stage was never trained."""
        known = self.facts(stage)
        if known is None:
            raise ValueError(f"{self.home(stage)} is not trained yet. Type: fabrica run {self.path}")
        return known

    def load_weights(self, stage: Stage, family: nn.Module) -> None:
        """Averaged weights of a stage into a family; raises CheckpointError."""
        load_weights(family, self.home(stage))

    def last_stage(self, name: str | None) -> Stage:
        """The stage named, or the only one that no other stage builds on; baselines are chosen by name alone."""
        stages = self.recipe.stages
        used = {p.stage for s in stages for p in s.inputs.values()} | {s.codec for s in stages if s.codec}
        ends = [s for s in stages if s.name not in used and not s.name.endswith("-baseline")]
        found = [s for s in (stages if name else ends) if name in (None, s.name)]
        if len(found) != 1:
            known = ", ".join(s.name for s in stages)
            what = f"There is no stage {name!r}." if name else "The run has several last stages."
            raise ValueError(f"{what} Name one: --stage STAGE. Stages: {known}.")
        return found[0]

    def draw_file(self, stage: Stage, case: str, number: int, name: str) -> Path:
        """Where one drawn image is kept; its name is in the file's when the stage draws several."""
        several = len(stage.build_job().signature().x) > 1
        place = self.path / "stages" / stage.name / "draws" / case
        return place / f"{number}{'-' + name if several else ''}.nii.gz"

    def draws(self, stage: Stage, case: str, wanted: Sequence[str]) -> list[dict[str, Image]]:
        """What a stage has drawn of a case; raises ValueError when there is nothing."""
        if not (drawn := self.drawn(stage, case, wanted)):
            raise ValueError(
                f"Stage {stage.name} has not drawn {case} yet. Type: fabrica run {self.path} --only {stage.name}"
            )
        return drawn

    def drawn(self, stage: Stage, case: str, wanted: Sequence[str]) -> list[dict[str, Image]]:
        """As `draws`; nothing where there is nothing."""
        fields = {f.name: f for f in stage.build_job().signature().x if f.name in wanted}
        drawn: list[dict[str, Image]] = []
        while fields and all(self.draw_file(stage, case, len(drawn), name).is_file() for name in fields):
            files = {name: self.draw_file(stage, case, len(drawn), name) for name in fields}
            drawn.append({name: _as(io.read_image(path), fields[name]) for name, path in files.items()})
        return drawn

    def shown(self, stage: Stage, member: Member) -> list[Member]:
        """The case as a stage is shown it: itself, or with what earlier stages have drawn of it."""
        if not stage.inputs:
            return [member]
        drawn = {
            name: [images[name] for images in self.draws(self.recipe.stage(plan.stage), member.name, [name])]
            for name, plan in stage.inputs.items()
        }
        return versions(member, drawn, stage.inputs)

    def check_settings(self, changed: Recipe) -> None:
        """Refuse a recipe that differs from the run's where nothing would follow it; what is only judged may change.

        Raises ValueError with the line that starts a new run. The recipe that is kept says what the report was made
        with.
        """
        begun = {s.name for s in self.recipe.stages if self.begun(s) and not s.trained}
        if not begun:
            return
        new, old = changed.plain(), self.recipe.plain()
        for key in sorted(new.keys() | old.keys()):
            if new.get(key) == old.get(key) or key in ("evaluate", "cohorts"):
                continue
            stages = [s for s in new.get("stages", {}) if new["stages"][s] != old.get("stages", {}).get(s)]
            if key == "stages" and not begun & set(stages):
                continue
            what = f"stages.{stages[0]}" if key == "stages" and stages else key
            raise ValueError(
                f"{self.path} was begun with another {what}; changing it now changes nothing that was trained. "
                f"Start a new run: fabrica run {self.path / RECIPE} --set ..."
            )

    def write_recipe(self) -> None:
        """Makes the folder; a recipe that is the same is not written again."""
        path, plain = self.path / RECIPE, self.recipe.plain()
        self.path.mkdir(parents=True, exist_ok=True)
        if not path.exists() or yaml.safe_load(path.read_text()) != plain:
            with writing(path):
                path.write_text(yaml.safe_dump(plain, sort_keys=False))

    def write_environment(self, digests: Mapping[str, str]) -> None:
        """Versions, machine, seeds and data hashes beside the results; the commit when run from a checkout."""
        packages = ("fabrica", "torch", "numpy", "scipy", "nibabel", "pydicom")
        commit = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip()
        plain = {
            "format": FORMAT,
            "seed": self.recipe.seed,
            "data_sha256": dict(digests),
            "python": platform.python_version(),
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "commit": commit,
            "packages": {name: version(name) for name in packages},
        }
        with writing(self.path / "environment.json"):
            (self.path / "environment.json").write_text(json.dumps(plain, indent=1))


def _as(image: Image, field: Field) -> Image:
    stated = image.meaning.unit != "a.u." or field.unit != "HU"  # runs of before wrote HU without saying so
    unit = image.meaning.unit if stated else field.unit
    return replace(image, meaning=replace(field, channels=1, unit="" if field.kind == "label" else unit))


def versions(member: Member, drawn: Mapping[str, Sequence[Image]], plans: Mapping[str, InputPlan]) -> list[Member]:
    """The case as the next stage is shown it: with draw k of everything, with means, or with first draws, as each image
    is to be taken; `drawn`: its draws.
    """
    taken = {name: chosen(own, plans[name]) for name, own in drawn.items()}
    count = max(map(len, taken.values()))
    return [overlaid(member, {name: own[k % len(own)] for name, own in taken.items()}) for k in range(count)]


def chosen(drawn: Sequence[Image], plan: InputPlan) -> list[Image]:
    """All draws of an image, their mean, or the first."""
    if plan.draws == "one":
        return [drawn[0]]
    if plan.draws == "all" or len(drawn) == 1:
        return list(drawn)
    return [replace(drawn[0], data=torch.stack([image.data for image in drawn]).mean(0))]


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
