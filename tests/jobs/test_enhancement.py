"""From a poor image to a better one: what is simulated, what is given, where and how bright the answer is."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fabrica import io
from fabrica.contracts import Batch, Field, Image
from fabrica.data.grid import resample
from fabrica.data.prepare import GridPreparation
from fabrica.generate.scans import generate_images
from fabrica.io import UnreadableError
from fabrica.jobs import Enhancement
from fabrica.jobs.enhancement import POOR
from fabrica.physics import Gaussian, Resolution
from fabrica.recipe.checks import from_plain
from fabrica.rng import Rng
from fabrica.run.sequence import run_recipe
from fabrica.testing import check_job

PLAIN = {
    "cohorts": {
        "heads": {"virtual": {"patients": 2, "spacing_mm": 4, "planes": [14, 22], "disease": "none"}},
        "scans": {"virtual": {"patients": 1, "first": 9, "spacing_mm": 4, "planes": [18, 20], "disease": "none"}},
    },
    "split": {"train": 0.0, "test": 1.0, "only_train": ["heads"]},
    "job": {"name": "enhancement", "x": "T1w", "factor": [2, 2], "deviation": 0.05},
    "family": {"name": "flow", "network": {"channels": [8, 16], "blocks": 1}},
    "sampler": {"name": "posterior", "steps": 4},
    "train": {"steps": 6, "batch": 4, "precision": "fp32"},
    "evaluate": {"draws": 2, "realism": 0, "evaluations": []},
}


def _batch(rows: int = 2, side: int = 32) -> Batch:
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    image = ((y**2 + x**2 < 0.6).float() * (0.6 + 0.3 * torch.cos(8 * x)))[None, None].expand(rows, 1, side, side)
    values = {"position": torch.linspace(-1, 1, rows)}
    names = tuple(f"case/{k}" for k in range(rows))
    return Batch(names, {"T1w": image.clone()}, torch.eye(4).expand(rows, 4, 4), values)


@pytest.mark.parametrize("factor", [[1, 1], [2, 1], [1.5, 3]])
def test_the_job_keeps_the_laws(factor: list[float]) -> None:
    check_job(Enhancement("T1w", factor=factor), _batch())


def test_what_is_asked_holds_no_more_than_the_poor_image() -> None:
    """A finer pattern that no pixel shows changes nothing that is asked."""
    job, batch = Enhancement("T1w", factor=[2, 2], deviation=0.05), _batch(1)
    asked = job.question(batch, Rng([3])).measurements[POOR]
    assert asked.value.shape == (1, 1, 16, 16)
    checker = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2.0 - 1
    other = replace(batch, images={"T1w": batch.images["T1w"] + 0.2 * checker})
    torch.testing.assert_close(job.question(other, Rng([3])).measurements[POOR].value, asked.value)
    assert isinstance(asked.noise, Gaussian)
    assert float(asked.noise.deviation) == pytest.approx(0.05, rel=0.6)  # told from 16 x 16 pixels


def test_options_that_are_none() -> None:
    with pytest.raises(ValueError, match="expected two numbers from 1"):
        Enhancement("T1w", factor=[0.5, 1])
    with pytest.raises(ValueError, match="expected an image"):
        Enhancement("lesion")


def _given(spacing: float, shape: tuple[int, int, int], shift: float = 0.0) -> Image:
    """A picture of where things are: its value is the x coordinate in mm."""
    affine = torch.diag(torch.tensor([3.0, spacing, spacing, 1.0])).double()[[2, 1, 0, 3]]
    affine[0, 3] = affine[1, 3] = shift
    x = affine[0, 3] + spacing * torch.arange(shape[2]).double()
    return Image(x.float().expand(1, *shape).clone(), "zyx", affine, Field("T1w"))


def _preparation() -> GridPreparation:
    return GridPreparation("yx", (3.0, 1.0, 1.0), (1, 16, 16), {"T1w": (0.0, 1.0)})


def test_pixels_of_a_given_image_lie_where_they_are() -> None:
    """The value of every pixel is the mean of the places that it gathers: its own middle."""
    job, image, preparation = Enhancement("T1w"), _given(2.0, (2, 24, 24), shift=0.5), _preparation()
    grid = preparation.grid(image)
    fine = _given(1.0, grid.shape)
    places = fine.data[0] * 0 + (grid.affine[0, 3] + grid.affine[0, 2] * torch.arange(grid.shape[2])).float()
    (measured,) = job.measured({"T1w": image}, grid.affine, grid.shape, preparation).values()
    scale = preparation.scale_of(image)
    there = measured.operator(places[:, None]) / scale.width
    torch.testing.assert_close(there, measured.value, atol=1e-4, rtol=1e-4)


def test_an_image_on_the_grid_of_x_is_taken_as_it_is() -> None:
    job, image, preparation = Enhancement("T1w"), _given(1.0, (2, 32, 32)), _preparation()
    grid = preparation.grid(image)  # around what is bright: it reaches beyond the image
    (measured,) = job.measured({"T1w": image}, grid.affine, grid.shape, preparation).values()
    assert measured.value.shape[2:] == grid.shape[1:]
    assert isinstance(measured.operator, Resolution)
    assert not measured.operator.coarser
    torch.testing.assert_close(measured.value[:, 0] * preparation.scale_of(image).width, resample(image, grid).data[0])
    assert job.measured({}, grid.affine, grid.shape, preparation) == {}


@pytest.mark.parametrize(("spacing", "turned", "words"), [(0.5, False, "finer already"), (1.0, True, "lies askew")])
def test_images_that_do_not_fit_are_refused(spacing: float, turned: bool, words: str) -> None:
    job, image, preparation = Enhancement("T1w"), _given(spacing, (2, 32, 32)), _preparation()
    grid = preparation.grid(image)
    affine = image.affine.clone()
    if turned:
        angle = torch.tensor(0.3)
        affine[:2, :3] = torch.stack([angle.cos() * affine[0, :3] - angle.sin() * affine[1, :3],
                                      angle.sin() * affine[0, :3] + angle.cos() * affine[1, :3]])  # fmt: skip
    with pytest.raises(UnreadableError, match=words):
        job.measured({"T1w": replace(image, affine=affine)}, grid.affine, grid.shape, preparation)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("enhancement")
    run_recipe(from_plain(PLAIN), folder / "run", say=lambda _: None)
    return folder


def test_a_run_scores_beside_classical_answers(finished: Path) -> None:
    rows = (finished / "run/report/cases.csv").read_text()
    for by in ("model: one draw", "model: mean of draws", "given image alone", "cubic"):
        assert f"T1w,{by},psnr" in rows
        assert f"T1w,{by},misfit of given image" in rows
    assert "Check 15 warned" in (finished / "run/report/index.html").read_text()


def test_a_coarse_image_is_taken_for_what_was_measured(finished: Path) -> None:
    """Restored on the finer grid, as bright as it was, and in agreement with the image that was given."""
    y, x = torch.meshgrid(torch.arange(24.0) - 11.5, torch.arange(20.0) - 9.5, indexing="ij")
    poor = 700 * ((y / 10) ** 2 + (x / 8) ** 2 < 1).float() * (1 + 0.2 * torch.sign(x))
    poor = poor.expand(2, 24, 20) + 10 * torch.randn(2, 24, 20, generator=torch.Generator().manual_seed(0))
    affine = torch.diag(torch.tensor([4.0, 8, 8, 1])).double()[[2, 1, 0, 3]]
    io.write_nifti(Image(poor[None], "zyx", affine, Field("T1w")), finished / "poor" / "T1w.nii.gz")
    said: list[str] = []
    paths = generate_images(finished / "run", finished / "poor", finished / "out", draws=2, say=said.append)
    drawn = io.read_image(paths[0])
    step = drawn.affine[:3, :3].norm(dim=0)
    torch.testing.assert_close(step, torch.tensor([4.0, 4, 4]).double())
    fine = drawn.data[0]
    start = torch.linalg.inv(drawn.affine) @ affine @ torch.tensor([0.0, 0, 0, 1]).double()
    first = [round(float(v) - 0.5) for v in start[1:3]]
    h, w = (min(2 * n, fine.shape[k + 1] - first[k]) // 2 * 2 for k, n in enumerate(poor.shape[1:]))
    block = fine[:, first[0] : first[0] + h, first[1] : first[1] + w]
    back = torch.nn.functional.avg_pool2d(block[:, None], 2)[:, 0]
    inside = (poor > 300)[:, : h // 2, : w // 2]
    pair = torch.stack([back, poor[:, : h // 2, : w // 2]]).flatten(1)
    assert float(torch.corrcoef(pair)[0, 1]) > 0.95  # the network has learned nothing in six steps
    assert float(back[inside].mean()) == pytest.approx(float(poor[:, : h // 2, : w // 2][inside].mean()), rel=0.08)
    assert not any("left out" in line for line in said)
