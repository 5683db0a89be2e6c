"""Where the nouns meet: find, split, prepare, train, draw, measure, write. Public as `fabrica.run_recipe` and others."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from . import io
from .checkpoint import load as load_checkpoint
from .config import Recipe, Stage, from_plain
from .contracts import Family, Field, Image, Job
from .data import cohort as cohorts
from .data.cohort import Cohort, Member
from .data.prepare import GridPreparation
from .data.prepare import fit as fit_preparation
from .data.split import PARTS, Split, check_leakage, fingerprint, split_cohort
from .data.store import Layout, Loader, Prepared, Store, build_store, load_aligned, prepare_case, question_batch
from .evaluate.report import Report, StageResult, paint, render
from .evaluate.summary import Pictures, StageEvidence, competitors_of, evaluate_case
from .families import FAMILIES, RUNTIME, Drawn
from .jobs import layout_of, reads
from .networks import precision
from .registry import build
from .rng import Rng, derive
from .sampling import SAMPLERS
from .train import Progress, Trained, fit, load_weights

Say = Callable[[str], None]
ROWS = 16  # rows drawn at once


@dataclass(frozen=True)
class RunResult:
    """Where a run lies and what it found."""

    folder: Path
    report: Report

    @property
    def page(self) -> Path:
        return self.folder / "report" / "index.html"


@dataclass
class _Prepared:
    """What every stage needs before it can train."""

    stage: Stage
    job: Job
    split: Split
    reference: str
    preparation: GridPreparation
    store: Store
    layout: Layout


def run_recipe(
    recipe: Recipe, folder: Path | None = None, *, only: str | None = None, say: Say = print,
    watch: Callable[[str, Progress], None] | None = None, runs: Path = Path("runs"),
) -> RunResult:  # fmt: skip
    """Run every stage of a checked recipe, or go on with the run in `folder`; returns where the report lies.

    Raises RecipeError, UnreadableError, LeakError, TrainingError, CheckpointError; Interrupted on Ctrl-C.
    """
    folder = folder or new_folder(runs)
    _write_recipe(folder, recipe)
    data = {name: find_cohort(recipe, name) for name in recipe.cohorts}
    report = Report.start(recipe.plain(), str(folder.name))
    for name, cohort in data.items():
        report.add_cohort(name, cohort)
    chosen = [s for s in recipe.stages if only in (None, s.name)]
    if not chosen:
        raise ValueError(f"There is no stage {only!r}. Stages: {', '.join(s.name for s in recipe.stages)}.")
    budget = sum(s.train.minutes or 0 for s in chosen)
    if budget:
        words = " + ".join(f"{s.name} {s.train.minutes:g} min" for s in chosen if s.train.minutes)
        say(f"Training takes {words}.")
    digests: dict[str, str] = {}
    prepared: list[_Prepared] = []
    for stage in chosen:
        twin = next((p for p in prepared if _same_preparation(p.stage, stage)), None)
        ready = replace(twin, stage=stage) if twin else prepare_stage(recipe, stage, data, folder, say, report)
        prepared.append(ready)
        digests[stage.name] = ready.store.digest()
        _write_environment(folder, recipe, digests)
        trained = train_stage(recipe, ready, folder, say, watch)
        report.stages.append(_evaluate_stage(recipe, ready, trained, folder, say))
    render(report, folder / "report")
    return RunResult(folder, report)


def _same_preparation(one: Stage, other: Stage) -> bool:
    """A model and its baseline see the same patients on the same grid: prepared once."""
    return (one.job, one.cohorts, one.prepare) == (other.job, other.cohorts, other.prepare)


def continue_run(folder: Path, **options: Any) -> RunResult:
    """Go on with a run where it stopped; raises RecipeError when the folder is not a run."""
    plain = yaml.safe_load((folder / "recipe.yaml").read_text()) if (folder / "recipe.yaml").is_file() else None
    if plain is None:
        raise ValueError(f"{folder} is not a run: it holds no recipe.yaml. Start one: fabrica run RECIPE")
    return run_recipe(from_plain(plain, str(folder / "recipe.yaml")), folder, **options)


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
    found = plan.virtual.cohort() if plan.virtual else cohorts.find(plan.path or Path(), plan.table)
    return replace(found, name=name)


def prepare_stage(
    recipe: Recipe, stage: Stage, data: Mapping[str, Cohort], folder: Path, say: Say, report: Report
) -> _Prepared:
    """Select, split, fit the preparation, fill the store, check for leaks."""
    job = stage.build_job()
    asked = tuple(f.name for f in job.signature().x)
    merged = Cohort(tuple(m for name in stage.cohorts for m in data[name].members), name="+".join(stage.cohorts))
    needed = tuple(n for n in asked if n not in reads(job)) or ()
    usable = merged.with_contrasts(needed)
    usable = replace(
        usable, members=tuple(m for m in usable.members if not reads(job) or set(reads(job)) & set(m.contrasts()))
    )
    if not usable.members:
        have = ", ".join(sorted({c for m in merged.members for c in m.contrasts()})) or "no images"
        raise ValueError(
            f"No patient has {', '.join(needed or asked)}; found {have}. Name what there is: --write-table files.csv, then table: files.csv."
        )
    split = split_cohort(usable, recipe.split, recipe.seed)
    contrasts = tuple(dict.fromkeys((*reads(job), *asked)))
    reference = asked[0]
    train = split.parts["train"]
    started = time.perf_counter()
    preparation = fit_preparation(
        _aligned(train, contrasts, reference), reference, job.signature().axes, stage.prepare.spacing_mm
    )
    store, remarks = build_store(folder / "store" / stage.name, train, contrasts, reference, preparation)
    for remark in remarks:
        say(remark)
        report.remark(remark)
    _check_leaks(store, split, contrasts, reference, preparation)
    size = preparation.size
    if stage.prepare.size is not None:
        size = (size[0] if len(stage.prepare.size) == 2 else stage.prepare.size[0], *stage.prepare.size[-2:])  # type: ignore[assignment]
    if job.signature().axes == "yx":
        size = (1, size[1], size[2])
    counts = ", ".join(f"{len({m.patient for m in split.parts[p]})} {p}" for p in PARTS if split.parts[p])
    say(
        f"{stage.name}: {counts} patients; grid {' x '.join(map(str, size))}; prepared in {time.perf_counter() - started:.0f} s."
    )
    if split.empty:
        report.remark(f"Parts of the split without patients: {', '.join(split.empty)}.")
    return _Prepared(stage, job, split, reference, preparation, store, layout_of(job, size))


def _aligned(members: Sequence[Member], contrasts: Sequence[str], reference: str) -> Any:
    for member in members:
        case, _ = load_aligned(member, contrasts, reference)
        if reference in case.images:
            yield case


def _check_leaks(
    store: Store, split: Split, contrasts: Sequence[str], reference: str, preparation: GridPreparation
) -> None:
    """Compare thumbnails of training and other parts; the box is centred on the patient, so grids agree."""
    prints = {"train": store.fingerprints(reference)}
    for part in ("validate", "calibrate", "test"):
        prints[part] = {}
        for member in split.parts[part]:
            prepared = prepare_case(member, [reference], reference, preparation)
            if reference in prepared.tensors:
                prints[part][member.name] = fingerprint(prepared.tensors[reference].numpy())
    check_leakage(prints)


def build_family(stage: Stage, job: Job, chosen: str) -> Family:
    """The stage's family on the job's signature, without its sampler."""
    factory: Callable[..., Family] = FAMILIES.find(stage.family.name)
    return build(
        f"family {stage.family.name!r}", factory, stage.family.options,
        **dict(zip(RUNTIME, (job.signature(), stage.network, chosen), strict=True)),
    )  # fmt: skip


def train_stage(
    recipe: Recipe, ready: _Prepared, folder: Path, say: Say, watch: Callable[[str, Progress], None] | None
) -> Trained:
    """Train, or go on, or do nothing when the stage is finished."""
    stage, place = ready.stage, folder / "stages" / ready.stage.name
    known = load_checkpoint(place)
    plan = stage.train
    chosen = known[1]["precision"] if known else precision.choose() if plan.precision == "auto" else plan.precision
    torch.manual_seed(derive(recipe.seed, "weights", stage.name) % 2**32)
    family = build_family(stage, ready.job, chosen)
    loader = Loader(ready.store, ready.layout, plan.batch, derive(recipe.seed, "train", ready.stage.job.name))
    facts = {
        "stage": stage.name, "precision": chosen, "threads": torch.get_num_threads(), "seed": recipe.seed,
        "preparation": plain_preparation(ready.preparation), "reference": ready.reference,
        "size": list(ready.layout.size), "parameters": sum(p.numel() for p in family.parameters()),
    }  # fmt: skip
    if known and known[1]["step"] >= known[1]["total"]:
        load_weights(family, place)
        return Trained(family, known[1]["step"], known[1]["seconds"], [tuple(c) for c in known[1]["curve"]])
    if known:
        say(f"{stage.name}: goes on at step {known[1]['step']} of {known[1]['total']}.")

    def told(progress: Progress, average: Family) -> None:
        if progress.step in _moments(progress.total):
            _sample_picture(ready, drawer(stage, average), place / "samples" / f"{progress.step:07d}.png", recipe.seed)
        if watch is not None:
            watch(stage.name, progress)

    return fit(family, ready.job, loader, plan, place, facts, told)


def _moments(total: int) -> tuple[int, ...]:
    """When a training shows what it can draw: after an eighth, a quarter and a half; a few steps show nothing."""
    return (total // 8, total // 4, total // 2) if total >= 80 else ()


@torch.inference_mode()
def _sample_picture(ready: _Prepared, family: Family, path: Path, seed: int) -> None:
    """The middle slice of the first training case: what is asked for, and one draw of it."""
    entry = ready.store.entries[0]
    row = Loader(Store([entry]), ready.layout, 1, 0).load(len(entry.useful) // 2)
    problem = ready.job.problem(row, Rng([seed]))
    family.eval()
    x = family.sample(ready.job.question(row), Rng([derive(seed, "sample")]))
    family.train()
    if problem.target is None:
        return
    pair = torch.cat([problem.target[0, :1], x[0, :1]], -1)
    plane = pair[0] if pair.ndim == 3 else pair[0, pair.shape[1] // 2]
    path.parent.mkdir(parents=True, exist_ok=True)
    paint(plane.float().numpy(), 0.0, 1.0).save(path)


def plain_preparation(preparation: GridPreparation) -> dict[str, Any]:
    plain = asdict(preparation)
    plain["scales"] = {k: list(v) for k, v in preparation.scales.items()}
    return plain


def preparation_from(plain: Mapping[str, Any]) -> GridPreparation:
    spacing = plain["spacing_mm"]
    scales = {k: (float(v[0]), float(v[1])) for k, v in plain["scales"].items()}
    return GridPreparation(plain["axes"], tuple(spacing) if spacing else None, tuple(plain["size"]), scales)


def drawer(stage: Stage, family: Family) -> Family:
    """The family joined with the recipe's sampler, when it names one."""
    if stage.sampler is None:
        return family
    return Drawn(family, SAMPLERS.find(stage.sampler.name), stage.sampler.options)


@torch.inference_mode()
def draw(family: Family, job: Job, prepared: Prepared, layout: Layout, draws: int, seed: int) -> Tensor:
    """(draws, C, z, y, x): each row has its own seed, from the case, the draw and the slice."""
    batch = question_batch(prepared, layout)
    rows = len(batch.cases)
    problem = job.question(batch)
    family.eval()
    results = []
    for number in range(draws):
        parts = []
        for start in range(0, rows, ROWS):
            index = torch.arange(start, min(start + ROWS, rows))
            rng = Rng([derive(seed, "draw", problem.cases[i], number) for i in index.tolist()])
            parts.append(family.sample(problem.rows(index), rng).float())
        results.append(torch.cat(parts))
    stacked = torch.stack(results)  # (draws, rows, C, *axes)
    return stacked.transpose(1, 2) if layout.axes == "yx" else stacked[:, 0]


def images_of(
    x: Tensor, fields: Sequence[Field], prepared: Prepared, preparation: GridPreparation, source: str
) -> dict[str, Image]:
    """One drawn x (C, z, y, x) as images on the source's grid; labels by their most probable class."""
    images, start = {}, 0
    for field in fields:
        part = x[start : start + field.channels]
        start += field.channels
        if field.kind == "label":
            part = part.argmax(0, keepdim=True).float()
        trace = prepared.traces.get(field.name) or next(iter(prepared.traces.values()))
        known = field.name in prepared.traces
        meaning = replace(trace.like.meaning if known else field, name=field.name, kind=field.kind, channels=1)
        made = preparation.back(part, replace(trace, like=replace(trace.like, meaning=meaning)))
        images[field.name] = replace(made, source=source)
    return images


def _evaluate_stage(recipe: Recipe, ready: _Prepared, trained: Trained, folder: Path, say: Say) -> StageResult:
    stage, job = ready.stage, ready.job
    family = drawer(stage, trained.family)
    fields, contrasts = job.signature().x, ready.layout.contrasts
    evidence = StageEvidence(
        stage.name, fields, reads(job), job.metrics + recipe.evaluate.metrics, recipe.evaluate.mask
    )
    competitors = competitors_of(ready.store, evidence)
    draws = 1 if stage.family.name == "regression" else recipe.evaluate.draws
    result = StageResult(
        stage.name,
        stage.job.name,
        stage.family.name,
        asdict_plain(stage),
        trained.steps,
        trained.seconds,
        trained.curve,
    )
    extra = ("lesion", *((recipe.evaluate.mask,) if recipe.evaluate.mask else ()))
    pictures = Pictures()
    for member in ready.split.parts["test"]:
        prepared = prepare_case(member, (*contrasts, *extra), ready.reference, ready.preparation)
        for hidden in _questions(job, prepared):
            shown = _without(prepared, hidden)
            started = time.perf_counter()
            x = draw(family, job, shown, ready.layout, draws, recipe.seed)
            seconds = (time.perf_counter() - started) / draws
            name = f"{member.name}{'-' + hidden if hidden else ''}"
            _write_draws(folder, stage.name, name, x, fields, prepared, ready.preparation)
            result.cases += evaluate_case(evidence, name, prepared, x, competitors, ready.preparation, seconds, hidden)
            pictures.add(name, prepared, x, fields, reads(job), hidden)
        say(f"{stage.name}: {member.name} drawn {draws} times, {seconds:.1f} s a draw.")
    result.pictures = pictures.rows
    return result


def _questions(job: Job, prepared: Prepared) -> tuple[str, ...]:
    """Each contrast that is both given and asked for is hidden in turn; '' when there is none."""
    both = [f.name for f in job.signature().x if f.name in reads(job) and f.name in prepared.tensors]
    return tuple(both) or ("",)


def _without(prepared: Prepared, hidden: str) -> Prepared:
    return replace(prepared, tensors={n: t for n, t in prepared.tensors.items() if n != hidden}) if hidden else prepared


def _write_draws(
    folder: Path,
    stage: str,
    case: str,
    x: Tensor,
    fields: Sequence[Field],
    prepared: Prepared,
    preparation: GridPreparation,
) -> None:
    for number, one in enumerate(x):
        source = f"{folder.name}/{stage}/{case}/{number}"
        for name, image in images_of(one, fields, prepared, preparation, source).items():
            suffix = f"-{name}" if len(fields) > 1 else ""
            io.write_nifti(image, folder / "stages" / stage / "draws" / case / f"{number}{suffix}.nii.gz")


def generate_images(
    run: Path, data: Path, out: Path, draws: int = 1, stage: str | None = None, say: Say = print
) -> list[Path]:
    """Apply a trained run to new scans: NIfTI on their grids, under out/CASE/. Returns the files written.

    Raises ValueError when the folder is no run, CheckpointError when it is not trained, UnreadableError for the scans.
    """
    plain = yaml.safe_load((run / "recipe.yaml").read_text()) if (run / "recipe.yaml").is_file() else None
    if plain is None:
        raise ValueError(f"{run} is not a run: it holds no recipe.yaml. Start one: fabrica run RECIPE")
    recipe = from_plain(plain, str(run / "recipe.yaml"))
    chosen = next((s for s in recipe.stages if stage in (None, s.name)), None)
    if chosen is None:
        raise ValueError(f"There is no stage {stage!r}. Stages: {', '.join(s.name for s in recipe.stages)}.")
    place = run / "stages" / chosen.name
    known = load_checkpoint(place)
    if known is None:
        raise ValueError(f"{run} is not trained yet. Type: fabrica run {run}")
    job, preparation = chosen.build_job(), preparation_from(known[1]["preparation"])
    family = build_family(chosen, job, known[1]["precision"])
    load_weights(family, place)
    family = drawer(chosen, family)
    layout = layout_of(job, tuple(known[1]["size"]))
    written = []
    asked = {f.name for f in job.signature().x}
    for member in cohorts.find(data).members:
        given = [n for n in reads(job) if n in member.contrasts()]
        if reads(job) and not given:
            say(f"{member.name}: has none of {', '.join(reads(job))}; left out.")
            continue
        anchor = next((n for n in given if n not in asked), given[0] if given else known[1]["reference"])
        prepared = prepare_case(member, given or list(member.contrasts())[:1], anchor, preparation)
        x = draw(family, job, prepared, layout, draws, recipe.seed)
        for number, one in enumerate(x):
            for name, image in images_of(
                one, job.signature().x, prepared, preparation, f"{run.name}/{chosen.name}/{member.name}/{number}"
            ).items():
                path = out / member.name / f"{name}-{number}.nii.gz"
                io.write_nifti(image, path)
                written.append(path)
        say(f"{member.name}: {draws} draw{'s' * (draws > 1)} written.")
    if not written:
        raise ValueError(f"No case in {data} has {', '.join(reads(job))}. See what is there: fabrica inspect {data}")
    return written


def asdict_plain(stage: Stage) -> dict[str, Any]:
    """The stage as plain data for the report."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(stage), default=str))
    return plain


def _write_recipe(folder: Path, recipe: Recipe) -> None:
    path = folder / "recipe.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(yaml.safe_dump(recipe.plain(), sort_keys=False))


def _write_environment(folder: Path, recipe: Recipe, digests: Mapping[str, str]) -> None:
    """Versions, machine, seeds and data hashes beside the results; the commit when run from a checkout."""
    packages = ("fabrica", "torch", "numpy", "scipy", "nibabel", "pydicom")
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    plain = {
        "seed": recipe.seed, "data_sha256": dict(digests), "python": platform.python_version(),
        "machine": platform.machine(), "threads": torch.get_num_threads(), "cores": os.cpu_count(), "commit": commit,
        "packages": {name: version(name) for name in packages},
    }  # fmt: skip
    (folder / "environment.json").write_text(json.dumps(plain, indent=1))


__all__ = ["RunResult", "continue_run", "generate_images", "run_recipe"]
