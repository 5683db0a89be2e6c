"""Arms at equal compute on the same unseen patients; a foreign trainer; what is refused."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from fabrica.cli import app
from fabrica.data.split import LeakError
from fabrica.evaluate.honesty.claim import Claim
from fabrica.evaluate.result import Result
from fabrica.machine.executors import Dask
from fabrica.recipe.checks import from_plain
from fabrica.run.sequence import run_recipe
from fabrica.study.arms import ARMS, FIRST, PRETRAINED, UNKNOWN, arm_folder
from fabrica.study.downstream import Arm, Comparison, Terms, compare_arms

from ..jobs.test_outcome import _pictures

RECIPE = {
    "split": {"train": 0.6, "test": 0.4},
    "job": {"name": "outcome", "from": ["image"], "x": "class", "classes": ["0", "1"]},
    "family": {"name": "regression", "network": {"channels": [8, 16], "blocks": 1}},
    "train": {"steps": 3, "batch": 4, "precision": "fp32"},
}  # fmt: skip


def _folders(tmp_path: Path, real: int = 20, synthetic: int = 8) -> tuple[Path, Path]:
    one = _pictures(tmp_path / "real", real, 0)
    other = _pictures(tmp_path / "synthetic", synthetic, 9)
    with np.load(other / "made.npz") as made:
        np.savez(other / "drawn.npz", drawn_images=made["train_images"], drawn_labels=made["train_labels"])
    (other / "made.npz").unlink()
    return one, other


def _quiet(text: str) -> None:
    pass


def test_arms_share_test_patients_and_budget(tmp_path: Path) -> None:
    real, synthetic = _folders(tmp_path)
    found = compare_arms(RECIPE, real, synthetic, tmp_path / "out", Terms(seeds=2), say=_quiet)
    assert [a.name for a in found.arms] == list(ARMS)
    patients = {tuple(sorted(a.per_patient)) for a in found.arms}
    assert len(patients) == 1
    assert all(a.value.n == 8 and len(a.seeds) == 2 for a in found.arms)
    assert "Nothing may be claimed of 8 test patients" in found.sentence()
    assert any("--generator" in r for r in found.remarks)
    trained = {}
    for arm in ARMS:
        folder = tmp_path / "out" / arm.replace(" ", "_").replace(",", "").replace("+", "and") / "0"
        facts = json.loads((folder / "stages/model/checkpoint.json").read_text())["facts"]
        assert facts["total"] == 3
        trained[arm] = len(facts["trained_on"])
    assert trained == {"real": 12, "synthetic": 8, "real + synthetic": 20, "real, augmented": 12}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "Nothing may be claimed" in report["sentence"]
    states = {c["number"]: c["status"] for c in report["checks"]}
    assert states[1] == "refused"  # the generator was not named
    assert states[22] == "passed"
    assert states[14] == "not asked"
    assert json.loads((tmp_path / "out" / "downstream.json").read_text())["arms"][3]["gain"] is None


def test_a_finished_arm_is_not_run_again_and_another_recipe_not_mixed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, synthetic = _folders(tmp_path)
    first = compare_arms(RECIPE, real, synthetic, tmp_path / "out", Terms(seeds=1), say=_quiet)
    monkeypatch.setattr("fabrica.study.downstream.run_recipe", lambda *a, **k: pytest.fail("trained again"))
    again = compare_arms(RECIPE, real, synthetic, tmp_path / "out", Terms(seeds=1), say=_quiet)
    assert [float(a.value) for a in again.arms] == [float(a.value) for a in first.arms]
    longer = {**RECIPE, "train": {"steps": 5, "batch": 4}}
    with pytest.raises(ValueError, match="another recipe"):
        compare_arms(longer, real, synthetic, tmp_path / "out", Terms(seeds=1), say=_quiet)


TRAINER = """
import argparse, csv
p = argparse.ArgumentParser()
for n in ("train", "test", "seed", "steps", "augment", "out"):
    p.add_argument("--" + n)
o = p.parse_args()
train, test = (list(csv.DictReader(open(f))) for f in (o.train, o.test))
with open(o.out, "w", newline="") as f:
    w = csv.writer(f)
    w.writerow(["case", "patient", "metric", "value"])
    for r in test:
        w.writerow([r["patient"], r["patient"], "dice", len(train) / 100 + {extra}])
"""


def _trainer(tmp_path: Path, extra: str = "0") -> str:
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER.replace("{extra}", extra))
    return f"{sys.executable} {script}"


def test_a_foreign_trainer(tmp_path: Path) -> None:
    real, synthetic = _folders(tmp_path, real=60, synthetic=10)
    found = compare_arms(
        RECIPE,
        real,
        synthetic,
        tmp_path / "out",
        Terms(trainer=_trainer(tmp_path, "float(o.seed) / 1000")),
        say=_quiet,
    )
    values = {a.name: float(a.value) for a in found.arms}
    assert values["real"] == pytest.approx(0.362)
    assert values["synthetic"] == pytest.approx(0.102)
    assert values["real + synthetic"] == pytest.approx(0.462)
    gain = next(a.gain for a in found.arms if a.name == "real + synthetic")
    assert gain is not None
    assert float(gain) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("import sys; sys.exit(3)", "ended with 3"),
        ("import sys; open(sys.argv[-1], 'w').write('a,b\\n1,2\\n')", "needs the columns"),
        ("import sys; open(sys.argv[-1], 'w').write('case,patient,metric,value\\nx,x,dice,1\\n')", "scored no case of"),
    ],
)
def test_a_trainer_that_fails_is_named(tmp_path: Path, line: str, words: str) -> None:
    real, synthetic = _folders(tmp_path)
    (tmp_path / "bad.py").write_text(line)
    with pytest.raises(ValueError, match=words):
        compare_arms(RECIPE, real, synthetic, tmp_path / "out", Terms(seeds=1, trainer=f"{sys.executable} {tmp_path / 'bad.py'}"), say=_quiet)  # fmt: skip


def test_patients_of_the_generator_may_not_test(tmp_path: Path) -> None:
    real, synthetic = _folders(tmp_path)
    everybody = {**RECIPE, "cohorts": {"all": {"path": str(real)}}, "split": {"train": 0.9, "test": 0.1, "seed": 3}}
    run_recipe(from_plain(everybody), tmp_path / "generator", say=_quiet)
    with pytest.raises(LeakError, match="who tests here"):
        compare_arms(
            RECIPE, real, synthetic, tmp_path / "out", Terms(seeds=1, generator=tmp_path / "generator"), say=_quiet
        )


def test_a_generator_that_is_none_is_no_clearance(tmp_path: Path) -> None:
    real, synthetic = _folders(tmp_path)
    with pytest.raises(ValueError, match="is not a run"):
        compare_arms(RECIPE, real, synthetic, tmp_path / "out", Terms(seeds=1, generator=tmp_path / "typo"), say=_quiet)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, "cohorts": {"all": {"path": str(real)}}}))
    with pytest.raises(ValueError, match="no trained stage"):
        compare_arms(
            RECIPE, real, synthetic, tmp_path / "out", Terms(seeds=1, generator=tmp_path / "empty"), say=_quiet
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"job": {"name": "translation", "from": ["T1w"], "x": ["FLAIR"]}}, "segmentation or outcome"),
        (
            {"family": {"name": "vq"}, "job": {"name": "segmentation", "from": ["image"], "x": ["label"]}},
            "one stage, and words need two",
        ),
        ({"train": {"minutes": 1}}, "equal compute"),
        ({"split": {"train": ["a"], "test": ["b"]}}, "by a share"),
    ],
)
def test_recipes_that_cannot_be_compared(tmp_path: Path, change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compare_arms({**RECIPE, **change}, tmp_path, tmp_path, tmp_path / "out", say=_quiet)


def _comparison(low: float, high: float, seeds: int = 5, endpoint: str = "dice", remarks: tuple[str, ...] = ()) -> str:
    gain = Result((low + high) / 2, 40, "", interval=(low, high), p_value=0.01)
    arm = Arm("real + synthetic", endpoint, Result(0.8, 40, "", interval=(0.7, 0.9)), (0.8,) * seeds, gain)
    return Comparison((arm,), Path("x"), remarks).sentence()


def test_what_may_be_written() -> None:
    assert "helps here" in _comparison(0.01, 0.05)
    assert "if their generator saw no test patient" in _comparison(0.01, 0.05, remarks=(UNKNOWN,))
    assert "not shown" in _comparison(-0.01, 0.05)
    assert "not shown" in _comparison(-0.05, -0.01)
    assert "at least 5" in _comparison(0.01, 0.05, seeds=3)
    assert "helps here: absolute error -0.03 (-0.05 to -0.01)" in _comparison(-0.05, -0.01, endpoint="absolute error")
    assert "not shown" in _comparison(0.01, 0.05, endpoint="absolute error")
    with pytest.raises(ValueError, match="Unknown endpoint 'loveliness'"):
        _comparison(0.01, 0.05, endpoint="loveliness")


@pytest.mark.parametrize(("metric", "worst"), [("dice", 0.0), ("absolute error", 0.9)])
def test_failures_count_as_the_worst_of_any_arm(metric: str, worst: float) -> None:
    from fabrica.evaluate.result import Row
    from fabrica.study.downstream import _judged

    def cases(values: list[float | str]) -> list[Row]:
        return [Row(f"c{i}", f"p{i}", "", "model", metric, v) for i, v in enumerate(values)]

    rows = {arm: [cases([0.2, 0.9])] for arm in ARMS}
    rows["synthetic"] = [cases(["failed: x"])]  # and the second patient is missing altogether
    found = {a.name: a for a in _judged(rows)}
    assert found["synthetic"].per_patient == {"p0": worst, "p1": worst}


def test_a_synthetic_patient_named_like_a_test_patient_is_a_leak(tmp_path: Path) -> None:
    real, _ = _folders(tmp_path)
    with np.load(real / "made.npz") as made:
        images, labels = made["train_images"], made["train_labels"]
    (tmp_path / "same").mkdir()
    np.savez(tmp_path / "same" / "made.npz", train_images=images[::-1], train_labels=labels)
    with pytest.raises(LeakError, match="may only train"):
        compare_arms(RECIPE, real, tmp_path / "same", tmp_path / "out", Terms(seeds=1), say=_quiet)


def test_the_verb(tmp_path: Path) -> None:
    real, synthetic = _folders(tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    call = ["downstream", str(tmp_path / "recipe.yaml"), "--real", str(real), "--synthetic", str(synthetic), "--out", str(tmp_path / "out")]  # fmt: skip
    done = CliRunner().invoke(app, [*call, "--seeds", "1", "--trainer", _trainer(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "real + synthetic: dice 0.2" in done.output
    assert (tmp_path / "out" / "index.html").is_file()
    with (tmp_path / "out" / "cases.csv").open() as file:
        assert {r["stage"] for r in csv.DictReader(file)} == set(ARMS)


def test_copies_are_left_out_of_every_arm_alike(tmp_path: Path) -> None:
    """A test image that also trains is dropped where real images train, so it counts in no arm."""
    real, synthetic = _folders(tmp_path, real=40)
    with np.load(real / "made.npz") as made:
        images, labels = made["train_images"], made["train_labels"]
    images[:2] = images[2]
    np.savez(real / "made.npz", train_images=images, train_labels=labels)
    found = compare_arms({**RECIPE, "seed": 1}, real, synthetic, tmp_path / "out", Terms(seeds=1), say=_quiet)
    assert len({tuple(sorted(a.per_patient)) for a in found.arms}) == 1


def test_arms_on_other_patients_are_refused() -> None:
    from fabrica.evaluate.result import Row
    from fabrica.study.downstream import _keep_shared

    def cases(names: str) -> list[Row]:
        return [Row(n, n, "", "model", "dice", 1.0) for n in names]

    rows = {"real": [cases("abcdefghijklmnopqrst")], "synthetic": [cases("abcdefghijklmnopqrs")]}
    assert _keep_shared(rows) == 1
    assert {r.patient for r in rows["real"][0]} == set("abcdefghijklmnopqrs")
    with pytest.raises(ValueError, match="different patients"):
        _keep_shared({"real": [cases("ab")], "synthetic": [cases("cd")]})


CLAIM = {
    "claim": "Drawn patients help.", "endpoint": "dice", "verb": "superiority", "population": "pictures", "about": "utility",
    "arm": "real + synthetic", "against": "real, augmented",
}  # fmt: skip


def _claimed(
    tmp_path: Path, change: dict, named: bool = True, extra: str = "float(o.seed) / 1000", real: int = 60
) -> Comparison:
    folders = _folders(tmp_path, real=real, synthetic=10)
    generator = None
    if named:
        generator = tmp_path / "generator"
        plain = {**RECIPE, "cohorts": {"all": {"path": str(folders[1])}}, "split": {"train": 0.8, "test": 0.2}}
        run_recipe(from_plain(plain), generator, say=_quiet)
    terms = Terms(trainer=_trainer(tmp_path, extra), generator=generator, claim=Claim.of({**CLAIM, **change}))
    return compare_arms(RECIPE, *folders, tmp_path / "out", terms, say=_quiet)


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({}, "SUPPORTED", "the model that learned from real + synthetic images is better than the model that learned from real, augmented"),
        ({"arm": "synthetic"}, "NOT SUPPORTED", "It was not shown that the model that learned from synthetic images"),
        ({"arm": "synthetic", "against": "real", "verb": "non-inferiority", "margin": 0.3, "margin_source": "x"}, "SUPPORTED", "by more than 0.3"),
        ({"arm": "synthetic", "against": "real", "verb": "non-inferiority", "margin": 0.1, "margin_source": "x"}, "NOT SUPPORTED", "not shown"),
        ({"against": "real"}, "REFUSED", "check 22: More than real images alone may be augmentation alone"),
    ],
)  # fmt: skip
def test_a_claim_on_what_models_learn_from(tmp_path: Path, change: dict, status: str, words: str) -> None:
    found = _claimed(tmp_path, change)
    assert found.verdict is not None
    assert found.verdict.status == status, found.verdict.may
    assert words in found.verdict.may
    assert found.verdict.patients == 24
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["verdict"]["status"] == status
    states = {c["number"]: c["status"] for c in report["checks"]}
    assert states[16] == states[17] == "passed"
    assert json.loads((tmp_path / "out" / "claim.json").read_text())[0]["arm"] == found.verdict.claim.arm
    assert status in (tmp_path / "out" / "index.html").read_text()


def test_a_claim_falls_when_nobody_knows_whom_the_generator_saw(tmp_path: Path) -> None:
    found = _claimed(tmp_path, {}, named=False)
    assert found.verdict is not None
    assert found.verdict.status == "REFUSED"
    assert "check 1" in found.verdict.may


def test_few_patients_and_late_claims_on_arms(tmp_path: Path) -> None:
    few = _claimed(tmp_path / "few", {}, real=40)
    assert few.verdict is not None
    assert "16 patients, at least 20 are needed" in few.verdict.may
    real, synthetic = _folders(tmp_path / "late", real=60, synthetic=10)
    trainer = _trainer(tmp_path)
    compare_arms(RECIPE, real, synthetic, tmp_path / "late" / "out", Terms(trainer=trainer), say=_quiet)
    terms = Terms(trainer=trainer, claim=Claim.of(CLAIM))
    late = compare_arms(RECIPE, real, synthetic, tmp_path / "late" / "out", terms, say=_quiet)
    assert late.verdict is not None
    assert "check 17: EXPLORATORY" in late.verdict.may


@pytest.mark.parametrize(
    ("change", "terms", "words"),
    [
        ({"arm": "", "against": "competitor", "about": "images"}, {}, "fabrica evaluate --claim FILE"),
        ({}, {"seeds": 3, "trainer": "x"}, "needs 5 seeds at least, got 3"),
        ({}, {}, "dice is not measured per patient here. Write one of: correct, log loss"),
        ({"seeds_started": 7, "seeds_reported": 7}, {"trainer": "x"}, "The claim says 7 seeds, --seeds says 5"),
    ],
)
def test_claims_that_arms_cannot_answer(tmp_path: Path, change: dict, terms: dict, words: str) -> None:
    """Before anything is trained."""
    real, synthetic = _folders(tmp_path)
    asked = Terms(**terms, claim=Claim.of({**CLAIM, **change}))
    with pytest.raises(ValueError, match=words):
        compare_arms(RECIPE, real, synthetic, tmp_path / "out", asked, say=_quiet)
    assert not (tmp_path / "out").exists()


def test_the_arms_that_a_claim_knows_are_all() -> None:
    from fabrica.evaluate.honesty import claim

    assert tuple(ARMS) == claim.ARMS


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("w.writerow(['x', 'stranger', 'dice', 1])", "scored stranger, who does not test"),
        ("", "without scores"),
    ],
)
def test_scores_are_of_this_call_and_of_those_who_test(tmp_path: Path, line: str, words: str) -> None:
    """A stranger is refused; a trainer that writes nothing is not answered for by the file of an earlier call."""
    real, synthetic = _folders(tmp_path)
    script = tmp_path / "trainer.py"
    body = TRAINER.replace("{extra}", "0")
    script.write_text(f"{body}    {line}\n" if line else body)
    command = f"{sys.executable} {script}"
    if not line:
        compare_arms(RECIPE, real, synthetic, tmp_path / "out", Terms(seeds=1, trainer=command), say=_quiet)
        script.write_text("")
    with pytest.raises(ValueError, match=words):
        compare_arms(RECIPE, real, synthetic, tmp_path / "out", Terms(seeds=1, trainer=command), say=_quiet)


def test_a_trainer_hears_of_steps_and_augmentation(tmp_path: Path) -> None:
    real, synthetic = _folders(tmp_path, real=60, synthetic=10)
    terms = Terms(seeds=1, trainer=_trainer(tmp_path, "float(o.augment) + float(o.steps) / 1000"))
    found = {
        a.name: float(a.value) for a in compare_arms(RECIPE, real, synthetic, tmp_path / "out", terms, say=_quiet).arms
    }
    assert found["real"] == pytest.approx(0.363)  # 3 steps
    assert found["real, augmented"] == pytest.approx(1.363)
    assert found["synthetic"] == pytest.approx(0.103)


def test_an_arm_without_numbers_is_not_beaten(tmp_path: Path) -> None:
    """The arm to beat wrote nothing for most patients: filled in with the worst, it would lose."""
    found = _claimed(tmp_path, {}, extra="0 if float(o.augment) == 0 or r['patient'] < 'p' else float('nan')")
    assert found.verdict is not None
    assert found.verdict.status == "REFUSED"
    assert "of the arm real, augmented have no dice" in found.verdict.may


def test_arms_that_were_finished_before_the_claim(tmp_path: Path) -> None:
    """An interrupted comparison leaves scores: whoever read them declares nothing first."""
    real, synthetic = _folders(tmp_path, real=60, synthetic=10)
    (tmp_path / "out" / "real" / "0").mkdir(parents=True)
    (tmp_path / "out" / "real" / "0" / "scores.csv").write_text("case,patient,metric,value\n")
    terms = Terms(trainer=_trainer(tmp_path), claim=Claim.of(CLAIM))
    late = compare_arms(RECIPE, real, synthetic, tmp_path / "out", terms, say=_quiet)
    assert late.verdict is not None
    assert "check 17: EXPLORATORY: results lay here" in late.verdict.may


def test_learning_from_synthetic_images_first_costs_no_more(tmp_path: Path) -> None:
    real, synthetic = _folders(tmp_path)
    terms = Terms(seeds=1, pretrain=True, patients=6)
    found = compare_arms(RECIPE, real, synthetic, tmp_path / "out", terms, say=_quiet)
    assert [a.name for a in found.arms] == [*ARMS, PRETRAINED]
    assert {tuple(sorted(a.per_patient)) for a in found.arms} == {tuple(sorted(found.arms[0].per_patient))}
    assert "learning from synthetic images first" in found.sentence() or "Nothing may be claimed" in found.sentence()
    steps, seen = {}, {}
    for arm in (FIRST, PRETRAINED, "real"):
        home = arm_folder(tmp_path / "out", arm, 0) / "stages/model"
        facts = json.loads((home / "checkpoint.json").read_text())["facts"]
        steps[arm], seen[arm] = facts["total"], set(facts["trained_on"])
    assert steps[FIRST] + steps[PRETRAINED] == steps["real"] == 3
    assert len(seen["real"]) == 6
    assert len(seen[FIRST]) == 8
    assert seen[PRETRAINED] == seen["real"] | seen[FIRST]
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "out").rglob("checkpoint.json")}
    again = compare_arms(RECIPE, real, synthetic, tmp_path / "out", terms, say=_quiet)
    assert [float(a.value) for a in again.arms] == [float(a.value) for a in found.arms]
    assert before == {f: f.stat().st_mtime_ns for f in (tmp_path / "out").rglob("checkpoint.json")}
    with pytest.raises(ValueError, match="and 12 can train"):
        compare_arms(RECIPE, real, synthetic, tmp_path / "more", Terms(seeds=1, patients=13), say=_quiet)
    with pytest.raises(ValueError, match="starts from no weights"):
        compare_arms(RECIPE, real, synthetic, tmp_path / "own", Terms(pretrain=True, trainer="x"), say=_quiet)


def test_arms_are_trained_by_worker_processes(tmp_path: Path) -> None:
    real, synthetic = _folders(tmp_path)
    alone = compare_arms(RECIPE, real, synthetic, tmp_path / "alone", Terms(seeds=1), say=_quiet)
    said = list[str]()
    terms = Terms(seeds=1, executor=Dask(workers=2))
    apart = compare_arms(RECIPE, real, synthetic, tmp_path / "apart", terms, say=said.append)
    assert [(a.name, float(a.value)) for a in apart.arms] == [(a.name, float(a.value)) for a in alone.arms]
    assert sum("is trained" in line for line in said) == len(ARMS)
    weights = [
        {f.relative_to(tmp_path / side): f.name for f in (tmp_path / side).rglob("checkpoint-*.safetensors")}
        for side in ("alone", "apart")
    ]
    assert weights[0] == weights[1]  # names are hashes: the same bytes
