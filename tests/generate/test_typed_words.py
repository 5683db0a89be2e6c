"""A run that is told findings in words: typed ones are heard as they are, others than training's are refused."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from fabrica.cli import app
from fabrica.data.findings import PLACES, SIDES, SIZES
from fabrica.data.virtual import VirtualCohort
from fabrica.data.virtual.export import write_cohort
from fabrica.recipe.checks import from_plain
from fabrica.run.answering import Answering
from fabrica.run.folder import RunFolder
from fabrica.run.sequence import run_recipe

TEXT = {"findings": {"of": "lesion", "words": 128, "length": 24}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    plain = {
        "cohorts": {"all": {"virtual": {"patients": 10, "spacing_mm": 4, "planes": [14, 20], "disease": "mixed"}}},
        "split": {"train": 0.7, "test": 0.3}, "baseline": "none", "evaluate": {"draws": 1, "realism": 0, "evaluations": []},
        "job": {"name": "translation", "from": ["T1w", "lesion"], "x": ["FLAIR"], "drop": 0.2, "values": {"text": TEXT}},
        "family": {"name": "regression", "network": {"channels": [16, 32], "blocks": 1}}, "train": {"steps": 40, "batch": 4, "precision": "fp32"},
    }  # fmt: skip
    run_recipe(from_plain(plain), folder / "run", say=lambda text: None)
    some = VirtualCohort(1, first=70, spacing_mm=4, planes=(14, 20), disease="ms")
    write_cohort(some, folder / "scans", lambda text: None)
    return folder


def _drawn(place: Path, out: Path, *words: str) -> np.ndarray:
    asked = ["generate", str(place / "run"), "--data", str(place / "scans"), "--out", str(out), *words]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    return np.asarray(nibabel.load(next(out.rglob("FLAIR-0.nii.gz"))).get_fdata())


def _known(place: Path) -> str:
    """A sentence of lesions whose words the run's training has seen."""
    run = RunFolder.open(place / "run")
    how = Answering(run, run.recipe.stage("model")).layout.words["findings"]
    sentences = [f"One lesion: {a}, {b}, {c}." for a in SIZES for b in SIDES for c in PLACES]
    return next(text for text in sentences if not how.fault(text))


def test_typed_words_are_heard_beside_a_mask(place: Path, tmp_path: Path) -> None:
    own = _drawn(place, tmp_path / "own")
    none = _drawn(place, tmp_path / "none", "--value", "findings=No lesion.")
    many = _drawn(place, tmp_path / "many", "--value", f"findings={_known(place)}")
    assert np.abs(none - many).max() > 0
    assert np.abs(own - none).max() > 0  # the case's own words are of its mask


def test_words_that_training_did_not_see_are_refused(place: Path, tmp_path: Path) -> None:
    words = ["generate", str(place / "run"), "--data", str(place / "scans"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*words, "--value", "findings=xyzzy qwrt plugh"])
    assert result.exit_code != 0
    assert "cannot be understood" in result.output
    assert "Traceback" not in result.output
