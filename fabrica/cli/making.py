"""Verbs that make: train, draw, paint, simulate. Heavy imports happen inside verbs, so that --help answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import app
from .options import Data, Device, ExecutorName, Scheduler, Unit, Value, Workers, fixed
from .terminal import echo, errors, fail, going_on


@app.command()
def run(
    recipe: Annotated[
        Path,
        typer.Argument(metavar="RECIPE|RUN|STUDY", help="A recipe to start, a run to go on with, or a frozen study."),
    ],
    data: Data = None,
    only: Annotated[str | None, typer.Option(metavar="STAGE", help="Run this stage only.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change the recipe: --set train.minutes=5")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and print the resolved recipe; read and run nothing.")
    ] = False,
    runs: Annotated[Path, typer.Option(help="Where numbered run folders are made.")] = Path("runs"),
    unit: Unit = None,
    device: Device = "auto",
) -> None:
    """Train, draw and measure what a recipe asks for; ends by printing where the report lies."""
    import yaml

    from ..machine.processes import joined
    from ..recipe import checks as config
    from ..run.folder import RunFolder, common_folder
    from ..run.sequence import run_recipe

    if (recipe / "study.json").is_file():
        _look(recipe, data or [], bool(only or settings or dry_run or unit), device)
        return
    with errors(), joined() as processes:
        existing = recipe.is_dir()
        file = recipe / "recipe.yaml" if existing else recipe
        if existing and not file.exists():
            fail(f"{recipe} is not a run: it holds no recipe.yaml. Start one: fabrica run recipes/translation.yaml")
        checked = config.load(file, settings or [], data or [], fixed(unit, "--unit PET=SUV"))
        if dry_run:
            echo(yaml.safe_dump(checked.plain(), sort_keys=False), nl=False)
            known = [f"{s.name} ({s.family.name})" for s in checked.stages]
            known += [f"{s.name} (computes {s.computation.name})" for s in checked.computed]
            echo(f"# stages: {', '.join(known)}")
            return
        if existing:
            RunFolder.open(recipe).check_settings(checked)
        folder = recipe if existing else common_folder(runs, processes)
        if processes.first:
            echo(f"Run {folder}")
        with going_on(folder) as watch:
            result = run_recipe(checked, folder, only=only, say=echo, watch=watch, device=device)
        if processes.first:
            echo(f"Report: {result.page}")


def _look(study: Path, data: list[str], more: bool, device: str) -> None:
    """A frozen study meets its patients."""
    from ..machine.device import find_device
    from ..study.prospective import look

    with errors():
        if len(data) != 1 or "=" in data[0] or more:
            fail(f"A frozen study takes patients and nothing else. Type: fabrica run {study} --data DIR")
        look(study, Path(data[0]), echo, find_device(device))
        echo(f"Reports: {study / 'looks'}")


@app.command()
def generate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="New scans: NIfTI or DICOM.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where CASE/CONTRAST-N.nii.gz are written.")],
    draws: Annotated[int, typer.Option(min=1, help="Draws per case.")] = 1,
    stage: Annotated[str | None, typer.Option(help="Which stage draws; the last when left out.")] = None,
    value: Value = None,
    unit: Unit = None,
    device: Device = "auto",
    given: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Of a model of any parts: what it is shown, T1w,findings.")
    ] = None,
    ask: Annotated[str | None, typer.Option(metavar="NAMES", help="What it is asked for: FLAIR,lesion.")] = None,
    executor: ExecutorName = "local",
    scheduler: Scheduler = None,
    workers: Workers = 2,
    shift: Annotated[str, typer.Option(metavar="warn|refuse", help="Scans unlike those of training.")] = "warn",
    registry: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw by approved models alone; see fabrica models.")
    ] = None,
    watermark: Annotated[
        Path | None, typer.Option(metavar="KEY", help="Mark images with this key; see fabrica watermark.")
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="On a CUDA card: compile networks first, for many cases.")
    ] = False,
) -> None:
    """Apply a trained run to new scans; NIfTI on the grid of each scan."""
    from ..data.cohort import Source
    from ..generate.daily import check_approved, generate_days, gives_days
    from ..generate.parts import Wanted, generate_parts, gives_parts
    from ..generate.scans import generate_images
    from ..generate.tasks import Order
    from ..machine.executors import executor as named

    with errors():
        source, by = Source(data, fixed(unit, "--unit PET=SUV")), named(executor, scheduler, workers, device)
        if shift not in ("warn", "refuse"):
            fail(f"--shift is {shift}. Write: --shift warn or --shift refuse")
        whole = gives_days(run, stage) or bool(given or ask) or gives_parts(run, stage)
        if whole and (watermark or compiled or shift == "refuse"):
            fail("--watermark, --compile and --shift refuse are not built for this kind of run yet: leave them out.")
        if whole and registry is not None:
            check_approved(run, stage, registry)
        if gives_days(run, stage):
            if value or given or ask:
                fail("Days are computed of what was planned and seen: leave --value, --given and --ask out.")
            written = generate_days(run, source, out, draws, stage, echo, by)
            echo(f"{len(written)} files in {out}")
            return
        if given or ask or gives_parts(run, stage):
            wanted = Wanted.of(given, ask, fixed(value))
            written = generate_parts(run, source, out, wanted, draws, stage, by, echo)
            echo(f"{len(written)} file{'s' * (len(written) > 1)} in {out}")
            return
        order: Order = {
            "draws": draws, "stage": stage, "values": fixed(value), "shift": "refuse" if shift == "refuse" else "warn",
            "registry": str(registry) if registry else None, "watermark": str(watermark) if watermark else None,
            "compiled": compiled,
        }  # fmt: skip
        written = generate_images(run, source, out, say=echo, executor=by, **order)
        echo(f"{len(written)} file{'s' * (len(written) > 1)} in {out}")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Published weights: .safetensors, .pt or .pth.")],
    config: Annotated[Path, typer.Option(metavar="JSON", help="The network's configuration.")],
    card: Annotated[
        Path, typer.Option(metavar="YAML", help="What its numbers mean: contrast, spacing_mm, intensities, licence.")
    ],
    out: Annotated[Path, typer.Option(metavar="RUN", help="A new run folder.")],
    format: Annotated[
        str,
        typer.Option(help="monai-autoencoder-kl, diffusers-autoencoder-kl, monai-diffusion-unet, diffusers-unet-2d."),
    ] = "monai-autoencoder-kl",
) -> None:
    """Take published weights in as a stage that recipes can name: family: {run: RUN, stage: codec}."""
    from ..run.imported import import_weights

    with errors():
        import_weights(file, format, config, card, out, echo)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where PART.onnx and interface.json are written.")],
    stage: Annotated[str | None, typer.Option(help="Which stage; the last when left out.")] = None,
    size: Annotated[str | None, typer.Option(metavar="Z,Y,X", help="The grid, where not that of training.")] = None,
) -> None:
    """A denoiser, codec or regression as ONNX, whose answers onnxruntime has repeated."""
    from ..run.exported import export_stage

    with errors():
        sides = tuple(int(n) for n in (size or "").split(",") if n.strip().isdigit())
        if size and len(sides) != len(size.split(",")):
            fail(f"--size {size!r} is no grid. Write: --size 64,64")
        export_stage(run, out, stage=stage, size=sides, say=echo)
        echo(f"Its numbers: {out / 'interface.json'}")


@app.command()
def adapt(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run; with --merge, one that was adapted.")],
    out: Annotated[Path, typer.Option(metavar="RUN2", help="A new run folder.")],
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="A few patients of the new scanner.")] = None,
    rank: Annotated[int, typer.Option(min=1, help="Of the change of every layer: more learns more.")] = 8,
    minutes: Annotated[float | None, typer.Option(help="How long they teach; 2 where nothing is said.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="The same in steps.")] = None,
    test: Annotated[float, typer.Option(min=0.05, max=0.95, help="The share of patients who judge.")] = 0.5,
    learning_rate: Annotated[float | None, typer.Option(min=1e-6, max=0.1)] = None,
    stage: Annotated[str | None, typer.Option(help="Which stage is adapted; the last when left out.")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Write RUN's adapter into its weights, as a run.")] = False,
    unit: Unit = None,
    device: Device = "auto",
) -> None:
    """Teach a finished run a new scanner by a thin change of its weights; says what it gains there and forgets."""
    from ..study.adaptation import Few, adapt_run, merge_run

    with errors():
        if merge:
            merge_run(run, out, echo)
            return
        if data is None:
            fail("Whose scans are to be learned is not said. Type: fabrica adapt RUN --data DIR --out RUN2")
        budget = (2.0 if minutes is None and steps is None else minutes, steps)
        few = Few(data, fixed(unit, "--unit PET=SUV"), rank, *budget, learning_rate, test)
        with going_on(out) as watch:
            result = adapt_run(run, few, out, stage=stage, device=device, say=echo, watch=watch)
        echo(f"Report: {result.page}")


@app.command()
def prefer(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run of a synthesis.")],
    readers: Annotated[
        Path, typer.Option(metavar="DIR", help="Answers of a study: fabrica readers --kind ratings --out DIR.")
    ],
    draws: Annotated[Path, typer.Option(metavar="DIR", help="The generated images that were rated.")],
    out: Annotated[Path, typer.Option(metavar="RUN2", help="A new run folder.")],
    held: Annotated[str | None, typer.Option(metavar="READER", help="Who judges and never teaches; the last.")] = None,
    count: Annotated[int, typer.Option(min=8, help="New draws that are scored.")] = 400,
    keep: Annotated[float, typer.Option(min=0.01, max=0.9, help="The share of them that teaches.")] = 0.25,
    rank: Annotated[int, typer.Option(min=1, help="Of the change of every layer.")] = 8,
    steps: Annotated[int, typer.Option(min=1, help="Of training.")] = 100,
    device: Device = "auto",
) -> None:
    """Teach a generator what readers like, with a bound to what it was; realism and diversity stand beside."""
    from ..study.preference import Taste
    from ..study.preference import prefer as preferred

    with errors():
        taste = Taste(readers, draws, held, count, keep, rank, steps)
        with going_on(out) as watch:
            result = preferred(run, taste, out, device=device, say=echo, watch=watch)
        echo(f"Report: {result.page}")


@app.command()
def draft(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run that segments, or gives any parts.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="Scans; with masks, what is invented is counted.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where CASE/draft.json and index.html are written.")],
    label: Annotated[str | None, typer.Option(help="The mask that is put into words.")] = None,
    draws: Annotated[int, typer.Option(min=1, help="Draws that chances are told from.")] = 4,
    stage: Annotated[str | None, typer.Option(help="Which stage draws; the last when left out.")] = None,
    unit: Unit = None,
    device: Device = "auto",
) -> None:
    """Findings in words, each with its evidence: voxels, measured size, chance. A draft, for a person to check."""
    from ..data.cohort import Source
    from ..generate.drafting import draft_scans

    with errors():
        source = Source(data, fixed(unit, "--unit PET=SUV"))
        written = draft_scans(run, source, out, label=label, draws=draws, stage=stage, device=device, say=echo)
        echo(f"Drafts: {written[0]}")


@app.command()
def patients(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run of a synthesis.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where PATIENT/CONTRAST.nii.gz and patients.csv are written.")
    ],
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 16,
    value: Value = None,
    depth: Annotated[int, typer.Option(min=1, help="Slices of a patient, where the model draws slices.")] = 1,
    seed: Annotated[int, typer.Option()] = 0,
    device: Device = "auto",
    executor: ExecutorName = "local",
    scheduler: Scheduler = None,
    workers: Workers = 2,
) -> None:
    """Draw patients who do not exist, with a table of what each was asked to be."""
    from ..generate.patients import draw_patients
    from ..machine.executors import executor as named

    with errors():
        by = named(executor, scheduler, workers, device)
        echo(draw_patients(run, out, count, fixed(value), seed=seed, depth=depth, say=echo, executor=by))


@app.command()
def paint(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run of recipes/painting.yaml or alike.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="Scans without a lesion there: NIfTI or DICOM.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where CASE/CONTRAST-N.nii.gz and the mask are written.")],
    at: Annotated[str, typer.Option(metavar="R,A,S", help="Centre in mm as NIfTI viewers show it: --at 20,-10,30")],
    radius_mm: Annotated[float, typer.Option(help="Size of the lesion.")],
    label: Annotated[str, typer.Option(help="The mask that the run draws together with its images.")] = "lesion",
    draws: Annotated[int, typer.Option(min=1, help="Draws per case.")] = 1,
    unit: Unit = None,
    device: Device = "auto",
) -> None:
    """Paint a lesion of stated place and size into scans; all else stays as it is."""
    from ..data.cohort import Source
    from ..generate.painting import Lesion, paint_lesion

    with errors():
        try:
            right, anterior, superior = (float(v) for v in at.split(","))
        except ValueError:
            fail(f"--at {at!r} is no place. Write three numbers in mm: --at 20,-10,30")
        lesion = Lesion((right, anterior, superior), radius_mm)
        source = Source(data, fixed(unit, "--unit PET=SUV"))
        written = paint_lesion(run, source, out, lesion, label=label, draws=draws, device=device, say=echo)
        echo(f"{len(written)} files in {out}")


@app.command()
def virtual(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where PATIENT/CONTRAST.nii.gz are written.")],
    patients: Annotated[int, typer.Option(min=1)] = 4,
    seed: Annotated[int, typer.Option()] = 0,
    spacing: Annotated[int, typer.Option(min=1, max=4, help="Voxel size in mm.")] = 1,
    disease: Annotated[str, typer.Option(help="mixed, none, ms, tumour or stroke.")] = "mixed",
    visits: Annotated[int, typer.Option(min=1)] = 1,
    skull: Annotated[bool, typer.Option(help="Whole heads instead of brains.")] = True,
    executor: ExecutorName = "local",
    scheduler: Scheduler = None,
    workers: Workers = 2,
) -> None:
    """Write simulated patients as NIfTI with their truth."""
    from ..data.virtual import VirtualCohort
    from ..data.virtual.export import write_cohort
    from ..machine.executors import executor as named

    with errors():
        plan = VirtualCohort(patients, seed, spacing, disease, visits, skull=skull)
        by = named(executor, scheduler, workers)
        echo(f"{write_cohort(plan, out, echo, by)} files in {out}")
