"""The verbs: a thin skin over the library. Heavy imports happen inside verbs, so that --help answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .terminal import INTERRUPTED, bars, echo, errors, fail

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Generative medical imaging: real scans in, a model trained, images drawn, an honest report out.",
)  # fmt: skip

Data = Annotated[
    list[str] | None,
    typer.Option("--data", metavar="[NAME=]DIR", help="Folder of scans for the recipe's cohort (or the named one)."),
]
Value = Annotated[
    list[str] | None,
    typer.Option("--value", metavar="NAME=VALUE", help="A class, a covariate or words for all of them."),
]
Unit = Annotated[
    list[str] | None,
    typer.Option("--unit", metavar="CONTRAST=UNIT", help="What a file leaves open: --unit PET=SUV."),
]
Device = Annotated[str, typer.Option(help="auto (a CUDA card where there is one), cpu or cuda.")]


@app.command()
def run(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE|RUN", help="A recipe to start, or a run folder to go on with.")
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

    from ..learning.loop import Interrupted
    from ..machine.processes import joined
    from ..recipe import checks as config
    from ..run.folder import RunFolder, common_folder
    from ..run.sequence import run_recipe

    with errors(), joined() as processes:
        existing = recipe.is_dir()
        file = recipe / "recipe.yaml" if existing else recipe
        if existing and not file.exists():
            fail(f"{recipe} is not a run: it holds no recipe.yaml. Start one: fabrica run recipes/translation.yaml")
        checked = config.load(file, settings or [], data or [], _fixed(unit, "--unit PET=SUV"))
        if dry_run:
            echo(yaml.safe_dump(checked.plain(), sort_keys=False), nl=False)
            echo(f"# stages: {', '.join(f'{s.name} ({s.family.name})' for s in checked.stages)}")
            return
        if existing:
            RunFolder.open(recipe).check_settings(checked)
        folder = recipe if existing else common_folder(runs, processes)
        if processes.first:
            echo(f"Run {folder}")
        try:
            with bars() as watch:
                result = run_recipe(checked, folder, only=only, say=echo, watch=watch, device=device)
        except (Interrupted, KeyboardInterrupt) as error:
            echo(f"\n{error or 'Stopped.'}\nGo on with: fabrica run {folder}", err=True)
            raise typer.Exit(INTERRUPTED) from error
        if processes.first:
            echo(f"Report: {result.page}")


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
) -> None:
    """Apply a trained run to new scans; NIfTI on the grid of each scan."""
    from ..data.cohort import Source
    from ..generate.scans import generate_images

    with errors():
        source = Source(data, _fixed(unit, "--unit PET=SUV"))
        written = generate_images(run, source, out, draws, stage, echo, device, _fixed(value))
        echo(f"{len(written)} file{'s' * (len(written) > 1)} in {out}")


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
) -> None:
    """Draw patients who do not exist, with a table of what each was asked to be."""
    from ..generate.patients import draw_patients

    with errors():
        echo(draw_patients(run, out, count, _fixed(value), seed=seed, device=device, depth=depth, say=echo))


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
        source = Source(data, _fixed(unit, "--unit PET=SUV"))
        written = paint_lesion(run, source, out, lesion, label=label, draws=draws, device=device, say=echo)
        echo(f"{len(written)} files in {out}")


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of scans.")],
    table: Annotated[Path | None, typer.Option(metavar="FILE", help="A table that says which file is which.")] = None,
    write_table: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what was understood, to correct and give back.")
    ] = None,
    sheet: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a contact sheet (PNG).")] = None,
    unit: Unit = None,
) -> None:
    """Show what is in a folder: patients, contrasts, grids, units, oddities, before anything is trained."""
    from ..data import cohort, inspection

    with errors():
        found = cohort.find(folder, table, _fixed(unit, "--unit PET=SUV"))
        for line in inspection.lines(found):
            echo(line)
        if write_table:
            echo(f"{cohort.write_table(found, write_table, folder)} rows written to {write_table}")
        if sheet:
            shown = inspection.contact_sheet(found, sheet)
            echo(f"{shown} images on {sheet}")


@app.command()
def evaluate(
    generated: Annotated[Path | None, typer.Option(metavar="DIR", help="Images to judge.")] = None,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Real images; the same relative name makes a pair, formats may differ."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the report is written.")] = None,
    masks: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Masks of the references, by relative name.")
    ] = None,
    training: Annotated[Path | None, typer.Option(metavar="DIR", help="What the generator learned from.")] = None,
    holdout: Annotated[Path | None, typer.Option(metavar="DIR", help="Real patients it never saw.")] = None,
    competitor: Annotated[Path | None, typer.Option(metavar="DIR", help="Another method's images of the same.")] = None,
    segmentations: Annotated[
        Path | None, typer.Option(metavar="DIR", help="What a segmentation marked in the generated images.")
    ] = None,
    reference_segmentations: Annotated[
        Path | None, typer.Option(metavar="DIR", help="What the same segmentation marked in the real ones.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV: folder, name, label that was asked for.")
    ] = None,
    claim: Annotated[Path | None, typer.Option(metavar="FILE", help="claim.yaml, declared before results.")] = None,
    data_range: Annotated[float | None, typer.Option(help="Span of possible values; PSNR and SSIM need it.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    override: Annotated[
        list[str] | None,
        typer.Option(metavar="N=REASON", help="Overrule an honesty check; the reason stays in the report."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Do not test the metrics themselves first.")] = False,
    embedding: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE|RUN", help="Your own network: network.onnx, or a run that learned a representation."
        ),
    ] = None,
    recompute: Annotated[
        Path | None, typer.Option(metavar="REPORT", help="Make a report again from its folders and compare every byte.")
    ] = None,
) -> None:
    """Judge images of any generator: pairs file by file, sets of patients beside real ones."""
    from ..evaluate.honesty.ledger import parse_overrides
    from ..evaluate.judging.folders import Asked, Folders, evaluate_folders
    from ..evaluate.judging.recomputation import recomputed

    with errors():
        if recompute is not None:
            echo(recomputed(recompute, _embedding))
            return
        if generated is None or reference is None or out is None:
            fail("Images, real images and a place for the report are needed: --generated DIR --reference DIR --out DIR")
        declared = _claim(claim) if claim else None
        networks = tuple(embedding or ())
        own = {name: how for path in networks for name, how in _embedding(path).items()}
        folders = Folders(
            generated, reference, masks, training, holdout, competitor, segmentations, reference_segmentations
        )
        asked = Asked(data_range, seed, declared, parse_overrides(override or []), labels, quick, own, networks)
        echo(f"Report: {evaluate_folders(folders, out, asked, echo)}")


@app.command()
def downstream(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="A segmentation or outcome recipe, budget in steps.")
    ],
    real: Annotated[Path, typer.Option(metavar="DIR", help="Real patients: some train, others test.")],
    synthetic: Annotated[Path, typer.Option(metavar="DIR", help="Synthetic patients: they only train.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where arms and the report are written.")],
    seeds: Annotated[int, typer.Option(min=1, help="Trainings per arm.")] = 5,
    trainer: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND", help="Your own trainer: called with --train --test --seed --steps --augment --out."
        ),
    ] = None,
    generator: Annotated[
        Path | None, typer.Option(metavar="RUN", help="The run that made the synthetic images.")
    ] = None,
    claim: Annotated[Path | None, typer.Option(metavar="FILE", help="claim.yaml on an arm, declared first.")] = None,
) -> None:
    """Train a task on real, synthetic, both and augmented real images at equal compute; test on unseen real patients."""
    import yaml

    from ..recipe.text import parse
    from ..study.downstream import Terms, compare_arms

    with errors():
        try:
            plain, _ = parse(recipe.read_text())
        except yaml.YAMLError as error:
            fail(f"{recipe} is not YAML: {str(error).splitlines()[0]}. Check its indentation.")
        terms = Terms(seeds, trainer, generator, _claim(claim) if claim else None)
        found = compare_arms(plain, real, synthetic, out, terms, say=echo)
        for arm in found.arms:
            echo(f"{arm.name}: {arm.endpoint} {float(arm.value):.4g}")
        echo(found.sentence())
        if found.verdict is not None:
            echo(f"{found.verdict.status}: {found.verdict.may}")
        echo(f"Report: {found.page}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished runs on the same patients.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the report is written.")],
    metric: Annotated[str, typer.Option(help="What ranks them; of runs that synthesise: 'kernel distance'.")] = "psnr",
) -> None:
    """Set several runs side by side: what each reached, what it cost, which differences the patients carry."""
    from ..evaluate.report.comparison import compare_runs, names_of
    from ..evaluate.report.set_comparison import MEASURES, compare_sets

    with errors():
        if metric in MEASURES:
            page, sets, sentence = compare_sets(runs, names_of(runs), metric, out)
            for one in sets:
                echo(f"{one.name} ({one.family}): {metric} {one.middle:.4g} times its null")
            echo(sentence)
            echo(f"Report: {page}")
            return
        page, standings, sentence = compare_runs(runs, metric, out)
        for s in standings:
            echo(f"{s.contender.name} ({s.contender.family}): {metric} {s.mean:.4g}")
        echo(sentence)
        echo(f"Report: {page}")


@app.command()
def readers(
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where sheets, key and answers lie.")] = None,
    generated: Annotated[Path | None, typer.Option(metavar="DIR", help="Generated images: makes sheets.")] = None,
    reference: Annotated[Path | None, typer.Option(metavar="DIR", help="Real images.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Readers.")] = 3,
    kind: Annotated[str, typer.Option(help="pairs (which is generated?) or ratings (1 to 5).")] = "pairs",
    seed: Annotated[int, typer.Option()] = 0,
    table: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV of a study: reader, case, modality, truth, score.")
    ] = None,
) -> None:
    """Make sheets for a reader study; without images analyse the answers in DIR, or a table of ratings of several modalities."""
    from .. import io
    from ..evaluate.judging.reading import analyse, in_words, make_sheets, read_study

    with errors():
        if table is not None:
            for line in in_words(read_study(table)):
                echo(line)
            return
        if out is None:
            fail("A study lies somewhere: --out DIR; a table of ratings: --table FILE")
        if generated is not None and reference is not None:
            sides = [io.by_name(d, io.scan_folder(d).scans) for d in (generated, reference)]
            for page in make_sheets(sides[0], sides[1], out, readers=count, kind=kind, seed=seed):
                echo(page)
            echo(f"The key is {out / 'key.json'}: readers must not see it.")
            return
        if generated is not None or reference is not None:
            fail("Sheets need images of both sides: --generated DIR --reference DIR")
        for line in in_words(analyse(out)):
            echo(line)


@app.command()
def observer(
    present: Annotated[Path, typer.Option(metavar="DIR", help="Images with the signal in their middle.")],
    absent: Annotated[Path, typer.Option(metavar="DIR", help="The same without the signal.")],
    width_px: Annotated[float, typer.Option(help="Deviation of the signal, pixels.")],
    channels: Annotated[int, typer.Option(min=1, help="Laguerre-Gauss channels.")] = 5,
    signal: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The signal itself, without noise: the ideal observer too.")
    ] = None,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Would a reader find the signal? Detectability by a channelised Hotelling observer, and by the ideal one."""
    from .. import io
    from ..evaluate.judging.reading import planes, watch

    with errors():
        sides = [planes(io.by_name(d, io.scan_folder(d).scans)) for d in (present, absent)]
        known = None if signal is None else io.read_image(signal).data[0].numpy()
        for line in watch(sides[0], sides[1], known, width_px=width_px, channels=channels, seed=seed):
            echo(line)


@app.command()
def virtual(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where PATIENT/CONTRAST.nii.gz are written.")],
    patients: Annotated[int, typer.Option(min=1)] = 4,
    seed: Annotated[int, typer.Option()] = 0,
    spacing: Annotated[int, typer.Option(min=1, max=4, help="Voxel size in mm.")] = 1,
    disease: Annotated[str, typer.Option(help="mixed, none, ms, tumour or stroke.")] = "mixed",
    visits: Annotated[int, typer.Option(min=1)] = 1,
    skull: Annotated[bool, typer.Option(help="Whole heads instead of brains.")] = True,
) -> None:
    """Write simulated patients as NIfTI with their truth."""
    from ..data.virtual import VirtualCohort
    from ..data.virtual.export import write_cohort

    with errors():
        plan = VirtualCohort(patients, seed, spacing, disease, visits, skull=skull)
        echo(f"{write_cohort(plan, out, echo)} files in {out}")


@app.command("list")
def list_names(
    noun: Annotated[
        str | None, typer.Argument(metavar="[NOUN]", help="family, job, sampler, operator, noise or metric.")
    ] = None,
) -> None:
    """Every registered name, one a line."""
    from ..evaluate import METRICS
    from ..families import FAMILIES
    from ..jobs import JOBS
    from ..physics import NOISES, OPERATORS
    from ..registry import Table, unknown
    from ..sampling import SAMPLERS

    tables: dict[str, Table[Any]] = {t.noun: t for t in (FAMILIES, JOBS, SAMPLERS, OPERATORS, NOISES, METRICS)}
    with errors():
        if noun is not None and noun not in tables:
            raise unknown("noun", noun, list(tables))
        for name, table in tables.items():
            if noun in (None, name):
                for member in table.names():
                    echo(member if noun else f"{name} {member}")


@app.command()
def doctor(
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what was kept from an earlier time.")] = False,
) -> None:
    """What this machine can do, and what a run will use."""
    import os
    import platform

    import torch

    from ..io import gzipped
    from ..machine.device import find_device, free_bytes, in_words
    from ..networks.precision import rates

    where = find_device()
    free = free_bytes(where)
    card = f"{torch.cuda.get_device_name(0)}: runs use it" if where == "cuda" else "none: runs use the CPU"
    library = "ISA-L" if gzipped.FAST else 'zlib; twice as fast with: pip install -c constraints.txt -e ".[fast]"'
    lines = (
        f"python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        f"GPU: {card}",
        f"precision: {rates(where, fresh).in_words()}",
        f"memory: {in_words(free) if free is not None else 'unknown'} free; a run says before it starts how much it needs",
        f".nii.gz is read by {library}",
    )
    echo("\n".join(lines))


def _fixed(value: list[str] | None, example: str = "--value class=1") -> dict[str, str]:
    """--value NAME=VALUE, or --unit CONTRAST=UNIT, as often as given."""
    pairs = [text.partition("=") for text in value or []]
    if wrong := next((text for text, (_, equals, _) in zip(value or [], pairs, strict=True) if not equals), None):
        fail(f"{wrong!r} gives no value. Write: {example}")
    return {name: given for name, _, given in pairs}


def _claim(path: Path) -> Any:
    """A claim from its file."""
    import yaml

    from ..evaluate.honesty.claim import Claim
    from ..recipe.text import parse

    try:
        return Claim.of(parse(path.read_text())[0])
    except yaml.YAMLError as error:
        fail(f"{path} is not YAML: {str(error).splitlines()[0]}. Write one key a line: endpoint: ssim")


def _embedding(path: Path) -> Any:
    """A user's own embedding: of an ONNX file, or of a run."""
    if path.is_dir():
        from ..run.answering import embedding_of

        return embedding_of(path)
    import importlib.util

    if importlib.util.find_spec("onnxruntime") is None:
        raise ValueError('ONNX networks need the extra: pip install -c constraints.txt -e ".[onnx]"')
    from ..evaluate.sets.network import from_onnx

    return from_onnx(path)


def main() -> None:
    """The console script."""
    app()
