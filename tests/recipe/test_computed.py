"""Stages that compute, as recipes write them: each after what it builds on, faults named with the line to write."""

import copy
from typing import Any

import pytest

from fabrica.recipe.checks import from_plain
from fabrica.recipe.text import RecipeError

PLAIN: dict[str, Any] = {
    "cohorts": {"all": {"virtual": {"patients": 4, "skull": True}, "plans": {}, "days": {"count": 1}}},
    "stages": {
        "added": {
            "compute": {"name": "accumulate", "fractions": 30},
            "inputs": {"dose": {"stage": "given"}, "motion": "moved"},
        },
        "given": {"compute": {"name": "dose", "target": "PTV70", "prescription_gy": 70}, "inputs": {"CT": "drawn"}},
        "moved": {"compute": "register", "inputs": {"CT": {"stage": "drawn", "draws": "mean"}}},
        "drawn": {
            "job": {"name": "translation", "from": ["T1w"], "x": ["CT"]}, "family": "regression", "train": {"steps": 1},
        },
    },
    "evaluate": {"constraints": ["PTV70 D95% >= 66 Gy"]},
}  # fmt: skip


def _changed(path: str, value: object) -> dict[str, Any]:
    plain = copy.deepcopy(PLAIN)
    *way, last = path.split(".")
    at = plain
    for key in way:
        at = at.setdefault(key, {})
    at[last] = value
    return plain


def test_stages_stand_in_the_order_in_which_they_can_be_computed() -> None:
    recipe = from_plain(PLAIN)
    assert [s.name for s in recipe.stages] == ["drawn"]
    assert [s.name for s in recipe.computed] == ["given", "moved", "added"]
    added = recipe.computed[-1]
    assert added.stands_for("motion") == ("motion z", "motion y", "motion x")
    assert added.inputs["motion"].stage == "moved"
    assert from_plain(recipe.plain()).computed == recipe.computed


def test_a_recipe_may_learn_nothing() -> None:
    plain = copy.deepcopy(PLAIN)
    del plain["stages"]["drawn"], plain["stages"]["moved"]["inputs"], plain["stages"]["given"]["inputs"]
    recipe = from_plain(plain)
    assert recipe.stages == ()
    assert recipe.split == {"test": 1.0}


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        ("stages.given.compute", {"name": "does", "target": "PTV70"}, "Did you mean 'dose'"),
        ("stages.given.compute", {"name": "dose", "target": "PTV70"}, "needs 'prescription_gy'"),
        ("stages.given.compute.margin_mm", 99, "margin of 0 to 50 mm"),
        ("stages.given.inputs", {"CT": "drwn"}, "Did you mean 'drawn'"),
        ("stages.given.inputs", {"MR": "drawn"}, "given reads CT, planning CT, planning PTV70, and no MR"),
        ("stages.added.inputs.dose", "moved", "moved makes motion z, motion y, motion x, and not dose"),
        ("stages.given.inputs", [1], r"Write: inputs: \{CT"),
        ("stages.given.job", "translation", "Unknown.*job"),
        ("stages.given.inputs.CT", {"stage": "drawn", "draws": "some"}, "one of"),
        ("cohorts.all.days", {"count": 0}, "1 to 50 days"),
        ("evaluate.constraints", ["PTV70 D95% > 66"], "is no constraint"),
    ],
)
def test_faults_are_named(path: str, value: object, match: str) -> None:
    with pytest.raises(RecipeError, match=match):
        from_plain(_changed(path, value))


def test_stages_that_wait_for_each_other_are_refused() -> None:
    plain = _changed("stages.first", {"compute": {"name": "warp", "names": ["motion z"]}, "inputs": {}})
    plain["stages"]["first"]["compute"] = "register"
    plain["stages"]["one"] = {"compute": {"name": "accumulate", "fractions": 3}, "inputs": {"dose": "two"}}
    plain["stages"]["two"] = {
        "compute": {"name": "dose", "target": "PTV70", "prescription_gy": 70}, "inputs": {"CT": "one"},
    }  # fmt: skip
    with pytest.raises(RecipeError, match="one makes accumulated dose, and not CT"):
        from_plain(plain)
    plain["stages"]["two"]["inputs"] = {"CT": "two"}
    with pytest.raises(RecipeError, match="Unknown stage 'two'"):
        from_plain(plain)


def test_masks_have_no_mean() -> None:
    plain = copy.deepcopy(PLAIN)
    plain["stages"]["contours"] = {"compute": {"name": "warp", "names": ["CT"]}, "inputs": {"motion": "moved"}}
    plain["stages"]["given"]["inputs"] = {"CT": {"stage": "contours", "draws": "mean"}}
    with pytest.raises(RecipeError, match="labels have no mean"):
        from_plain(plain)
