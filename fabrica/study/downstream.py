"""Does synthetic data help? The same task learned from real, synthetic, both, and augmented real images at equal
compute.

Judged on real patients whom no training saw (EVALUATION, section 5; honesty check 22): real images with classical
augmentation are the arm to beat, real images alone the ceiling of synthetic ones.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..contracts import Field, Job
from ..evaluate.honesty import endpoints
from ..evaluate.honesty.claim import FEW_FAILED, Claim, Verdict, declare, judge, refused
from ..evaluate.honesty.ledger import Ledger
from ..evaluate.judging.outcomes import Question, averaged, paired_figures, read_answers, set_figures
from ..evaluate.report.page import render
from ..evaluate.report.results import Report, StageResult
from ..evaluate.result import Figure, Result, Row
from ..evaluate.statistics import SMALLEST, interval, paired_test
from ..machine.executors import Executor, Local
from ..recipe.values import Recipe
from ..run.folder import RunFolder
from ..run.sequence import RunResult, run_recipe
from .arms import (
    ARMS,
    FIRST,
    PRETRAINED,
    UNKNOWN,
    arm_folder,
    arm_recipe,
    first_half,
    foreign,
    known_generator,
    number_in,
    second_half,
    with_patients,
)
from .training import train_apart

Say = Callable[[str], None]
TO_BEAT = "real, augmented"
SEEDS = 5  # trainings of an arm that carry a claim


@dataclass(frozen=True)
class Terms:
    """How arms are trained, and what is claimed of them.

    `trainer`: a command that is called with --train, --test (tables of files), --seed, --steps, --augment (strength; 0
    in all arms but one) and --out instead of training the recipe's family. `generator`: the run that made the synthetic
    images; its patients may not test here. `pretrain`: one arm more, which learns from synthetic images first;
    `patients`: so many real ones train.
    """

    seeds: int = SEEDS
    trainer: str | None = None
    generator: Path | None = None
    claim: Claim | None = None
    pretrain: bool = False
    patients: int | None = None
    executor: Executor | None = None  # who trains arms and seeds; this process, one after the other, when left out

    @property
    def arms(self) -> tuple[str, ...]:
        return (*ARMS, PRETRAINED) if self.pretrain else tuple(ARMS)


@dataclass(frozen=True)
class Arm:
    """What one way to train reached: per patient the mean over seeds, and how far seeds lie apart."""

    name: str
    endpoint: str
    value: Result
    seeds: tuple[float, ...]  # mean over patients, one a seed
    gain: Result | None = None  # over the arm to beat, on the same patients
    per_patient: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """All arms, where the page lies, and what was not known."""

    arms: tuple[Arm, ...]
    page: Path
    remarks: tuple[str, ...]
    verdict: Verdict | None = None

    def sentence(self) -> str:
        """What one may write."""
        found = {a.name: a for a in self.arms}
        mixed = self._of(found["real + synthetic"], "Adding synthetic images")
        if PRETRAINED not in found:
            return mixed
        return f"{mixed} {self._of(found[PRETRAINED], 'Learning from synthetic images first')}"

    def _of(self, best: Arm, doing: str) -> str:
        gain = best.gain
        if gain is None or gain.interval is None:
            return f"Nothing may be claimed of {best.value.n} test patients: at least {SMALLEST} are needed."
        low, high = gain.interval
        if endpoints.directed(best.endpoint) < 0:  # less of it is better
            low, high = -high, -low
        what = (
            f"{best.endpoint} {float(gain):+.4g} ({gain.interval[0]:.4g} to {gain.interval[1]:.4g}) over real images"
            " with augmentation"
        )
        if (low > 0 or high < 0) and len(best.seeds) < SEEDS:
            return f"{doing} changes {what}, on {len(best.seeds)} seeds: at least {SEEDS} carry a claim."
        if low > 0 and UNKNOWN in self.remarks:
            return f"{doing} helps here if their generator saw no test patient, which is not known: {what}."
        if low > 0:
            return f"{doing} helps here: {what}."
        return f"It was not shown that {doing[0].lower()}{doing[1:]} helps: {what}."


def compare_arms(
    plain: Mapping[str, Any], real: Path, synthetic: Path, out: Path, terms: Terms = Terms(), say: Say = print
) -> Comparison:
    """Run every arm of a one-stage recipe with a budget in steps, as often as `terms` ask; a finished arm is not run
    again.

    A claim's hash is written before anything is trained. Raises ValueError for a recipe that cannot be compared or a
    claim that its arms cannot answer, LeakError for a patient of the generator who tests here, RecipeError as
    `run_recipe`.
    """
    if terms.pretrain and terms.trainer is not None:
        raise ValueError("--pretrain is for recipes: a trainer of your own starts from no weights. Leave one out.")
    if terms.patients is not None:
        plain = with_patients(plain, terms.patients, real)
    recipes = {
        (arm, seed): arm_recipe(plain, arm, seed, real, synthetic) for arm in ARMS for seed in range(terms.seeds)
    }
    folders = {arm: [arm_folder(out, arm, seed) for seed in range(terms.seeds)] for arm in terms.arms}
    job, claim = recipes["real", 0].stages[0].build_job(), terms.claim
    if claim is not None:
        _check_answerable(claim, job, terms)
    stamp = declare(claim, out) if claim is not None else ""
    remarks = [known_generator(terms.generator, recipes["real", 0])]
    rows: dict[str, list[list[Row]]] = {arm: [] for arm in terms.arms}
    if terms.trainer is None and terms.executor is not None:
        asked = [(recipe, folders[arm][seed]) for (arm, seed), recipe in recipes.items()]
        train_apart([one for one in asked if _cases(one[1], one[0]) is None], terms.executor, say)
    for (arm, seed), recipe in recipes.items():
        folder = folders[arm][seed]
        say(f"{arm}, seed {seed}:")
        cases = _cases(folder, recipe) if terms.trainer is None else None
        if cases is None:
            cases = foreign(terms.trainer, recipe, folder) if terms.trainer else _trained(recipe, folder, say)
        rows[arm].append(cases)
    for seed in range(terms.seeds if terms.pretrain else 0):
        say(f"{PRETRAINED}, seed {seed}:")
        folder, halves = folders[PRETRAINED][seed], arm_folder(out, FIRST, seed)
        first = first_half(plain, seed, real, synthetic)
        if _cases(halves, first) is None:
            train_apart([(first, halves)], terms.executor or Local(), say)
        recipe = second_half(plain, seed, real, synthetic, RunFolder.open(halves))
        cases = _cases(folder, recipe)
        rows[PRETRAINED].append(_trained(recipe, folder, say) if cases is None else cases)
    if left := _keep_shared(rows):
        remarks.append(
            f"{left} test patients were not tested by every arm (their images are copies of training ones) and are left"
            " out."
        )
    arms = _judged(rows, claim.endpoint if claim is not None else "")
    figures = _figures(job.signature().x[0], folders) if job.answer == "value" and terms.trainer is None else {}
    if job.answer == "value" and not figures:
        remarks.append(
            "AUC and calibration of the arms need the answers of every arm, which this folder does not hold."
        )
    said = [r for r in remarks if r]
    ledger = _checked(said, arms, terms.trainer is not None)
    verdict = None if claim is None else _verdict(claim, arms, _failures(claim, rows), ledger, stamp)
    found = Comparison(arms, out / "index.html", tuple(said), verdict)
    return replace(found, page=_page(found, rows, plain, ledger, figures))


def _check_answerable(claim: Claim, job: Job, terms: Terms) -> None:
    """Raise ValueError when no result of these arms could answer the claim, with what to type."""
    if not claim.arm:
        raise ValueError(
            "The claim names no arm. Write: about: utility, arm: real + synthetic, against: real, augmented; claims on"
            " images are tested by: fabrica evaluate --claim FILE"
        )
    answers = ("correct", "log loss") if job.signature().x[0].classes else ("absolute error",)
    known = answers if job.answer == "value" else endpoints.SEGMENTED
    if terms.trainer is None and claim.endpoint not in known:
        raise ValueError(f"{claim.endpoint} is not measured per patient here. Write one of: {', '.join(known)}.")
    if terms.seeds < SEEDS:
        raise ValueError(f"A claim on arms needs {SEEDS} seeds at least, got {terms.seeds}. Write: --seeds {SEEDS}")
    if claim.seeds_started is not None and claim.seeds_started != terms.seeds:
        raise ValueError(f"The claim says {claim.seeds_started} seeds, --seeds says {terms.seeds}. Write the same.")


def _failures(claim: Claim, rows: Mapping[str, Sequence[Sequence[Row]]]) -> str:
    """Why the claimed arms cannot be compared: too many patients without a number; '' when they can."""
    everybody = {r.patient for cases in rows["real"] for r in cases}
    for arm in (claim.arm, claim.against):
        sides = [
            {r.patient for r in cases if _is(r, claim.endpoint) and endpoints.number(r.value) is not None}
            for cases in rows[arm]
        ]
        if (lost := sum(len(everybody - known) for known in sides)) > FEW_FAILED * len(everybody) * len(sides):
            return (
                f"{lost} of {len(everybody) * len(sides)} answers of the arm {arm} have no {claim.endpoint}: at most"
                f" {FEW_FAILED:.0%} may."
            )
    return ""


def _verdict(claim: Claim, arms: Sequence[Arm], failures: str, ledger: Ledger, stamp: str) -> Verdict:
    """Of one arm against another on the same patients, means over seeds; it falls with every check that refused."""
    found = {a.name: a.per_patient for a in arms}
    rival = f"the model that learned from {claim.against} images"
    verdict = judge(claim, found[claim.arm], found[claim.against], {p: p for p in found[claim.arm]}, stamp, rival)
    if claim.verb == "superiority" and "synthetic" in claim.arm and claim.against == "real":
        ledger.trigger(22, f"More than real images alone may be augmentation alone. Write: against: {TO_BEAT}")
    if verdict.patients < SMALLEST:
        ledger.trigger(16, verdict.may)
    if stamp:
        ledger.trigger(17, stamp)
    ledger.passed(16, f"{verdict.patients} patients.")
    ledger.passed(17, "The claim's hash was written before anything was trained.")
    reasons = [f"check {f.number}: {f.why}" for f in ledger.table() if f.status == "refused" and f.number != 16]
    reasons += [failures] if failures else []
    if not reasons:
        return verdict
    return refused(claim, "; ".join(reasons), verdict.patients, verdict.remarks)


def _figures(field: Field, folders: Mapping[str, Sequence[Path]]) -> dict[str, list[Figure]]:
    """Per arm what its mean answers over seeds reach on all patients (AUC, calibration, agreement), and AUC beside the
    arm to beat.
    """
    tables = {arm: [f / "answers" / "model.csv" for f in own] for arm, own in folders.items()}
    if not all(t.is_file() for own in tables.values() for t in own):
        return {}
    answers = {arm: averaged([read_answers(t)[1] for t in own]) for arm, own in tables.items()}
    question, figures = Question(field.name, field.classes, field.unit, 0.0), dict[str, list[Figure]]()
    for arm, found in answers.items():
        figures[arm] = set_figures(arm, question, found)
        if arm != TO_BEAT:
            figures[arm] += paired_figures(arm, question, found, answers[TO_BEAT], TO_BEAT)
    return figures


def _keep_shared(rows: dict[str, list[list[Row]]]) -> int:
    """Only patients whom every arm tested stay; returns how many are left out. Raises ValueError when they are many."""
    tested = [{r.patient for r in cases} for seeds in rows.values() for cases in seeds]
    shared, everybody = set.intersection(*tested), set.union(*tested)
    if len(shared) < 0.9 * len(everybody):
        raise ValueError(
            "The arms in this folder were tested on different patients. Compare into another folder: --out DIR"
        )
    for seeds in rows.values():
        seeds[:] = [[r for r in cases if r.patient in shared] for cases in seeds]
    return len(everybody - shared)


def _trained(recipe: Recipe, folder: Path, say: Say) -> list[Row]:
    result: RunResult = run_recipe(recipe, folder, say=say)
    return result.report.stages[0].cases


def _cases(folder: Path, recipe: Recipe) -> list[Row] | None:
    """What a finished arm has found; raises ValueError when the folder was made by another recipe."""
    table, before = folder / "report" / "cases.csv", folder / "recipe.yaml"
    if before.is_file() and yaml.safe_load(before.read_text()) != recipe.plain():
        raise ValueError(f"{folder} was made by another recipe. Compare into another folder: --out DIR")
    if not table.is_file():
        return None
    with table.open(newline="") as file:
        return [
            Row(r["case"], r["patient"], r["contrast"], r["by"], r["metric"], number_in(r["value"]), r["unit"])
            for r in csv.DictReader(file)
        ]


def _judged(rows: Mapping[str, Sequence[Sequence[Row]]], endpoint: str = "") -> tuple[Arm, ...]:
    """By the claim's endpoint, or the first that there is."""
    endpoint = endpoint or next(
        r.metric for r in rows["real"][0] if r.by.startswith("model") and not r.metric.startswith("seconds")
    )
    values = [
        endpoints.number(r.value) for seeds in rows.values() for cases in seeds for r in cases if _is(r, endpoint)
    ]
    endpoints.directed(endpoint)
    bounds = endpoints.bounds_of(endpoint, values)
    if bounds is None:
        raise ValueError(f"No case of any arm has a number for {endpoint}. Look at the arms' own reports.")
    everybody = {r.patient for cases in rows["real"] for r in cases}
    scores = {arm: [_by_patient(cases, endpoint, everybody, bounds) for cases in seeds] for arm, seeds in rows.items()}
    mean = {arm: {p: float(np.mean([s[p] for s in seeds])) for p in seeds[0]} for arm, seeds in scores.items()}
    patients = list(mean[TO_BEAT])
    arms = []
    for arm in rows:
        own = [mean[arm][p] for p in patients]
        gain = None if arm == TO_BEAT else paired_test(own, [mean[TO_BEAT][p] for p in patients], patients)
        each = tuple(float(np.mean(list(s.values()))) for s in scores[arm])
        arms.append(Arm(arm, endpoint, interval(own, patients), each, gain, mean[arm]))
    return tuple(arms)


def _is(row: Row, metric: str) -> bool:
    return row.metric == metric and row.by.startswith("model")


def _by_patient(
    cases: Sequence[Row], metric: str, everybody: Collection[str], bounds: tuple[float, float]
) -> dict[str, float]:
    """A patient's mean; what failed or was left out counts as the worst value of any arm."""
    found: dict[str, list[float]] = {p: [] for p in everybody}
    for r in cases:
        if _is(r, metric):
            found[r.patient].append(endpoints.filled(endpoints.number(r.value), bounds, endpoints.directed(metric)))
    return {p: float(np.mean(v)) if v else bounds[0] for p, v in found.items()}


def _checked(remarks: Sequence[str], arms: Sequence[Arm], foreign: bool) -> Ledger:
    """The honesty checks that this comparison answers by the way it is made."""
    ledger = Ledger()
    if UNKNOWN in remarks:
        ledger.trigger(1, UNKNOWN)
    ledger.passed(1, "No patient on whom the generator was trained tests here.")
    ledger.passed(2, "A patient's images and seeds are averaged before anything is inferred.")
    ledger.passed(18, f"All {len(arms[0].seeds)} seeds of every arm are shown.")
    ledger.passed(19, "What failed or was left out counts as the worst value of any arm.")
    ledger.passed(20, "A gain that was not found is said to prove nothing.")
    who = (
        "The trainer was told equal steps for every arm, and to augment one" if foreign else "Equal steps in every arm"
    )
    ledger.passed(22, f"{who}; gains are over {TO_BEAT}.")
    return ledger


def _page(
    found: Comparison, rows: Mapping[str, Sequence[Sequence[Row]]], plain: Mapping[str, Any], ledger: Ledger,
    figures: Mapping[str, list[Figure]],
) -> Path:  # fmt: skip
    arms, out = found.arms, found.page.parent
    report = Report.start(dict(plain), out.name)
    report.title, report.verdict, report.ledger = "Does synthetic data help?", found.verdict, ledger
    for remark in found.remarks:
        report.remark(remark)
    for arm, seeds in rows.items():
        cases, own = [r for seed in seeds for r in seed], figures.get(arm, [])
        report.stages.append(StageResult(arm, "downstream", "", {}, 0, 0.0, [], cases=cases, figures=own))
    spread = [f"{a.name}: {min(a.seeds):.3g} to {max(a.seeds):.3g} over {len(a.seeds)} seeds" for a in arms]
    report.remark(f"{arms[0].endpoint} by seed: {'; '.join(spread)}.")
    report.said = found.sentence()
    plain_arms = [
        {
            "arm": a.name,
            "endpoint": a.endpoint,
            "value": float(a.value),
            "interval": a.value.interval,
            "n": a.value.n,
            "seeds": list(a.seeds),
            "gain": (
                None
                if a.gain is None
                else {"value": float(a.gain), "interval": a.gain.interval, "p_value": a.gain.p_value}
            ),
        }
        for a in arms
    ]
    out.mkdir(parents=True, exist_ok=True)
    (out / "downstream.json").write_text(json.dumps({"sentence": report.said, "arms": plain_arms}, indent=1))
    return render(report, out)
