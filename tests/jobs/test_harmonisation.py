"""One site's scans as another's: travelling patients, what the report asks of sites, new scans, faults."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fabrica.data.travelling import ELSEWHERE, travelled
from fabrica.data.virtual import VirtualCohort
from fabrica.data.virtual.export import write_cohort
from fabrica.generate.scans import generate_images
from fabrica.recipe.checks import from_plain
from fabrica.run.sequence import run_recipe

PLAN = VirtualCohort(patients=14, travelling=True, spacing_mm=4, planes=[18, 22])
PLAIN = {
    "cohorts": {"all": {"virtual": {"patients": 14, "travelling": True, "spacing_mm": 4, "planes": [18, 22]}}},
    "split": {"train": 0.5, "test": 0.5}, "job": {"name": "harmonisation", "x": "T1w", "to": "A"}, "baseline": "none",
    "family": {"name": "regression", "network": {"channels": [8, 16], "blocks": 1}}, "evaluate": {"realism": 0},
    "train": {"steps": 20, "batch": 4, "precision": "fp32"},
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("harmonisation") / "run"
    run_recipe(from_plain(PLAIN), folder, say=lambda _: None)
    return folder


def test_the_report_asks_whether_sites_are_told_and_what_stays(finished: Path) -> None:
    report = json.loads((finished / "report" / "report.json").read_text())
    figures = {(f["by"], f["name"]): f for f in report["stages"][0]["figures"]}
    for name in ("radiomics", "spectrum"):
        for by in ("as they are", "histogram matching", "ComBat on features", "model"):
            assert 0.5 <= figures[by, f"AUC of the site by {name}"]["value"] <= 1
    assert figures["as they are", "AUC of the site by spectrum"]["value"] > 0.9  # scanners differ
    for by in ("that site itself", "as they are", "model"):
        assert figures[by, "fluid share per 10 years of age (%)"]["n"] == 7
    assert any("histogram" in s["by"] for s in report["summaries"])


def test_a_new_scan_of_another_site_is_brought_over(finished: Path, tmp_path: Path) -> None:
    new = replace(PLAN, patients=1, first=90)
    write_cohort(new, tmp_path / "new", lambda _: None)
    files = generate_images(finished, tmp_path / "new", tmp_path / "out", say=lambda _: None)
    assert [f.name for f in files] == ["T1w-0.nii.gz"]  # of scanner B alone
    own = nibabel.load(next((tmp_path / "new").glob("*/B/T1w.nii.gz")))
    assert nibabel.load(files[0]).shape == own.shape


def test_cases_of_travelling_patients() -> None:
    members = PLAN.cohort().members
    assert len(members) == 28
    assert {(m.visit, m.site) for m in members} == {("A", "A"), ("B", "B")}
    found = travelled(members, "T1w", "A")
    assert len(found) == 14
    images = found[0].load([ELSEWHERE + "T1w", "T1w", "brain_mask"]).images
    assert set(images) == {ELSEWHERE + "T1w", "T1w", "brain_mask"}
    own, there = (images[n].data.numpy() for n in (ELSEWHERE + "T1w", "T1w"))
    inside = own > 50
    assert 0.5 < np.median(own[inside]) / np.median(there[inside]) < 0.75  # scanner B has its own gain
    assert np.corrcoef(own[inside], there[inside])[0, 1] > 0.9  # of the same head
    assert not travelled(
        [m for m in members if m.site == "B"] + [replace(m, patient="x") for m in members if m.site == "A"], "T1w", "A"
    )
    assert len(travelled(members, "T1w", "A", new=True)) == 14
    with pytest.raises(ValueError, match="No image is of the site 'C'; sites that are said: A, B"):
        travelled(members, "T1w", "C")
