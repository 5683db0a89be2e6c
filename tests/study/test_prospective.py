"""A study declared before its data: what is fixed, what a look refuses, how looks are counted, what the page says."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml

from fabrica.cli import main
from fabrica.data.split import LeakError
from fabrica.machine.folders import alone
from fabrica.recipe.checks import from_plain
from fabrica.run.sequence import run_recipe
from fabrica.study.declared import Exclusion, Plan
from fabrica.study.prospective import Study, freeze, look

CLAIM = {
    "claim": "FLAIR from T1w comes near enough.", "endpoint": "mae", "verb": "superiority", "population": "discs",
    "against": "goal", "goal": 5.0, "goal_source": "a made one",
}  # fmt: skip
PATIENTS = 24


def _patients(folder: Path, names: list[str], seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    folder.mkdir(parents=True)
    with (folder / "participants.tsv").open("w", newline="") as file:
        out = csv.writer(file, delimiter="\t")
        out.writerow(["participant_id", "age"])
        for k, name in enumerate(names):
            disc = 1 / (1 + np.exp(np.hypot(y - 16, x - 16) - rng.uniform(8, 12)))
            for contrast, image in (("T1w", disc), ("FLAIR", disc * (1 - 0.5 * disc))):
                place = folder / name / f"{contrast}.nii.gz"
                place.parent.mkdir(exist_ok=True)
                noisy = 300 * np.clip(image + 0.01 * rng.normal(size=image.shape), 0, None)
                nibabel.save(nibabel.Nifti1Image(noisy.T[..., None].astype(np.float32), np.eye(4)), place)
            out.writerow([name, 16 if name.startswith("child") else 30 + k])
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    plain = {
        "cohorts": {"all": {"path": str(_patients(folder / "old", [f"old{k}" for k in range(6)]))}},
        "split": {"train": 0.5, "test": 0.5}, "job": {"name": "translation", "from": ["T1w"], "x": ["FLAIR"]},
        "family": {"name": "flow", "network": {"channels": [8, 16], "blocks": 1}}, "evaluate": {"draws": 2, "realism": 0, "evaluations": []},
        "train": {"steps": 20, "batch": 2, "precision": "fp32"},
    }  # fmt: skip
    run_recipe(from_plain(plain), folder / "run", say=lambda text: None)
    _patients(folder / "new", [f"new{k:02d}" for k in range(PATIENTS)] + ["child0"], seed=1)
    return folder


def _plan(**changes: object) -> Plan:
    return Plan.of({"claim": CLAIM, "patients": PATIENTS, "exclusions": [{"value": "age", "below": 18}], **changes})


def _frozen(place: Path, out: Path, **changes: object) -> Path:
    freeze(place / "run", _plan(**changes), out, lambda text: None)
    return out


def test_a_study_from_freezing_to_its_verdict(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = {
        "claim": {**CLAIM, "against": "competitor", "goal": None},
        "patients": PATIENTS,
        "exclusions": [{"value": "age", "below": 18}],
    }
    del declared["claim"]["goal"], declared["claim"]["goal_source"]  # type: ignore[attr-defined]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(declared))

    def told(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["fabrica", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code, capsys.readouterr()
        return capsys.readouterr().out

    said = told("freeze", str(place / "run"), "--study", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "study"))
    study = Study.open(tmp_path / "study")
    assert study.digest in said
    assert study.stages == {"model": "model", "rival": "model-baseline"}
    said = told("run", str(tmp_path / "study"), "--data", str(place / "new"))
    assert "SUPPORTED" in said
    (seen,) = study.looks()
    assert (seen["look"], seen["patients"]) == (1, PATIENTS)
    assert seen["status"] in ("SUPPORTED", "NOT SUPPORTED")
    report = json.loads((tmp_path / "study" / "looks" / "1" / "report" / "report.json").read_text())
    assert report["verdict"]["digest"] == study.digest
    assert report["verdict"]["patients"] == PATIENTS
    assert {s["name"]: s["steps"] for s in report["stages"]}.keys() == {"model", "rival"}
    page = (tmp_path / "study" / "looks" / "1" / "report" / "index.html").read_text()
    assert f"Declared on {study.frozen} as {study.digest}, before these patients" in page
    assert "child0 is excluded: age below 18" in page
    with pytest.raises(ValueError, match="ended with look 1|All 1 declared looks"):
        look(tmp_path / "study", place / "new", print)


def test_looks_are_counted_and_share_alpha(place: Path, tmp_path: Path) -> None:
    """An unreachable goal is not supported by half of the patients, nor by all of them."""
    study = _frozen(place, tmp_path / "study", looks=2, claim={**CLAIM, "goal": 1e-6})
    half = _patients(tmp_path / "half", [f"new{k:02d}" for k in range(PATIENTS // 2 - 1)], seed=1)
    with pytest.raises(ValueError, match="Look 1 of 2 is due at 12 patients, 11 are here. Nothing was seen"):
        look(study, half, print)
    assert Study.open(study).looks() == []
    _patients(tmp_path / "enough", [f"new{k:02d}" for k in range(22)], seed=1)
    verdict = look(study, tmp_path / "enough", lambda text: None)
    assert verdict.claim.alpha == 0.025
    assert verdict.status == "NOT SUPPORTED"
    assert "alpha 0.05 over 2 looks." in verdict.remarks
    look(study, place / "new", lambda text: None)
    with pytest.raises(ValueError, match="All 2 declared looks were taken"):
        look(study, place / "new", print)


def test_a_look_that_was_begun_is_ended_with_the_same_patients(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = _frozen(place, tmp_path / "study")

    def broken(*words: object, **more: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("fabrica.study.prospective.run_recipe", broken)
        with pytest.raises(KeyboardInterrupt):
            look(study, place / "new", print)
    (begun,) = Study.open(study).looks()
    assert "status" not in begun
    with pytest.raises(ValueError, match="begun on other cases"):
        look(study, _patients(tmp_path / "others", [f"x{k}" for k in range(PATIENTS)]), print)
    look(study, place / "new", lambda text: None)
    (ended,) = Study.open(study).looks()
    assert ended["begun"] == begun["begun"]
    assert "status" in ended


def test_whatever_was_changed_is_refused(place: Path, tmp_path: Path) -> None:
    study = _frozen(place, tmp_path / "study")
    weights = next((study / "frozen" / "stages" / "model").glob("*.safetensors"))
    own = weights.read_bytes()
    weights.write_bytes(own[:-1] + bytes([own[-1] ^ 1]))
    with pytest.raises(ValueError, match="is not what was frozen"):
        look(study, place / "new", print)
    weights.write_bytes(own)
    (study / "frozen" / "stages" / "model" / "anomaly.json").write_text("{}")
    with pytest.raises(ValueError, match=r"anomaly.json is not what was frozen"):
        look(study, place / "new", print)
    (study / "frozen" / "stages" / "model" / "anomaly.json").unlink()
    declared = json.loads((study / "study.json").read_text())
    (study / "study.json").write_text(json.dumps({**declared, "patients": 20}))
    with pytest.raises(ValueError, match="was changed after it was frozen"):
        look(study, place / "new", print)
    (study / "study.json").write_text("{")
    with pytest.raises(ValueError, match="no study that can be read"):
        look(study, place / "new", print)
    (study / "study.json").write_text(json.dumps(declared))
    (study / "looks.json").write_text(json.dumps([{"study": "another"}]))
    with pytest.raises(ValueError, match="how often was looked is not known"):
        look(study, place / "new", print)


def test_patients_who_trained_do_not_belong(place: Path, tmp_path: Path) -> None:
    study = _frozen(place, tmp_path / "study")
    with pytest.raises(LeakError, match="trained these weights"):
        look(study, place / "old", print)


def test_too_many_patients_are_not_chosen_from(place: Path, tmp_path: Path) -> None:
    study = _frozen(place, tmp_path / "study", patients=20)
    with pytest.raises(ValueError, match="24 patients are here, 20 were declared"):
        look(study, place / "new", print)


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        ([], "A study is a block"),
        ({"claims": CLAIM}, "claims"),
        ({"claim": CLAIM, "patients": 5}, "at least 20"),
        ({"claim": CLAIM, "patients": 30, "looks": 0}, "1 to 10"),
        ({"claim": {**CLAIM, "against": "trivial answers", "goal": None}, "patients": 30}, "goal"),
        ({"claim": CLAIM, "patients": 30, "exclusions": {"age": 3}}, "a list of rules"),
        ({"claim": CLAIM, "patients": 30, "exclusions": [{"value": "age"}]}, "is none"),
        ({"claim": CLAIM, "patients": 30, "exclusions": [{"value": "age", "below": "x"}]}, "expected a number"),
        ({"claim": CLAIM, "patients": 30, "exclusions": [{"value": "sex", "is": "F"}]}, "a list of words"),
    ],
)
def test_declarations_that_cannot_be_are_refused(plain: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Plan.of(plain)


def test_exclusions_by_number_and_by_word() -> None:
    rule = Exclusion.of({"value": "age", "below": 18, "above": 80})
    assert [rule.holds({"age": a}) for a in (17, 18.0, 80, 81.0)] == [True, False, False, True]
    assert Exclusion.of({"value": "class", "is": ["1"]}).holds({"class": 1.0})
    assert rule.in_words() == "age below 18 or above 80"
    with pytest.raises(ValueError, match="says no age"):
        rule.holds({})
    with pytest.raises(ValueError, match="expected a number"):
        rule.holds({"age": "old"})


def test_a_run_that_cannot_answer_is_not_frozen(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="surface dice is not measured by this run"):
        _frozen(place, tmp_path / "a", claim={**CLAIM, "endpoint": "surface dice"})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "kept").write_text("")
    with pytest.raises(ValueError, match="is not empty"):
        _frozen(place, tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": {"steps": 20, "batch": 2, "precision": "fp32"}, "stages": ["model", "other"]}, "found none"),
        ({"job": {"name": "outcome", "from": ["T1w"], "x": "age"}}, "studies judge images told from images"),
    ],
)
def test_a_stage_that_a_study_cannot_ask_is_refused(change: dict, words: str, place: Path, tmp_path: Path) -> None:
    """A competitor that is not there; answers that are no images."""
    plain = {
        "cohorts": {"all": {"path": str(place / "old")}}, "split": {"train": 0.5, "test": 0.5}, "baseline": "none",
        "evaluate": {"draws": 1, "realism": 0, "evaluations": []},
        "job": {"name": "translation", "from": ["T1w"], "x": ["FLAIR"]},
        "family": {"name": "regression", "network": {"channels": [8, 16], "blocks": 1}},
        "train": {"steps": 2, "batch": 2, "precision": "fp32"}, **{k: v for k, v in change.items() if k != "stages"},
    }  # fmt: skip
    run_recipe(from_plain(plain), tmp_path / "run", say=lambda text: None)
    rival = {k: v for k, v in CLAIM.items() if not k.startswith("goal")} | {"against": "competitor"}
    claim = rival if "stages" in change else CLAIM
    with pytest.raises(ValueError, match=words):
        freeze(tmp_path / "run", _plan(claim=claim), tmp_path / "study", lambda text: None)


def test_a_study_that_is_looked_at_is_not_looked_at_twice_at_once(place: Path, tmp_path: Path) -> None:
    study = _frozen(place, tmp_path / "study")
    with alone(study / ".looking") as free:
        assert free
        with pytest.raises(ValueError, match="is being looked at by another process"):
            look(study, place / "new", print)
    (study / "looks.json").write_text("{")
    with pytest.raises(ValueError, match="how often was looked is not known"):
        look(study, place / "new", print)


def test_a_patient_of_whom_an_exclusion_cannot_be_told_is_named(place: Path, tmp_path: Path) -> None:
    study = _frozen(place, tmp_path / "study", exclusions=[{"value": "weight", "above": 100}])
    with pytest.raises(ValueError, match=r"child0|new00.*says no weight"):
        look(study, place / "new", print)
