"""Priors that ship: what they are, how they are named, and that they restore a patient nobody trained on."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from fabrica.learning import checkpoint
from fabrica.learning.facts import facts_of
from fabrica.learning.lineage import patient_hash
from fabrica.recipe.borrowed import PRIORS, priors
from fabrica.recipe.checks import from_plain
from fabrica.recipe.text import RecipeError
from fabrica.run.sequence import run_recipe

LARGEST = 20e6  # bytes
CARD = {"what", "seen", "not for", "judged", "licence", "made by"}


def _recipe(**more: Any) -> dict[str, Any]:
    return {
        "cohorts": {"scans": {"virtual": {"patients": 1, "first": 300, "spacing_mm": 1, "skull": True, "planes": [86, 87]}}},
        "baseline": "none",
        "job": {"name": "reconstruction", "x": "T1w", "acquisition": {"name": "mr", "acceleration": 8}},
        "family": {"prior": "mr_brain"}, "sampler": {"name": "posterior", "steps": 10},
        "evaluate": {"draws": 2, "evaluations": [], "realism": 0}, **more,
    }  # fmt: skip


@pytest.mark.parametrize("name", priors())
def test_each_has_its_card_and_was_taught_by_simulated_patients_alone(name: str) -> None:
    home = PRIORS / name
    card = yaml.safe_load((home / "card.yaml").read_text())
    assert set(card) == CARD
    plain = yaml.safe_load((home / "recipe.yaml").read_text())
    assert all(set(cohort) == {"virtual"} for cohort in plain["cohorts"].values())
    found, facts = checkpoint.load(home / "stages/model"), facts_of(home / "stages/model")
    assert found is not None
    assert facts is not None
    assert facts.finished
    assert facts.precision == "fp32"
    assert all(tensor.isfinite().all() for tensor in found[0].values())
    assert sum(tensor.nbytes for tensor in found[0].values()) < LARGEST
    people = [plan["virtual"] for plan in plain["cohorts"].values()]
    names = {patient_hash(f"virtual{plan['first'] + k:04d}") for plan in people for k in range(plan["patients"])}
    assert facts.trained_on
    assert facts.trained_on <= names
    assert str(len(facts.trained_on)) in card["seen"]


def test_one_ships_for_brains() -> None:
    assert "mr_brain" in priors()


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ({"prior": "mr_brian"}, "Did you mean 'mr_brain'"),
        ({"prior": "../../runs"}, "Unknown prior"),
        ({"prior": "mr_brain", "stage": "model"}, r"Write: family: \{prior: mr_brain\}"),
        ({"prior": "mr_brain", "run": "runs/0001"}, r"Write: family: \{prior: mr_brain\}"),
    ],
)
def test_what_is_no_prior_is_refused(family: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        from_plain(_recipe(family=family))


def test_it_is_used_as_it_is() -> None:
    with pytest.raises(RecipeError, match="Take train out"):
        from_plain(_recipe(train={"minutes": 1}))
    with pytest.raises(RecipeError, match="answers another x"):
        from_plain(_recipe(job={"name": "reconstruction", "x": "T2w"}))


def test_it_restores_whom_it_has_not_seen_and_refuses_whom_it_has(tmp_path: Path) -> None:
    """Without training, from an eighth of the samples: better than least squares, in agreement with the data."""
    result = run_recipe(from_plain(_recipe()), tmp_path / "run", say=lambda text: None)
    rows = {(r.by, r.metric): r.value for r in result.report.stages[0].cases}
    assert float(rows["model: mean of draws", "psnr"]) > float(rows["CG-SENSE", "psnr"]) + 2
    assert 0.7 < float(rows["model: one draw", "misfit of k-space"]) < 1.3
    seen = {"virtual": {"patients": 1, "first": 1000, "spacing_mm": 1, "skull": True, "planes": [86, 87]}}
    with pytest.raises(Exception, match="who test here"):
        run_recipe(from_plain(_recipe(cohorts={"scans": seen})), tmp_path / "seen", say=lambda text: None)


def test_a_family_of_another_run_needs_nobody_to_train_on(tmp_path: Path) -> None:
    """Images that it draws are judged; a value has no usual one to be held against, which is said."""
    cohort = {"virtual": {"patients": 4, "spacing_mm": 4, "planes": [16, 18]}}
    others = {"virtual": {"patients": 2, "first": 50, "spacing_mm": 4, "planes": [16, 18]}}
    quick = {"baseline": "none", "evaluate": {"draws": 1, "realism": 0}}
    jobs = {
        "image": {"name": "translation", "from": ["T1w"], "x": ["FLAIR"]},
        "value": {"name": "outcome", "from": ["T1w"], "x": "age", "width": 20.0},
    }
    for name, job in jobs.items():
        family = {"name": "regression", "network": {"channels": [8, 16], "blocks": 1}}
        train = {"steps": 2, "batch": 2, "precision": "fp32"}
        plain = {
            "cohorts": {"all": cohort},
            "split": {"train": 0.5, "test": 0.5},
            "job": job,
            "family": family,
            "train": train,
        }
        run_recipe(from_plain(plain | quick), tmp_path / name, say=lambda text: None)
    again = {"cohorts": {"all": others}, "job": jobs["image"], "family": {"run": str(tmp_path / "image")}}
    result = run_recipe(from_plain(again | quick), tmp_path / "again", say=lambda text: None)
    (stage,) = result.report.stages
    assert {r.patient for r in stage.cases} == {"virtual0050", "virtual0051"}
    assert not stage.costs  # what it once took to train is no budget of this run
    again |= {"job": jobs["value"], "family": {"run": str(tmp_path / "value")}}
    with pytest.raises(ValueError, match="nothing to train on"):
        run_recipe(from_plain(again | quick), tmp_path / "more", say=lambda text: None)
