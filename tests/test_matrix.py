"""Every family with every job in 2D and 3D: drawn, or refused with a reason; and every shipped recipe in its short form."""

import importlib.util
from functools import lru_cache
from pathlib import Path

import pytest
import torch
import yaml

import fabrica
from fabrica.contracts import Batch, Job
from fabrica.families import FAMILIES
from fabrica.jobs import JOBS, job_options
from fabrica.recipe.checks import from_plain
from fabrica.rng import Rng
from fabrica.run.family import build_family
from fabrica.run.sequence import run_recipe

ROOT = Path(fabrica.__file__).parents[1]
spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
assert spec
assert spec.loader
tables = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tables)
tables.cell = lru_cache(maxsize=None)(tables.cell)  # asked by the table of the reference, too
ROWS = [0, 1, 2]


def _batch(axes: str, job: Job) -> Batch:
    """Everything that a job may look at."""
    side, rng = (16,) * len(axes), Rng(ROWS)
    images = {n: rng.child(n).uniform(1, *side) for n in ("T1w", "FLAIR")}
    images["lesion"] = (rng.child("lesion").uniform(1, *side) > 0.7).float()
    images["place"] = rng.child("place").uniform(3, *side)
    signature = job.signature()
    for f in (*signature.x, *signature.condition):
        if f.kind in ("intensity", "label") and f.name not in images:
            values_of = rng.child(f.name).uniform(f.frames, *side)
            images[f.name] = (values_of > 0.5).float() if f.kind == "label" else values_of
    values = {"position": torch.linspace(-1, 1, 3), "age": torch.tensor([30.0, 50, 70])}
    values |= {n: torch.full((3,), 2.0) for n in ("years ahead", "years apart")}
    values |= {f.name: torch.tensor([1.0, 0.0, 1.0]) for f in job.recorded}
    values["ejection_fraction"] = torch.tensor([30.0, 45, 60])
    values["sex"] = torch.tensor([0.0, 1.0, 0.0])
    return Batch(("a", "b", "c"), images, torch.eye(4).expand(3, 4, 4), values)


def test_every_job_has_an_example() -> None:
    assert set(tables.EXAMPLES) == set(JOBS.names())


@pytest.mark.parametrize("axes", ["yx", "zyx"])
@pytest.mark.parametrize("name", JOBS.names())
@pytest.mark.parametrize("family", [*FAMILIES.names(), *tables.CODES])
def test_drawn_or_refused_with_a_reason(family: str, name: str, axes: str) -> None:
    reason = tables.cell(family, name, axes)
    if reason:
        assert any(
            word in reason
            for word in (
                "cannot learn",
                "needs",
                "takes one image",
                "codec encodes",
                "to equalise",
                "compares with",
                "draws words",
                "as they are",
                "would ignore",
            )
        ), reason
        return
    torch.manual_seed(0)
    job = JOBS.find(name)(**job_options({**tables.EXAMPLES[name], "axes": axes}))
    asked = from_plain(tables.recipe(family, name, axes))
    made = build_family(asked.stage("model"), job, "fp32", asked)
    batch = _batch(axes, job)
    problem = asked.stage("model").training_job().problem(batch, Rng(ROWS))
    for group in made.groups():
        total = torch.stack([t.mean() for t in made.loss(problem, group, Rng(ROWS), 0.0).values()]).sum()
        assert torch.isfinite(total)
        total.backward()
    drawn = made.eval().sample(job.question(batch, Rng(ROWS)), Rng(ROWS))
    assert drawn.shape == (3, *job.question(batch, Rng(ROWS)).shape)
    assert torch.isfinite(drawn).all()


def test_reference_is_up_to_date() -> None:
    """Of test_docs, and here for the sake of its table."""
    assert (ROOT / "docs" / "reference.md").read_text() == tables.text(), "Run: make docs"
    assert (ROOT / "docs" / "datasets.md").read_text() == tables.datasets(), "Run: make docs"


def _learning(recipe: dict) -> list[dict]:
    """Its stages that are trained."""
    return [stage for stage in recipe.get("stages", {"model": recipe}).values() if "compute" not in stage]


def _short(recipe: dict) -> dict:
    """Two steps on few tiny patients."""
    recipe["cohorts"] = {
        name: {"hearts": {**plan["hearts"], "patients": 4, "slices": 1}}
        if "hearts" in plan
        else {
            "virtual": {**plan["virtual"], "patients": 3, "spacing_mm": 4, "planes": [14, 20]},
            **({"cone_beam": {**plan["cone_beam"], "views": 16}} if "cone_beam" in plan else {}),
            **({"plans": plan["plans"]} if "plans" in plan else {}),
            **({"days": {**plan["days"], "count": 1}} if "days" in plan else {}),
            **({"events": {**plan["events"], "yearly": 3.0}} if "events" in plan else {}),
        }
        for name, plan in recipe["cohorts"].items()
    }
    for plan in recipe["cohorts"].values():
        if "events" in plan:  # ten of those who train
            plan["virtual"] |= {"patients": 14, "planes": [16, 17]}
    raw = any("acquisition" in stage["job"] for stage in _learning(recipe))
    for plan in recipe["cohorts"].values() if raw else ():  # each slice is solved by every classical solver
        plan["virtual"] |= {} if "events" in plan else {"patients": 2, "planes": [16, 17]}
    for plan in recipe["cohorts"].values() if all("prior" in s["family"] for s in _learning(recipe)) else ():
        plan["virtual"] |= {"patients": 1}  # nobody trains
    for plan in recipe["cohorts"].values():
        if "plans" in plan:  # nine beams each time that a case is read
            plan["virtual"] |= {"patients": 2}
    if "dose" in recipe.get("evaluate", {}):
        recipe["evaluate"]["dose"] |= {"gantry_degrees": [0]}
    for stage in _learning(recipe):
        if "prior" in stage["family"]:  # which ships, and is used as it is
            stage["sampler"]["steps"] = 3
            continue
        stage["train"] = {"steps": 2, "batch": 2, "precision": "fp32"}
        fewer = {"dose": {"table": 10}, "registration": {"pairs": 1}}
        stage["job"] |= fewer.get(stage["job"]["name"], {})
        network = stage["family"].get("network", {})
        width = 48 if network.get("kind", "unet") != "unet" else 8  # tokens have heads of 48 channels
        stage["family"]["network"] = {**network, "channels": [width] * len(network.get("channels", [8])), "blocks": 1}
        if "size" in stage.get("prepare", {}):
            stage["prepare"]["size"] = [16] * len(stage["prepare"]["size"])
    recipe["evaluate"] = {k: v for k, v in recipe.get("evaluate", {}).items() if k != "coverage"} | {"draws": 1}
    if "paths" in recipe["evaluate"]:
        recipe["evaluate"]["paths"] = 2
    if "window" in recipe["evaluate"]:  # smaller than any grid, so that it bites
        axes = len(recipe["evaluate"]["window"])
        recipe["evaluate"]["window"] = [48 - 16 * (axes - 1)] * axes
    if "by" in recipe.get("split", {}):  # somebody healthy trains, somebody validates
        for plan in recipe["cohorts"].values():
            plan["virtual"] |= {"patients": 8 if plan["virtual"]["disease"] == "none" else 2}
        return recipe
    if any("train" in stage for stage in _learning(recipe)):
        followed = any("events" in plan for plan in recipe["cohorts"].values())
        recipe["split"] = {"train": 0.85, "test": 0.15} if followed else {"train": 0.6, "test": 0.4}
    return recipe


def test_recipes_hold_every_family_on_slices_and_on_volumes() -> None:
    held = set()
    for path in (ROOT / "recipes").glob("*.yaml"):
        recipe = yaml.safe_load(path.read_text())
        for stage in _learning(recipe):
            held.add((stage["family"].get("name", "prior"), stage["job"].get("axes", "yx")))
    drawing = set(FAMILIES.names()) - {
        "contrastive",
        "autoencoder_kl",
    }  # which makes features; which comes with weights
    assert {name for name, axes in held if axes == "zyx"} == drawing - {"unrolled"}  # raw data come in slices
    assert {name for name, axes in held if axes == "yx"} >= drawing


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_runs_in_its_short_form(path: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load(path.read_text())
    from_plain(recipe)
    if any("path" in plan for plan in recipe["cohorts"].values()):
        assert path.stem == "outcome"  # needs files: run by tests/jobs/test_outcome.py
        return
    result = run_recipe(from_plain(_short(recipe)), tmp_path / "run", say=lambda text: None)
    assert result.page.is_file()
    assert all(stage.steps == 2 or stage.family == "none" or stage.plan["trained"] for stage in result.report.stages)
