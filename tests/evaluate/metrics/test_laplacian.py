"""The compiled energy of edges against scipy's Laplacian of a Gaussian."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fabrica.evaluate.metrics import laplacian


def slow(image: np.ndarray, inside: np.ndarray | None) -> float:
    edges = ndimage.gaussian_laplace(image, laplacian.SIGMA, truncate=4.5)
    return float((edges[... if inside is None else inside] ** 2).sum())


@settings(max_examples=40, deadline=None)
@given(shape=st.lists(st.integers(1, 40), min_size=2, max_size=3), seed=st.integers(0, 99), masked=st.booleans())
def test_any_shape_is_what_scipy_gives(shape: list[int], seed: int, masked: bool) -> None:
    rng = np.random.default_rng(seed)
    image, inside = rng.normal(size=shape), rng.random(shape) < 0.3
    region = inside if masked else None
    assert laplacian.energy(image, region) == pytest.approx(slow(image, region), rel=1e-9, abs=1e-9)


def test_rows_of_many_blocks_and_any_memory_order() -> None:
    image = np.random.default_rng(0).normal(size=(9, 3 * laplacian.BLOCK + 5, 50))
    turned = image.transpose(0, 2, 1)
    assert laplacian.energy(turned, turned > 0) == pytest.approx(slow(turned, turned > 0), rel=1e-12)
    flat = image[0].T
    assert laplacian.energy(flat, flat > 0) == pytest.approx(slow(flat, flat > 0), rel=1e-12)


def test_the_compiled_code_does_what_the_python_code_says(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(1).normal(size=(3, 6, 9))
    compiled = laplacian.energy(image, image > 0), laplacian.energy(image[0], None)
    for name in ("_energy", "_along_z", "_across", "_along", "reflected"):
        monkeypatch.setattr(laplacian, name, getattr(laplacian, name).py_func)
    found = laplacian.energy(image, image > 0), laplacian.energy(image[0], None)
    np.testing.assert_allclose(found, compiled, rtol=1e-12)
