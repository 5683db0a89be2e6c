"""Films through jobs that know nothing of time: their frames are channels, from reading to a film in the report."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fabrica import io
from fabrica.data.cohort import find
from fabrica.data.filmed import film_of, moments_of, with_films
from fabrica.data.virtual import VirtualHearts
from fabrica.data.vocabulary import field_of, film_or_image
from fabrica.generate.forecast import write_twin
from fabrica.generate.scans import generate_images
from fabrica.io import UnreadableError
from fabrica.jobs import Segmentation, Synthesis, Translation
from fabrica.recipe.checks import from_plain
from fabrica.recipe.text import RecipeError
from fabrica.run.folder import RunFolder
from fabrica.run.sequence import run_recipe

FRAMES = 6
SMALL: dict[str, Any] = {
    "family": {"name": "regression", "network": {"channels": [8, 16], "blocks": 1}},
    "baseline": "none",
    "train": {"steps": 8, "batch": 2, "precision": "fp32"},
    "evaluate": {"realism": 0, "draws": 1, "evaluations": []},
}
FLOW = {
    "family": {"name": "flow", "network": {"channels": [8, 16], "blocks": 1}},
    "sampler": {"name": "euler", "steps": 2},
}


def films(folder: Path, slices: int = 1) -> Path:
    """Five hearts as NIfTI of four axes, another contrast of the same beat, and a still of its first frame."""
    for heart in VirtualHearts(5, frames=FRAMES, slices=slices).cohort().members:
        cine = heart.load(["cine"]).images["cine"]
        channels = moments_of(cine)
        for name, data in (("cine", channels.data), ("bold", 1.2 - channels.data)):
            io.write_nifti(film_of(_with(channels, data), cine.times), folder / heart.patient / f"{name}.nii.gz")
        io.write_nifti(_with(channels, channels.data[:1]), folder / heart.patient / "T1w.nii.gz")
    return folder


def _with(image: Any, data: torch.Tensor) -> Any:
    from dataclasses import replace

    return replace(image, data=data, axes="zyx", times=None)


def _run(folder: Path, out: Path, job: dict[str, Any], **more: Any) -> tuple[RunFolder, str]:
    plain = {
        **SMALL,
        **more,
        "cohorts": {"all": {"path": str(folder)}},
        "job": job,
        "split": {"train": 0.6, "test": 0.4},
    }
    run_recipe(from_plain(plain), out, say=lambda _: None)
    return RunFolder.open(out), (out / "report" / "index.html").read_text()


@pytest.mark.parametrize(("axes", "slices"), [("yx", 1), ("zyx", 8)], ids=["tyx", "tzyx"])
def test_a_film_of_one_contrast_from_one_of_another(axes: str, slices: int, tmp_path: Path) -> None:
    data = films(tmp_path / "data", slices)
    job = {"name": "translation", "from": [f"cine@{FRAMES}"], "x": [f"bold@{FRAMES}"], "axes": axes}
    more = {"prepare": {"size": [8, 32, 32]}} if axes == "zyx" else {}
    run, page = _run(data, tmp_path / "run", job, **more)
    assert 'class="film"' in page
    assert "film: cine (given) | bold (true) | bold (one draw)" in page
    for metric in ("psnr", "ssim", "motion error"):
        assert metric in page
    new = films(tmp_path / "new", slices)
    (path, *_) = generate_images(run.path, new, tmp_path / "out", say=lambda _: None)
    twin = tmp_path / "twin"
    write_twin({"cine": find(new).members[0].scans_of(["cine"])[0]}, twin, 0.5)
    assert io.read_image(twin / "twin" / "cine.nii").data.shape[1] == FRAMES
    drawn, given = io.read_image(path), io.read_image(new / "heart0000" / "cine.nii.gz")
    assert (drawn.axes, drawn.data.shape) == ("tzyx", given.data.shape)
    torch.testing.assert_close(drawn.times, given.times, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(drawn.affine, given.affine)


@pytest.mark.parametrize("axes", ["yx", "zyx"])
def test_films_of_nobody(axes: str, tmp_path: Path) -> None:
    """tyx and tzyx."""
    job = {"name": "synthesis", "x": [f"cine@{FRAMES}"], "axes": axes}
    run, page = _run(films(tmp_path / "data", slices=8 if axes == "zyx" else 1), tmp_path / "run", job, **FLOW)
    assert "film: cine (true) | cine (one draw)" in page or "film: cine (one draw)" in page
    (path, *_) = sorted((run.path / "stages").rglob("draws/**/*.nii.gz"))
    drawn = io.read_image(path)
    assert drawn.data.shape[:2] == (1, FRAMES)
    assert drawn.data[0].diff(dim=0).abs().max() > 0


def test_a_still_becomes_a_film_and_a_film_a_mask() -> None:
    signature = Translation(["T1w"], [f"cine@{FRAMES}"]).signature()
    assert (signature.channels, signature.given) == (FRAMES, ("T1w",))
    signature = Segmentation([f"cine@{FRAMES}"], ["ventricle:2"]).signature()
    assert signature.condition[0].frames == FRAMES
    (heart,) = with_films(VirtualHearts(1, frames=FRAMES).cohort().members, {"cine": FRAMES})
    case = heart.load(["cine", "ventricle"])
    assert case.images["cine"].data.shape[0] == FRAMES
    assert case.images["ventricle"].data.shape[0] == 1


def test_films_that_are_none() -> None:
    for name in ("cine@1", "cine@many", "lesion@4", "label:3@4", "@20"):
        with pytest.raises(ValueError, match="Write an image and its frames"):
            film_or_image(name)
    assert field_of("PET@60min").frames == 1  # a name like any other where no film can be
    with pytest.raises(ValueError, match="neighbours has no place beside films"):
        Translation(["cine@4"], ["bold@4"], neighbours=1)
    (heart,) = with_films(VirtualHearts(1, frames=FRAMES).cohort().members, {"cine": 9})
    with pytest.raises(UnreadableError, match="has 6 frames, expected 9") as error:
        heart.load(["cine"])
    assert "cine@6" in str(error.value)
    with pytest.raises(RecipeError, match="cine@20"):
        from_plain({**SMALL, "cohorts": {"all": {"hearts": {}}}, "job": {"name": "synthesis", "x": ["cine@x"]}})


def test_a_job_gathers_films_alone() -> None:
    members = VirtualHearts(2, frames=FRAMES).cohort().members
    assert Synthesis(["cine"]).gathered(members) == members
    assert Synthesis([f"cine@{FRAMES}"]).gathered(members) != members
