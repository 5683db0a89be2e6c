"""Everything impossible is refused before any data is read, with the file, the line and what to type."""

from pathlib import Path

import pytest
import yaml

from fabrica.config import RecipeError, from_plain, load

GOOD = """\
cohorts:
  all: {path: somewhere}
split: {train: 0.8, test: 0.2}
job: {name: translation, from: [T1w, T2w], x: [FLAIR]}
family: {name: flow}
sampler: {name: dpm, steps: 8}
train: {minutes: 5, batch: 4}
evaluate: {draws: 2}
"""


def _load(tmp_path: Path, text: str, settings: tuple[str, ...] = (), data: tuple[str, ...] = ()):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load(path, settings, data)


def test_a_good_recipe_and_its_baseline(tmp_path: Path) -> None:
    recipe = _load(tmp_path, GOOD)
    assert [(s.name, s.family.name) for s in recipe.stages] == [("model", "flow"), ("model-baseline", "regression")]
    assert recipe.stages[1].train == recipe.stages[0].train
    assert [s.name for s in _load(tmp_path, GOOD + "baseline: none\n").stages] == ["model"]
    again = from_plain(yaml.safe_load(yaml.safe_dump(recipe.plain())))
    assert again.stages == recipe.stages


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("family:", "famly:", r":5: Unknown key 'famly'. Did you mean 'family'\?"),
        ("name: flow", "name: flwo", r":5: Unknown family 'flwo'. Did you mean 'flow'\?"),
        ("name: translation", "name: translate", r":4: Unknown job 'translate'. Did you mean 'translation'\?"),
        ("x: [FLAIR]", "xx: [FLAIR]", r":4: Unknown option of job 'translation' 'xx'"),
        ("x: [FLAIR]", "x: FLAIR", r":4: .*x is 'FLAIR', expected list of text"),
        ("x: [FLAIR]", "x: [FLAIR], axes: xy", r":4: .*axes is 'xy', expected one of 'yx', 'zyx'"),
        ("name: dpm", "name: dmp", r":6: Unknown sampler 'dmp'"),
        ("steps: 8", "steps: 8.5", r":6: .*steps is 8.5, expected whole number"),
        ("steps: 8", "stps: 8", r":6: .*Did you mean 'steps'"),
        ("name: flow", "name: regression", r":6: The sampler needs a Denoiser, got Regression"),
        ("minutes: 5", "minutes: 5, steps: 3", r":7: train has steps and minutes"),
        ("minutes: 5, ", "", r":7: train has no budget. Write: train: {minutes: 5}"),
        ("batch: 4", "batch: 0", r":7: .*must be positive"),
        ("batch: 4", "precision: fp64", r":7: .*Write: precision"),
        ("train: 0.8, test: 0.2", "train: 0.8, test: 0.4", r":3: split adds up to 1.2"),
        ("train: 0.8, test: 0.2", "train: 0.8, test: [a]", r":3: split mixes names and fractions"),
        ("train: 0.8, test: 0.2", "unit: slice, train: 0.8", r":3: split.unit is 'slice'; slices of one patient would leak"),
        ("{path: somewhere}", "{path: a, virtual: {patients: 3}}", r":2: a cohort has either a path or a virtual block"),
        ("{path: somewhere}", "{virtual: {patients: 0}}", r":2: A virtual cohort of 0 patients"),
        ("{path: somewhere}", "{virtual: {patents: 3}}", r":2: Unknown key 'patents'. Did you mean 'patients'"),
        ("evaluate: {draws: 2}", "evaluate: {metrics: [psnrr]}", r":8: Unknown metric 'psnrr'. Did you mean 'psnr'"),
        ("evaluate: {draws: 2}", "prepare: {spacing_mm: [1000, 1000]}", r":8: .*is the unit mm"),
        ("evaluate: {draws: 2}", "prepare: {spacing_mm: [1]}", r":8: .*expected 3 positive numbers"),
        ("evaluate: {draws: 2}", "prepare: {size: [30, 30]}", r":8: .*multiples of 8"),
        ("evaluate: {draws: 2}", "evaluate: {draws: 0}", r":8: evaluate.draws is 0"),
        ("name: flow", "name: flow, network: {channel: [8]}", r":5: .*Did you mean 'channels'"),
        ("name: flow", "name: flow, sigma_dat: 1", r":5: .*Did you mean 'sigma_data'"),
        ("job:", "job: {name: synthesis, x: [T1w]}\njob:", r"job stands twice"),
        ("x: [FLAIR]", "x: [FLAIR], axes: zyx, neighbours: 1", r":4: .*neighbours belongs to slices"),
    ],
)  # fmt: skip
def test_planted_faults_name_their_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(RecipeError, match=message):
        _load(tmp_path, GOOD.replace(old, new, 1))


def test_missing_parts(tmp_path: Path) -> None:
    for part, message in (
        ("job", "job is missing. Write: job:"),
        ("family", "family is missing"),
        ("cohorts", "cohorts is missing"),
    ):
        plain = yaml.safe_load(GOOD)
        del plain[part]
        with pytest.raises(RecipeError, match=message):
            from_plain(plain)
    with pytest.raises(RecipeError, match="There is no recipe"):
        load(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="not valid YAML"):
        _load(tmp_path, "a: [")
    with pytest.raises(RecipeError, match="a recipe is a mapping"):
        _load(tmp_path, "- 1")


def test_stages(tmp_path: Path) -> None:
    staged = """\
cohorts: {a: {path: x}, b: {virtual: {patients: 3}}}
baseline: none
stages:
  first: {job: {name: synthesis, x: [T1w]}, cohorts: [b], family: {name: diffusion}, train: {steps: 3}}
  second:
    job: {name: segmentation, from: [T1w], x: [lesion]}
    cohorts: [c]
    family: {name: regression}
    train: {steps: 3}
"""
    with pytest.raises(RecipeError, match=r":7: Unknown cohort 'c'"):
        _load(tmp_path, staged)
    recipe = _load(tmp_path, staged.replace("[c]", "[a]"))
    assert [s.cohorts for s in recipe.stages] == [("b",), ("a",)]
    with pytest.raises(RecipeError, match="expected label maps"):
        _load(tmp_path, staged.replace("[c]", "[a]").replace("x: [lesion]", "x: [FLAIR]"))


def test_settings_and_data(tmp_path: Path) -> None:
    recipe = _load(tmp_path, GOOD, ("train.minutes=null", "train.steps=7", "family.name=diffusion"), ("elsewhere",))
    assert recipe.stages[0].train.steps == 7
    assert recipe.stages[0].family.name == "diffusion"
    assert recipe.cohorts["all"].path == Path("elsewhere")
    with pytest.raises(RecipeError, match="has no value"):
        _load(tmp_path, GOOD, ("train.steps",))
    with pytest.raises(RecipeError, match="is not a block"):
        _load(tmp_path, GOOD, ("train.batch.size=3",))
    two = GOOD.replace("  all: {path: somewhere}", "  a: {path: x}\n  b: {path: y}")
    with pytest.raises(RecipeError, match="--data NAME="):
        _load(tmp_path, two, (), ("d",))
    with pytest.raises(RecipeError, match="Unknown cohort 'c'"):
        _load(tmp_path, two, (), ("c=d",))
    assert _load(tmp_path, two, (), ("b=d",)).cohorts["b"].path == Path("d")


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_recipes_are_legal(path: Path) -> None:
    assert load(path).stages
