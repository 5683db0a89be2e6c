"""The compiled pass against scipy's filters, on any shape, in one thread and in several."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fabrica.evaluate.metrics import moments

C1, C2 = 1e-4, 9e-4


def slow(x: np.ndarray, y: np.ndarray, gaussian: bool) -> tuple[np.ndarray, np.ndarray]:
    """The definition, five filtered arrays one after another."""

    def smooth(a: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(a, 1.5, truncate=3.5) if gaussian else ndimage.uniform_filter(a, 7)

    correct = 1.0 if gaussian else 7**x.ndim / (7**x.ndim - 1)
    ux, uy = smooth(x), smooth(y)
    vx, vy = (correct * (smooth(a * a) - u * u) for a, u in ((x, ux), (y, uy)))
    vxy = correct * (smooth(x * y) - ux * uy)
    return (2 * ux * uy + C1) / (ux**2 + uy**2 + C1), (2 * vxy + C2) / (vx + vy + C2)


@settings(max_examples=40, deadline=None)
@given(shape=st.lists(st.integers(1, 30), min_size=2, max_size=3), seed=st.integers(0, 99), gaussian=st.booleans())
def test_any_shape_is_what_scipy_gives(shape: list[int], seed: int, gaussian: bool) -> None:
    rng = np.random.default_rng(seed)
    x = rng.random(shape)
    y = x + 0.2 * rng.normal(size=shape)
    for found, wanted in zip(moments.ssim_terms(x, y, gaussian, C1, C2), slow(x, y, gaussian), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shape", [(700, 400), (20, 150, 130)])
def test_blocks_and_threads_meet_without_a_seam(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x = rng.random(shape)
    y = x + 0.1 * rng.normal(size=shape)
    assert x.size > moments.WORTH_THREADS
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    many = moments.ssim_terms(x, y, True, C1, C2)
    np.testing.assert_allclose(many, slow(x, y, True), rtol=1e-9, atol=1e-11)
    monkeypatch.setattr(moments, "WORTH_THREADS", 1 << 40)
    np.testing.assert_array_equal(many, moments.ssim_terms(x, y, True, C1, C2))


def test_any_memory_order_and_type() -> None:
    x = np.random.default_rng(1).random((24, 31)).astype(np.float32)
    wanted = slow(x.astype(float), x[::-1].astype(float), True)
    found = moments.ssim_terms(np.asfortranarray(x), x[::-1], True, C1, C2)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_the_compiled_code_does_what_the_python_code_says(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    x, y = rng.random((2, 3, 9, 13))
    compiled = moments.ssim_terms(x, y, True, C1, C2)
    for name in ("_blocks", "_terms", "_along_z", "_across", "_along", "reflected"):
        monkeypatch.setattr(moments, name, getattr(moments, name).py_func)
    np.testing.assert_allclose(moments.ssim_terms(x, y, True, C1, C2), compiled, rtol=1e-12)
