"""The channelised observer finds a known signal as well as theory says, inside its bias band."""

import numpy as np
import pytest

from fabrica.evaluate import task

SIDE, WIDTH, NOISE, HEIGHT = 32, 4.0, 10.0, 2.0
IDEAL = HEIGHT * WIDTH * np.sqrt(np.pi) / NOISE  # 1.41796


def _images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    at = np.arange(SIDE) - (SIDE - 1) / 2
    signal = HEIGHT * np.exp(-(at[:, None] ** 2 + at**2) / (2 * WIDTH**2))
    channels = task.laguerre_gauss((SIDE, SIDE), width_px=WIDTH * np.sqrt(2 * np.pi))
    noise = rng.normal(0, NOISE, (2, n, SIDE, SIDE))
    return noise[0] + signal, noise[1], channels


def test_the_ideal_detectability_lies_in_the_band() -> None:
    found = [task.hotelling_observer(*_images(200, s)[:2], channels=_images(1, 0)[2], seed=s) for s in range(24)]
    low, high = np.mean([f.interval for f in found], 0)
    assert low < IDEAL + 0.05
    assert high > IDEAL - 0.05
    assert np.mean(found) == pytest.approx(IDEAL, abs=0.08)
    assert np.mean([f.details["auc"] for f in found]) == pytest.approx(0.84199, abs=0.02)


def test_the_band_narrows_with_more_images() -> None:
    wide, narrow = (task.hotelling_observer(*_images(n, 1)[:2], channels=_images(1, 0)[2]).interval for n in (40, 400))
    assert wide is not None
    assert narrow is not None
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0]) > 0


def test_no_signal_and_bad_input() -> None:
    _, absent, channels = _images(200, 3)
    nothing = task.hotelling_observer(absent[:100], absent[100:], channels=channels)
    assert nothing.interval is not None
    assert nothing.interval[0] < 0.25
    with pytest.raises(ValueError, match="expected 14 for 5 channels"):
        task.hotelling_observer(absent[:9], absent[:9], channels=channels)
    with pytest.raises(ValueError, match="of the channels' shape"):
        task.hotelling_observer(absent[:, :8], absent[:, :8], channels=channels)


def test_channels_are_orthogonal() -> None:
    u = task.laguerre_gauss((65, 65), width_px=12.0).reshape(5, -1)
    gram = u @ u.T
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-3 * gram.max()
