"""Verbs that look: at folders, names, the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .app import app
from .options import Data, Device, ExecutorName, Scheduler, Unit, Workers, fixed
from .terminal import echo, errors, fail


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of scans.")],
    table: Annotated[Path | None, typer.Option(metavar="FILE", help="A table that says which file is which.")] = None,
    write_table: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what was understood, to correct and give back.")
    ] = None,
    sheet: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a contact sheet (PNG).")] = None,
    unit: Unit = None,
    index: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|URL", help="Keep studies, series and hashes there; later only what changed is read."
        ),
    ] = None,
    executor: ExecutorName = "local",
    scheduler: Scheduler = None,
    workers: Workers = 2,
) -> None:
    """Show what is in a folder: patients, contrasts, grids, units, oddities, before anything is trained."""
    from ..data import cohort, inspection
    from ..machine.executors import executor as named

    with errors():
        by = named(executor, scheduler, workers)
        if index is not None:
            if table or sheet or unit:
                fail("An index knows files, not contrasts: leave --table, --sheet and --unit out, or --index.")
            _indexed(folder, index, by, write_table)
            return
        if executor != "local":
            fail("Workers read for an index: add --index index.sqlite")
        found = cohort.find(folder, table, fixed(unit, "--unit PET=SUV"))
        for line in inspection.lines(found):
            echo(line)
        if write_table:
            echo(f"{cohort.write_table(found, write_table, folder)} rows written to {write_table}")
        if sheet:
            shown = inspection.contact_sheet(found, sheet)
            echo(f"{shown} images on {sheet}")


def _indexed(folder: Path, place: str, by: Any, write_table: Path | None) -> None:
    """As `inspect --index`."""
    import importlib.util

    if importlib.util.find_spec("sqlalchemy") is None:
        fail('An index needs the extra: pip install -e ".[index]" -c constraints.txt')
    from ..data.index import Index

    with Index.open(place) as index:
        echo(f"{folder}: {index.look(folder, by, echo)}")
        for line in index.lines():
            echo(line)
        if write_table:
            echo(f"{index.write_series(write_table)} series written to {write_table}")


@app.command()
def plan(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE|RUN", help="What is to be run; or a run that is to draw new scans.")
    ],
    data: Data = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="As fabrica run takes it.")
    ] = None,
    on: Annotated[
        Path | None, typer.Option(metavar="FILE", help="cluster.yaml: workers, speed, hours_between_failures, ...")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the figures as JSON.")] = None,
    unit: Unit = None,
    device: Device = "auto",
    draws: Annotated[int, typer.Option(min=1, help="Of a run: draws per case.")] = 1,
    stage: Annotated[str | None, typer.Option(help="Of a run: which stage draws.")] = None,
) -> None:
    """What a recipe, or drawing by a run, will cost, measured beforehand: CPU-seconds, memory, disk; here and on a
    described cluster.
    """
    import json

    from ..deliver.files import plain_yaml
    from ..recipe import checks
    from ..run import plan as planning
    from ..run.cluster import Cluster

    if recipe.is_dir():
        _plan_drawing(recipe, data or [], fixed(unit, "--unit PET=SUV"), draws, stage, out)
        return
    with errors():
        cluster = None if on is None else Cluster.of(plain_yaml(on, "Write workers: 8, speed: 20"), str(on))
        checked = checks.load(recipe, settings or [], data or [], fixed(unit, "--unit PET=SUV"))
        found = planning.plan_recipe(checked, device=device, say=echo)
        echo(planning.totals(found))
        for line in [] if cluster is None else planning.on_cluster(found, cluster):
            echo(line)
        if out is not None:
            out.write_text(json.dumps(planning.plain(found), indent=1) + "\n")
            echo(f"Written: {out}")


def _plan_drawing(
    run: Path, data: list[str], units: dict[str, str], draws: int, stage: str | None, out: Path | None
) -> None:
    """`fabrica generate`, foretold."""
    import json
    from dataclasses import asdict

    from ..data.cohort import Source
    from ..generate.forecast import foretell_scans

    with errors():
        if len(data) != 1:
            fail(f"Which scans are to be drawn is not said. Type: fabrica plan {run} --data DIR")
        found = foretell_scans(run, Source(Path(data[0]), units), draws, stage, echo)
        echo(str(found))
        if out is not None:
            out.write_text(json.dumps(asdict(found), indent=1) + "\n")
            echo(f"Written: {out}")


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
        (
            f"python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores,"
            f" {torch.get_num_threads()} threads"
        ),
        f"GPU: {card}",
        f"precision: {rates(where, fresh).in_words()}",
        (
            f"memory: {in_words(free) if free is not None else 'unknown'} free; a run says before it starts how much it"
            " needs"
        ),
        f".nii.gz is read by {library}",
    )
    echo("\n".join(lines))
