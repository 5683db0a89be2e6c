"""Lesions painted into scans: place and size as stated, nothing else touched, refusals that say what to type."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fabrica.cli import app
from fabrica.data.grid import grid_of
from fabrica.data.virtual import VirtualCohort
from fabrica.data.virtual.export import write_cohort
from fabrica.generate.painting import ROOM, Lesion, paint_lesion
from fabrica.recipe.checks import from_plain
from fabrica.run.sequence import run_recipe
from fabrica.testing import BATCH_TOLERANCE


def _quiet(text: str) -> None:
    pass


def _recipe(axes: str, **changes: object) -> dict:
    return {
        "cohorts": {"s": {"virtual": {"patients": 4, "seed": 0, "spacing_mm": 4, "planes": [10, 26]}}},
        "split": {"train": 0.5, "test": 0.5}, "baseline": "none", "evaluate": {"draws": 1},
        "job": {"name": "synthesis", "x": ["FLAIR", "lesion"], "axes": axes},
        "family": {"name": "flow", "network": {"channels": [8, 16], "blocks": 1}},
        "train": {"steps": 6, "batch": 2, "precision": "fp32"}, **changes,
    }  # fmt: skip


@pytest.fixture(scope="module", params=["yx", "zyx"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs") / "0001"
    run_recipe(from_plain(_recipe(request.param)), folder, say=_quiet)
    scans = tmp_path_factory.mktemp("scans")
    write_cohort(VirtualCohort(1, 9, 4, planes=(10, 26)), scans, _quiet)
    for extra in scans.rglob("*"):
        if extra.is_file() and not extra.name.startswith("FLAIR"):
            extra.unlink()
    return folder, scans


def _centre(scans: Path) -> tuple[Path, tuple[float, float, float]]:
    (file,) = scans.rglob("FLAIR*.nii.gz")
    image = nibabel.load(file)
    middle = image.affine @ [*(np.array(image.shape[:3]) // 2), 1]
    return file, tuple(float(v) for v in middle[:3])  # type: ignore[return-value]


def test_a_lesion_lies_where_it_was_asked_for(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run, scans = trained
    file, at = _centre(scans)
    at = (at[0] + 8, at[1] - 12, at[2] + 4)
    written = paint_lesion(run, scans, tmp_path, Lesion(at, 10.0), draws=2, say=_quiet)
    names = sorted(p.name for p in written)
    assert names == ["FLAIR-0.nii.gz", "FLAIR-1.nii.gz", "lesion.nii.gz"]
    before = nibabel.load(file)
    one, other, mask = (nibabel.load(p) for p in sorted(written, key=lambda p: p.name))
    for image in (one, other, mask):
        assert image.shape == before.shape
        np.testing.assert_allclose(image.affine, before.affine, atol=1e-4)
    where = np.argwhere(mask.get_fdata() > 0.5)
    centre = (one.affine @ np.append(where.mean(0), 1))[:3]
    np.testing.assert_allclose(centre, at, atol=0.5)  # read by another library, in its own convention
    volume = len(where) * abs(np.linalg.det(one.affine[:3, :3]))
    assert volume == pytest.approx(4 / 3 * np.pi * 10**3, rel=0.25)  # voxels of 4 mm
    index = np.indices(before.shape).reshape(3, -1).T
    mm = index @ before.affine[:3, :3].T + before.affine[:3, 3]
    away = np.linalg.norm(mm - at, axis=1).reshape(before.shape)
    outside = away > ROOM * 10
    np.testing.assert_array_equal(one.get_fdata()[outside], before.get_fdata()[outside])
    inside = away < 9
    assert np.abs(one.get_fdata()[inside] - before.get_fdata()[inside]).mean() > 0
    assert np.abs(one.get_fdata()[inside] - other.get_fdata()[inside]).mean() > 0
    again = paint_lesion(run, scans, tmp_path / "again", Lesion(at, 10.0), say=_quiet)
    same, top = nibabel.load(sorted(again)[0]).get_fdata(), float(one.get_fdata().max())
    np.testing.assert_allclose(
        same, one.get_fdata(), atol=BATCH_TOLERANCE * top
    )  # drawn alone, and beside another draw


def test_what_cannot_be_painted(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run, scans = trained
    _, at = _centre(scans)
    with pytest.raises(ValueError, match=r"holds no voxel of the scan, whose middle is at"):
        paint_lesion(run, scans, tmp_path, Lesion((900.0, 0.0, 0.0), 10.0), say=_quiet)
    with pytest.raises(ValueError, match="holds no voxel"):
        paint_lesion(run, scans, tmp_path, Lesion((at[0] + 2, at[1] + 2, at[2] + 2), 0.01), say=_quiet)
    with pytest.raises(ValueError, match="expected more than 0"):
        paint_lesion(run, scans, tmp_path, Lesion(at, 0.0), say=_quiet)
    with pytest.raises(ValueError, match="draw images together with tumour"):
        paint_lesion(run, scans, tmp_path, Lesion(at, 5.0), label="tumour", say=_quiet)
    with pytest.raises(ValueError, match="is not a run"):
        paint_lesion(tmp_path, scans, tmp_path, Lesion(at, 5.0), say=_quiet)
    assert not list(tmp_path.rglob("*.nii.gz"))


def test_a_family_that_cannot_paint(tmp_path: Path) -> None:
    family = {"name": "gan", "network": {"channels": [8, 16], "blocks": 1}}
    run_recipe(from_plain(_recipe("yx", family=family)), tmp_path / "run", say=_quiet)
    with pytest.raises(ValueError, match="gan cannot draw a part of an image"):
        paint_lesion(tmp_path / "run", tmp_path, tmp_path / "out", Lesion((0.0, 0.0, 0.0), 5.0), say=_quiet)


def test_a_model_in_codes_is_refused(tmp_path: Path) -> None:
    fields = {"name": "synthesis", "x": ["FLAIR", "lesion"]}
    plain = _recipe("yx")
    train = {**plain.pop("train"), "steps": 2}
    plain.pop("job"), plain.pop("family")
    narrow = {"channels": [8, 16], "blocks": 1}
    plain["stages"] = {
        "codec": {"job": {**fields, "place": False}, "family": {"name": "vae", "codes": 4, "network": narrow}, "train": train},
        "model": {"job": fields, "family": {"name": "flow", "in": {"stage": "codec"}, "network": narrow}, "train": train},
    }  # fmt: skip
    run_recipe(from_plain(plain), tmp_path / "run", say=_quiet)
    with pytest.raises(ValueError, match=r"draws in the codes of codec.*Train in pixels"):
        paint_lesion(tmp_path / "run", tmp_path, tmp_path / "out", Lesion((0.0, 0.0, 0.0), 5.0), say=_quiet)


def test_a_recipe_with_a_sampler_and_windows(trained: tuple[Path, Path], tmp_path: Path) -> None:
    """Painting has its own sampler; a volume larger than the window is painted by blended windows."""
    _, scans = trained
    _, at = _centre(scans)
    plain = _recipe("zyx", sampler={"name": "dpm", "steps": 2}, evaluate={"draws": 1, "window": [16, 32, 32]})
    run_recipe(from_plain(plain), tmp_path / "run", say=_quiet)
    seen: list[tuple[int, ...]] = []
    from fabrica.networks.unet import UNet

    plain_forward = UNet.forward

    def forward(self: UNet, x: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(tuple(x.shape[2:]))
        return plain_forward(self, x, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UNet, "forward", forward)
        written = paint_lesion(tmp_path / "run", scans, tmp_path / "out", Lesion(at, 10.0), say=_quiet)
    assert len(written) == 2
    assert set(seen) == {(16, 32, 32)}


def test_the_verb(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run, scans = trained
    _, at = _centre(scans)
    base = ["paint", str(run), "--data", str(scans), "--out", str(tmp_path / "out"), "--radius-mm", "8"]
    wrong = CliRunner().invoke(app, [*base, "--at", "here"])
    assert wrong.exit_code == 2
    assert "Write three numbers in mm" in wrong.output
    done = CliRunner().invoke(app, [*base, "--at", ",".join(f"{v:g}" for v in at)])
    assert done.exit_code == 0, done.output
    assert "2 files in" in done.output


def test_distances_are_in_millimetres_of_the_viewer() -> None:
    affine = torch.eye(4).double()
    affine[:3, :3] = torch.tensor([[0.0, 0, -1], [0, -1, 0], [3, 0, 0]])  # z, y, x -> left, posterior, superior
    from fabrica.contracts import Field, Image

    grid = grid_of(Image(torch.zeros(1, 4, 5, 6), "zyx", affine, Field("FLAIR")))
    away = Lesion((2.0, 3.0, 6.0), 1.0).away_mm(grid)
    assert torch.nonzero(away == 0).tolist() == [[2, 3, 2]]
    assert float(away[3, 3, 2]) == pytest.approx(3.0)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.7, 0.7)])
def test_the_volume_is_that_of_the_ball(spacing: tuple[float, float, float]) -> None:
    from fabrica.data.grid import Grid

    affine = torch.eye(4).double()
    affine[:3, :3] = torch.tensor([[0.0, 0, spacing[2]], [0, spacing[1], 0], [spacing[0], 0, 0]])
    grid = Grid(affine, (16, 48, 48) if spacing[0] > 1 else (40, 40, 40))
    volumes = [
        float(Lesion((-17.0 + dx, -18.0, 20.0 + dz), 9.0).mask(grid).sum()) * float(np.prod(spacing))
        for dx in (0.0, 0.3, 0.5) for dz in (0.0, 0.4, 1.1)
    ]  # fmt: skip
    assert np.mean(volumes) == pytest.approx(4 / 3 * np.pi * 9**3, rel=0.03)
    assert max(volumes) < 1.1 * min(volumes)


def test_scans_that_lack_something_are_left_out_and_said(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run, scans = trained
    file, at = _centre(scans)
    for name, target in (("whole", "FLAIR.nii.gz"), ("other", "T1w.nii.gz"), ("broken", "FLAIR.nii.gz")):
        (tmp_path / "scans" / name).mkdir(parents=True)
        content = file.read_bytes()
        (tmp_path / "scans" / name / target).write_bytes(content[: len(content) // (2 if name == "broken" else 1)])
    said: list[str] = []
    written = paint_lesion(run, tmp_path / "scans", tmp_path / "out", Lesion(at, 10.0), say=said.append)
    assert {p.parent.name for p in written} == {"whole"}
    assert "other: has no FLAIR; left out." in said
    assert any(line.startswith("broken") and "left out" in line for line in said)
    (tmp_path / "scans/whole/FLAIR.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"No case in .* has FLAIR. See what is there: fabrica inspect"):
        paint_lesion(run, tmp_path / "scans", tmp_path / "none", Lesion(at, 10.0), say=said.append)
