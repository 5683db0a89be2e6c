"""Shadow models: the same training on other people, so that an attack knows how hard each person is without it.

LiRA (Carlini et al. 2022, "Membership Inference Attacks From First Principles").
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.cohort import Member
from ..data.split import patient_hash
from ..evaluate.report.results import Report
from ..io import UnreadableError
from ..learning.gradients import TrainingError
from ..machine.device import find_device, threads
from ..machine.executors import Executor, SetAside
from ..machine.stores import fetched, named, sent
from ..recipe.checks import from_plain
from ..recipe.short_form import written_out
from ..recipe.values import Stage
from ..rng import derive
from ..run.answering import Answering
from ..run.folder import RunFolder
from ..run.prepare import prepare_stage
from ..run.sequence import found_cohorts
from ..run.train import train_stage
from ..safeguards.privacy.membership import FEWEST
from .subject import Subject

TRAIN = "fabrica.audit.shadows:train_shadow"
FEWEST_SHADOWS = 4  # below, what one person costs cannot be told from what one training costs


@dataclass(frozen=True)
class Shadow:
    """One training on some of all people, the audited model's own among them."""

    subject: Subject
    inside: frozenset[str]  # patients


def why_no_shadows(subject: Subject) -> str:
    """Why other people cannot train the same model, '' where they can."""
    if subject.named:
        return "shadow models need the other side among the run's own patients, and it was named by --holdout"
    if any(stage.train.start for stage in _chain(subject) if not stage.trained):
        return "its training started from other weights, which know people already"
    if any(stage.trained for stage in _chain(subject)):
        return "its weights come from another run, whose training is not told here"
    if len(_people(subject.train)) < FEWEST or len(_people(subject.held)) < FEWEST:
        return f"{FEWEST} patients of each side are needed"
    return ""


def shadows(subject: Subject, count: int, executor: Executor) -> list[Shadow]:
    """Trains `count` models (those that an earlier audit has trained are read), each on as many patients as the audited
    one but no more than half of all, as often a patient, drawn by chance from both sides; says beforehand how long that
    takes. `executor`: who trains them.

    Raises ValueError for fewer than FEWEST_SHADOWS or a training that cannot be repeated.
    """
    if count < FEWEST_SHADOWS:
        raise ValueError(f"{count} shadow models, expected at least {FEWEST_SHADOWS}: --shadows 8")
    people = sorted(_people(subject.train) | _people(subject.held))
    each = min(len(_people(subject.train)), len(people) // 2)
    took = sum(subject.run.trained(stage).seconds for stage in _chain(subject))
    subject.say(
        f"{count} shadow models on {each} of {len(people)} patients each: about {count * took / 60:.0f} minutes on the"
        " machine that trained the run."
    )
    shared = {
        "token": secrets.token_hex(8), "run": named(subject.run.path), "stage": subject.stage.name,
        "device": executor.device, "seed": subject.seed, "people": people, "threads": torch.get_num_threads(),
    }  # fmt: skip
    drawn = drawn_people(people, each, count, subject.seed)
    tasks = [{**shared, "number": number, "inside": inside} for number, inside in enumerate(drawn)]
    for done, (number, result) in enumerate(executor.results(TRAIN, tasks), 1):
        why = result.reason if isinstance(result, SetAside) else result["fault"]
        if why:
            raise ValueError(f"Shadow model {number + 1} cannot be trained: {why}")
        subject.say(f"{done} of {count} shadow models trained.")
    fetched(subject.run.path)
    return [_opened(subject, number, inside, executor.device) for number, inside in enumerate(drawn)]


@lru_cache(maxsize=1)  # of one audit, whose token is in the task
def _subject(token: str, run: str, stage: str, device: str, seed: int) -> Subject:
    return Subject.open(fetched(run), None, device, seed, _quiet, stage)


def train_shadow(task: Mapping[str, Any]) -> dict[str, str]:
    """Trains the shadow model of a task, or finds that it was; {"fault": why it cannot be, or ""}."""
    subject = _subject(task["token"], task["run"], task["stage"], task["device"], task["seed"])
    with threads(task["threads"]):
        try:
            home = _train(subject, task["number"], task["inside"], task["people"], task["device"])
        except (UnreadableError, TrainingError) as error:
            return {"fault": str(error)}
    sent(home)
    return {"fault": ""}


def drawn_people(people: Sequence[str], each: int, count: int, seed: int) -> list[list[str]]:
    """`count` lists of `each` people; everybody stands in as many as anybody else, but for one."""
    chance = np.random.Generator(np.random.Philox(key=derive(seed, "shadows")))
    found: list[list[str]] = []
    queue: list[str] = []
    for _ in range(count):
        if len(queue) < each:  # who is left of this round comes before the next
            left = set(queue)
            following = [people[k] for k in chance.permutation(len(people))]
            queue += sorted(following, key=lambda name: name in left)
        own, queue = queue[:each], queue[each:]
        found.append(sorted(own))
    return found


def _people(members: Sequence[Member]) -> set[str]:
    return {m.patient for m in members}


def _chain(subject: Subject) -> list[Stage]:
    """The codec in whose codes it works, if any, and the stage itself."""
    stage = subject.stage
    return [*([subject.run.recipe.stage(stage.codec)] if stage.codec else []), stage]


def _home(subject: Subject, number: int, inside: Sequence[str]) -> Path:
    return subject.run.path / "audit" / "shadows" / f"{subject.weights[:12]}-{len(inside)}" / f"{number}"


def _train(subject: Subject, number: int, inside: Sequence[str], people: Sequence[str], device: str) -> Path:
    """A run of its own below the audit's folder, without its store, which says the same once more."""
    place = _home(subject, number, inside)
    plain = _plain(subject, number, inside, people)
    run = RunFolder(place, from_plain(plain, str(subject.run.path / "recipe.yaml")))
    run.write_recipe()
    cohorts, quiet, on = found_cohorts(run.recipe), _quiet, find_device(device)
    for known in _chain(subject):
        stage = run.recipe.stage(known.name)
        facts = run.facts(stage)
        own = {patient_hash(p) for p in inside}
        if facts is not None and facts.trained_on and not facts.trained_on <= own:  # of an audit with other people
            shutil.rmtree(run.home(stage))
            facts = None
        if facts is None or not facts.finished:
            ready = prepare_stage(run, stage, cohorts, place / "store", quiet, Report.start(plain, run.name))
            train_stage(ready, quiet, None, on)
    shutil.rmtree(place / "store", ignore_errors=True)
    return place


def _opened(subject: Subject, number: int, inside: Sequence[str], device: str) -> Shadow:
    """One that is trained."""
    run = RunFolder.open(_home(subject, number, inside))
    answering = Answering(run, run.recipe.stage(subject.stage.name), find_device(device))
    return Shadow(replace(subject, answering=answering), frozenset(inside))


def _plain(subject: Subject, number: int, inside: Sequence[str], people: Sequence[str]) -> dict[str, Any]:
    """The run's recipe with other people, another seed, and as many steps as it took."""
    plain = dict(written_out(subject.run.recipe.plain()))
    names = set(inside)
    plain["split"] = {"train": list(inside), "test": [p for p in people if p not in names]}
    plain["seed"] = derive(subject.seed, "shadow", number) % 2**31
    for stage in _chain(subject):
        facts = subject.run.trained(stage)
        place = plain["stages"][stage.name] if "stages" in plain else plain  # a flat recipe is its one stage
        own = {k: v for k, v in place.get("train", {}).items() if k not in ("minutes", "canaries")}
        steps = max(1, round(facts.total * len(inside) / max(1, len(_people(subject.train)))))  # as often a patient
        place["train"] = {**own, "steps": steps, "batch": facts.batch}
    return plain


def _quiet(text: str) -> None:
    """Shadows do not report."""


def inside_of(shadows: Sequence[Shadow], patients: Sequence[str]) -> NDArray[np.bool_]:
    """(shadows, patients): who trained which."""
    return np.array([[p in shadow.inside for p in patients] for shadow in shadows])
