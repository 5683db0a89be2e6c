"""What a plan must keep: figures by hand, units, words that are none, agreement with the true dose."""

import numpy as np
import pytest

from fabrica.evaluate.judging.constraints import Constraint, constraint_rows
from fabrica.recipe.checks import from_plain
from fabrica.recipe.text import RecipeError

DOSE = np.arange(1000.0).reshape(10, 10, 10) / 10  # 0 to 99.9 Gy
ALL = np.ones(DOSE.shape, bool)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Cord mean <= 45 Gy", 49.95), ("Cord max <= 45 Gy", 99.9), ("Cord V20Gy <= 30 %", 80.0),
        ("PTV D95% >= 66.5 Gy", np.percentile(DOSE, 5)), ("Cord D0.1cc <= 45 Gy", 99.0), ("Cord D2cc <= 45 Gy", 80.0),
    ],
)  # fmt: skip
def test_figures_by_hand(text: str, value: float) -> None:
    """Voxels of 10 mm3: 0.1 cm3 are ten of them, 2 cm3 two hundred."""
    found = Constraint.of(text)
    assert found.value(DOSE, ALL, (2.5, 2.0, 2.0)) == pytest.approx(value)
    assert found.kept(found.limit)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("SpinalCord < 45", "is no constraint. Write it as 'SpinalCord D0.1cc <= 45 Gy'"),
        ("Cord V20Gy <= 30 Gy", "has a limit in Gy, expected %"), ("Cord mean <= 30 %", "has a limit in %, expected Gy"),
        ("", "is no constraint"),
    ],
)  # fmt: skip
def test_words_that_are_none(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        Constraint.of(text)


def test_agreement_is_told_where_the_structure_is_there() -> None:
    kept = [Constraint.of(t) for t in ("Cord max <= 45 Gy", "Larynx mean <= 40 Gy", "Gone mean <= 1 Gy")]
    masks = {"Cord": DOSE < 44, "Larynx": ALL, "Gone": ALL & False}
    rows = constraint_rows(("c", "p", "dose"), "model", DOSE * 1.1, DOSE, masks, (2.5, 2.0, 2.0), kept)
    found = {r.metric: r.value for r in rows}
    assert found["Cord max"] == pytest.approx(43.9 * 1.1)
    assert found["Cord max off"] == pytest.approx(4.39)
    assert found["Cord max <= 45 Gy: decided as by the true dose"] == 0
    assert found["Larynx mean <= 40 Gy: decided as by the true dose"] == 1
    assert not any(metric.startswith("Gone") for metric in found)


@pytest.mark.parametrize(
    ("job", "constraints", "said"),
    [
        ({"name": "dose"}, ["Cord under 45"], "is no constraint"),
        ({"name": "translation", "from": ["T1w"], "x": ["CT"]}, ["Cord max <= 45 Gy"], "no job here asks for one"),
    ],
)
def test_recipes_with_wrong_constraints_are_refused(
    job: dict[str, object], constraints: list[str], said: str
) -> None:  # fmt: skip
    plain = {
        "cohorts": {"all": {"path": "x"}}, "job": job, "family": "regression", "train": {"steps": 1},
        "evaluate": {"constraints": constraints},
    }  # fmt: skip
    with pytest.raises(RecipeError, match=said):
        from_plain(plain)
