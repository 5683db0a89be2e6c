"""The mark: found after what files go through, unseen, and found in nothing else."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from skimage.transform import resize
from typer.testing import CliRunner

from fabrica import io as fabrica_io
from fabrica.cli import app
from fabrica.data.virtual import VirtualCohort
from fabrica.evaluate.metrics.pixel import mae, psnr, ssim
from fabrica.generate.watermarks import with_mark
from fabrica.safeguards.watermark import Found, look_for, marked, new_key, read_key

KEYS = [bytes([k] * 32) for k in range(12)]


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    (member,) = VirtualCohort(1, spacing_mm=2, planes=[20, 64]).cohort().members
    return member.load(["T1w"]).images["T1w"].data[0].double().numpy()


def _handled(volume: np.ndarray) -> np.ndarray:
    """Whole numbers, a tenth fewer pixels, eight bits, JPEG 90."""
    top, found = np.percentile(volume, 99.9), []
    for plane in volume.round():
        small = resize(plane, [round(n * 0.9) for n in plane.shape], order=1)
        grey, buffer = Picture.fromarray(np.clip(small / top * 255, 0, 255).round().astype(np.uint8)), io.BytesIO()
        grey.save(buffer, "JPEG", quality=90)
        found.append(np.asarray(Picture.open(buffer)).astype(float))
    return np.stack(found)


def test_it_is_found_after_requantisation_resampling_and_compression(head: np.ndarray) -> None:
    found = [look_for(_handled(marked(head, key)), key) for key in KEYS]
    assert all(one.marked for one in found), [one.z for one in found]


def test_it_is_found_in_nothing_else(head: np.ndarray) -> None:
    others = [bytes([200, k % 256, k // 256] + [1] * 29) for k in range(60)]
    for image in (head, marked(head, KEYS[0])):
        z = np.array([look_for(image, key).z for key in others])
        assert abs(z.mean()) < 0.5
        assert z.std() == pytest.approx(1, abs=0.35)
    assert Found(3.0).chance == pytest.approx(0.00135, abs=1e-5)
    assert not Found(3.0).marked
    assert Found(3.2).marked


def test_figures_of_a_model_move_by_a_thousandth(head: np.ndarray) -> None:
    """Beside a truth that is 28 dB off."""
    top, inside = np.percentile(head, 99.5), head > head.mean()
    truth = head + np.random.default_rng(0).normal(size=head.shape) * 0.04 * top * inside
    for key in KEYS[:3]:
        drawn = marked(head, key)
        for metric in (
            lambda x: psnr(x / top, truth / top, data_range=1.0, mask=inside),
            lambda x: mae(x / top, truth / top, mask=inside),
            lambda x: ssim(x[20] / top, truth[20] / top, data_range=1.0, mask=inside[20]),
        ):
            assert float(metric(drawn)) == pytest.approx(float(metric(head)), rel=1.5e-3)
        assert np.array_equal(drawn[~(head > head.mean())][:5], head[~(head > head.mean())][:5])  # air is air


def test_pictures_labels_and_blank_images(head: np.ndarray) -> None:
    assert np.array_equal(marked(np.zeros((4, 32, 32)), KEYS[0]), np.zeros((4, 32, 32)))
    assert look_for(np.zeros((32, 32)), KEYS[0]).z == 0
    assert marked(head[20], KEYS[0]).shape == head[20].shape
    (member,) = VirtualCohort(1, spacing_mm=4, planes=[18, 20]).cohort().members
    images = member.load(["T1w", "tissue"]).images
    same, _ = with_mark(images["tissue"], KEYS[0])
    assert same is images["tissue"]
    changed, doubt = with_mark(images["T1w"], KEYS[0])
    assert not torch.equal(changed.data, images["T1w"].data)
    assert "too small to carry a mark" in doubt


def test_keys(tmp_path: Path) -> None:
    new_key(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0
    assert len(read_key(tmp_path / "key")) == 32
    (tmp_path / "no").write_text("hello")
    with pytest.raises(ValueError, match="is no key"):
        read_key(tmp_path / "no")
    (tmp_path / "short").write_text("ab" * 8)
    with pytest.raises(ValueError, match="holds 8 bytes"):
        read_key(tmp_path / "short")


def test_the_verb_tells_marked_images_from_others(head: np.ndarray, tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["watermark", "--new-key", str(tmp_path / "key")])
    assert made.exit_code == 0, made.output
    assert CliRunner().invoke(app, ["watermark", "--new-key", str(tmp_path / "key")]).exit_code != 0
    (member,) = VirtualCohort(1, spacing_mm=2, planes=[20, 64]).cohort().members
    image = member.load(["T1w"]).images["T1w"]
    fabrica_io.write_nifti(image, tmp_path / "data/plain/T1w.nii.gz")
    drawn = replace(image, data=torch.from_numpy(marked(head, read_key(tmp_path / "key")))[None].float())
    fabrica_io.write_nifti(drawn, tmp_path / "data/drawn/T1w.nii.gz")
    result = CliRunner().invoke(app, ["watermark", str(tmp_path / "data"), "--key", str(tmp_path / "key")])
    assert "1 of 2 images are marked" in result.output, result.output
    one = CliRunner().invoke(
        app, ["watermark", str(tmp_path / "data/drawn/T1w.nii.gz"), "--key", str(tmp_path / "key")]
    )
    assert "1 of 1 images are marked" in one.output, one.output
    assert CliRunner().invoke(app, ["watermark"]).exit_code != 0
