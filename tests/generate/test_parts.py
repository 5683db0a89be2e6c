"""A model of any parts judged and put to use: every direction, who else answers it, and questions that have no answer."""

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from fabrica.cli import app
from fabrica.data.cohort import Source
from fabrica.data.findings import facts_of
from fabrica.data.virtual import VirtualCohort
from fabrica.data.virtual.export import write_cohort
from fabrica.deliver.record import Record
from fabrica.generate.parts import Wanted, generate_parts
from fabrica.machine.executors import Dask
from fabrica.recipe.checks import from_plain
from fabrica.run.answering import Answering
from fabrica.run.directions import Asking, Direction, only, speaker
from fabrica.run.folder import RunFolder
from fabrica.run.sequence import run_recipe

NETWORK = {"channels": [8, 16], "blocks": 1}
SHORT = {"steps": 3, "batch": 4, "precision": "fp32"}
RECIPE = {
    "cohorts": {"all": {"virtual": {"patients": 4, "seed": 3, "spacing_mm": 4, "planes": [14, 18], "disease": "ms"}}},
    "split": {"train": 0.5, "test": 0.5}, "baseline": "none", "evaluate": {"draws": 2},
    "stages": {
        "finder": {"job": {"name": "segmentation", "from": ["FLAIR"], "x": ["lesion"]}, "family": {"name": "regression", "network": NETWORK}, "train": SHORT},
        "alone": {"job": {"name": "translation", "from": ["T1w"], "x": ["FLAIR"]}, "family": {"name": "regression", "network": NETWORK}, "train": SHORT},
        "years": {"job": {"name": "outcome", "from": ["T1w"], "x": "age", "centre": 50, "width": 20, "unit": "year"}, "family": {"name": "regression", "network": NETWORK}, "train": SHORT},
        "any": {
            "job": {
                "name": "foundation", "x": ["T1w", "FLAIR", "lesion"], "text": {"findings": {"of": "lesion", "words": 96, "length": 20}},
                "covariates": {"age": [50, 20]}, "by": {"sex": ["F", "M"]},
                "directions": ["T1w -> FLAIR", "FLAIR -> findings, lesion", "findings -> FLAIR, lesion", "T1w -> age, sex", "age -> T1w"],
            },
            "family": {"name": "flow", "network": NETWORK}, "sampler": {"name": "dpm", "steps": 2}, "train": SHORT,
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("parts") / "run"
    run_recipe(from_plain(RECIPE), run, say=lambda text: None)
    return run


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    write_cohort(VirtualCohort(1, seed=9, spacing_mm=4, disease="ms"), folder, lambda text: None)
    return folder


@pytest.fixture(scope="module")
def table(trained: Path) -> dict[tuple[str, str, str], float | None]:
    report = json.loads((trained / "report/report.json").read_text())
    rows = next(s for s in report["stages"] if s["name"] == "any")["cases"]
    return {(r["contrast"], r["by"], r["metric"]): r["value"] for r in rows}


@pytest.mark.parametrize(
    ("contrast", "by", "metric"),
    [
        ("FLAIR from T1w", "model: mean of draws", "psnr"),
        ("FLAIR from T1w", "alone (regression alone)", "psnr"),
        ("FLAIR from T1w", "T1w copied", "ssim"),
        ("lesion from FLAIR", "model: mean of draws", "dice"),
        ("findings from FLAIR", "model", "exact sentences"),
        ("findings from FLAIR", "the commonest sentence", "exact sentences"),
        ("findings from FLAIR", "finder (regression alone), described", "fact recall"),
        ("facts of findings from findings", "model: mask as drawn", "facts obeyed"),
        ("facts of findings from findings", "words of other slices: mask as drawn", "facts obeyed"),
        ("facts of findings from findings", "model: FLAIR read by finder", "facts obeyed"),
        ("facts of findings from findings", "real FLAIR read by finder", "facts obeyed"),
        ("age from T1w", "model", "absolute error"),
        ("age from T1w", "the training mean", "absolute error"),
        ("age from T1w", "years (regression alone)", "absolute error"),
        ("sex from T1w", "the commonest class", "correct"),
    ],
)
def test_every_direction_stands_beside_who_else_answers_it(table: dict, contrast: str, by: str, metric: str) -> None:
    assert isinstance(table[contrast, by, metric], float)


def test_another_patient_of_the_same_words_is_not_wrong(table: dict) -> None:
    assert not [
        key for key in table if key[0] in ("FLAIR from findings", "T1w from age") and key[2] in ("psnr", "mae", "ssim")
    ]


def test_the_report_shows_every_direction_with_what_was_said(trained: Path) -> None:
    page = (trained / "report/index.html").read_text()
    for direction in RECIPE["stages"]["any"]["job"]["directions"]:  # type: ignore[index]
        assert direction.replace(">", "&gt;") in page
    assert "findings, true:" in page
    assert "findings, by the model:" in page


def _asking(run: Path) -> tuple[Answering, Asking]:
    opened = RunFolder.open(run)
    answering = Answering(opened, opened.last_stage("any"))
    return answering, Asking(answering.family, answering.job, answering.layout, answering.seed)


def test_nothing_but_what_is_given_is_known(trained: Path, scans: Path) -> None:
    """A case without an image is asked the same as a case whose image is held back."""
    answering, asking = _asking(trained)
    (member,) = Source(scans).find().members
    from fabrica.data.cases import prepare_case

    case = prepare_case(member, ["T1w", "FLAIR", "lesion"], "T1w", answering.preparation)
    batch = only(asking.rows(case), ("T1w",))
    assert float(batch.images["FLAIR"].abs().max()) == float(batch.images["lesion"].max()) == 0
    assert int(batch.values["findings"].max()) == 0
    assert not bool(batch.present["findings"].any())
    assert bool(batch.present["T1w"].all())
    direction = Direction(("T1w",), ("FLAIR",))
    whole = asking.answer(case, direction, 1, print)
    held = prepare_case(member, ["T1w"], "T1w", answering.preparation)
    alone = asking.answer(held, direction, 1, print)
    assert whole.images is not None
    assert alone.images is not None
    assert torch.equal(whole.images, alone.images)


def test_words_and_images_of_a_new_case(trained: Path, scans: Path, tmp_path: Path) -> None:
    said: list[str] = []
    wanted = Wanted.of("T1w, FLAIR", "findings,lesion,age,sex", {})
    files = generate_parts(trained, Source(scans), tmp_path, wanted, draws=2, stage="any", say=said.append)
    names = sorted(p.name for p in files)
    assert names == ["lesion-0.nii.gz", "lesion-1.nii.gz", "parts-0.json", "parts-1.json"]
    case = files[0].parent
    plain = json.loads((case / "parts-0.json").read_text())
    assert plain["given"] == ["T1w", "FLAIR"]
    assert "draft" in plain
    assert sum(plain["sex"].values()) == pytest.approx(1)
    assert -10 < plain["age"] < 110
    assert {"slice", "text"} == set(plain["findings"][0])
    mask = np.asarray(nibabel.load(case / "lesion-0.nii.gz").dataobj)
    assert set(np.unique(mask)) <= {0, 1}
    source = next(s for s in scans.rglob("*FLAIR*.nii.gz"))
    assert mask.shape == nibabel.load(source).shape
    record = Record.read(tmp_path)
    assert {i.given for i in record.images} == {("T1w", "FLAIR")}
    again = generate_parts(trained, Source(scans), tmp_path / "again", wanted, draws=2, stage="any", say=said.append)
    assert [p.read_bytes() for p in again if p.suffix == ".json"] == [
        p.read_bytes() for p in files if p.suffix == ".json"
    ]


def test_workers_say_the_same_and_what_was_asked_before_is_kept(trained: Path, tmp_path: Path) -> None:
    write_cohort(VirtualCohort(2, seed=9, spacing_mm=4, disease="ms"), tmp_path / "two", lambda text: None)
    wanted, said = Wanted.of("T1w", "FLAIR,findings", {}), list[str]()
    source = Source(tmp_path / "two")
    for name, by in (("here", None), ("there", Dask(workers=2))):
        generate_parts(trained, source, tmp_path / name, wanted, stage="any", executor=by, say=said.append)
    here, there = (
        {
            p.relative_to(tmp_path / side): p.read_bytes()
            for p in (tmp_path / side).glob("*/*.*")
            if p.parent.name[0] != "."
        }
        for side in ("here", "there")
    )
    assert here == there
    assert len(here) == 4
    said.clear()
    files = generate_parts(trained, source, tmp_path / "here", wanted, stage="any", say=said.append)
    assert sum("kept" in line for line in said) == 2
    assert len(files) == 4
    said.clear()
    more = Wanted.of("T1w", "FLAIR", {})
    generate_parts(trained, source, tmp_path / "here", more, stage="any", say=said.append)
    assert not any("kept" in line for line in said)  # another question


def test_typed_words_make_an_image(trained: Path, scans: Path, tmp_path: Path) -> None:
    """And other words another image of the same chance."""
    drawn = {}
    for text in ("No lesion.", "One lesion: large, left, posterior."):
        words = ["generate", str(trained), "--data", str(scans), "--out", str(tmp_path / text[:3]), "--stage", "any"]
        result = CliRunner().invoke(
            app, [*words, "--given", "findings", "--ask", "FLAIR", "--value", f"findings={text}"]
        )
        assert result.exit_code == 0, result.output
        (file,) = (tmp_path / text[:3]).rglob("FLAIR-0.nii.gz")
        drawn[text] = np.asarray(nibabel.load(file).dataobj)
    assert not np.array_equal(*drawn.values())


def test_without_a_question_all_that_is_missing_is_asked(trained: Path, scans: Path, tmp_path: Path) -> None:
    for file in scans.rglob("*"):
        if file.is_file() and "T1w" in file.name:
            (tmp_path / "in" / file.parent.name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / file.parent.name / file.name).write_bytes(file.read_bytes())
    said: list[str] = []
    files = generate_parts(trained, Source(tmp_path / "in"), tmp_path / "out", Wanted(), stage="any", say=said.append)
    assert sorted(p.name for p in files) == ["FLAIR-0.nii.gz", "lesion-0.nii.gz", "parts-0.json"]
    assert set(json.loads(next(p for p in files if p.suffix == ".json").read_text())) >= {"findings", "age", "sex"}
    said.clear()
    with pytest.raises(ValueError, match="No case in .* has FLAIR"):
        generate_parts(
            trained,
            Source(tmp_path / "in"),
            tmp_path / "no",
            Wanted(("FLAIR",), ("T1w",)),
            stage="any",
            say=said.append,
        )
    assert any("has no FLAIR; left out" in line for line in said)


@pytest.mark.parametrize(
    ("given", "ask", "values", "words"),
    [
        ("T1w", "PET", {}, "Unknown part of the model 'PET'"),
        ("T1w,FLAIR", "FLAIR", {}, "FLAIR is given and asked for"),
        ("findings", "FLAIR", {"findings": "Zebra crossing 12 km wide"}, "cannot be understood"),
        ("findings", "FLAIR", {"findings": "No lesion. " * 8}, "the model reads 20"),
        ("findings", "FLAIR", {"findings": " "}, "is empty"),
        ("T1w", "FLAIR", {"findings": "No lesion."}, "--given leaves out"),
        ("sex", "FLAIR", {"sex": "X"}, "sex X is none of F, M"),
        ("T1w", "sex", {"sex": "F"}, "is given and asked for"),
        ("age", "FLAIR", {"age": "130"}, "age 130 lies outside -10 to 110"),
    ],
)
def test_questions_without_an_answer(
    trained: Path, scans: Path, tmp_path: Path, given: str, ask: str, values: dict, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        generate_parts(trained, Source(scans), tmp_path / "out", Wanted.of(given, ask, values), stage="any")
    assert not (tmp_path / "out").exists()


def test_numbers_that_the_words_of_a_model_cannot_say_are_refused_before_training(tmp_path: Path) -> None:
    recipe = json.loads(json.dumps(RECIPE))
    recipe["stages"] = {"any": recipe["stages"]["any"]}
    recipe["stages"]["any"]["job"]["covariates"] = {"age": [50, 2]}
    with pytest.raises(ValueError, match=r"lies outside 44 to 56.*Write: covariates: \{age: \[50, "):
        run_recipe(from_plain(recipe), tmp_path / "run", say=lambda text: None)


def test_a_stage_that_answers_one_question_takes_no_other(trained: Path, scans: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="answers one question alone"):
        generate_parts(trained, Source(scans), tmp_path, Wanted(("T1w",), ("FLAIR",)), stage="alone")


def test_the_words_of_the_training_part_are_kept_with_the_weights(trained: Path) -> None:
    answering, _ = _asking(trained)
    words = answering.layout.words["findings"]
    text = "One lesion: small, left, anterior."
    assert facts_of(words.text(words.words([text])[0])) == facts_of(text)
    assert yaml.safe_load((trained / "recipe.yaml").read_text())["stages"]["any"]["job"]["name"] == "foundation"
    before = (trained / "stages/any/checkpoint.json").read_bytes()
    run_recipe(
        RunFolder.open(trained).recipe, trained, only="any", say=lambda text: None
    )  # finished: found to be the same scans
    assert (trained / "stages/any/checkpoint.json").read_bytes() == before


def test_cases_that_cannot_answer_are_said_and_the_rest_goes_on(trained: Path, scans: Path, tmp_path: Path) -> None:
    """A training cut short is said; a file that is broken is not asked about."""
    said: list[str] = []
    cut = tmp_path / "cut"
    shutil.copytree(trained, cut)
    facts = json.loads((cut / "stages/any/checkpoint.json").read_text())
    facts["facts"]["total"] = 99
    (cut / "stages/any/checkpoint.json").write_text(json.dumps(facts))
    broken = tmp_path / "in" / "p1"
    broken.mkdir(parents=True)
    for file in scans.rglob("*T1w*.nii.gz"):
        (broken / file.name).write_bytes(file.read_bytes())
        (broken / file.name.replace("T1w", "FLAIR")).write_bytes(file.read_bytes()[:2000])
    files = generate_parts(
        cut, Source(tmp_path / "in"), tmp_path / "out", Wanted(("T1w",), ("FLAIR",)), stage="any", say=said.append
    )
    assert [p.name for p in files] == ["FLAIR-0.nii.gz"]
    assert any("is trained to step 3 of 99" in line for line in said)


def test_who_tells_no_words_says_so(trained: Path) -> None:
    answering, _ = _asking(trained)
    assert speaker(answering.family) is not answering.family  # a sampler holds it
    with pytest.raises(TypeError, match="tells no words"):
        speaker(Answering(RunFolder.open(trained), RunFolder.open(trained).last_stage("alone")).family)


def test_what_a_case_says_in_words_that_training_never_saw_is_said(trained: Path, scans: Path, tmp_path: Path) -> None:
    """Asked for, it leaves the case out; else the other parts are used without it. Numbers beyond the words, too."""
    for age, text, words in (("61", "Zebra crossing, 12 km wide", "its findings"), ("130", "No lesion.", "its age")):
        home = tmp_path / age
        for file in scans.rglob("*T1w*.nii.gz"):
            (home / "p1").mkdir(parents=True)
            (home / "p1" / "T1w.nii.gz").write_bytes(file.read_bytes())
        (home / "participants.tsv").write_text(f"participant_id\tage\tfindings\np1\t{age}\t{text}\n")
        said: list[str] = []
        files = generate_parts(
            trained, Source(home), home / "out", Wanted((), ("FLAIR",)), stage="any", say=said.append
        )
        assert [p.name for p in files] == ["FLAIR-0.nii.gz"]
        assert any(f"{words} cannot be understood" in line and "not used" in line for line in said)
        named = "findings" if words == "its findings" else "age"
        with pytest.raises(ValueError, match="No case in"):
            generate_parts(
                trained, Source(home), home / "no", Wanted((named,), ("FLAIR",)), stage="any", say=said.append
            )
        assert "left out" in said[-1]
