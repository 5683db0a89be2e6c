"""The compiled slice metrics against their definitions in whole arrays, written with scipy's filters."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fabrica.evaluate.metrics import slicewise
from fabrica.evaluate.metrics.structure import gmsd, haarpsi, vif

Pair = tuple[np.ndarray, np.ndarray]


def images(rows: int, columns: int, seed: int) -> Pair:
    rng = np.random.default_rng(seed)
    true = 0.5 + 2 * ndimage.gaussian_filter(rng.normal(size=(rows, columns)), 1.5)
    return ndimage.gaussian_filter(true, 0.6) + 0.05 * rng.normal(size=true.shape), true


def windowed(a: np.ndarray, taps: int) -> np.ndarray:
    bell = np.exp(-((np.arange(taps) - taps // 2) ** 2) / (2 * (taps / 5) ** 2))
    for axis in (0, 1):
        a = ndimage.correlate1d(a, bell / bell.sum(), axis, mode="constant")
    return a[taps // 2 : -(taps // 2), taps // 2 : -(taps // 2)]


def slow_vif(x: np.ndarray, y: np.ndarray, inside: np.ndarray) -> float:
    """Sheikh and Bovik 2006, equation by equation."""
    x, y, kept, upper, lower = 255 * x, 255 * y, inside.astype(float), 1e-8, 1e-8
    for taps in (17, 9, 5, 3):
        cut = taps // 2
        if taps < 17:
            x, y = windowed(x, taps)[::2, ::2], windowed(y, taps)[::2, ::2]
            kept = kept[cut:-cut, cut:-cut][::2, ::2]
        mx, my = windowed(x, taps), windowed(y, taps)
        vx, vy = np.maximum(windowed(x * x, taps) - mx**2, 0), np.maximum(windowed(y * y, taps) - my**2, 0)
        both = windowed(x * y, taps) - mx * my
        gain = np.maximum(both / (vy + 1e-8), 0)
        rest = np.maximum(np.where(both >= 0, vx - gain * both, vx), 1e-8)
        seen = kept[cut:-cut, cut:-cut] > 0.5
        upper += np.log10(1 + gain**2 * vy / (rest + 2))[seen].sum()
        lower += np.log10(1 + vy / 2)[seen].sum()
    return float(upper / lower)


def halved(a: np.ndarray) -> np.ndarray:
    even = np.pad(a, [(0, n % 2) for n in a.shape])
    return (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4


def region(inside: np.ndarray) -> np.ndarray:
    return halved(inside.astype(float)) >= halved(np.ones(inside.shape)) / 2


def slow_gmsd(x: np.ndarray, y: np.ndarray, inside: np.ndarray) -> float:
    def gradient(a: np.ndarray) -> np.ndarray:
        return np.hypot(*(ndimage.prewitt(a, axis, mode="constant") / 3 for axis in (0, 1)))

    a, b, c = gradient(halved(x)), gradient(halved(y)), 170 / 255**2
    return float(((2 * a * b + c) / (a**2 + b**2 + c))[region(inside)].std())


def slow_haarpsi(x: np.ndarray, y: np.ndarray, inside: np.ndarray) -> float:
    """Reisenhofer 2018: wavelets of sides 2, 4 and 8 as plain correlations."""
    x, y, seen = 255 * halved(x), 255 * halved(y), region(inside)
    total = weight = 0.0
    for axis in (0, 1):
        a, b = [], []
        for side in (2, 4, 8):
            wavelet = np.ones((side, side)) / side
            wavelet[: side // 2] = -1 / side
            for out, image in ((a, x), (b, y)):
                taken = wavelet if axis == 0 else wavelet.T
                out.append(
                    np.abs(ndimage.correlate(image, taken, mode="constant", origin=-1))
                )  # window: i - side / 2 + 1 on
        similar = sum((2 * a[i] * b[i] + 30) / (a[i] ** 2 + b[i] ** 2 + 30) for i in (0, 1)) / 2
        heavy = np.maximum(a[2], b[2])
        total += (heavy / (1 + np.exp(-4.2 * similar)))[seen].sum()
        weight += heavy[seen].sum()
    return float((np.log(total / weight / (1 - total / weight)) / 4.2) ** 2)


SLOW: dict[Callable, Callable] = {vif: slow_vif, gmsd: slow_gmsd, haarpsi: slow_haarpsi}


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(41, 70), columns=st.integers(41, 70), seed=st.integers(0, 99), masked=st.booleans())
@pytest.mark.parametrize("metric", SLOW)
def test_any_shape_is_what_the_definition_gives(
    metric: Callable, rows: int, columns: int, seed: int, masked: bool
) -> None:
    x, y = images(rows, columns, seed)
    inside = np.ones(x.shape, bool)
    if masked:
        inside[: rows // 3], inside[:, columns - 5 :] = False, False
    found = metric(x, y, data_range=1.0, mask=inside if masked else None)
    assert found == pytest.approx(SLOW[metric](x, y, inside), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("metric", SLOW)
@pytest.mark.parametrize("shape", [(45, 47), (45, 48), (46, 47)])
def test_a_mask_of_everything_is_no_mask_at_odd_sides_too(metric: Callable, shape: tuple[int, int]) -> None:
    x, y = images(*shape, 3)
    assert metric(x, y, data_range=1.0, mask=np.ones(shape)) == metric(x, y, data_range=1.0)


@pytest.mark.parametrize("metric", SLOW)
def test_any_memory_order(metric: Callable) -> None:
    x, y = images(50, 44, 4)
    wanted = metric(x, y, data_range=1.0, mask=y > y.mean())
    fortran = [np.asfortranarray(v) for v in (x, y)]
    assert metric(*fortran, data_range=1.0, mask=fortran[1] > y.mean()) == wanted
    stacks = [np.stack([v, v], axis=2).transpose(2, 0, 1) for v in (x, y)]
    assert metric(*stacks, data_range=1.0, mask=stacks[1] > y.mean()) == pytest.approx(wanted, rel=1e-12)


def test_the_compiled_code_does_what_the_python_code_says(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = images(42, 41, 5)
    inside = y > np.quantile(y, 0.2)
    compiled = [metric(x, y, data_range=1.0, mask=inside) for metric in SLOW]
    names = [
        "vif", "_information", "_bell", "_windowed", "_shared", "gmsd", "_gradient", "_halved", "_region", "haarpsi",
        "_agreement", "_summed", "_responses",
    ]  # fmt: skip
    for name in names:
        monkeypatch.setattr(slicewise, name, getattr(slicewise, name).py_func)
    found = [metric(x, y, data_range=1.0, mask=inside) for metric in SLOW]
    np.testing.assert_allclose(found, compiled, rtol=1e-12)
