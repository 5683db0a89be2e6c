"""Paths through a chain: whose chance the room at the end is, stages held still, recipes that have no chain."""

from pathlib import Path

import pytest

from fabrica.evaluate.report.paths import drawing
from fabrica.recipe.checks import from_plain
from fabrica.recipe.text import RecipeError
from fabrica.run.answering import Answering
from fabrica.run.folder import RunFolder
from fabrica.run.journey import chain_of
from fabrica.run.sequence import run_recipe

SMALL = {"network": {"channels": [8, 16], "blocks": 1}}
SHORT = {"steps": 3, "batch": 2, "precision": "fp32"}
PLAIN = {
    "cohorts": {"all": {"virtual": {"patients": 4, "disease": "ms", "spacing_mm": 4, "planes": [20, 22]}}},
    "split": {"train": 0.5, "test": 0.5}, "baseline": "none", "evaluate": {"draws": 1, "realism": 0, "evaluations": [], "paths": 3},
    "stages": {
        "t2": {"job": {"name": "translation", "from": ["T1w"], "x": ["T2w"]}, "family": {"name": "flow", **SMALL}, "train": SHORT, "sampler": {"name": "heun", "steps": 2}},
        "flair": {"job": {"name": "translation", "from": ["T2w"], "x": ["FLAIR"]}, "family": {"name": "regression", **SMALL}, "train": SHORT, "input": {"stage": "t2"}},
        "lesion": {"job": {"name": "segmentation", "from": ["FLAIR"], "x": ["lesion"]}, "family": {"name": "regression", **SMALL}, "train": SHORT, "input": {"stage": "flair"}},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("journey") / "run"
    result = run_recipe(from_plain(PLAIN), folder, say=lambda _: None)
    figures = {f.name: f for s in result.report.stages for f in s.figures if "paths" in f.name or "variance" in f.name}
    assert {s.name for s in result.report.stages if any("paths" in f.name for f in s.figures)} == {"lesion"}
    assert figures["room between paths at t2 (of the network's scale)"].value > 0
    assert any(name.startswith("room between paths at lesion (ml)") for name in figures)
    share = "share of the variance at the end that the chance of {} makes"
    if figures["room between paths at lesion (ml)"].value > 0:  # masks of three steps may mark nothing at all
        assert figures[share.format("t2")].value == pytest.approx(1)
    assert figures[share.format("flair")].value == figures[share.format("lesion")].value == 0  # they have no chance
    assert 'class="paths"' in result.page.read_text()
    return folder


def test_a_stage_that_is_held_still_draws_the_same(finished: Path) -> None:
    run = RunFolder.open(finished)
    lesion = run.recipe.stage("lesion")
    assert [s.name for s in chain_of(run, lesion)] == ["t2", "flair", "lesion"]
    answering = Answering(run, run.recipe.stage("flair"))
    (member, *_) = run.recipe.cohorts["all"].find().members
    _, free = answering.drawn(member, 3, lambda _: None)
    assert float(free.var(0).max()) > 0
    answering.hold("t2")
    _, held = answering.drawn(member, 3, lambda _: None)
    assert float(held.var(0).max()) == 0
    answering.hold("")
    assert (answering.drawn(member, 3, lambda _: None)[1] == free).all()
    assert answering.of("t2").stage.name == "t2"
    with pytest.raises(KeyError):
        answering.of("lesion")


def test_paths_need_a_chain_and_a_number() -> None:
    alone = {**PLAIN, "stages": {"t2": PLAIN["stages"]["t2"]}}  # type: ignore[index]
    with pytest.raises(RecipeError, match="followed through a chain"):
        from_plain(alone)
    with pytest.raises(RecipeError, match="no number of paths"):
        from_plain({**PLAIN, "evaluate": {"paths": 1}})


def test_the_drawing_names_every_stage() -> None:
    found = drawing({"scan": 0.1, "a<b": 0.2}, {"scan": 0.75, "a<b": 1.2})
    assert "75 %" in found
    assert "a&lt;b" in found
    assert "100 %" in found
