"""From k-space to an image: a prior learned on simulated heads, raw data through run and generate."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from fabrica import io
from fabrica.contracts import Batch, Field, Image, Measurement
from fabrica.data import cohort
from fabrica.data.acquisition.mr import coil_sensitivities, image_phase
from fabrica.data.cases import prepare_case
from fabrica.data.measured import measurement_of
from fabrica.data.prepare import GridPreparation
from fabrica.data.virtual import VirtualCohort
from fabrica.generate.scans import generate_images
from fabrica.io import K_SPACE
from fabrica.jobs import Reconstruction
from fabrica.physics import CartesianSense
from fabrica.physics.mr import to_k_space
from fabrica.recipe.checks import from_plain
from fabrica.recipe.text import RecipeError
from fabrica.rng import Rng
from fabrica.run.sequence import run_recipe
from fabrica.testing import check_job


def _batch(rows: int = 2, side: int = 48) -> Batch:
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    image = ((y**2 + x**2 < 0.6).float() * (0.6 + 0.3 * torch.cos(8 * x)))[None, None].expand(rows, 1, side, side)
    values = {"position": torch.linspace(-1, 1, rows)}
    return Batch(
        tuple(f"case/{k}" for k in range(rows)), {"T1w": image.clone()}, torch.eye(4).expand(rows, 4, 4), values
    )


@pytest.mark.parametrize("more", [{"pattern": "lines"}, {"pattern": "random"}, {"trajectory": "radial"}])
def test_the_job_keeps_the_laws(more: dict[str, str]) -> None:
    job = Reconstruction("T1w", acquisition={"name": "mr", "coils": 4, "acceleration": 2, "calibration": 16, **more})
    check_job(job, _batch())
    (declared,), (asked,) = (
        job.signature().measurements.values(),
        job.question(_batch(), Rng([0, 1])).measurements.values(),
    )
    assert isinstance(asked.operator, declared.operator)  # which samplers are checked against before any data


def test_what_is_asked_holds_nothing_of_the_answer_but_through_its_samples() -> None:
    """Whatever lies outside the measured samples may be anything: the question stays the same."""
    job, batch = (
        Reconstruction("T1w", acquisition={"name": "mr", "coils": 4, "acceleration": 4, "calibration": 16}),
        _batch(1),
    )
    (asked,) = job.question(batch, Rng([3])).measurements.values()
    operator = asked.operator
    assert isinstance(operator, CartesianSense)
    share = float(operator.mask.float().mean())
    assert 0.2 < share < 0.3
    assert not asked.value[~operator.mask.expand_as(asked.value)].any()
    again = job.question(replace(batch, cases=("x",)), Rng([3])).measurements[K_SPACE]
    assert torch.equal(again.value, asked.value)
    other = job.question(batch, Rng([4])).measurements[K_SPACE]
    assert not torch.equal(other.value, asked.value)


def test_a_slice_without_anybody_is_asked_about_too() -> None:
    job, batch = Reconstruction("T1w", acquisition={"name": "mr", "coils": 4, "calibration": 16}), _batch(2)
    batch.images["T1w"][1] = 0
    problem = job.question(batch, Rng([0, 1]))
    assert problem.measurements[K_SPACE].value.isfinite().all()
    assert len(problem.measurements[K_SPACE].value) == 2


def test_a_grid_without_a_middle_to_learn_coils_from_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 12 a side"):
        Reconstruction("T1w", acquisition={"name": "mr", "coils": 4, "calibration": 12}).question(
            _batch(1, 10), Rng([0])
        )


def test_options_that_are_none() -> None:
    with pytest.raises(ValueError, match="expected coils and acceleration from 1"):
        Reconstruction("T1w", acquisition={"name": "mr", "acceleration": 0.5})
    with pytest.raises(ValueError, match="expected an image"):
        Reconstruction("lesion")


PLAIN = {
    "cohorts": {
        "heads": {"virtual": {"patients": 2, "spacing_mm": 4, "skull": True, "planes": [14, 22], "disease": "none"}},
        "scans": {"virtual": {"patients": 1, "first": 9, "spacing_mm": 4, "skull": True, "planes": [18, 20]}},
    },
    "split": {"train": 0.0, "test": 1.0, "only_train": ["heads"]},
    "job": {
        "name": "reconstruction",
        "x": "T1w",
        "acquisition": {"name": "mr", "coils": 4, "acceleration": 3, "calibration": 16},
    },
    "family": {"name": "flow", "network": {"channels": [8, 16], "blocks": 1}},
    "sampler": {"name": "posterior", "steps": 4},
    "train": {"steps": 6, "batch": 4, "precision": "fp32"},
    "evaluate": {"draws": 2, "realism": 0, "evaluations": []},
}


def _scan(folder: Path, name: str = "p1.npy", slices: int = 0, gain: float = 30.0) -> torch.Tensor:
    """A raw file of a simulated head that no network has seen; returns its image."""
    member = VirtualCohort(1, first=5, spacing_mm=4, skull=True, planes=(18, 20), disease="none").cohort().members[0]
    image = member.load(["T1w"]).images["T1w"].data[0]
    image = image / image.max()
    sides = tuple(image.shape[1:])
    rng = Rng([1])
    maps, phase = coil_sensitivities(4, sides, rng), image_phase(sides, rng.child("phase"))
    mask = torch.rand(sides, generator=torch.Generator().manual_seed(0)) < 0.4
    mask[sides[0] // 2 - 9 : sides[0] // 2 + 9, sides[1] // 2 - 9 : sides[1] // 2 + 9] = True
    chosen = image[: slices or 1]
    k_space = torch.stack([to_k_space(one * phase * maps, 2) for one in chosen], 1)
    noise = 0.01 * torch.randn(k_space.shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    k_space = gain * (k_space + noise) * mask
    if slices:
        k_space = to_k_space(k_space.transpose(1, 3), 1).transpose(1, 3)
    folder.mkdir(parents=True, exist_ok=True)
    array = k_space.numpy() if slices else k_space[:, 0].numpy()
    if name.endswith(".npz"):
        np.savez(folder / name, kspace=array, voxel_mm=[4.0, 4.0, 4.0])
    else:
        np.save(folder / name, array)
    return chosen


def test_a_volume_measured_whole_along_its_first_axis_is_slices(tmp_path: Path) -> None:
    image = _scan(tmp_path, "p.npz", slices=2)
    (scan,) = io.scan_folder(tmp_path).scans
    measured = measurement_of(scan)
    assert measured.value.shape[:2] == (2, 4)
    (found,) = measured.operator.solved(measured.value).values()
    for k in range(2):
        inside = image[k] > 0.3
        pair = torch.stack([found[k, 0][inside], image[k][inside]])
        assert float(torch.corrcoef(pair)[0, 1]) > 0.8
    assert measured.affine is not None
    assert measured.affine[:3, :3].norm(dim=0).tolist() == [4.0, 4.0, 4.0]
    assert measured.operator.weight.abs().unique().numel() < 20  # one gain for the whole scan
    assert isinstance(measured, Measurement)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose test scan is a raw file."""
    folder = tmp_path_factory.mktemp("reconstruction")
    _scan(folder / "raw")
    plain = yaml.safe_load(yaml.safe_dump(PLAIN))
    plain["cohorts"]["scans"] = {"path": str(folder / "raw")}
    run_recipe(from_plain(plain), folder / "run", say=lambda _: None)
    return folder


def test_raw_data_come_out_as_images_beside_classical_answers(finished: Path) -> None:
    rows = (finished / "run/report/cases.csv").read_text()
    for by in ("model: one draw", "model: mean of draws", "k-space alone", "CG-SENSE", "total variation"):
        assert f"p1,p1,T1w,{by},misfit of k-space" in rows
    assert "not evaluated: needs the true T1w of this case" in rows
    misfits = {
        line.split(",")[4]: float(line.split(",")[6]) for line in rows.splitlines() if "misfit of k-space" in line
    }
    assert 0.3 < misfits["CG-SENSE"] < misfits["k-space alone"]
    page = (finished / "run/report/index.html").read_text()
    assert "p1,p1,T1w,model: one draw,misfit of k-space (fine)" in rows
    assert "p1,p1,T1w,model: one draw,share fixed by the data" in rows
    for words in (
        "CG-SENSE",
        "total variation",
        "spread of draws",
        "data unexplained by the mean",
        "decided by the prior",
    ):
        assert words in page
    assert "Check 15 warned" not in page
    drawn = io.read_image(finished / "run/stages/model/draws/p1/0.nii.gz")
    raw = measurement_of(io.scan_folder(finished / "raw").scans[0])
    assert raw.affine is None  # no voxel size is stated, and none is made up
    assert drawn.data.shape[1:] == (1, *np.load(finished / "raw/p1.npy").shape[1:])


def test_draws_of_one_scan_differ_and_agree_with_it(finished: Path) -> None:
    said: list[str] = []
    written = generate_images(finished / "run", finished / "raw", finished / "out", draws=3, say=said.append)
    assert [p.name for p in written] == ["T1w-0.nii.gz", "T1w-1.nii.gz", "T1w-2.nii.gz"]
    draws = torch.stack([io.read_image(p).data[0, 0] for p in written])
    assert float(draws.std(0).max()) > 0
    (scan,) = io.scan_folder(finished / "raw").scans
    measured = measurement_of(scan)
    assert isinstance(measured.operator, CartesianSense)
    (least_squares,) = measured.operator.solved(measured.value).values()
    inside = measured.operator.support()[0, 0]
    pair = torch.stack([draws.mean(0)[inside], least_squares[0, 0][inside]])
    assert float(torch.corrcoef(pair)[0, 1]) > 0.7  # the network has learned nothing in six steps: data decide
    assert not draws[:, ~inside].any()


def test_simulated_scans_are_scored_beside_classical_answers(tmp_path: Path) -> None:
    result = run_recipe(from_plain(PLAIN), tmp_path / "run", say=lambda _: None)
    by = {r.by for r in result.report.stages[0].cases if r.metric == "psnr" and not isinstance(r.value, str)}
    assert by >= {"model: one draw", "model: mean of draws", "k-space alone", "CG-SENSE"}
    assert result.report.ledger is not None
    (found,) = [f for f in result.report.ledger.table() if f.number == 15]
    assert (found.status, "simulated from finished images" in found.why) == ("warned", True)


def test_files_whose_physics_cannot_be_told_are_said(finished: Path, tmp_path: Path) -> None:
    values = np.load(finished / "raw/p1.npy")
    values[:, values.shape[1] // 2 - 5 : values.shape[1] // 2 + 5 : 2] = 0
    np.save(tmp_path / "scattered.npy", values)
    said: list[str] = []
    with pytest.raises(ValueError, match="No case in"):
        generate_images(finished / "run", tmp_path, tmp_path / "out", say=said.append)
    assert any("scattered" in line and "expected at least 12" in line for line in said)


def test_a_family_that_would_not_look_at_the_data_is_refused() -> None:
    with pytest.raises(RecipeError, match="name a restorer"):
        from_plain({k: v for k, v in PLAIN.items() if k != "sampler"})


def test_raw_data_beside_a_finished_image_are_said_to_be_unused(tmp_path: Path) -> None:
    image = _scan(tmp_path / "p1", "p1_raw.npz")
    io.write_nifti(
        Image(image[:, None], "zyx", torch.diag(torch.tensor([4.0, 4, 4, 1])).double()[[2, 1, 0, 3]], Field("T1w")),
        tmp_path / "p1" / "p1_T1w.nii.gz",
    )
    (member,) = cohort.find(tmp_path).members
    assert set(member.contrasts()) == {"T1w", K_SPACE}
    prepared = prepare_case(member, ["T1w", K_SPACE], "T1w", GridPreparation("yx", None, (1, 16, 16), {}))
    assert prepared.remarks == ("p1: its k-space is not used beside its finished images.",)
    assert "T1w" in prepared.tensors
