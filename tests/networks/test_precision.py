"""The choice between float32 and bfloat16: measured in turns, kept when certain, renewed on demand."""

import json
from pathlib import Path

import pytest

from fabrica.machine.device import cache_folder
from fabrica.networks import precision
from fabrica.networks.precision import WORTH_IT, Rates, measured, rates


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    precision._rates.cache_clear()
    yield
    precision._rates.cache_clear()


def _found(gain: float, spread: float = 0.05) -> Rates:
    names = ("convolution fp32", "convolution bf16", "product fp32", "product bf16")
    return Rates(dict.fromkeys(names, 40.0), gain, gain - spread, gain + spread, 9)


def test_a_measurement_says_how_sure_it_is() -> None:
    found = measured()
    assert 0 < found.low <= found.gain <= found.high
    assert all(rate > 0 for rate in found.gflops.values())
    assert found.rounds in precision.ROUNDS
    assert found.choice in found.in_words()


def test_the_answer_is_kept_and_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([_found(2.0), _found(0.5)])
    monkeypatch.setattr(precision, "measured", lambda device: next(answers))
    assert rates().choice == "bf16"
    precision._rates.cache_clear()  # another process
    again = rates()
    assert (again.choice, again.kept, again.gain) == ("bf16", True, 2.0)
    assert "kept from an earlier measurement" in again.in_words()
    assert rates(fresh=True).choice == "fp32"
    precision._rates.cache_clear()
    assert rates().gain == 0.5


def test_what_is_not_certain_is_not_kept_and_takes_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "measured", lambda device: _found(WORTH_IT + 0.01, 0.2))
    assert rates().choice == "fp32"
    assert "not certain" in rates().in_words()
    assert not (cache_folder() / "precision.json").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"x": 3}', '{"x": {"gflops": {}, "gain": "fast"}}'])
def test_a_damaged_file_is_measured_over(content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "measured", lambda device: _found(2.0))
    cache_folder().mkdir(parents=True)
    (cache_folder() / "precision.json").write_text(content)
    assert rates().gain == 2.0
    assert len(json.loads((cache_folder() / "precision.json").read_text())) == 1


def test_a_folder_that_cannot_be_written_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "measured", lambda device: _found(2.0))
    cache_folder().parent.mkdir(parents=True, exist_ok=True)
    cache_folder().write_text("a file where the folder should be")
    assert rates().gain == 2.0


def test_a_threads_answer_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision.torch, "get_num_threads", lambda: 7)
    assert "7 threads" in precision._key("cpu")


def test_the_interval_of_a_median_is_the_binomial_one() -> None:
    nine = [float(i) for i in range(1, 10)]
    assert precision._interval(nine) == (
        2.0,
        8.0,
    )  # 96.1 % of medians: Conover, Practical Nonparametric Statistics, 3.2
    assert precision._interval([float(i) for i in range(1, 16)]) == (4.0, 12.0)


def test_rounds_that_a_busy_machine_slowed_change_nothing() -> None:
    """Planted: another program takes the machine in four rounds of fifteen, in one format or in both."""
    seconds = {n: [1.0] * 15 for n in ("convolution fp32", "product fp32")}
    seconds |= {n: [0.5] * 15 for n in ("convolution bf16", "product bf16")}
    for k in (0, 1):
        seconds["convolution fp32"][k] = 9.0
        seconds["product bf16"][k + 2] = 9.0
    found = precision._summary(seconds, dict.fromkeys(seconds, 1e9))
    assert found.certain
    assert found.gain == pytest.approx(2.0)
