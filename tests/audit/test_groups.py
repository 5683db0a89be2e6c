"""Copies and draws by group: whose images come back, and of whom there are more than there should be."""

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from fabrica.audit.conduct import FAIRNESS, Asked, audit
from fabrica.audit.groups import amplified, copied
from fabrica.audit.subject import Subject
from fabrica.cli import app
from fabrica.data.split import patient_hash
from fabrica.learning.checkpoint import load
from fabrica.run.sequence import run_recipe

from .conftest import PLAIN, quiet, recipe_of


@pytest.fixture(scope="module")
def synthesis(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthesis of the same people, and draws that are copies of its training's men."""
    place = tmp_path_factory.mktemp("groups")
    shutil.copytree(finished / "data", place / "data")
    plain = {
        **PLAIN, "split": {"train": 0.5, "test": 0.5}, "job": {"name": "synthesis", "x": ["T1w"]}, "sampler": {"name": "euler", "steps": 2},
        "family": {"name": "flow", "network": {"channels": [8, 16], "blocks": 1}}, "train": {"steps": 3, "batch": 8, "precision": "fp32"},
    }  # fmt: skip
    run_recipe(recipe_of(place, plain), place / "run", say=quiet)
    facts = (load(place / "run/stages/model") or ({}, {}))[1]
    rng = np.random.default_rng(3)
    for k in range(100):
        name = f"p{k:03d}"
        if patient_hash(name) in facts["trained_on"] and k % 2 == 0:  # m
            image = nibabel.load(place / "data" / name / "T1w.nii.gz")
            values = image.get_fdata() + rng.normal(size=image.shape)
            (place / "draws" / f"d{k:03d}").mkdir(parents=True)
            nibabel.save(
                nibabel.Nifti1Image(values.astype(np.float32), image.affine),
                place / "draws" / f"d{k:03d}" / "T1w.nii.gz",
            )
    return place


def test_men_who_come_back_are_told_from_women_who_do_not(synthesis: Path) -> None:
    gate = audit(synthesis / "run", Asked(only=(FAIRNESS,), data=synthesis / "draws"), device="cpu", say=quiet)
    assert FAIRNESS in gate.checks
    page = (synthesis / "run/audit/index.html").read_text()
    assert "Copies by group" in page
    subject = Subject.open(synthesis / "run", None, "cpu", 0, quiet)
    train = subject.side(subject.train)
    drawn = [image for image, who in zip(train.images, train.patients, strict=True) if int(who[1:]) % 2 == 0]
    found = copied(subject, drawn)
    assert not isinstance(found, str)
    (gap,) = [g for g in found.gaps if g.attribute == "sex"]
    assert gap.p_value < 0.05
    shares = {c.group: c.mean for c in found.cells if c.attribute == "sex"}
    assert shares["m"] > 0.9 > 0.5 > shares["f"]
    told = amplified(subject, drawn)
    assert not isinstance(told, str)
    assert told.shares or told.unseen


def test_draws_that_follow_a_scan_have_no_groups_of_their_own(finished: Path) -> None:
    subject = Subject.open(finished / "run", None, "cpu", 0, quiet)
    assert amplified(subject, []) == "its draws follow somebody's scan"


def test_units_that_files_leave_open_can_be_said(finished: Path) -> None:
    words = ["audit", str(finished / "run"), "--only", "shift", "--data", str(finished / "new"), "--unit"]
    done = CliRunner().invoke(app, [*words, "T1w=bananas"])
    assert done.exit_code == 2
    assert "bananas" in done.output
