"""Verbs that judge: images, arms, runs, readers. Heavy imports happen inside verbs, so that --help answers at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .app import app
from .options import Device, ExecutorName, Scheduler, Unit, Workers, claim_in, embedding_in, fixed
from .terminal import FAILED, echo, errors, fail

if TYPE_CHECKING:
    from ..io import Scan


@app.command()
def evaluate(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A finished run: its first draws of test cases are judged.")
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Of a run, which stage; the last if left out.")] = None,
    contrast: Annotated[str | None, typer.Option(help="Of a run, which image; the first if left out.")] = None,
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
    executor: ExecutorName = "local",
    scheduler: Scheduler = None,
    workers: Workers = 2,
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
    """Judge images of any generator, or of a run: pairs file by file, sets of patients beside real ones."""
    from ..evaluate.honesty.ledger import parse_overrides
    from ..evaluate.judging.folders import evaluate_folders
    from ..evaluate.judging.recomputation import recomputed
    from ..evaluate.judging.shelf import Asked, Folders
    from ..machine.executors import executor as named
    from ..run.laid_out import run_as_folders

    with errors():
        if recompute is not None:
            echo(recomputed(recompute, embedding_in))
            return
        declared, known = claim_in(claim) if claim else None, ""
        if run is not None:
            if generated is not None or reference is not None or out is None:
                fail("Of a run its own images are judged: fabrica evaluate RUN --out DIR [--claim FILE]")
            laid, known = run_as_folders(run, stage, contrast, declared, out, echo)
            if laid is None:
                return
            generated, reference, masks = laid.folders.generated, laid.folders.reference, masks or laid.folders.masks
            training, competitor = training or laid.folders.training, competitor or laid.folders.competitor
            data_range = data_range or laid.data_range
        if generated is None or reference is None or out is None:
            fail("Images, real images and a place for the report are needed: --generated DIR --reference DIR --out DIR")
        networks = tuple(embedding or ())
        own = {name: how for path in networks for name, how in embedding_in(path).items()}
        folders = Folders(
            generated, reference, masks, training, holdout, competitor, segmentations, reference_segmentations
        )
        by = None if executor == "local" and scheduler is None else named(executor, scheduler, workers)
        asked = Asked(data_range, seed, declared, parse_overrides(override or []), labels, quick, own, networks, by)
        echo(f"Report: {evaluate_folders(folders, out, asked, echo, known=known)}")


@app.command()
def audit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    draws: Annotated[int, typer.Option(min=1, help="How many draws are held against its training images.")] = 1000,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Of a synthesis, draws as files; else new scans.")
    ] = None,
    holdout: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Patients whom training did not see; the test part if left out.")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option(metavar="CHECK=REASON", help="Let a refused check pass; the reason stays.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="CHECK", help="This check alone; others stay as an audit found them.")
    ] = None,
    ladder: Annotated[int, typer.Option(min=1, help="Test patients whose scans are made worse.")] = 8,
    stage: Annotated[str | None, typer.Option(help="Which stage is audited; what synthesises, or the last.")] = None,
    unit: Unit = None,
    shadows: Annotated[
        int, typer.Option(min=0, help="Train so many models on others (8): membership is told beside them.")
    ] = 0,
    embedding: Annotated[
        list[Path] | None, typer.Option(metavar="RUN|FILE", help="Look for copies by these features, too.")
    ] = None,
    device: Device = "auto",
    executor: ExecutorName = "local",
    scheduler: Scheduler = None,
    workers: Workers = 2,
) -> None:
    """Privacy, shift, fairness, robustness: verdicts in RUN/audit/gate.json, obeyed by deliver and patients."""
    from ..audit.conduct import Asked
    from ..audit.conduct import audit as audited
    from ..data.cohort import Source
    from ..machine.executors import executor as named

    with errors():
        if executor != "local" and not shadows:
            fail("Workers train shadow models, all else is asked here. Add --shadows 8, or leave --executor out.")
        reasons = fixed(override, "--override copies=REASON")
        own = {name: how for path in embedding or () for name, how in embedding_in(path).items()}
        units = fixed(unit, "--unit PET=SUV")
        scans, others = (None if path is None else Source(path, units) for path in (data, holdout))
        asked = Asked(draws, scans, others, ladder, stage, tuple(only or ()), reasons, shadows, own)
        gate = audited(run, asked, say=echo, executor=named(executor, scheduler, workers, device))
        if gate.refused:
            raise typer.Exit(FAILED)


@app.command()
def monitor(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where generate, or a node, writes what it draws.")],
    store: Annotated[Path | None, typer.Option(metavar="DIR", help="A store whose decisions are counted.")] = None,
    registry: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of approved models.")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="Retire the models of an alert: generate refuses them.")] = False,
) -> None:
    """Charts of a model in use, in DIR/monitor: Prometheus text and a page. Exit code 1 on an alert."""
    from ..audit.monitor import keep, watch
    from ..audit.monitor import stop as stopped
    from ..deliver.approvals import Approvals

    with errors():
        if stop and registry is None:
            fail("--stop needs the folder of approved models: --registry DIR")
        known = Approvals(registry) if registry is not None else None
        watched = watch(folder, store, known)
        for path in keep(watched, folder):
            echo(f"Written: {path}")
        for chart in watched.charts:
            echo(f"{chart.name}: {'ALERT. ' if chart.alarm is not None else ''}{chart.words}.")
        if stop and known is not None:
            retired, current = stopped(watched, known)
            for one in retired:
                echo(f"Retired: the model of {one.run}.")
            if retired:
                echo(f"Go back to {current.run}." if current else "No other model is approved: nothing is drawn.")
        if watched.alerts:
            raise typer.Exit(FAILED)


@app.command()
def watermark(
    data: Annotated[Path | None, typer.Argument(metavar="FILE|DIR", help="Images to look in.")] = None,
    key: Annotated[Path | None, typer.Option(metavar="KEY", help="The key that images may be marked with.")] = None,
    new_key: Annotated[Path | None, typer.Option(metavar="KEY", help="Make a key in a new file.")] = None,
) -> None:
    """Which images bear the mark of a key; `generate --watermark KEY` puts it there."""
    from ..generate.watermarks import look_in
    from ..safeguards.watermark import FALSE_ALARMS, read_key
    from ..safeguards.watermark import new_key as make

    with errors():
        if new_key is not None:
            if new_key.exists():
                fail(f"{new_key} is there already: whoever has it would lose what it marked. Name another file.")
            make(new_key)
            echo(f"Key: {new_key}. Keep it: without it nobody finds its marks.")
            return
        if data is None or key is None:
            fail("Images and a key are needed: fabrica watermark DIR --key KEY")
        looked = look_in(data, read_key(key))
        for one in looked:
            echo(f"{one.case} {one.contrast}: {'marked' if one.found.marked else 'no mark'} (z {one.found.z:.1f})")
        count = sum(one.found.marked for one in looked)
        echo(f"{count} of {len(looked)} images are marked; one in {1 / FALSE_ALARMS:,.0f} others would be told so.")


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
    pretrain: Annotated[
        bool, typer.Option("--pretrain", help="One arm more: synthetic images first, then real ones.")
    ] = False,
    patients: Annotated[
        int | None, typer.Option(min=1, help="So many real patients train; all where left out.")
    ] = None,
    executor: ExecutorName = "local",
    scheduler: Scheduler = None,
    workers: Workers = 2,
) -> None:
    """Train a task on real, synthetic, both and augmented real images at equal compute; test on unseen real
    patients.
    """
    import yaml

    from ..machine.executors import executor as named
    from ..recipe.text import parse
    from ..study.downstream import Terms, compare_arms

    with errors():
        try:
            plain, _ = parse(recipe.read_text())
        except yaml.YAMLError as error:
            fail(f"{recipe} is not YAML: {str(error).splitlines()[0]}. Check its indentation.")
        by = None if executor == "local" and scheduler is None else named(executor, scheduler, workers)
        terms = Terms(seeds, trainer, generator, claim_in(claim) if claim else None, pretrain, patients, by)
        found = compare_arms(plain, real, synthetic, out, terms, say=echo)
        for arm in found.arms:
            echo(f"{arm.name}: {arm.endpoint} {float(arm.value):.4g}")
        echo(found.sentence())
        if found.verdict is not None:
            echo(f"{found.verdict.status}: {found.verdict.may}")
        echo(f"Report: {found.page}")


@app.command()
def freeze(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")],
    study: Annotated[Path, typer.Option(metavar="FILE", help="study.yaml: claim, patients, exclusions, looks.")],
    out: Annotated[Path, typer.Option(metavar="STUDY", help="A new folder, to be given to: fabrica run STUDY.")],
    stage: Annotated[str | None, typer.Option(help="Which stage; the last when left out.")] = None,
) -> None:
    """Declare a study before its data: weights, claim, sample size and looks are fixed by one hash."""
    from ..deliver.files import plain_yaml
    from ..study.declared import Plan
    from ..study.prospective import freeze as frozen

    with errors():
        plan = Plan.of(plain_yaml(study, "Write claim: {...}, patients: 60, exclusions: [...], looks: 1"))
        frozen(run, plan, out, echo, stage)
        echo(f"When the patients have come: fabrica run {out} --data DIR")


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
    serve: Annotated[
        bool, typer.Option("--serve", help="Open a page for each reader: whole images, answers kept at once.")
    ] = False,
    port: Annotated[int, typer.Option(help="Of the pages, on this machine alone; 0 takes a free one.")] = 8766,
) -> None:
    """Make sheets for a reader study, or open its pages; without images analyse the answers in DIR, or a table of
    ratings of several modalities.
    """
    from .. import io
    from ..evaluate.judging.reading import analyse, in_words, make_sheets, read_key, read_study

    with errors():
        if table is not None:
            for line in in_words(read_study(table)):
                echo(line)
            return
        if out is None:
            fail("A study lies somewhere: --out DIR; a table of ratings: --table FILE")
        if generated is not None and reference is not None:
            sides = [io.by_name(d, io.scan_folder(d).scans) for d in (generated, reference)]
            if not serve or not (out / "key.json").is_file():
                for page in make_sheets(sides[0], sides[1], out, readers=count, kind=kind, seed=seed):
                    echo(page)
                echo(f"The key is {out / 'key.json'}: readers must not see it.")
            if serve and (len((key := read_key(out)).readers), key.kind) != (count, kind):
                many = len(key.readers)
                fail(f"{out} is a study of {many} readers, {key.kind}. Add --count {many} --kind {key.kind}")
            if serve:
                _open_pages(out, {"generated": sides[0], "reference": sides[1]}, port)
            return
        if generated is not None or reference is not None or serve:
            fail("Sheets need images of both sides: --generated DIR --reference DIR")
        for line in in_words(analyse(out)):
            echo(line)


def _open_pages(study: Path, sides: Mapping[str, Mapping[str, Scan]], port: int) -> None:
    try:
        from ..serve.reading import Study, serve
    except ImportError as error:
        fail(f'The pages need the extra: pip install -e ".[clinic]" -c constraints.txt ({error.name} is missing)')
    serve(Study(study, sides), port, echo)


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
