"""From a checked recipe and its cohorts to a stage that can train: select, split, fit the preparation, fill the
store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contracts import Case, Field, Job, Signature
from ..data.cases import LEFT_OUT, PLANNED, left_out, load_aligned, prepare_case
from ..data.cohort import Cohort, Member
from ..data.prepare import GridPreparation
from ..data.prepare import fit as fit_preparation
from ..data.split import PARTS, Split, check_leakage, copies, fingerprint, may_train, split_cohort
from ..data.store import Store, build_store
from ..data.subwords import learned_from
from ..data.worded import texts_of
from ..evaluate.report.results import Report
from ..io import UnreadableError
from ..jobs import layout_of
from ..jobs.values import wide_covariates
from ..learning.facts import facts_of
from ..learning.lineage import trained_elsewhere
from ..machine.processes import ALONE, Processes
from ..networks.joint import beyond
from ..recipe.values import Recipe, Stage
from ..safeguards.uncertainty import check_enough
from .folder import RunFolder
from .private import public_preparation
from .stage import PreparedStage

Say = Callable[[str], None]


def split_stage(recipe: Recipe, stage: Stage, data: Mapping[str, Cohort]) -> Split:
    """Who trains and who tests in a stage: as the recipe says, or as in the stage that it takes its input from.

    Then patients whom that stage could not use may only train; whom the recipe gives to no part stays out. Raises
    ValueError when nobody can be used or judged.
    """
    job = stage.build_job()
    signature = job.signature()
    asked, given = signature.asked, set(signature.given)
    own = {name: job.gathered(data[name].members) for name in stage.cohorts}
    merged = Cohort(
        tuple(m for name in stage.cohorts for m in own[name]), name="+".join(stage.cohorts),
        doubts=tuple(doubt for name in stage.cohorts for doubt in data[name].doubts),
    )  # fmt: skip
    trainers = {id(m) for name in recipe.split.get("only_train", ()) if name in stage.cohorts for m in own[name]}
    measured = set(signature.measurements)
    wanted = {n for n in asked if n not in given}
    usable = replace(merged, members=tuple(m for m in merged.members if _can_be_used(m, wanted, measured)))
    if not stage.inputs:
        usable = replace(usable, members=tuple(m for m in usable.members if not given or given & set(m.contrasts())))
    if usable.members and not any(has_values(job, m.values) for m in usable.members):
        raise ValueError(_no_values(job, usable))
    usable = replace(usable, members=tuple(m for m in usable.members if has_values(job, m.values)))
    if not usable.members:
        have = ", ".join(sorted({c for m in merged.members for c in m.contrasts()})) or "no images"
        raise ValueError(
            f"No patient has {', '.join(n for n in asked if n not in given) or ', '.join(asked)}; found {have}. "
            f"Name what there is: --write-table files.csv, then table: files.csv."
        )
    sources = dict.fromkeys(plan.stage for plan in stage.inputs.values())
    before = [n for n in (*sources, stage.codec) if n is not None]
    if not before:
        free = replace(usable, members=tuple(m for m in usable.members if id(m) not in trainers))
        more = [m for m in usable.members if id(m) in trainers]
        return split_cohort(free, recipe.split, recipe.split.get("seed", recipe.seed), more)
    earlier = [split_stage(recipe, recipe.stage(name), data) for name in before]
    part_of: dict[str, str] = {}
    for split in earlier:  # whoever trained any of them only trains; patients that none of them knows, too
        for part in reversed(PARTS):
            for m in split.parts[part]:
                part_of[m.patient] = "train" if "train" in (part, part_of.get(m.patient, part)) else part
    left = {p for split in earlier for p in split.left_out}
    left |= {p for p in usable.patients if p not in part_of and not may_train(recipe.split, p)}
    members = [m for m in usable.members if m.patient not in left or m.patient in part_of]
    parts = {p: tuple(m for m in members if part_of.get(m.patient, "train") == p) for p in PARTS}
    parts["train"] = tuple(m for m in parts["train"] if not given or given & set(m.contrasts()))
    if not parts["test"]:
        raise ValueError(
            f"No test patient of stage {before[0]} has what {stage.name} is judged by. See: fabrica inspect DIR"
        )
    return Split(parts, frozenset(left))


def _values_asked(job: Job) -> list[Field]:
    """Values of a case that training and judging compare with."""
    return [*(f for f in job.signature().x if f.kind in ("number", "class")), *job.recorded]


def has_values(job: Job, values: Mapping[str, Any]) -> bool:
    """Whether a case says the values that are asked for, as one of its classes where it has classes."""
    return all(f.name in values and f.says(values[f.name]) for f in _values_asked(job))


def _can_be_used(member: Member, wanted: Set[str], measured: Set[str]) -> bool:
    """Whether a case has what is asked for, or what is measured of it."""
    known = set(member.contrasts())
    return wanted <= known or bool(measured and measured <= known)


def _no_values(job: Job, cohort: Cohort) -> str:
    asked = _values_asked(job)[0]
    found = sorted({f"{k} {v}" for m in cohort.members for k, v in m.values.items()})[:8]
    return (
        f"No case says its {asked.name} as the job wants it; found {', '.join(found) or 'no values'}. "
        f"Name it in a table: --write-table files.csv, add a column {asked.name}, then table: files.csv."
    )


def prepare_stage(
    run: RunFolder, stage: Stage, data: Mapping[str, Cohort], place: Path, say: Say, report: Report,
    processes: Processes = ALONE,
) -> PreparedStage:  # fmt: skip
    """Select, split, fit the preparation, fill the store in `place`, check for leaks."""
    started, split = time.perf_counter(), split_stage(run.recipe, stage, data)
    job = stage.build_job().fitted(split.parts["train"], run.home(stage), run.recipe.seed, say)
    split = replace(split, parts={part: job.completed(own) for part, own in split.parts.items()})
    signature = job.signature()
    contrasts = tuple(dict.fromkeys((*signature.given, *signature.asked, *job.simulates, *job.weighed_by)))
    reference = job.reference or (signature.asked or signature.given)[0]
    train = split.parts["train"]
    if fault := wide_covariates(signature.values, [m.values for m in train]) or _beyond(signature, train):
        raise ValueError(fault)
    if run.recipe.evaluate.coverage is not None and any(f.kind == "intensity" for f in signature.x):
        check_enough(len({m.patient for m in split.parts["validate"]}), run.recipe.evaluate.coverage)
    read = [name for name in contrasts if name not in job.weighed_by]
    preparation = public_preparation(_preparation(stage, signature, train, read, reference, split), stage)
    sharded = stage.prepare.store == "zarr"
    store, remarks = build_store(place / stage.name, train, contrasts, reference, preparation, processes, sharded)
    preparation = _with_words(_as_started(preparation, stage), job, store)
    used = (*contrasts, *job.judged_with, *signature.measurements, "lesion", run.recipe.evaluate.mask or "lesion")
    prints, unusable = _thumbnails(split, used, reference, preparation)
    for remark in (*remarks, *unusable):
        say(remark)
        report.remark(remark)
    names = {"train": {e.name for e in store.entries}, **{part: set(found) for part, found in prints.items()}}
    alone = bool(stage.trained) and job.answer == "image"  # other answers are held against those of the training part
    split = _readable(split, names, [*unusable, *(r for r in remarks if LEFT_OUT in r)], taught=not alone)
    known = {part: {n: f for n, f in own.items() if f is not None} for part, own in prints.items()}
    named = any(isinstance(run.recipe.split.get(part), list) for part in PARTS)
    split = _without_copies({"train": store.fingerprints(reference), **known}, split, named, report)
    size = _patch(stage, preparation)
    _say_prepared(stage, split, size, time.perf_counter() - started, say, report)
    return PreparedStage(run, stage, job, split, reference, preparation, store, layout_of(job, size, preparation.words))


def _as_started(preparation: GridPreparation, stage: Stage) -> GridPreparation:
    """With the words that the weights it starts from know: others' numbers would mean other words to them. Raises
    ValueError where an image came in another unit there.
    """
    known = facts_of(Path(stage.train.start)) if stage.train.start else None
    if known is None:
        return preparation
    theirs = known.grid_preparation
    for name in preparation.scales.keys() & theirs.scales.keys():
        one, other = preparation.units.get(name, "a.u."), theirs.units.get(name, "a.u.")
        if one != other:
            raise ValueError(
                f"{name} is in {one}, and the weights in {stage.train.start} know it in {other}. Say its unit: --unit"
                f" {name}={other}"
            )
    return replace(preparation, words=theirs.words)


def _beyond(signature: Signature, members: Sequence[Member]) -> str:
    """Why a number of a training case cannot be learned as a word; '' where all can."""
    said = ((f, m.values[f.name]) for f in signature.beside for m in members if f.name in m.values)
    return next((why for f, v in said if isinstance(v, int | float) and (why := beyond(f, v))), "")


def _with_words(preparation: GridPreparation, job: Job, store: Store) -> GridPreparation:
    """With the words of the training part's texts, where a job has texts and no other run has learned them."""
    learned = dict(preparation.words)
    for f in job.signature().values:
        if f.kind != "token" or f.name in learned:
            continue
        label = job.described.get(f.name, "")
        masks = (
            (store.array(e, label)[0], e.useful, np.array(e.affine)) for e in store.entries if label in e.files
        )  # fmt: skip
        texts = texts_of(masks, [e.values for e in store.entries], f.name)
        learned[f.name] = learned_from(texts, f.channels)
    return replace(preparation, words=learned)


def _preparation(
    stage: Stage, signature: Signature, train: Sequence[Member], contrasts: Sequence[str], reference: str, split: Split
) -> GridPreparation:  # fmt: skip
    """Fitted on the training part, or that of the run which trained the stage."""
    if stage.trained:
        return trained_elsewhere(stage.trained, split)
    why: list[str] = []
    computed = {f.name for f in signature.condition if f.unit in PLANNED}  # on a scale that is known
    cases, plan = _aligned(train, [n for n in contrasts if n not in computed], reference, why), stage.prepare
    try:
        return fit_preparation(
            cases, reference, signature.grid_axes, plan.spacing_mm, plan.multiple, dict(signature.labels),
            plan.resample,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"{why[0]} {error}" if why else str(error)) from error


def _patch(stage: Stage, preparation: GridPreparation) -> tuple[int, int, int]:
    """(z, y, x) of what a network is shown in training."""
    z, y, x = preparation.size
    if stage.prepare.size is not None:
        *deep, y, x = stage.prepare.size
        z = deep[0] if deep else z
    return (1 if preparation.axes == "yx" else z, y, x)


def _say_prepared(stage: Stage, split: Split, size: Sequence[int], seconds: float, say: Say, report: Report) -> None:
    counts = ", ".join(f"{len({m.patient for m in split.parts[p]})} {p}" for p in PARTS if split.parts[p])
    say(f"{stage.name}: {counts} patients; grid {' x '.join(map(str, size))}; prepared in {seconds:.0f} s.")
    if stage.inputs:
        others = " and ".join(dict.fromkeys(plan.stage for plan in stage.inputs.values()))
        report.remark(f"{stage.name} was trained on the images of its cohort and judged on those that {others} drew.")
    if split.empty:
        report.remark(f"Parts of the split without patients: {', '.join(split.empty)}.")


def _aligned(members: Sequence[Member], contrasts: Sequence[str], reference: str, why: list[str]) -> Iterator[Case]:
    """Cases one by one; of what cannot be read `why` says the reason."""
    for member in members:
        try:
            case, _ = load_aligned(member, contrasts, reference)
        except UnreadableError as error:
            why.append(left_out(member, error))
            continue
        if reference in case.images:
            yield case


def _thumbnails(
    split: Split, contrasts: Sequence[str], reference: str, preparation: GridPreparation
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Of all parts but training: part -> case -> fingerprint (None without the reference), and why others cannot be
    used.

    Every image that judging will need is read, so that an odd file is found before hours of training.
    """
    prints: dict[str, dict[str, Any]] = {part: {} for part in PARTS[1:]}
    unusable = []
    for part, found in prints.items():
        for member in split.parts[part]:
            try:
                prepared = prepare_case(member, contrasts, reference, preparation)
            except UnreadableError as error:
                unusable.append(left_out(member, error))
                continue
            image = prepared.tensors.get(reference)
            found[member.name] = None if image is None else fingerprint(image.numpy())
    return prints, unusable


def _readable(split: Split, names: Mapping[str, set[str]], why: Sequence[str], *, taught: bool = True) -> Split:
    """Only cases that could be read; raises ValueError when that leaves a part without patients that needs some."""
    parts = {part: tuple(m for m in own if m.name in names[part]) for part, own in split.parts.items()}
    if taught and not parts["train"]:
        raise ValueError(
            f"There is nothing to train on: the training part holds no readable cases. {' '.join(why[:1])} "
            "See: fabrica inspect DIR."
        )
    if split.parts["test"] and not parts["test"]:
        raise ValueError(f"No test patient can be read. {' '.join(why[:1])} See: fabrica inspect DIR.")
    return Split(parts, split.left_out)


def _without_copies(
    prints: Mapping[str, Mapping[str, NDArray[np.float32]]], split: Split, named: bool, report: Report
) -> Split:
    """The split without images that training shows too: refused where it was named, left out and said where it was
    drawn.

    Compares thumbnails of training and other parts; the box is centred on the patient, so grids agree.
    """
    if named:
        check_leakage(prints)
        return split
    found = copies(prints)
    lost = {(part, case) for _, _, part, case, _ in found}
    parts = {p: tuple(m for m in members if (p, m.name) not in lost) for p, members in split.parts.items()}
    if split.parts["test"] and not parts["test"]:
        check_leakage(prints)
    if found:
        _, case, part, copy, _ = found[0]
        one = f"{copy} ({part}) shows the same image as {case}"
        report.remark(f"{len(lost)} cases show images of another part of the split and were left out: {one}.")
    return Split(parts, split.left_out)
