"""What moved between two images: known motion in training, its laws, the report, two visits of new patients."""

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage

from fabrica.contracts import Batch
from fabrica.data import cohort
from fabrica.data.moving import (
    FIXED,
    MOTION,
    MOVING,
    START,
    along_axes,
    along_patient,
    pairs_of,
    started,
    visits_of,
)
from fabrica.generate.scans import generate_images
from fabrica.io import UnreadableError
from fabrica.jobs import Registration
from fabrica.physics.warp import exponential, moved
from fabrica.recipe.checks import from_plain
from fabrica.rng import Rng
from fabrica.run.sequence import run_recipe
from fabrica.testing import check_job

SIDES = (24, 24, 20)  # x, y, z of a file


def _write(path: Path, seed: int, shift: tuple[float, float, float] = (0, 0, 0), flip: bool = False) -> None:
    """Blobs in a box of 2.5 mm voxels; `shift` in voxels of the file; `flip`: the same, stored from right to left."""
    rng = np.random.default_rng(seed)
    volume = ndimage.gaussian_filter(rng.standard_normal(SIDES), 2.0)
    x, y, z = np.indices(SIDES)
    body = ((x - 12) / 9) ** 2 + ((y - 12) / 9) ** 2 + ((z - 10) / 7) ** 2 < 1
    volume = np.where(body, 300 + 1500 * volume, 0).clip(0)
    volume = ndimage.shift(volume, shift, order=1)
    affine = np.diag([2.5, 2.5, 2.5, 1.0])
    if flip:
        volume, affine[0, 0], affine[0, 3] = volume[::-1], -2.5, 2.5 * (SIDES[0] - 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(volume.astype(np.float32), affine), path)


def test_the_job_keeps_the_laws() -> None:
    rng, job = Rng(range(2)), Registration("T1w")
    images = {n: rng.child(n).uniform(1, 8, 8, 8) for n in (*job.signature().given, *MOTION)}
    check_job(job, Batch(("a/0", "b/0"), images, torch.eye(4).expand(2, 4, 4), {}))
    assert [f.unit for f in job.signature().x] == ["mm"] * 3
    assert job.signature().given == (FIXED + "T1w", MOVING + "T1w", *START)
    assert Registration("T1w", start=False).signature().given == (FIXED + "T1w", MOVING + "T1w")


def test_an_answer_is_the_start_and_what_was_learned_of_it() -> None:
    rng, job = Rng(range(2)), Registration("T1w", vary=0.5)
    images = {n: rng.child(n).uniform(1, 8, 8, 8) for n in (*job.signature().given, *MOTION)}
    problem = job.problem(Batch(("a/0", "b/0"), images, torch.eye(4).expand(2, 4, 4), {}), rng)
    assert problem.target is not None
    truth = torch.cat([images[n] for n in MOTION], 1)
    torch.testing.assert_close(job.finished(problem.target, problem), truth)
    torch.testing.assert_close(job.finished(0 * truth, problem), torch.cat([images[n] for n in START], 1))
    plain = Registration("T1w", start=False)
    torch.testing.assert_close(
        plain.finished(truth, plain.problem(Batch(("a/0", "b/0"), images, torch.eye(4).expand(2, 4, 4), {}), rng)),
        truth,
    )


def test_a_pair_without_a_start_is_refused() -> None:
    rng, job = Rng(range(2)), Registration("T1w")
    images = {n: rng.child(n).uniform(1, 8, 8, 8) for n in job.signature().given}
    absent = {START[0]: torch.tensor([True, False])}
    with pytest.raises(UnreadableError, match="comes without a start"):
        job.question(Batch(("a/0", "b/0"), images, torch.eye(4).expand(2, 4, 4), {}, absent), rng)


def test_the_start_is_what_the_solver_tells(tmp_path: Path) -> None:
    _write(tmp_path / "p1" / "T1w.nii.gz", 0)
    (pair,) = pairs_of(cohort.find(tmp_path).members, "T1w", 1, 10.0)
    one = started(pair, "T1w")
    case = one.load([START[0], *MOTION])
    assert list(case.images) == [*MOTION, START[0]]
    assert case.images[START[0]].meaning.unit == "mm"
    whole = one.load([FIXED + "T1w", MOVING + "T1w", *START])
    assert torch.equal(whole.images[START[0]].data, case.images[START[0]].data)
    fixed, moving = whole.images[FIXED + "T1w"], whole.images[MOVING + "T1w"]
    velocity = along_axes(torch.cat([whole.images[n].data for n in START]), fixed.affine)[None]
    brought = moved(moving.data[None], exponential(velocity, fixed.spacing_mm), fixed.spacing_mm)[0]
    assert float((brought - fixed.data).abs().mean()) < 0.5 * float((moving.data - fixed.data).abs().mean())
    assert one.scans_of([START[0]]) == pair.scans_of([FIXED + "T1w"])


@pytest.mark.parametrize("told", [{"axes": "yx"}, {"pairs": 0}, {"largest_mm": 500.0}])
def test_what_cannot_be_asked_is_refused(told: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"Write: axes: zyx|expected"):
        Registration(**told)  # type: ignore[arg-type]


@pytest.mark.parametrize("flip", [False, True])
def test_the_fixed_image_is_the_moving_one_moved_by_what_is_asked_for(tmp_path: Path, flip: bool) -> None:
    """Whatever way the file is stored: the parts of the velocity are along the patient."""
    _write(tmp_path / "p1" / "T1w.nii.gz", 0, flip=flip)
    one, two = pairs_of(cohort.find(tmp_path).members, "T1w", 2, 10.0)
    case = one.load(one.contrasts())
    fixed, moving = case.images[FIXED + "T1w"], case.images[MOVING + "T1w"]
    world = torch.cat([case.images[n].data for n in MOTION])
    velocity = along_axes(world, fixed.affine)[None]
    field = exponential(velocity, fixed.spacing_mm)
    torch.testing.assert_close(moved(moving.data[None], field, fixed.spacing_mm)[0], fixed.data)
    assert 1.5 < float(velocity.norm(dim=1).max()) <= 10
    torch.testing.assert_close(along_patient(velocity[0], fixed.affine), world, atol=1e-5, rtol=1e-5)
    assert not torch.equal(two.load([MOTION[0]]).images[MOTION[0]].data, case.images[MOTION[0]].data)
    assert torch.equal(one.load([MOTION[0]]).images[MOTION[0]].data, case.images[MOTION[0]].data)
    assert one.name != two.name


def test_visits_are_paired_with_the_first_or_the_planning_one(tmp_path: Path) -> None:
    for visit, seed in (("planning", 0), ("2024-03-01", 1), ("2024-02-01", 2)):
        _write(tmp_path / "p1" / visit / "T1w.nii.gz", seed)
    _write(tmp_path / "p2" / "2024-02-01" / "T1w.nii.gz", 3)
    found = visits_of(cohort.find(tmp_path).members, "T1w")
    assert len(found) == 2
    planning = nibabel.load(tmp_path / "p1" / "planning" / "T1w.nii.gz").get_fdata()
    for member in found:
        case = member.load(member.contrasts())
        moving = case.images[MOVING + "T1w"].data[0].numpy()
        assert sorted(np.unique(moving))[-5:] == pytest.approx(sorted(np.unique(planning))[-5:])


def test_slices_are_no_volume(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.ones((8, 8, 1), np.float32), np.eye(4)), tmp_path / "p1_T1w.nii.gz")
    (one,) = pairs_of(cohort.find(tmp_path).members, "T1w", 1, 5.0)
    with pytest.raises(UnreadableError, match="is no volume of at least four slices"):
        one.load(one.contrasts())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registration")
    for k in range(1, 6):
        _write(folder / "data" / f"p{k}" / "T1w.nii.gz", k)
    plain = {
        "cohorts": {"all": {"path": str(folder / "data")}}, "split": {"train": 0.6, "test": 0.4},
        "job": {"name": "registration", "image": "T1w", "pairs": 1, "largest_mm": 8},
        "family": {"name": "regression", "network": {"channels": [8, 16], "blocks": 1}}, "baseline": "none",
        "train": {"steps": 6, "batch": 2, "precision": "fp32"}, "evaluate": {"realism": 0, "evaluations": []},
    }  # fmt: skip
    run_recipe(from_plain(plain), folder / "run", say=lambda _: None)
    return folder


def test_answers_stand_beside_nothing_and_the_classical_solver(finished: Path) -> None:
    with (finished / "run/report/cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    errors = {(r["case"], r["by"]): float(r["value"]) for r in rows if r["metric"] == "target registration error"}
    cases = {case for case, _ in errors}
    assert len(cases) == 2
    for case in cases:
        assert errors[case, "registered without learning"] < 0.7 * errors[case, "nothing moved"]
    folds = [float(r["value"]) for r in rows if r["metric"] == "folded voxels"]
    assert folds
    assert max(folds) == 0
    page = (finished / "run/report/index.html").read_text()
    for words in ("target registration error", "brought onto the fixed image", "moved by (mm)"):
        assert words in page
    assert "register them" not in page


def test_two_visits_leave_as_a_field_that_others_read(finished: Path) -> None:
    new = finished / "new" / "q1"
    _write(new / "planning" / "T1w.nii.gz", 9)
    _write(new / "2024-05-01" / "T1w.nii.gz", 9, shift=(1, 0, 0))
    said: list[str] = []
    written = generate_images(finished / "run", finished / "new", finished / "out", say=said.append)
    assert {p.name for p in written} == {f"{name}-0.nii.gz" for name in MOTION}
    assert any("nothing folds" in line for line in said)
    (path,) = (finished / "out").rglob("displacement-0.nii.gz")
    field = nibabel.load(path)
    assert field.shape == (*SIDES, 1, 3)
    assert field.header.get_intent()[0] == "vector"
    vectors = np.asarray(field.dataobj)[..., 0, :]  # RAS mm: fixed voxel -> where it lies in the moving image
    moving = nibabel.load(new / "planning" / "T1w.nii.gz")
    index = np.indices(SIDES).reshape(3, -1).T
    places = (
        index @ field.affine[:3, :3].T + field.affine[:3, 3] + vectors.reshape(-1, 3) - moving.affine[:3, 3]
    ) / 2.5
    expected = ndimage.map_coordinates(moving.get_fdata(), places.T, order=1, mode="nearest").reshape(SIDES)
    (other,) = (finished / "out").rglob("moved-0.nii.gz")
    np.testing.assert_allclose(nibabel.load(other).get_fdata(), expected, atol=2.0)
