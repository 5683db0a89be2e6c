"""The channelised observer finds a known signal as well as theory says, inside its bias band."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fabrica.cli import app
from fabrica.evaluate.metrics import task

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


def _signal() -> np.ndarray:
    at = np.arange(SIDE) - (SIDE - 1) / 2
    return np.asarray(HEIGHT * np.exp(-(at[:, None] ** 2 + at**2) / (2 * WIDTH**2)))


def test_the_ideal_observer_in_white_noise_is_the_closed_form() -> None:
    """d' = A w sqrt(pi) / sigma (EVALUATION, section 5), without bias whatever the number of images, and no interval too narrow."""
    for n in (16, 400):
        found = [task.ideal_observer(_signal(), _images(n, s)[1]) for s in range(60)]
        assert np.mean(found) == pytest.approx(IDEAL, rel=0.015)
        assert np.mean([f.details["npw"] for f in found]) == pytest.approx(
            IDEAL, rel=0.03
        )  # white: whitening changes nothing
        covered = [f.interval is not None and f.interval[0] <= IDEAL <= f.interval[1] for f in found]
        assert np.mean(covered) > 0.85
    assert found[0].details["auc"] == pytest.approx(0.84199, abs=0.02)


def test_whitening_helps_in_coloured_noise() -> None:
    """Noise whose power is known: the sum over frequencies by hand; an observer who does not know it does worse."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE)))
    gain = 5 / (0.05 + frequency)
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(3000, SIDE, SIDE))) * gain).real
    found = task.ideal_observer(_signal(), noise)
    energy = np.abs(np.fft.fft2(_signal())) ** 2
    assert found.value == pytest.approx(np.sqrt((energy / (gain**2 * SIDE**2)).sum()), rel=0.02)
    assert found.details["npw"] < 0.9 * found.value
    cho = task.hotelling_observer(noise[:1000] + _signal(), noise[1000:2000], channels=_images(1, 0)[2])
    assert cho.interval is not None
    assert cho.interval[0] < found.value  # nobody beats the ideal one


@pytest.mark.parametrize(
    ("signal", "noise", "words"),
    [
        (np.ones((8, 8)), np.ones((9, 8, 7)), "expected finite"),
        (np.ones((8, 8)), np.random.default_rng(0).normal(size=(7, 8, 8)), "expected at least 8"),
        (np.zeros((8, 8)), np.random.default_rng(0).normal(size=(9, 8, 8)), "nothing to detect"),
        (np.ones((8, 8)), np.ones((9, 8, 8)), "no power at some frequency"),
        (np.full((8, 8), np.nan), np.ones((9, 8, 8)), "expected finite"),
    ],
)
def test_what_the_ideal_observer_refuses(signal: np.ndarray, noise: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        task.ideal_observer(signal, noise)


def test_the_verb(tmp_path: Path) -> None:
    present, absent, _ = _images(40, 0)
    for side, images in (("with", present), ("without", absent)):
        (tmp_path / side).mkdir()
        for k, image in enumerate(images):
            np.savez(tmp_path / side / f"{k:03d}.npz", image=image.astype(np.float32))
    np.savez(tmp_path / "signal.npz", image=_signal().astype(np.float32))
    call = ["observer", "--present", str(tmp_path / "with"), "--absent", str(tmp_path / "without"), "--width-px", "4"]
    plain = CliRunner().invoke(app, call)
    assert plain.exit_code == 0, plain.output
    assert "channelised Hotelling observer: d'" in plain.output
    assert "80 images" in plain.output
    assert "needs --signal FILE" in plain.output
    known = CliRunner().invoke(app, [*call, "--signal", str(tmp_path / "signal.npz")])
    assert "ideal observer: d' 1." in known.output
    for wrong, words in ((["--width-px", "0"], "above 0"), (["--channels", "30"], "expected 64 for 30 channels")):
        failed = CliRunner().invoke(app, [*call, *wrong])
        assert failed.exit_code == 2
        assert words in failed.output
    np.savez(tmp_path / "with" / "x.npz", image=np.ones((8, 8), np.float32))
    assert "expected images of one size" in CliRunner().invoke(app, call).output
