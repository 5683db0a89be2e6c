"""Frames in between: rivals in closed form, films in and out, faults of time, a run and new films."""

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from fabrica import io
from fabrica.contracts import Field, Image
from fabrica.data.filmed import GIVEN, filmed, moments_of
from fabrica.data.virtual import VirtualHearts
from fabrica.evaluate.report.film import moving
from fabrica.generate.scans import generate_images
from fabrica.io import UnreadableError
from fabrica.jobs import Interpolation
from fabrica.jobs.films import LOUDER
from fabrica.recipe.checks import from_plain
from fabrica.recipe.text import RecipeError
from fabrica.rng import Rng
from fabrica.run.sequence import run_recipe
from fabrica.testing import check_job

from .test_jobs import _filmed

PLAIN = {
    "cohorts": {"all": {"hearts": {"patients": 5, "frames": 8, "slices": 1}}},
    "job": {"name": "interpolation", "x": "cine", "frames": 8, "every": 2},
    "family": {"name": "regression", "network": {"channels": [8, 16], "blocks": 1}},
    "baseline": "none",
    "train": {"steps": 10, "batch": 4, "precision": "fp32"},
    "evaluate": {"realism": 0},
}


def test_the_job_keeps_the_laws() -> None:
    check_job(Interpolation(frames=8, every=2), _filmed())
    with pytest.raises(ValueError, match="expected 2 to 4"):
        Interpolation(frames=8, every=5)


@pytest.mark.parametrize("periodic", [True, False])
def test_rivals_are_what_they_say(periodic: bool) -> None:
    job, batch = Interpolation(frames=8, every=2, periodic=periodic), _filmed()
    film = batch.images["cine"]
    found = job.rivals(job.question(batch, Rng(range(len(film)))))
    blended = found["linear blending"]
    assert torch.equal(blended[:, ::2], film[:, ::2])
    torch.testing.assert_close(blended[:, 3], (film[:, 2] + film[:, 4]) / 2)
    last = (film[:, 6] + film[:, 0]) / 2 if periodic else film[:, 6]
    torch.testing.assert_close(blended[:, 7], last)
    assert torch.equal(found["nearest frame"][:, 2], film[:, 2])


def test_given_frames_come_back_as_they_were() -> None:
    job, batch = Interpolation(frames=8, every=2), _filmed()
    x = torch.randn_like(batch.images["cine"])
    found = job.finished(x, job.question(batch, Rng(range(len(x)))))
    assert torch.equal(found[:, ::2], batch.images["cine"][:, ::2])
    blended = job.rivals(job.question(batch, Rng(range(len(x)))))["linear blending"]
    torch.testing.assert_close(found[:, 1::2], (blended + x / LOUDER)[:, 1::2])
    whole = job.finished(job.problem(batch, Rng(range(len(x)))).target, job.question(batch, Rng(range(len(x)))))
    torch.testing.assert_close(whole, batch.images["cine"])  # what is learned gives the film back
    assert job.asked_frames == (1, 3, 5, 7)


def test_a_film_is_one_image_of_many_channels_and_a_few_of_them() -> None:
    (heart,) = VirtualHearts(1, frames=8, slices=2).cohort().members
    case = filmed(heart, "cine", 8, (0, 2, 4, 6), False)
    assert set(case.contrasts()) == {"cine", GIVEN + "cine", "ventricle"}
    images = case.load(["cine", GIVEN + "cine"]).images
    assert (images["cine"].data.shape[0], images[GIVEN + "cine"].data.shape[0]) == (8, 4)
    assert torch.equal(images["cine"].data[::2], images[GIVEN + "cine"].data)
    assert images["cine"].meaning.frames == 8
    with pytest.raises(UnreadableError, match="has 8 frames, expected 10"):
        filmed(heart, "cine", 10, (0, 2, 4, 6, 8), False).load(["cine"])
    assert set(filmed(heart, "cine", 16, range(0, 16, 2), True).contrasts()) == {GIVEN + "cine", "ventricle"}
    assert (
        filmed(heart, "cine", 16, range(0, 16, 2), True).load([GIVEN + "cine"]).images[GIVEN + "cine"].meaning.frames
        == 8
    )


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ([0.0, 0.1, 0.35, 0.4], "expected even steps"),
        ([0.0, 0.1, 0.1, 0.2], "out of order or doubled"),
        ([0.0, 0.2, 0.1, 0.3], "out of order"),
    ],
)
def test_frames_at_odd_times_are_refused(times: list[float], words: str) -> None:
    image = Image(torch.rand(1, 4, 2, 8, 8), "tzyx", torch.eye(4).double(), Field("cine"), times=torch.tensor(times))
    with pytest.raises(UnreadableError, match=words):
        moments_of(image)
    with pytest.raises(UnreadableError, match="is one image"):
        moments_of(replace(image, data=image.data[:, 0], axes="zyx", times=None))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interpolation")
    run_recipe(from_plain(PLAIN), folder / "run", say=lambda _: None)
    return folder


def test_a_run_is_scored_beside_its_rivals_and_shows_films(finished: Path) -> None:
    rows = (finished / "run/report/cases.csv").read_text()
    for by in ("model", "linear blending", "nearest frame"):
        for metric in ("psnr", "ssim", "ejection fraction error", "volume curve error"):
            assert f"cine,{by},{metric}" in rows
    page = (finished / "run/report/index.html").read_text()
    assert "data:image/gif;base64" in page
    (drawn,) = (finished / "run/stages/model/draws").glob("*/0.nii.gz")
    header = nibabel.load(drawn)
    assert header.shape == (96, 96, 1, 8)
    assert 0.05 < float(header.header["pixdim"][4]) < 0.2  # seconds between frames


def test_a_film_of_few_frames_becomes_one_of_many(finished: Path) -> None:
    (heart,) = VirtualHearts(1, frames=8, slices=1, first=90).cohort().members
    image = heart.load(["cine"]).images["cine"]
    assert image.times is not None
    few = replace(image, data=image.data[:, ::2], times=image.times[::2])
    io.write_nifti(few, finished / "new/p1_cine.nii.gz")
    said: list[str] = []
    (path,) = generate_images(finished / "run", finished / "new", finished / "out", say=said.append)
    drawn = np.asarray(nibabel.load(path).dataobj)
    assert drawn.shape == (96, 96, 1, 8)
    back = io.read_image(path)
    assert back.axes == "tzyx"
    assert back.times is not None
    torch.testing.assert_close(back.times, image.times, atol=1e-3, rtol=0)
    given = io.read_image(finished / "new/p1_cine.nii.gz")
    torch.testing.assert_close(back.data[0, ::2], given.data[0], atol=1e-4, rtol=1e-4)  # as they were, brightness too


def test_recipes_of_impossible_hearts_are_refused() -> None:
    with pytest.raises(RecipeError, match="are impossible"):
        from_plain({**PLAIN, "cohorts": {"all": {"hearts": {"patients": 0}}}})
    with pytest.raises(RecipeError, match="has either a path or a virtual block, or hearts"):
        from_plain({**PLAIN, "cohorts": {"all": {"hearts": {}, "path": "x"}}})


def test_films_move_and_words_are_no_markup() -> None:
    text = moving({"<true>": np.random.default_rng(0).random((4, 8, 8)), "model": np.zeros((4, 8, 8))})
    assert "&lt;true&gt; | model" in text
    assert "<true>" not in text
