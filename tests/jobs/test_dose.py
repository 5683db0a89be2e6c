"""From CT and structures to a dose: features, what an answer can never be, scores, the report, new patients."""

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch

from fabrica.contracts import Batch, Case, Field, Image
from fabrica.data.planned import DISTANCE, EVEN, PRESCRIPTION, TABLE, distance_to, prescribed
from fabrica.data.signed import FARTHEST_MM, signed_distance
from fabrica.evaluate.judging.planned import dose_rows, pooled
from fabrica.evaluate.metrics.dose import openkbp_scores
from fabrica.evaluate.report.histogram import curve, drawing
from fabrica.generate.scans import generate_images
from fabrica.io.planning import ORGANS
from fabrica.jobs import Dose
from fabrica.recipe.checks import from_plain
from fabrica.rng import Rng
from fabrica.run.sequence import run_recipe
from fabrica.testing import check_job

from ..io.radiotherapy import made
from ..io.test_planning import plan
from ..margin import PRECISION, SEED, below, learns


def _batch(rows: int = 2, side: int = 16) -> Batch:
    rng, job = Rng(range(rows)), Dose()
    images = {n: rng.child(n).uniform(1, side, side) for n in (*job.signature().given, "dose")}
    images["possible_dose"] = (images["possible_dose"] > 0.4).float()
    values = {"position": torch.linspace(-1, 1, rows)}
    return Batch(tuple(f"c/{k}" for k in range(rows)), images, torch.eye(4).expand(rows, 4, 4), values)


def test_the_job_keeps_the_laws() -> None:
    check_job(Dose(), _batch())
    given = Dose(organs=["SpinalCord"]).signature()
    assert given.given == (
        "CT",
        PRESCRIPTION,
        *(DISTANCE + n for n in ("PTV70", "PTV63", "PTV56", "SpinalCord")),
        TABLE,
        EVEN,
        "possible_dose",
    )
    assert [f.unit for f in given.x] == ["Gy"]
    with pytest.raises(ValueError, match="Divide cGy by 100"):
        Dose({"PTV70": 7000.0})


def test_structures_are_regions_of_the_whole_dose() -> None:
    job, batch = Dose(), _batch()
    batch.images["dose"][0, 0, 0, 0] = 0.5
    batch.images[DISTANCE + "SpinalCord"] -= 0.5  # negative inside
    absent = {DISTANCE + "SpinalCord": torch.tensor([True, False])}
    problem = job.problem(Batch(batch.cases, batch.images, batch.affine, batch.values, absent), Rng(range(2)))
    possible = batch.images["possible_dose"] > 0
    inside = (batch.images[DISTANCE + "SpinalCord"] < 0) & possible
    assert torch.equal(problem.regions["SpinalCord"][0], inside[0])
    assert not problem.regions["SpinalCord"][1].any()
    assert problem.target is not None
    assert problem.ground is not None
    torch.testing.assert_close((problem.target + problem.ground) / 16, batch.images["dose"])
    assert Dose(table=0).problem(batch, Rng(range(2))).ground is None


def test_an_answer_is_never_negative_nor_where_no_dose_can_be() -> None:
    job, batch = Dose(table=0), _batch()
    problem = job.question(batch, Rng(range(2)))
    x = torch.randn(2, 1, 16, 16)
    found = job.finished(x, problem)
    assert float(found.min()) >= 0
    assert not found[batch.images["possible_dose"] == 0].any()
    torch.testing.assert_close(
        found[batch.images["possible_dose"] == 1], x.clamp(min=0)[batch.images["possible_dose"] == 1]
    )
    unsaid = Batch(
        batch.cases, batch.images, batch.affine, batch.values, {"possible_dose": torch.tensor([True, False])}
    )
    batch.images["CT"][1, :, :, :8] = 0  # -1024 HU from the edge of the image to its middle
    found = job.finished(x.abs() + 1, job.question(unsaid, Rng(range(2))))[1]
    assert not found[..., :8].any()
    assert found[..., 8:].any()


def test_airways_lie_in_the_body_and_the_air_around_it_does_not() -> None:
    """Where nobody says where dose is possible: a ring of tissue with air in it."""
    job, batch = Dose(table=0), _batch(1)
    y, x = torch.meshgrid(torch.arange(16.0) - 7.5, torch.arange(16.0) - 7.5, indexing="ij")
    radius = (y**2 + x**2).sqrt()
    batch.images["CT"][0, 0] = ((radius < 6) & (radius > 3)).float()  # 0 HU, else -1024
    unsaid = Batch(batch.cases, batch.images, batch.affine, batch.values, {"possible_dose": torch.tensor([False])})
    found = job.finished(torch.ones(1, 1, 16, 16), job.question(unsaid, Rng([0])))[0, 0]
    assert torch.equal(found, (radius < 6).float())


def _mask(shape: tuple[int, int, int] = (20, 30, 40)) -> np.ndarray:
    z, y, x = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    return np.asarray((2.5 * (z - 9)) ** 2 + (3.0 * (y - 15)) ** 2 + (3.0 * (x - 20)) ** 2 < 15**2)


def test_distances_are_those_to_the_nearest_voxel_of_the_other_kind() -> None:
    mask, spacing = _mask(), (2.5, 3.0, 3.0)
    found = signed_distance(mask, spacing)
    inside, outside = (np.argwhere(m) * spacing for m in (mask, ~mask))
    for place in ((9, 15, 20), (9, 15, 25), (0, 0, 0), (9, 15, 30), (12, 20, 20)):
        here, other = np.array(place) * spacing, outside if mask[place] else inside
        nearest = float(np.sqrt(((other - here) ** 2).sum(1)).min())
        assert found[place] == pytest.approx(min(nearest, FARTHEST_MM) * (-1 if mask[place] else 1), abs=1e-4)
    assert float(signed_distance(np.zeros((4, 4, 4), bool), spacing).min()) == FARTHEST_MM


def test_the_highest_level_that_holds_a_voxel_is_prescribed() -> None:
    affine = torch.diag(torch.tensor([2.5, 3.0, 3.0, 1.0])).double()[[2, 1, 0, 3]]
    wide, narrow = torch.ones(1, 3, 3, 3), torch.zeros(1, 3, 3, 3)
    narrow[0, 1, 1, 1] = 1
    masks = [Image(m, "zyx", affine, Field("m", "label", 2, "")) for m in (wide, narrow)]
    found = prescribed(masks, [56.0, 70.0])
    assert (found.meaning.unit, float(found.data[0, 1, 1, 1]), float(found.data[0, 0, 0, 0])) == ("Gy", 70.0, 56.0)
    away = distance_to(masks[1], "distance m")
    assert (away.meaning.unit, float(away.data[0, 1, 1, 1])) == ("mm", -2.5)


def test_scores_are_pooled_as_the_challenge_pools_them() -> None:
    """Over figures, not over patients: who has more structures counts more."""
    rng = np.random.default_rng(0)
    rows, gaps, scores = [], [], []
    for patient, names in (("a", ("PTV70", "SpinalCord")), ("b", ("PTV70",))):
        truth = rng.uniform(0, 70, (6, 8, 8))
        dose = truth + rng.normal(size=truth.shape) * (1 if patient == "a" else 5)
        masks = {n: rng.random(truth.shape) > 0.5 for n in names}
        possible = np.ones(truth.shape, bool)
        rows += dose_rows(
            (patient, patient, "dose"), "model", dose, truth, {**masks, "possible_dose": possible}, (2.5, 4, 4)
        )
        known = openkbp_scores(dose, truth, masks, possible_dose=possible, voxel_mm=(2.5, 4, 4))
        gaps += list(known.details["differences"].values())
        scores.append(float(known))
    figures = {f.name: f.value for f in pooled("s", rows)}
    assert figures["dose score"] == pytest.approx(np.mean(scores))
    assert figures["DVH score"] == pytest.approx(np.mean(gaps))
    assert dose_rows(("a", "a", "dose"), "model", dose, truth, {}, (1, 1, 1)) == []


def test_known_answers_of_the_challenge(real_data: Path) -> None:
    """Zero dose on the 33 validation patients: 27.2213 and 51.9519 Gy; the reference times .95: 1.3611 and 2.5976."""
    from fabrica.data import cohort

    rows = []
    for member in cohort.find(real_data / "radiotherapy/openkbp/valid").members:
        images = member.load(member.contrasts()).images
        truth = images["dose"].data[0].numpy()
        masks = {n: i.data[0].numpy() > 0.5 for n, i in images.items() if i.meaning.kind == "label"}
        for by, dose in (("zero", 0 * truth), ("less", 0.95 * truth)):
            rows += dose_rows((member.name, member.patient, "dose"), by, dose, truth, masks, images["dose"].spacing_mm)
    found = {(f.by, f.name): f.value for f in pooled("s", rows)}
    assert found["zero", "dose score"] == pytest.approx(27.2213, abs=2e-3)
    assert found["zero", "DVH score"] == pytest.approx(51.9519, abs=2e-3)
    assert found["less", "dose score"] == pytest.approx(1.3611, abs=2e-3)
    assert found["less", "DVH score"] == pytest.approx(2.5976, abs=2e-3)


def test_histograms_are_those_of_their_structures() -> None:
    dose = np.arange(100.0).reshape(1, 10, 10)
    half = np.zeros(dose.shape, bool)
    half[0, 5:] = True
    assert curve(dose, half, np.array([0.0, 50.0, 75.0, 100.0])).tolist() == [100, 100, 50, 0]
    drawn = drawing(dose, dose + 1, {"<PTV>": half, "empty": np.zeros(dose.shape, bool)})
    assert drawn.count("<polyline") == 2
    assert "&lt;PTV&gt;" in drawn
    assert drawing(dose, None, {}) == ""
    assert "polygon" not in drawn
    several = drawing(dose, None, {"PTV": half}, [dose, dose + 5])
    assert several.count("<polygon") == 1
    assert "2 draws shaded" in several


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dose")
    for part, numbers in (("train", (1, 2, 3)), ("valid", (201, 202)), ("new", (300,))):
        (folder / part).mkdir()
        for number in numbers:
            stored = plan(number, missing=("Larynx",) if number % 2 else ("PTV63", "Mandible"))
            if part == "new":
                del stored["dose_cGy"]
            np.savez_compressed(folder / part / f"pt_{number}.npz", **stored)
    plain = {
        "cohorts": {p: {"path": str(folder / p)} for p in ("train", "valid")},
        "split": {"train": 0.0, "test": 1.0, "only_train": ["train"]},
        "job": {"name": "dose", "table": 30}, "family": {"name": "regression", "network": {"channels": [8, 16], "blocks": 1}},
        "baseline": "none", "train": {"steps": 60, "batch": 8, "precision": PRECISION}, "seed": SEED,
        "evaluate": {"realism": 0, "evaluations": []},
    }  # fmt: skip
    run_recipe(from_plain(plain), folder / "run", say=lambda _: None)
    return folder


def test_a_run_is_scored_and_shown(finished: Path) -> None:
    rows = (finished / "run/report/cases.csv").read_text()
    for patient in ("pt_201", "pt_202"):
        assert f"{patient},dose,model,dose score" in rows
    assert "dose,training mean image,dose score" in rows  # of whoever lies on the training cohort's grid
    errors = {line.split(",")[2]: float(line.split(",")[6]) for line in rows.splitlines() if ",model,mae," in line}
    scores = {
        line.split(",")[2]: float(line.split(",")[6]) for line in rows.splitlines() if ",model,dose score," in line
    }
    assert errors == pytest.approx(scores, rel=1e-4)  # nothing is drawn where no dose can be
    page = (finished / "run/report/index.html").read_text()
    for words in ("Dose-volume histogram", "DVH score", "OpenKBP, pooled over", "CT (given)", "prescription (given)"):
        assert words in page
    assert "distance PTV70 (given)" not in page
    assert "register them" not in page


@learns
def test_new_patients_get_a_dose_in_the_order_of_the_challenge(finished: Path) -> None:
    (path,) = generate_images(finished / "run", finished / "new", finished / "out", say=lambda _: None)
    assert path.name == "dose-0.nii.gz"
    dose, stored = np.asarray(nibabel.load(path).dataobj), plan(300, missing=("PTV63", "Mandible"))
    possible = np.unpackbits(stored["possible_dose"]).reshape(dose.shape).astype(bool)
    assert dose.shape == (128, 128, 128)
    assert dose.min() >= 0
    assert not dose[~possible].any()
    truth = stored["dose_cGy"] / 100
    error = float(np.abs(dose - truth)[possible].mean()) / float(truth[possible].mean())
    # worst of 0.158 (0.53 of the bound; bf16, 5 seeds); 0.154 (0.51 of the bound; bf16, 2 threads, 5 seeds); 0.168 (0.56 of the bound; fp32, 5 seeds); 0.168 (0.56 of the bound; fp32, 2 threads, 5 seeds)
    below("dose error, of the mean dose", error, 0.3)


def test_structures_of_a_case_are_missing_not_empty(finished: Path) -> None:
    from fabrica.data import cohort

    (member,) = cohort.find(finished / "new").members
    (planned_member,) = Dose().gathered([member])
    case: Case = planned_member.load(["CT", "distance Mandible", "distance SpinalCord", PRESCRIPTION])
    assert set(case.images) == {"CT", "distance SpinalCord", PRESCRIPTION}
    assert set(ORGANS) - set(member.contrasts()) == {"Mandible"}


def test_a_case_without_a_ct_is_named(finished: Path) -> None:
    stored = plan(301)
    place = finished / "without" / "pt_301"
    place.mkdir(parents=True)
    (place / "voxel_dimensions.csv").write_text("3.9\n3.9\n2.5\n")
    held = np.flatnonzero(stored["structures"] >> np.uint16(9) & 1)
    (place / "PTV70.csv").write_text("," + "data\n" + "".join(f"{k},\n" for k in held))
    said: list[str] = []
    with pytest.raises(ValueError, match="No case in"):
        generate_images(finished / "run", finished / "without", finished / "nothing", say=said.append)
    assert any("has no CT to guess a dose on" in line for line in said), said


def _planned_in_dicom(folder: Path, seed: int, *, covered: bool = True, dose: bool = True) -> None:
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(made.SHAPE)
    waves = 80 * np.sin(y / rng.uniform(2, 6)) * np.cos(x / rng.uniform(2, 6))
    made.write_ct(folder, np.where(made.body() == 0, np.round(waves), -1000))
    target = [made.circle(rng.uniform(8, 12), made.slice_z(k)) for k in range(5, 15)]
    cord = [made.circle(4, made.slice_z(k), (12.0, 30.0)) for k in range(2, 18)]
    made.write_structures(folder / "rs.dcm", {"PTV_7000": target, "Cord": cord}, kinds={"PTV_7000": "PTV"})
    made.write_plan(folder / "rp.dcm", {1: 66.0})
    if dose:
        shape = (20, 24, 24) if covered else (8, 24, 24)
        z, y, x = np.indices(shape)
        far = np.sqrt((3.0 * z - 28) ** 2 + (3.0 * y - 45) ** 2 + (3.0 * x - 40) ** 2)
        made.write_dose(folder / "rd.dcm", np.clip(70 - far, 0, 66), spacing=(3.0, 3.0, 3.0), corner=(-28, -37, -50))
    for path in folder.glob("*.dcm"):
        ds = pydicom.dcmread(path)
        ds.PatientID = f"planned-{seed}"
        ds.save_as(path)


def test_plans_in_dicom_go_from_files_to_a_dose(tmp_path: Path) -> None:
    """CT, RTSTRUCT, RTPLAN and RTDOSE in; what a plan prescribes wins; where no dose was computed nothing is learned."""
    from fabrica.data import cohort

    for seed in range(1, 5):
        _planned_in_dicom(tmp_path / "data" / f"p{seed}", seed, covered=seed != 4)
    _planned_in_dicom(tmp_path / "new" / "p9", 9, dose=False)
    plain = {
        "cohorts": {"all": {"path": str(tmp_path / "data")}}, "split": {"train": 0.5, "test": 0.5},
        "job": {"name": "dose", "prescription": {"PTV70": 70}, "organs": ["SpinalCord"], "table": 20},
        "baseline": "none",
        "family": {"name": "regression", "network": {"channels": [8, 16], "blocks": 1}},
        "train": {"steps": 3, "batch": 4, "precision": PRECISION}, "evaluate": {"realism": 0, "evaluations": []},
    }  # fmt: skip
    said: list[str] = []
    run_recipe(from_plain(plain), tmp_path / "run", say=said.append)
    assert any("its dose grid leaves out" in line and "of PTV70" in line for line in said)
    rows = (tmp_path / "run/report/cases.csv").read_text()
    assert "dose,model,dose score" in rows
    (path,) = generate_images(tmp_path / "run", tmp_path / "new", tmp_path / "out", say=lambda _: None)
    dose = nibabel.load(path)
    assert sorted(dose.shape) == sorted(made.SHAPE)
    (member,) = Dose({"PTV70": 70}, ["SpinalCord"]).gathered(cohort.find(tmp_path / "data" / "p1").members)
    case = member.load(["CT", "dose", PRESCRIPTION, "possible_dose"])
    assert float(case.images[PRESCRIPTION].data.max()) == 66.0
    known = case.images["possible_dose"].data[0]
    assert not known[:, :, -1].any()  # beyond the grid of the dose
    assert not known[case.images["CT"].data[0] < -600].any()
    assert known.any()


def test_a_table_that_is_not_there_or_of_other_structures_is_said(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a number of trees up to 5000"):
        Dose(table=-1)
    with pytest.raises(ValueError, match=r"holds no table. Runs of before had none: write job: {table: 0}"):
        Dose().fitted((), tmp_path, 0, print)
    assert Dose(table=0).fitted((), tmp_path, 0, print).table is None
    home = finished / "run" / "stages" / "model"
    with pytest.raises(ValueError, match="holds a table of PTV70"):
        Dose(organs=["SpinalCord"]).fitted((), home, 0, print)
    known = Dose().fitted((), home, 0, print)
    assert known.table is not None
