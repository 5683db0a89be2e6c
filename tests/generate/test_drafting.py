"""Drafts: every sentence has its evidence and is read again; what is invented or left out beside a mask is counted."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage
from typer.testing import CliRunner

from fabrica.cli import app
from fabrica.data.cohort import Source
from fabrica.data.findings import facts_of, measured_in
from fabrica.data.grid import Grid
from fabrica.data.virtual import VirtualCohort
from fabrica.data.virtual.export import write_cohort
from fabrica.deliver.record import Record
from fabrica.generate.drafting import _doubtful, against, draft_scans
from fabrica.generate.sentences import Finding, sentences_of
from fabrica.recipe.checks import from_plain
from fabrica.run.sequence import run_recipe

AFFINE = np.array([[0, 0, 2.0, -32], [0, 2.0, 0, -32], [3.0, 0, 0, 0], [0, 0, 0, 1]])  # (z, y, x) -> LPS mm
SHAPE = (10, 32, 32)
GRID = Grid(torch.from_numpy(AFFINE), SHAPE)


def _mask(*boxes: tuple[slice, slice, slice]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    for box in boxes:
        mask[box] = True
    return mask


LEFT = (slice(2, 5), slice(2, 8), slice(24, 30))  # 3 x 6 x 6 voxels at the patient's left, in front
RIGHT = (slice(6, 8), slice(26, 28), slice(4, 6))  # 2 x 2 x 2 at the right, behind
SPECK = (slice(0, 1), slice(16, 17), slice(16, 17))


def _written(path: Path, numbers: np.ndarray) -> Path:
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ AFFINE
    xyz = to_ras[:, [2, 1, 0, 3]]
    nibabel.save(nibabel.Nifti1Image(numbers.transpose(2, 1, 0).astype(np.float32), xyz), path)
    return path


def test_parts_are_measured_in_mm() -> None:
    numbers, found = measured_in(_mask(RIGHT, LEFT, SPECK), AFFINE)
    assert [m.voxels for m in found] == [108, 8]  # a single voxel is none
    first = found[0]
    assert first.volume_ml == pytest.approx(108 * 12 / 1000)
    assert first.lesion.diameter_mm == pytest.approx(2 * np.sqrt(36 * 4 / np.pi))
    assert (first.lesion.side, first.lesion.place, first.slices) == ("left", "anterior", (2, 4))
    assert first.centre_mm == pytest.approx((2 * 26.5 - 32, 2 * 4.5 - 32, 9.0))
    assert (found[1].lesion.side, found[1].lesion.place) == ("right", "posterior")
    assert (numbers > 0).sum() == 116


def test_sentences_are_read_again_in_the_mask_that_was_written(tmp_path: Path) -> None:
    numbers, found = measured_in(_mask(LEFT, RIGHT), AFFINE)
    findings = [Finding(m, 0.9) for m in found]
    said = sentences_of(findings, _written(tmp_path / "right.nii.gz", numbers), GRID)
    assert said[0].text == "Two lesions, on both sides; the largest: medium, left, anterior."
    assert [s.findings for s in said] == [(1, 2), (1,), (2,)]
    assert all(s.checked for s in said)
    moved = sentences_of(findings, _written(tmp_path / "moved.nii.gz", np.roll(numbers, -12, 2)), GRID)
    assert [s.checked for s in moved] == [False, False, False]
    assert "mm away" in moved[1].why
    assert "map that was written says" in moved[0].why
    thin = np.where(np.arange(SHAPE[0])[:, None, None] == 3, numbers, 0)
    lost = sentences_of(findings, _written(tmp_path / "lost.nii.gz", thin), GRID)
    assert "too small for the grid" in lost[2].why
    assert not lost[0].checked
    none = sentences_of([], _written(tmp_path / "none.nii.gz", numbers * 0), GRID)
    assert (none[0].text, none[0].checked) == ("No lesion.", True)
    assert not sentences_of([], _written(tmp_path / "some.nii.gz", numbers), GRID)[0].checked


@pytest.mark.parametrize(
    "lie", [{"side": "right"}, {"place": "posterior"}, {"diameter_mm": 40.0}], ids=["side", "place", "size"]
)
def test_a_sentence_that_the_map_contradicts_is_marked(tmp_path: Path, lie: dict) -> None:
    numbers, (first,) = measured_in(_mask(LEFT), AFFINE)
    path = _written(tmp_path / "map.nii.gz", numbers)
    false = replace(first, lesion=replace(first.lesion, **lie))
    said = sentences_of([Finding(false, 0.9)], path, GRID)
    assert not said[1].checked
    assert "the map that was written" in said[1].why
    assert said[0].checked == ("diameter_mm" in lie)  # 13.5 mm in voxels of 3 mm may be called large
    assert all(s.checked for s in sentences_of([Finding(first, 0.9)], path, GRID))
    doubled = sentences_of([Finding(replace(first, volume_ml=3 * first.volume_ml), 0.9)], path, GRID)
    assert not doubled[1].checked


def test_what_is_invented_and_left_out_is_counted() -> None:
    numbers, found = measured_in(_mask(LEFT, RIGHT), AFFINE)
    findings = [Finding(m, 0.9) for m in found]
    same = against(numbers, findings, _mask(LEFT, RIGHT), AFFINE)
    assert (same["right"], same["found"], same["facts_right"]) == (2, 2, same["facts"])
    other = against(numbers, findings, _mask(LEFT, (slice(0, 2), slice(14, 18), slice(14, 18))), AFFINE)
    assert other["invented"] == [2]
    assert len(other["left_out"]) == 1

    nothing = against(numbers * 0, [], _mask(LEFT), AFFINE)
    assert (nothing["found"], nothing["drafted"], nothing["lesions"]) == (0, 0, 1)
    assert nothing["facts_right"] == 0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drafts")
    plain = {
        "cohorts": {"all": {"virtual": {"patients": 4, "spacing_mm": 4, "planes": [14, 22], "disease": "tumour"}}},
        "split": {"train": 0.75, "test": 0.25}, "baseline": "none", "evaluate": {"draws": 1, "evaluations": [], "realism": 0},
        "job": {"name": "segmentation", "from": ["FLAIR"], "x": ["lesion"]},
        "family": {"name": "regression", "network": {"channels": [16, 32], "blocks": 1}},
        "train": {"steps": 80, "batch": 8, "precision": "fp32"},
    }  # fmt: skip
    run_recipe(from_plain(plain), folder / "run", say=lambda text: None)
    some = VirtualCohort(2, first=70, spacing_mm=4, planes=(14, 22), disease="tumour")
    write_cohort(some, folder / "scans", lambda text: None)
    return folder


def test_a_run_drafts_new_scans(place: Path, tmp_path: Path) -> None:
    said = list[str]()
    files = draft_scans(place / "run", Source(place / "scans"), tmp_path / "out", device="cpu", say=said.append)
    assert files[0].name == "index.html"
    assert "Beside the masks of 2 cases" in said[-1]
    rows = list(csv.DictReader((tmp_path / "out/drafts.csv").read_text().splitlines()))
    for row in rows:
        plain = json.loads((tmp_path / "out" / row["case"] / "draft.json").read_text())
        assert plain["draft"].startswith("A draft by a model")
        assert len(plain["sentences"]) == 1 + len(plain["findings"])
        numbers = nibabel.load(tmp_path / "out" / row["case"] / "findings.nii.gz").get_fdata()
        mask = nibabel.load(tmp_path / "out" / row["case"] / "lesion.nii.gz").get_fdata()
        truth = nibabel.load(place / "scans" / row["case"] / "lesion.nii.gz").get_fdata() > 0.5
        assert set(np.unique(mask)) <= {0.0, 1.0}
        assert ((numbers > 0) == (mask > 0)).all()
        for finding in plain["findings"]:
            assert 0.5 < finding["chance"] <= 1
            own = numbers == finding["label"]
            assert own.any()
            right = bool((own & truth).any())
            assert right == (finding["label"] not in plain["truth"]["invented"])
        _, count = ndimage.label(truth, np.ones((3, 3, 3)))
        assert plain["truth"]["lesions"] <= count
        assert facts_of(plain["sentences"][0]["text"])
        text = (tmp_path / "out" / row["case"] / "draft.txt").read_text()
        assert text.startswith("A draft by a model")
    record = Record.read(tmp_path / "out")
    assert [(one.case, one.kind) for one in record.images] == [(row["case"], "label") for row in rows]


def test_runs_and_words_that_fit_nothing(place: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    words = ["draft", str(place / "run"), "--data", str(place / "scans"), "--out", str(tmp_path / "out")]
    result = run(app, [*words, "--label", "tumour"])
    assert result.exit_code != 0
    assert "Unknown label of the run 'tumour'" in result.output
    (tmp_path / "empty").mkdir()
    result = run(app, [*words[:3], str(tmp_path / "empty"), *words[4:]])
    assert result.exit_code != 0
    assert "Traceback" not in result.output


def test_scans_without_a_mask_are_drafted_and_those_without_the_image_left_out(place: Path, tmp_path: Path) -> None:
    first, second = sorted((place / "scans").glob("virtual*"))
    shutil.copytree(first, tmp_path / "scans" / first.name, ignore=shutil.ignore_patterns("lesion*"))
    shutil.copytree(second, tmp_path / "scans" / second.name, ignore=shutil.ignore_patterns("FLAIR*"))
    said = list[str]()
    draft_scans(place / "run", Source(tmp_path / "scans"), tmp_path / "out", device="cpu", say=said.append)
    assert f"{second.name}: has no FLAIR; left out." in said
    (row,) = csv.DictReader((tmp_path / "out/drafts.csv").read_text().splitlines())
    assert (row["case"], row["lesions"], row["invented"]) == (first.name, "", "")
    assert not any(line.startswith("Beside the masks") for line in said)
    shutil.rmtree(tmp_path / "scans" / first.name)
    with pytest.raises(ValueError, match=r"No case in .* has FLAIR.*fabrica inspect"):
        draft_scans(place / "run", Source(tmp_path / "scans"), tmp_path / "none", device="cpu", say=said.append)
    assert not (tmp_path / "none/index.html").exists()


def test_what_only_some_draws_show_is_kept_apart() -> None:
    chances = np.zeros(SHAPE)
    chances[LEFT], chances[RIGHT] = 0.9, 0.25
    numbers, _ = measured_in(chances > 0.5, AFFINE)
    (doubtful,) = _doubtful(chances, numbers, AFFINE)
    assert doubtful.measured.lesion.side == "right"
    assert doubtful.chance == pytest.approx(0.25)


NARROW = {"channels": [8, 16], "blocks": 1}


def test_a_model_that_speaks_drafts_too_and_its_words_are_held_against_its_mask(place: Path, tmp_path: Path) -> None:
    plain = {
        "cohorts": {"all": {"virtual": {"patients": 2, "spacing_mm": 4, "planes": [14, 18], "disease": "tumour"}}},
        "split": {"train": 0.5, "test": 0.5}, "baseline": "none", "evaluate": {"draws": 1, "evaluations": [], "realism": 0},
        "job": {
            "name": "foundation", "x": ["FLAIR", "lesion"], "text": {"findings": {"of": "lesion", "words": 96, "length": 20}},
            "directions": ["FLAIR -> findings, lesion"],
        },
        "family": {"name": "flow", "network": NARROW}, "sampler": {"name": "dpm", "steps": 2},
        "train": {"steps": 3, "batch": 2, "precision": "fp32"},
    }  # fmt: skip
    run_recipe(from_plain(plain), tmp_path / "run", say=lambda text: None)
    first, second = sorted((place / "scans").glob("virtual*"))
    shutil.copytree(first, tmp_path / "scans" / first.name)
    shutil.copytree(second, tmp_path / "scans" / second.name, ignore=shutil.ignore_patterns("FLAIR*"))
    draft_scans(
        tmp_path / "run", Source(tmp_path / "scans"), tmp_path / "out", draws=2, device="cpu", say=lambda text: None
    )
    drafts = sorted((tmp_path / "out").glob("*/draft.json"))
    assert [p.parent.name for p in drafts] == [first.name]
    plain = json.loads(drafts[0].read_text())
    mask = nibabel.load(tmp_path / "out" / first.name / "lesion.nii.gz").get_fdata() > 0
    assert {one["slice"] for one in plain["spoken"]} <= set(range(mask.shape[2]))
    assert all(isinstance(one["agrees"], bool) and isinstance(one["text"], str) for one in plain["spoken"])
    assert plain["truth"] is not None
