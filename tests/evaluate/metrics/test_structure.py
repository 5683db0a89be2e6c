"""Structure metrics against the reference values of their papers' definitions, and what must hold for any image."""

from collections.abc import Callable

import numpy as np
import pytest
import skimage.data
from scipy import ndimage

from fabrica.evaluate.metrics import pixel
from fabrica.evaluate.metrics.structure import ssim_map

RANGED = [pixel.ms_ssim, pixel.gmsd, pixel.haarpsi, pixel.vif]


@pytest.fixture(scope="module")
def camera() -> tuple[np.ndarray, np.ndarray]:
    reference = skimage.data.camera() / 255.0
    noise = np.random.default_rng(0).normal(0, 1, reference.shape)
    return np.clip(reference + 0.05 * noise, 0, 1), reference


@pytest.mark.parametrize(
    ("metric", "expected", "tolerance"),
    [
        (pixel.vif, 0.33507, 5e-5),
        (pixel.gmsd, 0.11424, 1e-5),
        (pixel.haarpsi, 0.66799, 1e-5),
        (pixel.ms_ssim, 0.88245, 1e-5),
    ],
)
def test_reference_values(
    camera: tuple[np.ndarray, np.ndarray], metric: Callable, expected: float, tolerance: float
) -> None:
    """Values of piq 0.8.0 (vif, gmsd, haarpsi) and MONAI (ms_ssim) on the same two images."""
    assert metric(*camera, data_range=1.0) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("metric", RANGED)
def test_identity_units_and_range(camera: tuple[np.ndarray, np.ndarray], metric: Callable) -> None:
    noisy, reference = camera
    perfect = 0.0 if metric is pixel.gmsd else 1.0
    assert metric(reference, reference, data_range=1.0) == pytest.approx(perfect, abs=1e-8)
    one = metric(noisy, reference, data_range=1.0)
    assert metric(255 * noisy, 255 * reference, data_range=255) == pytest.approx(one, abs=1e-9)
    with pytest.raises(ValueError, match="data_range is 0"):
        metric(noisy, reference, data_range=0)
    with pytest.raises(TypeError, match="data_range"):
        metric(noisy, reference)
    with pytest.raises(ValueError, match="expected sides of at least"):
        metric(noisy[:4, :4], reference[:4, :4], data_range=1.0)


@pytest.mark.parametrize("metric", RANGED)
def test_more_blur_is_worse(camera: tuple[np.ndarray, np.ndarray], metric: Callable) -> None:
    reference = camera[1]
    scores = [metric(ndimage.gaussian_filter(reference, s), reference, data_range=1.0) for s in (0.5, 1.0, 2.0, 4.0)]
    worse = np.diff(scores) if metric is pixel.gmsd else -np.diff(scores)
    assert (worse > 0).all(), scores


@pytest.mark.parametrize("metric", [pixel.gmsd, pixel.haarpsi, pixel.ms_ssim])
def test_symmetry(camera: tuple[np.ndarray, np.ndarray], metric: Callable) -> None:
    noisy, reference = camera
    assert metric(noisy, reference, data_range=1.0) == pytest.approx(metric(reference, noisy, data_range=1.0))


@pytest.mark.parametrize("metric", RANGED)
def test_a_mask_looks_only_inside(camera: tuple[np.ndarray, np.ndarray], metric: Callable) -> None:
    """Noise in one half: a mask far from it sees nothing, a mask on it sees more than the whole does."""
    noisy, reference = camera
    half = reference.copy()
    half[:, :256] = noisy[:, :256]
    right, left = np.zeros(reference.shape, bool), np.zeros(reference.shape, bool)
    right[:, 400:], left[:, :200] = True, True
    perfect = 0.0 if metric is pixel.gmsd else 1.0
    assert metric(half, reference, data_range=1.0, mask=right) == pytest.approx(perfect, abs=1e-6)
    far = abs(metric(half, reference, data_range=1.0, mask=left) - perfect)
    assert far > 0.5 * abs(metric(half, reference, data_range=1.0) - perfect) > 0
    with pytest.raises(ValueError, match="at least one"):
        metric(half, reference, data_range=1.0, mask=np.zeros(reference.shape))


@pytest.mark.parametrize("metric", RANGED)
def test_a_mask_too_small_for_the_windows_is_refused_and_never_perfect(
    camera: tuple[np.ndarray, np.ndarray], metric: Callable
) -> None:
    noisy, reference = camera
    dot = np.zeros(reference.shape, bool)
    dot[1, 1] = True
    with pytest.raises(ValueError, match="mask"):
        metric(noisy, reference, data_range=1.0, mask=dot)
    if metric is pixel.ms_ssim:
        return
    wide = np.zeros((2, *reference.shape), bool)
    wide[0], wide[1, 1, 1] = True, True
    both = np.stack([noisy, noisy]), np.stack([reference, reference])
    assert metric(*both, data_range=1.0, mask=wide) == pytest.approx(
        metric(noisy, reference, data_range=1.0, mask=wide[0])
    )


@pytest.mark.parametrize("metric", [pixel.gmsd, pixel.haarpsi, pixel.vif])
def test_a_volume_is_the_mean_of_its_slices(camera: tuple[np.ndarray, np.ndarray], metric: Callable) -> None:
    noisy, reference = (v[:128, :96] for v in camera)
    volumes = np.stack([noisy, reference]), np.stack([reference, reference])
    parts = [metric(a, b, data_range=1.0) for a, b in zip(*volumes, strict=True)]
    assert metric(*volumes, data_range=1.0) == pytest.approx(np.mean(parts))


def test_multi_scale_ssim_of_a_volume_is_truly_three_dimensional() -> None:
    rng = np.random.default_rng(0)
    volume = ndimage.gaussian_filter(rng.normal(0, 1, (161, 164, 161)), 3)
    volume = (volume - volume.min()) / (volume.max() - volume.min())
    swapped = volume.transpose(2, 0, 1)
    noisy = volume + 0.05 * rng.normal(0, 1, volume.shape)
    one = pixel.ms_ssim(noisy, volume, data_range=1.0)
    assert 0 < one < 1
    assert pixel.ms_ssim(noisy.transpose(2, 0, 1), swapped, data_range=1.0) == pytest.approx(one, abs=1e-9)


def test_the_high_frequency_error_norm(camera: tuple[np.ndarray, np.ndarray]) -> None:
    noisy, reference = camera
    assert pixel.hfen(reference, reference) == 0
    assert pixel.hfen(reference + 7.5, reference) == pytest.approx(0, abs=1e-12)
    assert pixel.hfen(np.zeros_like(reference), reference) == pytest.approx(1)
    assert pixel.hfen(10 * noisy, 10 * reference) == pytest.approx(pixel.hfen(noisy, reference))
    inside = np.zeros(reference.shape, bool)
    inside[100:200, 100:200] = True
    assert pixel.hfen(noisy, reference, mask=inside) > 0
    with pytest.raises(ValueError, match="this one is constant"):
        pixel.hfen(noisy, np.full_like(reference, 3.0))


def test_haarpsi_without_any_edge_is_one_and_odd_sides_are_read() -> None:
    flat = np.zeros((33, 40))
    assert pixel.haarpsi(flat, flat, data_range=1.0) == 1.0
    odd = np.random.default_rng(0).random((33, 41))
    assert pixel.gmsd(odd, odd, data_range=1.0) == pytest.approx(0)


def test_the_map_of_equal_images_is_one_everywhere() -> None:
    image = np.random.default_rng(0).random((30, 31))
    np.testing.assert_allclose(ssim_map(image, image, 1.0, True), 1.0)
