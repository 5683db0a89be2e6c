"""Everything impossible is refused before any data is read, with the file, the line and what to type."""

from pathlib import Path

import pytest
import yaml

from fabrica.recipe.checks import from_plain, load
from fabrica.recipe.text import RecipeError

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
    assert recipe.evaluate.evaluations is None  # quality against cost as far as a fifth of the training's time goes
    none = _load(tmp_path, GOOD.replace("draws: 2", "draws: 2, evaluations: []"))
    assert none.evaluate.evaluations == ()
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
        ("minutes: 5", "minutes: 0", r":7: .*must be positive"),
        ("minutes: 5", "steps: 0", r":7: .*must be positive"),
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
        ("evaluate: {draws: 2}", "prepare: {spacing_mm: [1, 1], resample: false}", r":8: .*says not to resample"),
        ("batch: 4", "batch: 4, canaries: 65", r":7: .*expected 0 to 64. Write: canaries: 8"),
        ("batch: 4", "batch: 4, average: 1.5", r":7: .*expected a decay in \[0, 1\). Write: average: 0.999"),
        ("split: {train: 0.8, test: 0.2}", "split: 3", r":3: split is 3. Write: split:"),
        ("test: 0.2", "test: 0.2, only_train: all", r":3: split.only_train is 'all'. Write: only_train: \[all\]"),
        ("test: 0.2", "test: 0.2, only_train: [al]", r":3: Unknown cohort 'al'. Did you mean 'all'"),
        ("name: flow", "name: flow, in: {run: R, step: 3}", r":5: .*Write: in: {run: RUN, stage: codec}"),
        ("name: flow", "name: flow, in: {run: nowhere}", r":5: nowhere is not a run: it holds no recipe.yaml"),
        ("evaluate: {draws: 2}", "prepare: {size: [30, 30]}", r":8: .*multiples of 8"),
        ("evaluate: {draws: 2}", "prepare: {multiple: 3}", r":8: .*prepare.multiple is 3, and the network needs"),
        ("evaluate: {draws: 2}", "prepare: {multiple: 0}", r":8: .*expected at least 1"),
        ("evaluate: {draws: 2}", "evaluate: {draws: 0}", r":8: evaluate.draws is 0"),
        ("evaluate: {draws: 2}", "evaluate: {window: [64]}", r":8: .*expected a multiple of 16 for each of 2 axes"),
        ("evaluate: {draws: 2}", "evaluate: {window: [64, 40]}", r":8: .*expected a multiple of 16"),
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


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_recipes_are_legal(path: Path) -> None:
    assert load(path).stages


CHAIN = """\
cohorts: {all: {path: somewhere}}
stages:
  find: {job: {name: segmentation, from: [FLAIR], x: [lesion]}, family: {name: regression}, train: {steps: 2}, input: {stage: make}}
  make: {job: {name: translation, from: [T1w], x: [FLAIR]}, family: {name: flow}, train: {steps: 2}}
"""


def test_stages_run_after_what_they_take_their_input_from(tmp_path: Path) -> None:
    recipe = _load(tmp_path, CHAIN)
    assert [s.name for s in recipe.stages] == ["make", "find", "make-baseline"]
    assert {n: (p.stage, p.draws) for n, p in recipe.stage("find").inputs.items()} == {"FLAIR": ("make", "all")}
    with pytest.raises(ValueError, match="Unknown stage 'mak'. Did you mean 'make'"):
        recipe.stage("mak")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{stage: make}", "{stage: mak}", r":3: Unknown stage 'mak'. Did you mean 'make'"),
        ("{stage: make}", "{stage: find}", r":3: find makes lesion, but find is given FLAIR"),
        ("{stage: make}", "{stage: make, draws: some}", r":3: .*draws is 'some', expected one of 'all', 'mean', 'one'"),
        ("{stage: make}", "{stage: make, drws: all}", r":3: Unknown key 'drws'. Did you mean 'draws'"),
        ("from: [FLAIR]", "from: [T2w]", r":3: make makes FLAIR, but find is given T2w"),
        (
            "family: {name: flow}, train: {steps: 2}",
            "family: {name: flow}, train: {steps: 2}, input: {stage: back}}\n"
            "  back: {job: {name: translation, from: [FLAIR], x: [T1w]}, family: {name: flow}, train: {steps: 2}, input: {stage: make}",
            r":3: find and make and back wait for each other",
        ),
    ],
)
def test_chains_that_cannot_be_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in CHAIN
    with pytest.raises(RecipeError, match=message):
        _load(tmp_path, CHAIN.replace(old, new))


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("input: {stage: make}, inputs: {FLAIR: make}", r"input and inputs are both there. Keep one"),
        ("inputs: [make]", r"Write: inputs: \{CT"),
        ("inputs: {T2w: make}", r"make makes FLAIR, but find is given FLAIR"),
        ("inputs: {FLAIR: {stage: mak}}", r"Unknown stage 'mak'. Did you mean 'make'"),
    ],
)
def test_inputs_that_cannot_be_are_refused(tmp_path: Path, told: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        _load(tmp_path, CHAIN.replace("input: {stage: make}", told))
    found = _load(tmp_path, CHAIN.replace("input: {stage: make}", "inputs: {FLAIR: {stage: make, draws: one}}"))
    assert found.stage("find").inputs["FLAIR"].draws == "one"


def test_labels_have_no_mean(tmp_path: Path) -> None:
    text = """\
cohorts: {all: {path: somewhere}}
stages:
  find: {job: {name: segmentation, from: [T1w], x: [lesion]}, family: {name: regression}, train: {steps: 2}}
  make: {job: {name: translation, from: [lesion], x: [FLAIR]}, family: {name: flow}, train: {steps: 2}, input: {stage: find, draws: mean}}
"""
    with pytest.raises(RecipeError, match=r":4: labels have no mean. Write: draws: all"):
        _load(tmp_path, text)


def test_a_family_of_another_run_is_checked_before_anything_runs(tmp_path: Path) -> None:
    _load(tmp_path, GOOD)
    run = tmp_path / "0007"
    run.mkdir()
    (run / "recipe.yaml").write_text(GOOD)
    text = GOOD.replace("train: {minutes: 5, batch: 4}\n", "").replace("{name: flow}", f"{{run: {run}}}")
    recipe = _load(tmp_path, text)
    (stage,) = recipe.stages
    assert stage.family.name == "flow"
    assert stage.trained is not None
    assert stage.trained.folder == run / "stages" / "model"
    for old, new, message in (
        ("0007}", "0008}", r":5: .*0008 is not a run: it holds no recipe.yaml"),
        ("0007}", "0007, stage: prior}", r":5: Unknown stage of .* 'prior'"),
        ("0007}", "0007, steps: 3}", r":5: Unknown key 'steps'"),
        ("x: [FLAIR]", "x: [PDw]", r":5: the family of .* answers another x: FLAIR, this job has PDw"),
        ("[T1w, T2w]", "[T1w]", r":5: .* answers another condition: T1w, T2w, position"),
        (
            "evaluate:",
            "train: {steps: 3}\nevaluate:",
            r":7: a family from another run is used as it is. Take train out",
        ),
        ("evaluate:", "prepare: {size: [64, 64]}\nevaluate:", r":7: .*Take prepare out"),
        ("{name: dpm, steps: 8}", "{name: dmp}", r":6: Unknown sampler"),
    ):
        assert old in text, old
        with pytest.raises(RecipeError, match=message):
            _load(tmp_path, text.replace(old, new))
    (run / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r":5: model of .* was trained in another run. Name that"):
        _load(tmp_path, text)


@pytest.mark.parametrize("name", ["a/b", "..", "../up", ".hidden", "", "x" * 65, "a b"])
def test_stage_names_cannot_leave_the_run_folder(name: str) -> None:
    plain = yaml.safe_load(CHAIN)
    plain["stages"] = {name: plain["stages"]["make"]}
    with pytest.raises(RecipeError, match="cannot name a folder"):
        from_plain(plain)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1", "cannot be read"),
        ("- 1", "is no recipe"),
        ("stages: [1]", "is no recipe"),
        ("stages: {model: 3}", "has no job and family"),
        ("stages: {model: {job: {name: nope}, family: flow}}", "Unknown job 'nope'"),
    ],
)
def test_a_damaged_run_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "recipe.yaml").write_text(content)
    plain = yaml.safe_load(GOOD) | {"family": {"run": str(tmp_path)}}
    del plain["train"]
    with pytest.raises(RecipeError, match=message):
        from_plain(plain)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"family": {"name": "flow", "network": {"channels": [8] * 5, "blocks": 1}}}, r"multiple is 16.* multiples of 32\. Write: prepare: \{multiple: 32\}"),
        ({"family": {"name": "flow", "network": {"channels": [8] * 5, "blocks": 1}}, "prepare": {"size": [48, 64]}}, "size is .48, 64., and the network needs .* multiples of 32"),
        ({"family": {"name": "flow", "network": {"channels": [8] * 5, "blocks": 1}}, "prepare": {"multiple": 32}, "evaluate": {"window": [48, 48]}}, "expected a multiple of 32 for each of 2 axes"),
        ({"family": {"name": "vae", "network": {"channels": [48], "kind": "transformer"}}}, "A codec is made of convolutions, not a transformer. Take kind out"),
        ({"job": {"name": "outcome", "from": ["T1w"], "x": "age"}, "family": {"name": "regression", "network": {"channels": [48], "kind": "state-space"}}}, "made of convolutions, not a state-space"),
        ({"guidance": {"strength": 2}}, "hides its condition in training"),
        ({"job": {"name": "translation", "from": ["T1w", "T2w"], "x": ["FLAIR"], "drop": 0.05}, "guidance": {"strength": 2}}, "hides its condition in training"),
    ],
)  # fmt: skip
def test_what_networks_cannot_do_is_refused_before_training(change: dict, words: str) -> None:
    plain = {
        "cohorts": {"all": {"path": "x"}}, "job": {"name": "translation", "from": ["T1w"], "x": ["FLAIR"]},
        "family": {"name": "flow", "network": {"channels": [8, 16], "blocks": 1}}, "baseline": "none", "train": {"steps": 1},
    }  # fmt: skip
    from_plain(plain)
    with pytest.raises(RecipeError, match=words):
        from_plain({**plain, **change})


def test_a_given_image_can_be_guided() -> None:
    plain = {
        "cohorts": {"all": {"path": "x"}}, "job": {"name": "translation", "from": ["T1w", "T2w"], "x": ["FLAIR"], "drop": 0.1},
        "family": {"name": "flow", "network": {"channels": [8, 16], "blocks": 1}}, "guidance": {"strength": 2}, "baseline": "none", "train": {"steps": 1},
    }  # fmt: skip
    recipe = from_plain(plain)
    assert recipe.stages[0].build_job().hidden == ("T1w", "T2w")


def test_synthesis_of_a_given_image_says_where_that_is_asked() -> None:
    with pytest.raises(RecipeError, match="synthesis is given no image. Write: job: {name: translation, from:"):
        from_plain({**yaml.safe_load(GOOD), "job": {"name": "synthesis", "from": ["T1w"], "x": ["FLAIR"]}})
