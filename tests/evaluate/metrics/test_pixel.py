"""Known answers, independent libraries, and refusals."""

import numpy as np
import pytest
import skimage.data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from fabrica.evaluate.metrics.pixel import mae, nmse, psnr, rmse, ssim


@pytest.fixture(scope="module")
def camera() -> tuple[np.ndarray, np.ndarray]:
    """scikit-image's own test: camera, noise of sigma 20, clipped, 8 bit."""
    clean = skimage.data.camera()
    np.random.seed(5)
    noisy = np.clip(clean + 20.0 * np.random.randn(*clean.shape), 0, 255).astype(clean.dtype)
    return noisy.astype(float), clean.astype(float)


def test_camera(camera: tuple[np.ndarray, np.ndarray]) -> None:
    noisy, clean = camera
    assert psnr(noisy, clean, data_range=255) == pytest.approx(22.40935, abs=1e-4)
    assert nmse(noisy, clean) == pytest.approx(0.01690991, abs=1e-7)
    ours = ssim(noisy, clean, data_range=255, convention="wang2004")
    theirs = structural_similarity(
        noisy, clean, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ours == pytest.approx(theirs, abs=1e-9)
    assert ssim(noisy, clean, data_range=255, convention="skimage") == pytest.approx(
        structural_similarity(noisy, clean, data_range=255), abs=1e-9
    )
    assert psnr(noisy, clean, data_range=255) == pytest.approx(peak_signal_noise_ratio(clean, noisy, data_range=255))


def test_known_answers() -> None:
    reference = np.zeros((8, 8))
    assert psnr(reference + np.sqrt(1e-3), reference, data_range=1) == pytest.approx(30)
    mask = np.zeros((8, 8), bool)
    mask[2:5, 2:5] = True
    shifted = reference + np.where(mask, 20.0, 500.0)
    assert mae(shifted, reference, mask=mask) == pytest.approx(20)
    assert rmse(shifted, reference, mask=mask) == pytest.approx(20)
    assert psnr(shifted, reference, mask=mask, data_range=4024) == pytest.approx(46.0726, abs=1e-3)
    assert psnr(reference, reference, data_range=1) == float("inf")
    image = np.random.default_rng(0).random((20, 20))
    assert ssim(image, image, data_range=1) == pytest.approx(1)


def test_three_dimensions_agree_with_skimage_and_slices_are_slices() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random((14, 16, 18))
    image = truth + 0.1 * rng.standard_normal(truth.shape)
    theirs = structural_similarity(
        image, truth, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(image, truth, data_range=1) == pytest.approx(theirs, abs=1e-9)
    slices = np.mean([structural_similarity(a, b, data_range=1) for a, b in zip(image, truth, strict=True)])
    assert ssim(image, truth, data_range=1, convention="fastmri") == pytest.approx(slices, abs=1e-9)
    assert ssim(image, truth, data_range=1, convention="monai") == ssim(image, truth, data_range=1)


def test_synthrad_clips_and_masks() -> None:
    rng = np.random.default_rng(2)
    truth = rng.uniform(-1000, 1000, (16, 16))
    mask = np.ones((16, 16), bool)
    mask[0] = False
    wild = truth.copy()
    wild[0] = 9e4
    wild[3, 3], truth[3, 3] = 5000, 3071
    assert mae(wild, truth, mask=mask, convention="synthrad2025") == pytest.approx(0)
    assert psnr(wild, truth, mask=mask, data_range=4095, convention="synthrad2025") == float("inf")
    assert ssim(wild, truth, mask=mask, data_range=4095, convention="synthrad2025") < 1


@pytest.mark.parametrize("function", [mae, rmse, nmse])
def test_refusals(function) -> None:
    a = np.ones((12, 12))
    with pytest.raises(ValueError, match="expected two equal shapes"):
        function(a, np.ones((12, 13)))
    with pytest.raises(ValueError, match="NaN or infinity"):
        function(a * np.nan, a)
    with pytest.raises(ValueError, match="mask"):
        function(a, a, mask=np.zeros((12, 12)))
    with pytest.raises(ValueError, match="Unknown convention"):
        function(a, a, convention="mine")


def test_a_range_is_never_guessed() -> None:
    a = np.ones((12, 12))
    for function in (psnr, ssim):
        with pytest.raises(TypeError):
            function(a, a)
        for wrong in (0, -1, float("nan")):
            with pytest.raises(ValueError, match="data_range"):
                function(a, a, data_range=wrong)
    with pytest.raises(ValueError, match="sides of at least 11"):
        ssim(np.ones((9, 30)), np.ones((9, 30)), data_range=1)
    with pytest.raises(ValueError, match="not zero everywhere"):
        nmse(a, a * 0)
