"""Noise power of white noise and transfer of a Gaussian blur, both known in closed form."""

import numpy as np
import pytest
from scipy import ndimage

from fabrica.evaluate.metrics import pixel


def test_white_noise_is_flat_and_its_integral_is_the_variance() -> None:
    """sigma 10 and pixels of 0.5 mm: 25 everywhere, integral 100."""
    noise = np.random.default_rng(0).normal(0, 10, (60, 128, 128))
    found = pixel.noise_power_spectrum(noise, spacing_mm=(0.5, 0.5))
    assert found.value == pytest.approx(100, rel=0.01)
    assert found.value == pytest.approx((noise - noise.mean((1, 2), keepdims=True)).var(), rel=1e-9)
    power, frequency = found.details["power"], found.details["frequency_per_mm"]
    assert power[1:].mean() == pytest.approx(25, rel=0.01)
    assert np.abs(power[5:] - 25).max() < 2.5
    assert frequency[-1] == pytest.approx(1.0, abs=0.02)


def test_anisotropic_pixels_and_coloured_noise() -> None:
    rng = np.random.default_rng(0)
    white = rng.normal(0, 3, (40, 96, 128))
    assert pixel.noise_power_spectrum(white, spacing_mm=(0.8, 0.4)).details["power"][3:].mean() == pytest.approx(
        9 * 0.32, rel=0.02
    )
    band = ndimage.gaussian_filter(white, (0, 1, 1)) - ndimage.gaussian_filter(white, (0, 3, 3))
    peak = pixel.noise_power_spectrum(band, spacing_mm=(1, 1)).details["peak_frequency_per_mm"]
    assert 0.05 < peak < 0.15


def test_the_reference_is_subtracted() -> None:
    rng = np.random.default_rng(0)
    truth, noise = 1000 * rng.random((64, 64)), rng.normal(0, 2, (64, 64))
    one = pixel.noise_power_spectrum(truth + noise, truth, spacing_mm=(1, 1))
    assert one.value == pytest.approx(pixel.noise_power_spectrum(noise, spacing_mm=(1, 1)).value)


@pytest.mark.parametrize("sigma", [0.8, 1.5, 2.5])
def test_a_gaussian_blur_has_its_closed_form(sigma: float) -> None:
    image = np.random.default_rng(1).normal(0, 1, (8, 256, 256))
    blurred = ndimage.gaussian_filter(image, (0, sigma, sigma), truncate=6)
    found = pixel.modulation_transfer(blurred, image, spacing_mm=(0.5, 0.5))
    f = found.details["frequency_per_mm"]
    expected = np.exp(-2 * np.pi**2 * (0.5 * sigma) ** 2 * f**2)
    assert np.abs(found.details["transfer"] - expected)[expected > 0.05].max() < 0.02
    assert found.value == pytest.approx(np.sqrt(np.log(2) / 2) / (np.pi * 0.5 * sigma), rel=0.03)


def test_identity_transfers_everything_and_bad_input_is_refused() -> None:
    image = np.random.default_rng(1).normal(0, 1, (64, 64))
    found = pixel.modulation_transfer(image, image, spacing_mm=(1, 1))
    np.testing.assert_allclose(found.details["transfer"], 1)
    assert found.value == pytest.approx(found.details["frequency_per_mm"][-1])
    with pytest.raises(ValueError, match="constant in every slice"):
        pixel.modulation_transfer(image, np.ones_like(image), spacing_mm=(1, 1))
    with pytest.raises(ValueError, match="expected positive"):
        pixel.noise_power_spectrum(image, spacing_mm=(1, 0))
