"""The arms of a comparison: what each changes in the recipe, and who trains it."""

from __future__ import annotations

import csv
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data import cohort as cohorts
from ..data.split import LeakError, patient_hash
from ..evaluate.honesty import endpoints
from ..evaluate.result import Row
from ..generate.patients import TABLE
from ..recipe.checks import from_plain
from ..recipe.values import Recipe
from ..run.folder import RunFolder
from ..run.prepare import split_stage
from ..run.sequence import find_cohort

ARMS: Mapping[str, Mapping[str, Any]] = {  # arm -> what it changes in the recipe
    "real": {"cohorts": ["real"]},
    "synthetic": {"cohorts": ["real", "synthetic"], "train": 0.0},
    "real + synthetic": {"cohorts": ["real", "synthetic"]},
    "real, augmented": {"cohorts": ["real"], "augment": 1.0},
}
PRETRAINED = "synthetic, then real"  # half of the steps on synthetic images, the other half on real ones
FIRST = "synthetic, before real"  # its first half, which answers for nobody


ONE_JOB = "A downstream recipe has one job, segmentation or outcome. See: recipes/segmentation.yaml"
UNKNOWN = "Whether the generator saw the test patients is not known: name its run with --generator."


def arm_folder(out: Path, arm: str, seed: int) -> Path:
    return out / arm.replace(" ", "_").replace(",", "").replace("+", "and") / str(seed)


def first_half(plain: Mapping[str, Any], seed: int, real: Path, synthetic: Path) -> Recipe:
    """The half of PRETRAINED that learns from synthetic images, judged on the same patients."""
    return arm_recipe(_with_steps(plain, FIRST), "synthetic", seed, real, synthetic)


def second_half(plain: Mapping[str, Any], seed: int, real: Path, synthetic: Path, first: RunFolder) -> Recipe:
    """The half of PRETRAINED that goes on with real images, from the weights of the other."""
    halved = _with_steps(plain, PRETRAINED)
    start = str(first.home(first.recipe.stages[0]).resolve())
    return arm_recipe({**halved, "train": {**halved["train"], "start": start}}, "real", seed, real, synthetic)


def _with_steps(plain: Mapping[str, Any], arm: str) -> dict[str, Any]:
    """With as many steps as a half has: together as many as any arm."""
    steps = plain.get("train", {}).get("steps")
    if type(steps) is not int or steps < 2:
        raise ValueError("Arms are compared at equal compute. Write: train: {steps: 1000}")
    return {**plain, "train": {**plain["train"], "steps": steps // 2 if arm == FIRST else steps - steps // 2}}


def with_patients(plain: Mapping[str, Any], patients: int, real: Path) -> dict[str, Any]:
    """The recipe with so many real patients in training, and the same test patients. Raises ValueError where there are
    fewer.
    """
    test = plain.get("split", {}).get("test", 0.3)
    whole = arm_recipe({**plain, "split": {"train": 1 - test, "test": test}}, "real", 0, real, real)
    parts = {part: {m.patient for m in own} for part, own in split_of(whole).items()}
    if patients > len(parts["train"]):
        raise ValueError(f"--patients is {patients}, and {len(parts['train'])} can train. Write a smaller number.")
    everybody = len(parts["train"] | parts["test"])
    return {**plain, "split": {"train": patients / everybody, "test": test}}


def arm_recipe(plain: Mapping[str, Any], arm: str, seed: int, real: Path, synthetic: Path) -> Recipe:
    if "stages" in plain:
        raise ValueError(ONE_JOB)
    if "steps" not in plain.get("train", {}):
        raise ValueError("Arms are compared at equal compute. Write: train: {steps: 1000}")
    change = ARMS[arm]
    test = plain.get("split", {}).get("test", 0.3)
    if isinstance(test, list):
        raise ValueError("Arms draw their test patients by a share. Write: split: {train: 0.7, test: 0.3}")
    share = change.get("train", plain.get("split", {}).get("train", 1 - test))
    paths = {name: {"path": str(path), **_table_in(path)} for name, path in (("real", real), ("synthetic", synthetic))}
    used = {name: paths[name] for name in change["cohorts"]}
    only = {"only_train": ["synthetic"]} if "synthetic" in used else {}
    split = {"train": share, "test": test, "seed": plain.get("seed", 0), **only}
    train = {**plain["train"], "augment": change.get("augment", 0.0)}
    made = from_plain({**plain, "cohorts": used, "split": split, "train": train, "seed": seed, "baseline": "none"}, arm)
    job = made.stages[0].build_job()
    if job.answer != "value" and any(f.kind != "label" for f in job.signature().x):
        raise ValueError(ONE_JOB)
    if len(made.stages) != 1:
        raise ValueError(
            "A downstream recipe has one stage, and words need two, as codes do. Write: family: {name: regression}"
        )
    return made


def _table_in(path: Path) -> dict[str, str]:
    """The table that `fabrica patients` writes beside its images."""
    return {"table": str(path / TABLE)} if (path / TABLE).is_file() else {}


def known_generator(generator: Path | None, recipe: Recipe) -> str:
    """Whether whoever made the synthetic images saw the test patients; raises LeakError when it did."""
    if generator is None:
        return UNKNOWN
    made = RunFolder.open(generator)
    split = split_of(recipe)
    facts = [known for stage in made.recipe.stages if (known := made.facts(stage))]
    seen = {patient for known in facts for patient in known.trained_on}
    if not seen:
        raise ValueError(f"{generator} holds no trained stage that says on whom. Finish it: fabrica run {generator}")
    if leaked := sorted({m.patient for m in split["test"] if patient_hash(m.patient) in seen}):
        raise LeakError(f"{generator} was trained on {leaked[0]}, who tests here. Train it on others: split.test.")
    return ""


def split_of(recipe: Recipe) -> Mapping[str, Sequence[Any]]:
    data = {name: find_cohort(recipe, name) for name in recipe.cohorts}
    return split_stage(recipe, recipe.stages[0], data).parts


def foreign(trainer: str, recipe: Recipe, folder: Path) -> list[Row]:
    """The user's own trainer: it reads two tables of files and writes scores.csv (case, patient, metric, value)."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = split_of(recipe)
    for part in ("train", "test"):
        cohorts.write_table(cohorts.Cohort(tuple(parts[part])), folder / f"{part}.csv", Path("/"))
    train = recipe.stages[0].train
    call = [*shlex.split(trainer), "--train", str(folder / "train.csv"), "--test", str(folder / "test.csv")]
    call += ["--seed", str(recipe.seed), "--steps", str(train.steps), "--augment", f"{train.augment:g}"]
    call += ["--out", str(folder / "scores.csv")]
    (folder / "scores.csv").unlink(missing_ok=True)  # an older one would pass for this one's
    done = subprocess.run(call, check=False)
    if done.returncode or not (folder / "scores.csv").is_file():
        raise ValueError(
            f"The trainer ended with {done.returncode} and without scores. Try it alone: {shlex.join(call)}"
        )
    with (folder / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"case", "patient", "metric", "value"} <= set(rows[0]):
        raise ValueError(
            f"{folder / 'scores.csv'} needs the columns case, patient, metric, value, one row a case and metric."
        )
    missing = {m.patient for m in parts["test"]} - {r["patient"] for r in rows}
    if missing:
        raise ValueError(
            f"The trainer scored no case of {sorted(missing)[0]}: failed cases need their worst value, not silence."
        )
    if strangers := sorted({str(r["patient"]) for r in rows} - {m.patient for m in parts["test"]}):
        raise ValueError(
            f"The trainer scored {strangers[0]}, who does not test. Write scores of the patients of --test alone."
        )
    return [Row(r["case"], r["patient"], "", "model", r["metric"], number_in(r["value"]), "") for r in rows]


def number_in(text: str | None) -> float | str:
    """A cell of a table: a number, or the words why there is none."""
    value = endpoints.number(text or "")
    return (text or "failed: no value was written") if value is None else value
