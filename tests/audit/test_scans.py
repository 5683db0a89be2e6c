"""The audit of a translation: shift, robustness, groups, membership and marks; and what `generate` says of odd scans."""

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from fabrica.audit import scans
from fabrica.audit.conduct import CHECKS, SHIFT, Asked, audit
from fabrica.audit.scans import Ladder, Rung, ladder, robustness_check
from fabrica.audit.subject import Subject
from fabrica.cli import app
from fabrica.generate.scans import generate_images
from fabrica.run.sequence import run_recipe
from fabrica.safeguards.shift import Reference
from fabrica.safeguards.watermark import new_key

from .conftest import PLAIN, quiet, recipe_of


def test_the_reference_lies_beside_the_weights(finished: Path) -> None:
    home = finished / "run/stages/model"
    weights = json.loads((home / "checkpoint.json").read_text())["sha256"]
    reference = Reference.read(home, weights)
    assert reference.why_not == ""
    assert reference.calibrated_on == 20
    assert {name.rpartition(" ")[0] for name in reference.clouds} == {"T1w"}
    before = (home / "shift.json").read_text()
    run_recipe(recipe_of(finished, PLAIN), finished / "run", say=quiet)
    assert (home / "shift.json").read_text() == before


def test_a_site_that_is_like_the_others_would_not_have_been_noticed(finished: Path, tmp_path: Path) -> None:
    """Both sites scan alike here; what that means is said, and no verdict comes of it. Of one too few others are left."""
    run, said = tmp_path / "run", list[str]()
    shutil.copytree(finished / "run", run)
    gate = audit(run, Asked(only=(SHIFT,)), say=said.append)
    assert gate.checks[SHIFT].verdict == "PASS"
    told = [line for line in said if "had training not seen it, it would NOT have been noticed" in line]
    assert [line.split(":")[0] for line in told] == ["north"]
    page = (run / "audit/index.html").read_text()
    assert "NO: nobody would have noticed" in page
    assert "Sites, not assessed: without south there are 40 patients, 57 are needed" in page


def test_generate_says_which_scans_are_odd_and_leaves_them_out_when_told(finished: Path, tmp_path: Path) -> None:
    said: list[str] = []
    assert len(generate_images(finished / "run", finished / "new", tmp_path / "a", say=said.append)) == 2
    assert not any("unlike" in line for line in said)
    assert len(generate_images(finished / "run", finished / "noisy", tmp_path / "b", say=said.append)) == 2
    told = [line for line in said if "unlike the scans of training" in line]
    assert len(told) == 2
    assert all("one in 20" in line for line in told)
    done = json.loads(next((tmp_path / "b/.done").iterdir()).read_text())
    assert done["shift"]["shifted"] is True
    result = CliRunner().invoke(
        app, ["generate", str(finished / "run"), "--data", str(finished / "noisy"), "--out", str(tmp_path / "c"), "--shift", "refuse"]
    )  # fmt: skip
    assert result.exit_code != 0
    assert "left out: --shift refuse" in result.output
    assert not list(tmp_path.glob("c/*/*.nii.gz"))
    wrong = CliRunner().invoke(
        app, ["generate", str(finished / "run"), "--data", str(finished / "new"), "--out", str(tmp_path / "d"), "--shift", "no"]
    )  # fmt: skip
    assert wrong.exit_code != 0
    assert "--shift warn or --shift refuse" in wrong.output


def test_a_scan_that_cannot_be_judged_is_no_scan_like_those_of_training(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "blank/b0").mkdir(parents=True)
    blank = nibabel.Nifti1Image(np.zeros((32, 32, 2), np.float32), np.diag([2.0, 2, 5, 1]))
    nibabel.save(blank, tmp_path / "blank/b0/T1w.nii.gz")
    said: list[str] = []
    with pytest.raises(ValueError, match="all were left out"):
        generate_images(finished / "run", tmp_path / "blank", tmp_path / "out", say=said.append, shift="refuse")
    assert any("could not be held against the scans of training" in line for line in said)


def test_an_audit_has_a_verdict_on_everything_and_a_page(finished: Path) -> None:
    said: list[str] = []
    gate = audit(finished / "run", Asked(ladder=3), say=said.append)
    assert tuple(gate.checks) == CHECKS
    assert gate.checks["copies"].verdict == "NOT ASSESSABLE"
    assert "follow a scan" in gate.checks["copies"].reason
    assert gate.checks["membership"].verdict in ("PASS", "WARN")
    assert "tried)" in gate.checks["membership"].reason
    assert gate.checks["canaries"].verdict in ("PASS", "WARN")
    assert "2 marked images" in gate.checks["canaries"].reason
    assert gate.checks["shift"].verdict == "PASS"
    assert "of 60 test patients" in gate.checks["shift"].reason
    assert gate.checks["fairness"].verdict == "WARN"
    assert "by sex" in gate.checks["fairness"].reason
    assert "seconds a draw" not in (finished / "run/audit/index.html").read_text()
    assert gate.checks["robustness"].verdict in ("PASS", "WARN")
    assert gate.refused == ()
    page = (finished / "run/audit/index.html").read_text()
    for word in (
        "Membership",
        "Worse scans",
        "receive field",
        "Is a fault noticed before quality is lost?",
        "at one in a thousand",
    ):
        assert word in page
    assert any(line.startswith("robustness: ") for line in said)


def test_new_scans_are_held_against_training(finished: Path) -> None:
    gate = audit(finished / "run", Asked(data=finished / "noisy", only=("shift",)), say=quiet)
    check = gate.checks["shift"]
    assert check.verdict == "WARN"
    assert check.value == 1.0
    assert "2 of 2 new patients" in check.reason


def test_one_check_alone_leaves_the_others_as_they_were(finished: Path) -> None:
    first = audit(finished / "run", Asked(only=("membership",)), say=quiet)
    then = audit(finished / "run", Asked(only=("canaries",)), say=quiet)
    assert then.checks["membership"] == first.checks["membership"]
    with pytest.raises(ValueError, match="There is no check 'luck'"):
        audit(finished / "run", Asked(only=("luck",)), say=quiet)


def test_refusing_what_cannot_be_told_is_refused(finished: Path, tmp_path: Path) -> None:
    few = {**PLAIN, "split": {"train": 0.8, "validate": 0.1, "test": 0.1}, "train": {"steps": 1, "batch": 2}}
    run_recipe(recipe_of(finished, few), tmp_path / "run", say=quiet)
    with pytest.raises(ValueError, match="validation patients, 19 are needed"):
        generate_images(tmp_path / "run", finished / "new", tmp_path / "out", shift="refuse", say=quiet)
    assert len(generate_images(tmp_path / "run", finished / "new", tmp_path / "out", say=quiet)) == 2


def test_draws_bear_the_mark_of_a_key(finished: Path, tmp_path: Path) -> None:
    new_key(tmp_path / "key")
    said: list[str] = []
    plain = generate_images(finished / "run", finished / "new", tmp_path / "out", say=quiet)
    files = generate_images(
        finished / "run", finished / "new", tmp_path / "out", say=said.append, watermark=str(tmp_path / "key")
    )
    assert files == plain
    assert not any("kept" in line for line in said)  # a marked image is another answer
    assert json.loads((tmp_path / "out/.done/n0.json").read_text())["watermarked"] is True
    (tmp_path / "no").write_text("x")
    with pytest.raises(ValueError, match="is no key"):
        generate_images(finished / "run", finished / "new", tmp_path / "b", say=quiet, watermark=str(tmp_path / "no"))


@pytest.mark.parametrize(
    ("told", "verdict", "words"),
    [
        (None, "WARN", "no reference of training's scans notices it"),
        (0.1, "WARN", "lost before anybody is warned by noise (rung 3)"),
        (1.0, "PASS", "is noticed"),
    ],
)
def test_quality_that_is_lost_unnoticed_is_warned_of(told: float | None, verdict: str, words: str) -> None:
    clean = {"psnr": 30.0, "ssim": 0.9}
    rungs = tuple(Rung("noise", k, {"psnr": 30.0 - 5 * (k == 3), "ssim": 0.8}, told) for k in (1, 2, 3))
    found = robustness_check(Ladder(12, clean, rungs))
    assert (found.verdict, words in found.reason, found.value) == (verdict, True, 5.0)
    assert "on 12 patients" in found.reason
    none = robustness_check("nothing that a scanner made is given to it")
    assert (none.verdict, "nothing that a scanner made" in none.reason) == ("NOT ASSESSABLE", True)


def test_a_ladder_needs_enough_patients_who_can_be_judged(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject.open(finished / "run", None, "cpu", 0, quiet)
    monkeypatch.setattr(scans, "likeness", lambda *_: None)
    assert "0 test patients could be judged" in str(ladder(subject, 40))
    monkeypatch.setattr(scans, "FEWEST", 1000)
    assert "1000 are needed" in str(ladder(subject, 40))
    monkeypatch.setattr(Subject, "drawn", property(lambda self: None))
    assert ladder(subject, 40) == "nothing that a scanner made is given to it"
