"""A study declared before its data: weights, claim, sample size and looks are fixed by a hash, then new patients come.

Freezing copies what draws and what it is compared with, and hashes all of it. A look checks the hashes, refuses
patients whom training has seen, leaves out whom the exclusions name, is counted before anything is drawn, and judges
the claim at its share of alpha (Bonferroni over the looks that were declared).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from .. import __version__
from ..data.cohort import Cohort, Member, find
from ..data.split import LeakError, patient_hash
from ..deliver.files import write_whole
from ..deliver.record import hash_of
from ..evaluate.honesty import endpoints
from ..evaluate.honesty.claim import Claim, Verdict, judge, refused
from ..evaluate.report.page import render
from ..evaluate.result import Row
from ..learning.facts import facts_of
from ..machine.folders import alone
from ..recipe.checks import from_plain
from ..recipe.values import Recipe, Stage
from ..run.folder import RECIPE, RunFolder
from ..run.sequence import run_recipe
from .declared import Exclusion, Plan

STUDY, LOOKS, FROZEN = "study.json", "looks.json", "frozen"
MODEL, RIVAL = "model", "rival"
Say = Callable[[str], None]


def freeze(run: Path, plan: Plan, out: Path, say: Say, stage: str | None = None) -> str:
    """Copy and hash what the study draws with; returns the hash of the study, to be written down somewhere else.

    Raises ValueError for a run that is not trained, a claim that it cannot answer, and a folder that is in use.
    """
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty. A study is frozen into a folder of its own: --out DIR")
    opened = RunFolder.open(run)
    model = opened.last_stage(stage)
    stages = {MODEL: model, **({RIVAL: _rival(opened, model)} if plan.claim.against == "competitor" else {})}
    _check_answerable(plan.claim, stages.values(), opened)
    frozen = out / FROZEN
    frozen.mkdir(parents=True)
    (frozen / RECIPE).write_text(yaml.safe_dump(_plain(opened.recipe, stages.values()), sort_keys=False))
    for one in stages.values():
        target = frozen / "stages" / one.name
        target.mkdir(parents=True)
        for file in sorted(p for p in opened.home(one).iterdir() if p.is_file()):
            shutil.copyfile(file, target / file.name)
    names = {role: one.name for role, one in stages.items()}
    body = {
        "format": 1, "frozen": datetime.now(UTC).isoformat(timespec="seconds"), "fabrica": __version__,
        "claim": asdict(plan.claim), "patients": plan.patients, "looks": plan.looks,
        "exclusions": [asdict(rule) for rule in plan.exclusions], "stages": names, "files": _hashes(frozen),
    }  # fmt: skip
    digest = _digest(body)
    write_whole(out / STUDY, json.dumps({**body, "sha256": digest}, indent=1).encode())
    say(f"Frozen: {plan.patients} patients, {plan.looks} look{'s' * (plan.looks > 1)}, {plan.claim.endpoint}.")
    say(f"Its hash is {digest}. Write it down where nobody can change it: a registry, a letter, a protocol.")
    return digest


def _plain(recipe: Recipe, stages: Iterable[Stage]) -> dict[str, Any]:
    """A recipe of these stages, each as it was trained, and of nobody's data."""
    found = {}
    for stage in stages:
        network = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(stage.network).items()}
        found[stage.name] = {
            "job": {"name": stage.job.name, **stage.job.options},
            "family": {"name": stage.family.name, **stage.family.options, "network": network},
            "train": {"steps": 1},
        }
        if stage.sampler is not None:
            found[stage.name]["sampler"] = {"name": stage.sampler.name, **stage.sampler.options}
        if stage.guidance is not None:
            found[stage.name]["guidance"] = asdict(stage.guidance)
    evaluate = {"draws": recipe.evaluate.draws, **({"mask": recipe.evaluate.mask} if recipe.evaluate.mask else {})}
    whole = {
        "cohorts": {"new": {"path": "."}},
        "stages": found,
        "baseline": "none",
        "evaluate": evaluate,
        "seed": recipe.seed,
    }
    plain: dict[str, Any] = json.loads(json.dumps(whole))
    from_plain(plain)
    return plain


def _rival(run: RunFolder, model: Stage) -> Stage:
    """The other stage that answers the same question."""
    found = [s for s in run.recipe.stages if s.job == model.job and s.name != model.name]
    if len(found) != 1:
        known = ", ".join(s.name for s in found) or "none"
        raise ValueError(
            f"A competitor is one other stage of the run with the job of {model.name}; found {known}. "
            "Keep the recipe's baseline (baseline: regression), or write: against: goal"
        )
    return found[0]


def _check_answerable(claim: Claim, stages: Iterable[Stage], run: RunFolder) -> None:
    for stage in stages:
        job = stage.build_job()
        facts = run.facts(stage)
        if facts is None or not facts.finished:
            raise ValueError(f"{stage.name} is not trained to its end. Type: fabrica run {run.path}")
        if job.answer != "image" or job.signature().measurements:
            raise ValueError(f"{stage.name} asks for {stage.job.name}: studies judge images told from images.")
        if stage.codec is not None or stage.equalised or stage.inputs or stage.trained is not None:
            raise ValueError(f"{stage.name} builds on another stage; a study freezes one that answers alone so far.")
        measured = (*job.metrics, *run.recipe.evaluate.metrics)
        if claim.endpoint not in measured:
            raise ValueError(f"{claim.endpoint} is not measured by this run. Write one of: {', '.join(measured)}")


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hash_of(p) for p in files}


def _contents(member: Member) -> list[str]:
    """Of the files of a case: a look that was begun is ended on these, wherever they lie by then."""
    return [hash_of(file) for scan in member.scans_of(member.contrasts()) for file in scan.files]


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Study:
    """A frozen study as it lies in its folder."""

    path: Path
    plan: Plan
    stages: Mapping[str, str]  # model and, where there is one, rival -> the stage in the frozen run
    frozen: str  # when
    version: str
    digest: str

    @staticmethod
    def open(path: Path) -> Study:
        """Raises ValueError where a file is missing, was added or changed since, and for a damaged declaration."""
        try:
            plain = json.loads((path / STUDY).read_text())
            digest = plain.pop("sha256")
            rules = tuple(Exclusion(r["value"], r["below"], r["above"], tuple(r["words"])) for r in plain["exclusions"])
            plan = Plan(Claim(**plain["claim"]), int(plain["patients"]), rules, int(plain["looks"]))
            made = Study(path, plan, dict(plain["stages"]), str(plain["frozen"]), str(plain["fabrica"]), str(digest))
            files = dict(plain["files"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} holds no study that can be read ({error}). Freeze one: fabrica freeze RUN"
            ) from error
        if _digest(plain) != digest:
            raise ValueError(
                f"{path / STUDY} was changed after it was frozen: what was declared is not known any more."
            )
        now = _hashes(path / FROZEN)
        if odd := sorted({n for n in {*files, *now} if files.get(n) != now.get(n)}):
            raise ValueError(f"{odd[0]} is not what was frozen on {made.frozen}. Other weights are another study.")
        return made

    def looks(self) -> list[dict[str, Any]]:
        """What was looked at before; raises ValueError where that can no longer be read."""
        file = self.path / LOOKS
        if not file.is_file():
            return []
        try:
            found = json.loads(file.read_text())
            if isinstance(found, list) and all(one["study"] == self.digest for one in found):
                return found
        except (ValueError, KeyError, TypeError):
            pass
        raise ValueError(f"{file} is damaged or of another study: how often was looked is not known any more.")

    def note(self, looks: Sequence[Mapping[str, Any]]) -> None:
        write_whole(self.path / LOOKS, json.dumps(list(looks), indent=1).encode())


def look(path: Path, data: Path, say: Say, device: str = "cpu") -> Verdict:
    """Draw and judge what was declared, on new patients; trains nothing. The page lies in STUDY/looks/N/report.

    Raises ValueError for a study that ended, too few or too many patients, and as `Study.open`; LeakError for patients
    whom training has seen. None of these count as a look.
    """
    with alone(path / ".looking") as free:
        if not free:
            raise ValueError(f"{path} is being looked at by another process.")
        study = Study.open(path)
        before = study.looks()
        cohort, left_out = _enrolled(study, find(data))
        whom = _digest({m.name: _contents(m) for m in cohort.members})
        number = _number(study, before, len(cohort.patients), whom)
        if number > len(before):
            begun = datetime.now(UTC).isoformat(timespec="seconds")
            entry = {
                "study": study.digest,
                "look": number,
                "begun": begun,
                "cases": whom,
                "patients": len(cohort.patients),
            }
            before = [*before, entry]
            study.note(before)  # counted before anybody has seen anything
        return _judged(study, before, data, cohort, left_out, say, device)


def _enrolled(study: Study, cohort: Cohort) -> tuple[Cohort, list[str]]:
    """Whoever belongs, and a line for each who does not."""
    kept, left = list[Member](), list[str]()
    for member in cohort.members:
        rules = []
        for rule in study.plan.exclusions:
            try:
                if rule.holds(member.values):
                    rules.append(rule)
            except ValueError as error:
                raise ValueError(f"{member.name} {error}") from error
        if rules:
            left.append(f"{member.name} is excluded: {rules[0].in_words()}.")
        else:
            kept.append(member)
    seen: set[str] = set()
    for stage in study.stages.values():
        facts = facts_of(study.path / FROZEN / "stages" / stage)
        seen |= facts.trained_on if facts else set()
    if known := sorted({m.patient for m in kept if patient_hash(m.patient) in seen}):
        raise LeakError(f"{', '.join(known[:5])} trained these weights. A study is about patients who come after it.")
    return replace(cohort, members=tuple(kept)), left


def _number(study: Study, before: Sequence[Mapping[str, Any]], patients: int, whom: str) -> int:
    """Which look this is; the last one again where it was begun on the same cases and not ended."""
    plan = study.plan
    if before and "status" not in before[-1]:
        if before[-1]["cases"] != whom:
            raise ValueError("The last look was begun on other cases and did not end. End it: give the same data.")
        return len(before)
    if before and before[-1]["status"] == "SUPPORTED":
        raise ValueError(
            f"The study ended with look {len(before)}: its claim was supported. There is nothing to look at."
        )
    number = len(before) + 1
    if number > plan.looks:
        raise ValueError(f"All {plan.looks} declared looks were taken. Another one is another study: fabrica freeze")
    due = plan.due(number)
    if patients < due:
        raise ValueError(
            f"Look {number} of {plan.looks} is due at {due} patients, {patients} are here. Nothing was seen."
        )
    if patients > plan.patients:
        raise ValueError(
            f"{patients} patients are here, {plan.patients} were declared. Nobody may choose among them now:"
            " give the first ones who came."
        )
    return number


def _judged(
    study: Study, looks: list[dict[str, Any]], data: Path, cohort: Cohort, left_out: Sequence[str], say: Say,
    device: str,
) -> Verdict:  # fmt: skip
    number, plan = len(looks), study.plan
    recipe = _recipe(study, data, cohort.patients)
    result = run_recipe(recipe, study.path / "looks" / str(number), say=say, device=device)
    report = result.report
    lines = [
        f"Declared on {study.frozen} as {study.digest}, before these patients: {plan.patients} patients, "
        f"{plan.looks} look{'s' * (plan.looks > 1)}. This is look {number}, begun {looks[-1]['begun']}.",
        *left_out,
    ]
    if study.version != __version__:
        lines.append(f"Frozen with Fabrica {study.version}, looked at with {__version__}.")
    for line in lines:
        report.remark(line)
    verdict = _verdict(study, {s.name: s.cases for s in report.stages}, lines[:1])
    if report.ledger is not None and (why := [f.why for f in report.ledger.table() if f.status == "refused"]):
        verdict = refused(verdict.claim, why[0], verdict.patients, verdict.remarks)
    report.verdict = verdict
    render(report, result.folder / "report")
    looks[-1] |= {"status": verdict.status, "ended": datetime.now(UTC).isoformat(timespec="seconds")}
    study.note(looks)
    say(f"{verdict.status}: {verdict.may}")
    return verdict


def _recipe(study: Study, data: Path, patients: Sequence[str]) -> Recipe:
    """The frozen stages with their samplers and guidance, on these patients, all of whom test."""
    plain = RunFolder.open(study.path / FROZEN).recipe.plain()
    stages = {}
    for role, name in study.stages.items():
        own = {k: v for k, v in plain["stages"][name].items() if k in ("job", "sampler", "guidance")}
        stages[role] = {**own, "family": {"run": str(study.path / FROZEN), "stage": name}}
    measured = {"metrics": [study.plan.claim.endpoint], "realism": 0, "evaluations": []}
    asked = {
        **plain, "cohorts": {"new": {"path": str(data)}}, "split": {"test": list(patients)}, "stages": stages,
        "evaluate": {**plain["evaluate"], **measured},
    }  # fmt: skip
    return from_plain(asked, str(study.path))


def _verdict(study: Study, rows: Mapping[str, Sequence[Row]], said: Sequence[str]) -> Verdict:
    """The claim at its share of alpha, of one draw a case: what a clinic would be handed."""
    plan = study.plan
    claim = replace(plan.claim, alpha=plan.claim.alpha / plan.looks)
    patients = {r.case: r.patient for own in rows.values() for r in own}

    def side(stage: str) -> dict[str, float | None]:
        own = [r for r in rows[stage] if r.metric == claim.endpoint and r.by in ("model", "model: one draw")]
        return {**dict.fromkeys(patients), **{r.case: endpoints.number(r.value) for r in own}}

    theirs = side(RIVAL) if RIVAL in rows else dict.fromkeys(patients, plan.claim.goal)
    verdict = judge(claim, side(MODEL), theirs, patients)
    shared = (f"alpha {plan.claim.alpha:g} over {plan.looks} looks.",) if plan.looks > 1 else ()
    return replace(verdict, digest=study.digest, remarks=(*verdict.remarks, *said, *shared))
