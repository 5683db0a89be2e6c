"""A finished run taught a new scanner from a few patients: a thin change beside its weights, and what it forgets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..contracts import Field
from ..data.cohort import Member, one_each
from ..data.split import patient_hash
from ..evaluate.report.page import render
from ..evaluate.result import Figure
from ..evaluate.statistics import paired_test
from ..io import UnreadableError
from ..learning import checkpoint
from ..learning.facts import Facts
from ..machine.device import find_device
from ..recipe.checks import from_plain
from ..recipe.short_form import written_out
from ..recipe.values import Stage
from ..run.answering import Answering
from ..run.folder import RunFolder
from ..run.likeness import likeness
from ..run.prepare import split_stage
from ..run.sequence import RunResult, found_cohorts, run_recipe
from ..run.train import Watch

Say = Callable[[str], None]
KEPT = ("job", "pairing", "family", "sampler", "guidance")  # of a stage's part of the recipe
TRAINED = ("batch", "augment", "average", "precision", "optimiser", "checkpoint_minutes")
FORMER = 20  # patients of the run's own test part whom its memory is told of
NEW, OLD = "new", "former"


@dataclass(frozen=True)
class Few:
    """The patients of a new scanner, and how long they teach. `test`: the share who judge."""

    data: Path
    units: Mapping[str, str]
    rank: int = 8
    minutes: float | None = None
    steps: int | None = None
    learning_rate: float | None = None
    test: float = 0.5


def adapt_run(
    run: Path, few: Few, out: Path, *, stage: str | None = None, device: str = "auto", say: Say = print,
    watch: Watch | None = None,
) -> RunResult:  # fmt: skip
    """A run in `out` with one stage whose checkpoint holds an adapter of a few MB; its report says how it answers new
    patients and, where the run's own test patients are still there, former ones, before and after.

    Raises ValueError for a run or stage that cannot be adapted, RecipeError, UnreadableError, TrainingError.
    """
    base = RunFolder.open(run.resolve())
    former = base.last_stage(stage)
    facts = base.trained(former)
    check_adaptable(base, former, facts)
    recipe = from_plain(_plain(base, former, facts, few), str(base.path / "recipe.yaml"))
    result = run_recipe(recipe, out, say=say, watch=watch, device=device)
    compared = _compared(base, former, RunFolder.open(result.folder), find_device(device), say)
    if compared is not None:
        result.report.stages[-1].figures += compared
        plain = {"rank": few.rank, "of": str(base.path), "figures": [asdict(f) for f in compared]}
        (result.folder / "adaptation.json").write_text(json.dumps(plain, indent=1) + "\n")
        render(result.report, result.folder / "report")
        for figure in compared:
            where = f" [{figure.interval[0]:+.3f}, {figure.interval[1]:+.3f}]" if figure.interval else ""
            told = figure.value if isinstance(figure.value, str) else f"{figure.value:+.3f}{where}"
            say(f"{figure.name}: {told}, {figure.n} patients")
    return result


def check_adaptable(base: RunFolder, stage: Stage, facts: Facts) -> None:
    """Raises ValueError for a stage that is not finished, reads another's draws, or may not be trained on."""
    if not facts.finished:
        raise ValueError(f"{base.path} is not trained to its end. Type: fabrica run {base.path}")
    if stage.inputs:
        raise ValueError(f"{stage.name} reads what another stage draws. Adapt one that reads scans: --stage STAGE")
    if stage.trained or facts.privacy:
        raise ValueError(
            f"{stage.name} has weights {'of another run' if stage.trained else 'with a promise of privacy'}, which an"
            " adapter of patients would change. Adapt the run that trained them without."
        )


def _plain(base: RunFolder, stage: Stage, facts: Facts, few: Few) -> dict[str, Any]:
    """The recipe of the stage alone, on the new patients, from its weights, on the grid that they know."""
    whole = base.recipe.plain()
    budget = {"minutes": few.minutes, "steps": few.steps, "learning_rate": few.learning_rate, "rank": few.rank}
    plain = continued(base, stage, facts, {k: v for k, v in budget.items() if v is not None})
    cohort: dict[str, Any] = {"path": str(few.data.resolve())}
    if few.units:
        cohort["units"] = dict(few.units)
    return {
        "cohorts": {NEW: cohort}, "split": {"train": 1 - few.test, "test": few.test}, "baseline": "none",
        "seed": base.recipe.seed, **({"evaluate": whole["evaluate"]} if "evaluate" in whole else {}), **plain,
    }  # fmt: skip


def continued(base: RunFolder, stage: Stage, facts: Facts, budget: Mapping[str, Any]) -> dict[str, Any]:
    """The stage's part of a recipe that goes on from its weights, on the grid that they know."""
    whole = written_out(base.recipe.plain())
    own = whole["stages"][stage.name] if "stages" in whole else whole
    plain = {key: own[key] for key in KEPT if key in own}
    if stage.codec is not None:
        plain["family"] = {**plain["family"], "in": {"run": str(_codec_home(base, stage.codec)), "stage": stage.codec}}
    plain["train"] = {
        **{k: v for k, v in own.get("train", {}).items() if k in TRAINED}, **budget,
        "start": str(base.home(stage)), "precision": facts.precision,
    }  # fmt: skip
    spacing = facts.grid_preparation.spacing_mm
    known = dict(own.get("prepare", {}))
    known.pop("spacing_mm", None)
    plain["prepare"] = {**known, **({"spacing_mm": list(spacing)} if spacing else {"resample": False})}
    return plain


def _codec_home(base: RunFolder, name: str) -> Path:
    """The run that trained the codec: this one, or the one that it comes from."""
    known = base.recipe.stage(name).trained
    return base.path if known is None else known.run


def _compared(
    base: RunFolder, stage: Stage, adapted: RunFolder, device: str, say: Say
) -> list[Figure] | None:  # fmt: skip
    """The adapted stage minus the former one on test patients of both, paired by patient."""
    job = stage.build_job()
    signature = job.signature()
    field = next((f for f in signature.x if f.kind in ("intensity", "label")), None)
    shown = signature.given or signature.measurements or job.simulates
    if field is None or not shown or job.answer != "image":
        say("What is forgotten is not told: its answers are no images of patients.")
        return None
    after = adapted.recipe.stage(adapted.last_stage(None).name)
    sides = {"before": Answering(base, stage, device), "after": Answering(adapted, after, device)}
    taught = adapted.trained(after).trained_on
    members = {
        who: [m for m in those if patient_hash(m.patient) not in taught]  # who taught does not judge, whoever he was
        for who, those in ((NEW, _tested(adapted, after)), (OLD, _former(base, stage, say)))
    }
    return [f for who, those in members.items() for f in _figures(after.name, who, sides, field, those)]


def _tested(run: RunFolder, stage: Stage) -> list[Member]:
    split = split_stage(run.recipe, stage, found_cohorts(run.recipe))
    return one_each(split.parts["test"])


def _former(base: RunFolder, stage: Stage, say: Say) -> list[Member]:
    try:
        return _tested(base, stage)[:FORMER]
    except (UnreadableError, ValueError) as error:
        say(f"What is forgotten of former patients is not told: {error}")
        return []


def _figures(
    stage: str, who: str, sides: Mapping[str, Answering], field: Field, members: Sequence[Member]
) -> list[Figure]:
    rows = {name: [likeness(one, field, m, m) for m in members if one.can(m)] for name, one in sides.items()}
    patients = [m.patient for m in members if next(iter(sides.values())).can(m)]
    if len(rows["before"]) != len(rows["after"]):
        raise ValueError("The adapted stage reads other patients than the former one. Give them the same contrasts.")
    both = [(p, b, a) for p, b, a in zip(patients, rows["before"], rows["after"], strict=True) if b and a]
    if not both:
        return []
    found = []
    for metric in both[0][1] or {}:
        before, after = (
            np.array([row[metric] for row in side]) for side in ([b for _, b, _ in both], [a for _, _, a in both])
        )
        told = paired_test(after, before, [p for p, _, _ in both])
        name = f"{metric} of {field.name}, {who} patients: after minus before ({before.mean():.3f})"
        found.append(Figure(stage, "model", name, float(told), told.interval, len(both), told.convention))
    return found


def merge_run(run: Path, out: Path, say: Say = print) -> RunFolder:
    """A run whose stage has its adapter within its weights, which need no others; raises ValueError for a run without
    an adapter or a folder that is there already.
    """
    known = RunFolder.open(run.resolve())
    stage = known.last_stage(None)
    facts = known.trained(stage)
    if facts.adapter is None:
        raise ValueError(f"{run} has no adapter to merge. Make one: fabrica adapt RUN --data DIR --out RUN2")
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise ValueError(f"{out} is there already. Name a new folder: --out RUN")
    weights, plain_facts = checkpoint.weights_in(known.home(stage))
    plain = known.recipe.plain()
    plain["train"] = {k: v for k, v in plain["train"].items() if k not in ("start", "rank")}
    merged = RunFolder(out, from_plain(plain, str(out)))
    merged.write_recipe()
    home = merged.home(merged.recipe.stage(stage.name))
    shutil.copytree(known.home(stage), home, ignore=shutil.ignore_patterns("checkpoint*", "shift.json", "draws"))
    own = {k: v for k, v in plain_facts.items() if k not in ("adapter", "format")}
    checkpoint.save(home, {f"{part}/{k}": v for part in ("model", "average") for k, v in weights.items()}, own)
    others = f"; its codec stays in {stage.codec}'s run" if stage.codec else " and needs no other run"
    say(f"{out} holds {sum(v.numel() for v in weights.values()):,} parameters{others}.")
    return merged
