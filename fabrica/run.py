"""Where the nouns meet: find, split, prepare, train, draw, measure, write. Public as `fabrica.run_recipe` and others."""

from __future__ import annotations

import csv
import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from . import io
from .checkpoint import FORMAT, load_weights
from .checkpoint import load as load_checkpoint
from .config import from_plain
from .contracts import Family
from .costs import Choice, told
from .data import cohort as cohorts
from .data.cohort import Cohort, Member, Source
from .data.store import Loader, Store, left_out, to_device
from .drawing import (
    Answering,
    build_family,
    check_scales,
    drawer,
    kept_in_float32,
    plain_preparation,
    with_codec,
)
from .evaluate.report import Report, paint, render
from .evaluate.run_checks import conclude
from .evaluations import chosen
from .families import Equalised, Latent
from .forecast import batch_that_fits, foretell_drawing, foretell_time, look_at_layers, precision_of, refuse_early
from .io import UnreadableError
from .jobs import asks, reads
from .jobs.outcome import Outcome
from .jobs.values import Values
from .judging import Ready, judge_stage
from .lineage import check_codec, check_start, patient_hash, trained_before
from .machine import find_device, writing
from .plan import Recipe, Stage
from .prepared import prepare_stage
from .processes import Processes, joined
from .rng import Rng, derive
from .train import Progress, Trained, fit

Say = Callable[[str], None]
CURVE_CASES, CURVE_VOXELS = 1024, 4096  # of each, that tell how common an intensity is


@dataclass(frozen=True)
class RunResult:
    """Where a run lies and what it found."""

    folder: Path
    report: Report

    @property
    def page(self) -> Path:
        return self.folder / "report" / "index.html"


def run_recipe(
    recipe: Recipe, folder: Path | None = None, *, only: str | None = None, say: Say = print,
    watch: Callable[[str, Progress], None] | None = None, runs: Path = Path("runs"), device: str = "auto",
) -> RunResult:  # fmt: skip
    """Run every stage of a checked recipe, or go on with the run in `folder`; returns where the report lies.

    `device` is auto (a CUDA card where there is one), cpu or cuda. Raises RecipeError, MemoryShortage, UnreadableError,
    LeakError, TrainingError, CheckpointError; Interrupted on Ctrl-C.
    """
    with joined() as processes:
        folder = folder or common_folder(runs, processes)
        quiet = say if processes.first else _silent
        with_bar = watch if processes.first else None
        report = _run_stages(recipe, folder, only, quiet, with_bar, processes, find_device(device))
        if processes.first:
            render(report, folder / "report")
        processes.wait()
    return RunResult(folder, report)


def _silent(text: str) -> None:
    """What the processes after the first say."""


def _run_stages(
    recipe: Recipe, folder: Path, only: str | None, say: Say, watch: Callable[[str, Progress], None] | None,
    processes: Processes, device: str,
) -> Report:  # fmt: skip
    if processes.first:
        _write_recipe(folder, recipe)
    data = {name: find_cohort(recipe, name) for name in recipe.cohorts}
    report = Report.start(recipe.plain(), str(folder.name))
    for name, cohort in data.items():
        report.add_cohort(name, cohort)
        for line in unreadable(cohort):
            say(line)
    asked = [s for s in recipe.stages if only in (None, s.name)]
    if not asked:
        raise ValueError(f"There is no stage {only!r}. Stages: {', '.join(s.name for s in recipe.stages)}.")
    prepared: list[Ready] = []
    store = folder / "store" if processes.first else folder / "store" / f"process-{processes.rank}"
    for stage in asked:
        twin = next((p for p in prepared if _same_preparation(p.stage, stage)), None)
        prepared.append(replace(twin, stage=stage) if twin else prepare_stage(recipe, stage, data, store, say, report))
    if processes.first:
        _write_environment(folder, recipe, {r.stage.name: r.store.digest() for r in prepared})
    refuse_early(recipe, prepared, folder, device)
    foretell_time(recipe, prepared, folder, device, say)
    for ready in prepared:
        trained = train_stage(recipe, ready, folder, say, watch, device)
        if processes.first:
            report.stages.append(
                judge_stage(
                    recipe, ready, trained, _told(recipe, ready, trained, folder, say, report), folder, say, report
                )
            )
        processes.wait()
    conclude(report)
    return report


def _told(recipe: Recipe, ready: Ready, trained: Trained, folder: Path, say: Say, report: Report) -> Family:
    """The family as it draws: with guidance, sampler, and as many evaluations as validation patients show to be enough."""
    choice = chosen(ready, trained.family, ready.stage.home(folder), trained.seconds, recipe.seed)
    if choice is not None:
        words = choice.in_words(ready.stage.name) if isinstance(choice, Choice) else choice
        say(words)
        report.remark(words)
    return told(drawer(ready.stage, trained.family), choice)


def _same_preparation(one: Stage, other: Stage) -> bool:
    """A model and its baseline see the same patients on the same grid: prepared once."""
    parts = [(s.job, s.cohorts, s.prepare, s.input, s.trained) for s in (one, other)]
    return parts[0] == parts[1]


def continue_run(folder: Path, **options: Any) -> RunResult:
    """Go on with a run where it stopped; raises RecipeError when the folder is not a run."""
    plain = yaml.safe_load((folder / "recipe.yaml").read_text()) if (folder / "recipe.yaml").is_file() else None
    if plain is None:
        raise ValueError(f"{folder} is not a run: it holds no recipe.yaml. Start one: fabrica run RECIPE")
    return run_recipe(from_plain(plain, str(folder / "recipe.yaml")), folder, **options)


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


def find_cohort(recipe: Recipe, name: str) -> Cohort:
    """The members of a named cohort: scanned from its folder, or planned by the simulator."""
    plan = recipe.cohorts[name]
    found = plan.virtual.cohort() if plan.virtual else cohorts.find(plan.path or Path(), plan.table, plan.units)
    return replace(found, name=name)


def train_stage(
    recipe: Recipe, ready: Ready, folder: Path, say: Say, watch: Callable[[str, Progress], None] | None,
    device: str = "cpu",
) -> Trained:  # fmt: skip
    """Train, or go on, or do nothing when the stage is finished; the family that comes back is on the device."""
    stage, place = ready.stage, ready.stage.home(folder)
    known = load_checkpoint(place)
    plan = stage.train
    chosen = known[1]["precision"] if known else precision_of(stage, device)
    torch.manual_seed(derive(recipe.seed, "weights", stage.name) % 2**32)
    family = with_codec(build_family(stage, ready.job, chosen, recipe), stage, folder, recipe)
    if known is not None:
        check_scales(stage, ready.job, known[1])
        _check_same_scans(ready, known[1], folder)
    if known is None:
        _read_intensities(family, ready, say)
    family = family.to(device)
    if plan.start:
        check_start(plan.start, ready.split)
    if stage.codec is not None:
        check_codec(stage, recipe.stage(stage.codec), folder, ready.preparation, ready.split)
    if known and known[1]["step"] >= known[1]["total"]:
        kept_in_float32(family, known[1])
        load_weights(family, place)
        return Trained(family, known[1]["step"], known[1]["seconds"], [tuple(c) for c in known[1]["curve"]])
    if stage.trained:
        raise ValueError(f"{place} is not trained to its end. Type: fabrica run {stage.trained.run}")
    asked = known[1].get("batch", plan.batch) if known else plan.batch
    batch = batch_that_fits(ready, family, asked, device, say)
    foretell_drawing(recipe, ready, drawer(stage, family), device, say)
    loader = Loader(
        ready.store,
        replace(ready.layout, augment=plan.augment),
        batch,
        derive(recipe.seed, "train", ready.stage.job.name),
    )
    wide = sorted(
        {*kept_in_float32(family, known[1] if known else None), *look_at_layers(stage, family, loader, device, say)}
    )
    facts = {
        "stage": stage.name, "precision": chosen, "float32_layers": wide, "batch": batch, "device": device, "threads": torch.get_num_threads(), "seed": recipe.seed,
        "preparation": plain_preparation(ready.preparation), "reference": ready.reference,
        "size": list(ready.layout.size), "parameters": sum(p.numel() for p in family.parameters()),
        "trained_on": sorted({patient_hash(m.patient) for m in ready.split.parts["train"]} | trained_before(recipe, stage, folder)),
    }  # fmt: skip
    if known:
        say(f"{stage.name}: goes on at step {known[1]['step']} of {known[1]['total']}.")

    def shown(progress: Progress, average: Family) -> None:
        if progress.step in _moments(progress.total):
            _sample_picture(ready, drawer(stage, average), place / "samples" / f"{progress.step:07d}.png", recipe.seed)
        if watch is not None:
            watch(stage.name, progress)

    return fit(family, stage.training_job(), loader, plan, place, facts, shown, device)


def _check_same_scans(ready: Ready, facts: Mapping[str, Any], folder: Path) -> None:
    """Raises ValueError where scans, units or grids are no longer those of the training: its weights would mean something else."""
    if int(facts["format"]) < FORMAT:
        return
    now = json.loads(json.dumps(plain_preparation(ready.preparation)))
    changed = [key for key, value in now.items() if facts["preparation"].get(key) != value]
    if changed:
        raise ValueError(
            f"{ready.stage.name} was trained on other scans: their {', '.join(changed)} changed since. Give it back what it was trained on, "
            f"or start a new run: fabrica run {folder / 'recipe.yaml'}"
        )


def _read_intensities(family: Family, ready: Ready, say: Say) -> None:
    """The curves of equalised intensities, from voxels of the training part; nothing for a family that works in others."""
    if not (isinstance(family, Latent) and isinstance(family.codec, Equalised)):
        return
    voxels: dict[int, list[NDArray[np.floating]]] = {}
    start = 0
    for f in ready.job.signature().x:
        known = [] if f.kind != "intensity" else [e for e in ready.store.entries if f.name in e.files]
        for e in known[:: -(-len(known) // CURVE_CASES) or 1]:
            for k, plane in enumerate(ready.store.array(e, f.name)):
                flat = plane.ravel()
                voxels.setdefault(start + k, []).append(flat[:: flat.size // CURVE_VOXELS | 1])
        start += f.channels
    family.codec.fit(voxels)
    wide = family.codec.widest
    say(
        f"{ready.stage.name}: intensities are equalised; common ones have up to {wide:.1f} times their room, none less than {1 - family.codec.share:g}."
    )


def _moments(total: int) -> tuple[int, ...]:
    """When a training shows what it can draw: after an eighth, a quarter and a half; a few steps show nothing."""
    return (total // 8, total // 4, total // 2) if total >= 80 else ()


@torch.inference_mode()
def _sample_picture(ready: Ready, family: Family, path: Path, seed: int) -> None:
    """The middle slice of the first training case: what is asked for, and one draw of it."""
    if not asks(ready.job):
        return
    entry = ready.store.entries[0]
    row = Loader(Store([entry]), ready.layout, 1, 0).load(len(entry.useful) // 2)
    problem = ready.job.problem(row, Rng([seed]))
    family.eval()
    asked = ready.job.question(to_device(row, next(family.parameters()).device), Rng([seed]))
    x = family.sample(asked, Rng([derive(seed, "sample")])).cpu()
    family.train()
    if problem.target is None:
        return
    pair = torch.cat([problem.target[0, :1], x[0, :1]], -1)
    plane = pair[0] if pair.ndim == 3 else pair[0, pair.shape[1] // 2]
    path.parent.mkdir(parents=True, exist_ok=True)
    paint(plane.float().numpy(), 0.0, 1.0).save(path)


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


def unreadable(cohort: Cohort, most: int = 5) -> list[str]:
    """A line for each file that cannot be read, the first few."""
    faults = [str(o) for o in cohort.oddities if o.severity == "fault"]
    more = len(faults) - most
    return [*faults[:most], *([f"... and {more} more files that cannot be read: fabrica inspect"] if more > 0 else [])]


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


def _write_recipe(folder: Path, recipe: Recipe) -> None:
    path = folder / "recipe.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    plain = recipe.plain()
    if not path.exists() or yaml.safe_load(path.read_text()) != plain:
        with writing(path):
            path.write_text(yaml.safe_dump(plain, sort_keys=False))


def _write_environment(folder: Path, recipe: Recipe, digests: Mapping[str, str]) -> None:
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


__all__ = ["RunResult", "continue_run", "generate_images", "run_recipe"]
