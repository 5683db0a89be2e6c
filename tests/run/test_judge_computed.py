"""A chain from a cone-beam CT of the day to what became of the plan, from a recipe to a page and to new patients."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from fabrica.cli import app
from fabrica.data.cohort import Source
from fabrica.data.daily import days_of
from fabrica.data.simulated_days import SimulatedDays
from fabrica.data.simulated_plans import SimulatedPlans
from fabrica.data.virtual import VirtualCohort
from fabrica.deliver.approvals import Approvals
from fabrica.deliver.outbox import Outbox
from fabrica.generate.daily import TABLE, check_approved, generate_days, gives_days
from fabrica.generate.handover import hand_over
from fabrica.generate.record import drawn_in
from fabrica.io import write_nifti
from fabrica.machine.executors import Dask
from fabrica.machine.folders import HELD, alone
from fabrica.recipe.checks import from_plain
from fabrica.run.computing import Chain
from fabrica.run.daily import read_factors
from fabrica.run.folder import RunFolder
from fabrica.run.sequence import run_recipe
from fabrica.run.shift import weights_of

from ..io.radiotherapy import made

SAID = ["PTV70 D95% >= 66 Gy", "Brainstem max <= 54 Gy"]


def _plain(**changes: object) -> dict[str, Any]:
    return {
        "cohorts": {
            "all": {
                "virtual": {"patients": 3, "spacing_mm": 4, "skull": True, "disease": "none", "planes": [10, 28]}, "plans": {},
                "days": {"count": 2, "largest_mm": 12}, "cone_beam": {"views": 24},
            }
        },
        "split": {"train": ["virtual0000"], "validate": ["virtual0001"], "test": ["virtual0002"]},
        "stages": {
            "drawn": {
                "job": {"name": "translation", "from": ["CBCT"], "x": ["CT"]},
                "family": {"name": "flow", "network": {"channels": [8, 16], "blocks": 1}},
                "sampler": {"name": "euler", "steps": 2}, "train": {"steps": 4, "batch": 2, "precision": "fp32"},
            },
            "motion": {"compute": {"name": "register", "grid_mm": 8}, "inputs": {"CT": {"stage": "drawn", "draws": "mean"}}},
            "contours": {"compute": {"name": "warp", "names": ["PTV70", "Brainstem"]}, "inputs": {"motion": "motion"}},
            "today": {
                "compute": {"name": "dose", "target": "PTV70", "prescription_gy": 70, "gantry_degrees": [0, 120],
                            "grid_mm": 5},
                "inputs": {"CT": "drawn"},
            },
            "so_far": {
                "compute": {"name": "accumulate", "fractions": 35, "alpha_beta_gy": 3.0, "grid_mm": 5},
                "inputs": {"dose": "today", "motion": "motion"},
            },
        },
        "baseline": "none",
        "evaluate": {"draws": 2, "coverage": 0.5, "realism": 0, "evaluations": [], "constraints": SAID}, **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "0001"
    run_recipe(from_plain(_plain()), folder, say=lambda text: None)
    return folder


def test_the_report_tells_before_today_and_so_far(finished: Path) -> None:
    report = json.loads((finished / "report" / "report.json").read_text())
    assert [(s["name"], s["job"]) for s in report["stages"]][1:] == [
        ("motion", "compute register"), ("today", "compute dose"), ("contours", "compute warp"),
        ("so_far", "compute accumulate"),
    ]  # fmt: skip
    rows = {(s["stage"], s["contrast"], s["by"], s["metric"]): s for s in report["summaries"]}
    assert rows["motion", "motion", "no motion", "target registration error"]["value"] > 0.5
    assert rows["motion", "motion", "model", "folded voxels"]["value"] == 0
    assert ("contours", "PTV70", "contours as they were", "dice") in rows
    assert ("today", "today", "the plan as it was", "gamma 2 %/2 mm local") in rows
    for moment in ("today", "accumulated EQD2"):
        assert rows["so_far", moment, "model: mean of draws", "PTV70 D95% off"]["unit"] == "Gy"
        assert ("so_far", moment, "model: interval", "share of true figures inside") in rows
    assert rows["so_far", "today", "the plan as it was", "PTV70 D95%"]["value"] > 60
    assert {r["case"] for s in report["stages"][1:] for r in s["cases"]} == {"virtual0002_day1", "virtual0002_day2"}
    page = (finished / "report" / "index.html").read_text()
    assert "<th>at planning</th><th>today</th><th>accumulated EQD2</th>" in page
    assert "EQD2 with alpha/beta 3 Gy of 35 fractions" in page
    assert "own plan; 6 MV pencil" in page
    assert page.count("dose today") >= 2
    known = read_factors(finished)
    assert known is not None
    assert (known.level, known.draws, known.patients) == (0.5, 2, 1)
    assert set(known.factors) == {(m, text) for m in ("today", "accumulated EQD2") for text in SAID}


def test_what_was_computed_lies_beside_what_was_drawn(finished: Path) -> None:
    folder = finished / "stages"
    for stage, name in (("today", "dose"), ("so_far", "accumulated EQD2"), ("motion", "motion z")):
        case = folder / stage / "draws" / "virtual0002_day1"
        assert (case / f"0-{name}.nii.gz").is_file()
    assert (folder / "today" / "draws" / "virtual0002_day1" / "1-dose.nii.gz").is_file()
    assert not (folder / "motion" / "draws" / "virtual0002_day1" / "1-motion z.nii.gz").exists()  # of a mean: one


def test_one_stage_can_be_computed_again(finished: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(finished, again)
    run = RunFolder.open(again)
    report = run_recipe(run.recipe, again, only="motion", say=lambda text: None).report
    assert [s.name for s in report.stages] == ["motion"]
    with pytest.raises(ValueError, match=r"no stage 'moton'. Stages: drawn, motion, today"):
        run_recipe(run.recipe, again, only="moton", say=lambda text: None)


def test_a_true_chain_is_the_truth(finished: Path) -> None:
    heads = VirtualCohort(patients=1, spacing_mm=4, skull=True, disease="none").cohort()
    seen = SimulatedDays(count=1, largest_mm=12).added_to(SimulatedPlans().added_to(heads))
    (day,) = days_of(seen.members)
    chain = Chain(RunFolder.open(finished), seen.members)
    assert set(chain.truth("motion", day)) == {"motion z", "motion y", "motion x"}
    assert set(chain.truth("contours", day)) == {"PTV70", "Brainstem"}
    assert float(chain.truth("today", day)["dose"].data.max()) > 60
    assert set(chain.truth("so_far", day)) == {"accumulated EQD2"}
    assert set(chain.truth("drawn", day)) == {"CT"}


def _export(folder: Path) -> None:
    """A planned patient and two days of his, as files; the days have a CBCT alone."""
    heads = VirtualCohort(patients=1, seed=9, spacing_mm=4, skull=True, disease="none").cohort()
    planning, one, two = SimulatedDays(count=2, largest_mm=12).added_to(SimulatedPlans().added_to(heads)).members
    for name, image in planning.load(["CT", "PTV70", "Brainstem"]).images.items():
        write_nifti(image, folder / "p01" / "planning" / f"{name}.nii.gz")
    for day, date in ((one, "2026-11-02"), (two, "2026-11-09")):
        write_nifti(day.load(["CT"]).images["CT"], folder / "p01" / "today" / date / "CBCT.nii.gz")


def test_new_patients_get_contours_doses_and_a_table(finished: Path, tmp_path: Path) -> None:
    _export(tmp_path / "new")
    out = tmp_path / "out"
    asked = ["generate", str(finished), "--data", str(tmp_path / "new"), "--out", str(out), "--draws", "2"]
    told = CliRunner().invoke(app, [*asked, "--unit", "CBCT=HU"])
    assert told.exit_code == 0, told.output
    for case in ("p01_today-2026-11-02", "p01_today-2026-11-09"):
        files = {p.name for p in (out / case).iterdir()}
        assert {"CT-0.nii.gz", "CT-1.nii.gz", "dose-1.nii.gz", "PTV70-0.nii.gz", "accumulated EQD2-1.nii.gz"} <= files
        assert {"displacement-0.nii.gz", "moved-0.nii.gz", "dose at planning-0.nii.gz"} <= files
    field = nibabel.load(out / "p01_today-2026-11-02" / "displacement-0.nii.gz")
    assert field.shape[3:] == (1, 3)
    with (out / TABLE).open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * 2 * 2  # days, moments, constraints
    assert {line["light"] for line in lines} <= {"kept", "broken", "open"}
    assert all(float(line["low"]) <= float(line["value"]) <= float(line["high"]) for line in lines)
    assert "Gy today" in told.output
    one = CliRunner().invoke(app, [*asked[:-1], "1", "--unit", "CBCT=HU", "--stage", "motion"])
    assert one.exit_code == 0
    assert "Type: --draws 2" in one.output


def test_days_are_computed_by_approved_models_alone(finished: Path, tmp_path: Path) -> None:
    approvals = Approvals(tmp_path / "registry")
    with pytest.raises(ValueError, match="nobody approved it"):
        check_approved(finished, None, approvals.folder)
    approvals.decide(weights_of(finished / "stages" / "drawn"), finished, "approved", "Dr. A", "audited")
    check_approved(finished, None, approvals.folder)
    check_approved(finished, "drawn", approvals.folder)


def test_workers_compute_the_same_and_what_was_computed_is_kept(finished: Path, tmp_path: Path) -> None:
    """A patient a task: same files, same table; asked again nothing is computed, of a changed patient all of it."""
    _export(tmp_path / "new")
    shutil.copytree(tmp_path / "new" / "p01", tmp_path / "new" / "p02")
    source, said = Source(tmp_path / "new", {"CBCT": "HU"}), list[str]()
    here = generate_days(finished, source, tmp_path / "here", 1, say=said.append)
    there = generate_days(finished, source, tmp_path / "there", 1, say=lambda text: None, executor=Dask(workers=2))
    assert [p.relative_to(tmp_path / "here") for p in here] == [p.relative_to(tmp_path / "there") for p in there]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(here, there, strict=True))
    assert {p.parent.name[:3] for p in here if p.parent != tmp_path / "here"} == {"p01", "p02"}
    written = {p: p.stat().st_mtime_ns for p in here if p.name != TABLE}
    (tmp_path / "new" / "p02" / "today" / "2026-11-09" / "CBCT.nii.gz").unlink()
    again = generate_days(finished, source, tmp_path / "here", 1, say=said.append)
    assert said.count("p01_today-2026-11-02 and later: computed before of the same; kept.") == 1
    assert not any(line.startswith("p02_today-2026-11-02 and later") for line in said)
    assert {p.parent.name for p in again if p.name != TABLE} == {
        "p01_today-2026-11-02", "p01_today-2026-11-09", "p02_today-2026-11-02",
    }  # fmt: skip
    assert all(p.stat().st_mtime_ns == written[p] for p in again if p.parent.name.startswith("p01"))
    with (tmp_path / "here" / TABLE).open() as file:
        assert len(list(csv.DictReader(file))) == 3 * 2 * 2
    with alone(tmp_path / "here" / HELD), pytest.raises(ValueError, match="is being written into by another process"):
        generate_days(finished, source, tmp_path / "here", 1, say=said.append)


def test_what_cannot_be_computed_is_said(finished: Path, tmp_path: Path) -> None:
    assert gives_days(finished, None)
    assert not gives_days(finished, "drawn")
    heads = VirtualCohort(patients=1, spacing_mm=4, skull=True, disease="none").cohort()
    write_nifti(heads.members[0].load(["CT"]).images["CT"], tmp_path / "once" / "p01" / "CT.nii.gz")
    with pytest.raises(ValueError, match="on a day after planning"):
        generate_days(finished, tmp_path / "once", tmp_path / "out", say=lambda text: None)
    _export(tmp_path / "new")
    broken = tmp_path / "new" / "p01" / "planning" / "PTV70.nii.gz"
    stored = nibabel.load(broken)
    nibabel.save(nibabel.Nifti1Image(np.zeros(stored.shape, np.uint8), stored.affine), broken)
    with pytest.raises(ValueError, match="could be computed"):
        generate_days(finished, tmp_path / "new", tmp_path / "out", 2, say=lambda text: None)


def test_a_patient_seen_once_has_no_day(tmp_path: Path) -> None:
    plain = _plain()
    del plain["cohorts"]["all"]["days"], plain["stages"]["drawn"]
    plain["split"] = {"test": 1.0}
    plain["evaluate"] = {"constraints": SAID}
    for stage in ("motion", "today"):
        plain["stages"][stage].pop("inputs")
    with pytest.raises(ValueError, match="seen on another day"):
        run_recipe(from_plain(plain), tmp_path / "run", say=lambda text: None)


def test_repeated_cts_need_nothing_learned(tmp_path: Path) -> None:
    """The day's own CT: nobody trains, everybody is tested, the dose is the true one."""
    plain = _plain()
    del plain["stages"]["drawn"], plain["cohorts"]["all"]["cone_beam"]
    plain["cohorts"]["all"]["virtual"]["patients"] = 1
    plain["cohorts"]["all"]["days"]["count"] = 1
    plain["split"] = {"test": 1.0}
    plain["evaluate"] = {"constraints": SAID}
    for stage in ("motion", "today"):
        plain["stages"][stage].pop("inputs")
    report = run_recipe(from_plain(plain), tmp_path / "run", say=lambda text: None).report
    rows = {(s["stage"], s["by"], s["metric"]): s["value"] for s in report.summaries()}
    assert rows["today", "model", "mean dose difference"] == 0
    assert (
        rows["motion", "model", "target registration error"] < rows["motion", "no motion", "target registration error"]
    )


def _as_dicom(folder: Path) -> None:
    """A planned cylinder of water with structures, and a cone-beam CT of it a week later, in one frame of reference."""
    made.write_ct(folder / "planning", made.body())
    rings = {
        name: [made.circle(radius, made.slice_z(k)) for k in range(first, last)]
        for name, radius, first, last in (("PTV70", 14, 6, 13), ("Brainstem", 8, 3, 6))
    }
    made.write_structures(folder / "planning" / "structures.dcm", rings)
    made.write_ct(folder / "later", np.where(made.body() > -500, 40.0, -1000.0))
    for k, path in enumerate(sorted((folder / "later").glob("*.dcm"))):
        ds = pydicom.dcmread(path)
        ds.StudyDate, ds.StudyInstanceUID, ds.SeriesInstanceUID = "20240109", "1.2.826.0.9.2", "1.2.826.0.9.3"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.9.3.{k + 1}"
        ds.SeriesDescription = "CBCT"
        for name in ("AccessionNumber", "ReferringPhysicianName", "StudyID", "StudyTime", "Manufacturer"):
            setattr(ds, name, "")
        ds.save_as(path)


def test_what_was_computed_of_dicom_can_be_handed_over(finished: Path, tmp_path: Path) -> None:
    _as_dicom(tmp_path / "new")
    out = tmp_path / "out"
    written = generate_days(finished, tmp_path / "new", out, 2, say=lambda text: None)
    (case,) = {p.parent.name for p in written if p.name.startswith("dose-")}
    record = drawn_in(out)
    assert {(i.contrast, i.unit, i.kind) for i in record.images} == {
        ("CT", "HU", "intensity"), ("dose", "Gy", "intensity"), ("PTV70", "", "label"), ("Brainstem", "", "label"),
    }  # fmt: skip
    assert all(i.case == case and i.given == ("CBCT",) and len(i.sources) == made.SHAPE[0] for i in record.images)
    outbox = Outbox(tmp_path / "store")
    hand_over(record, outbox, structures=True, say=lambda text: None)
    found = [pydicom.dcmread(p, stop_before_pixels=True) for p in sorted((tmp_path / "store").rglob("*.dcm"))]
    kinds = {ds.Modality for ds in found}
    assert {"RTDOSE", "RTSTRUCT", "SEG", "CT"} <= kinds
    dose = next(ds for ds in found if ds.Modality == "RTDOSE")
    assert dose.FrameOfReferenceUID == made.FRAME
    assert dose.DoseSummationType != "PLAN"
