"""Charts of a model in use: as few false alarms as promised, and changes noticed soon."""

import math

import numpy as np
import pytest

from fabrica.safeguards.monitoring import BASE, RUN_LENGTH, flags_chart, times_chart


def _until(rate: float, seed: int, most: int = 6000) -> int:
    flags = np.random.default_rng(seed).random(most) < rate
    alarm = flags_chart("x", flags.tolist(), 0.05, 0.25, "flags").alarm
    return most if alarm is None else alarm


def test_false_alarms_are_as_rare_as_promised() -> None:
    runs = [_until(0.05, seed) for seed in range(150)]
    assert np.mean(runs) == pytest.approx(RUN_LENGTH, rel=0.3)  # deviation of the mean: 8 %


def test_a_change_is_noticed_within_tens_of_cases() -> None:
    assert np.mean([_until(0.25, seed) for seed in range(100)]) < 40
    flags = [False] * 100 + [True, False] * 12
    chart = flags_chart("shift", flags, 0.05, 0.25, "scans are unlike those of training")
    assert chart.alarm is not None
    assert 100 < chart.alarm < 115
    assert "since about case 101" in chart.words
    assert flags_chart("shift", [], 0.05, 0.25, "x").alarm is None
    with pytest.raises(ValueError, match="0 < usual < worse < 1"):
        flags_chart("x", [], 0.3, 0.2, "x")


def test_times_are_held_against_the_first_ones() -> None:
    rng = np.random.default_rng(0)
    seconds = np.exp(rng.normal(0, 0.1, 60)).tolist()
    assert times_chart("t", seconds).alarm is None
    slow = times_chart("t", [*seconds, 5.0, 5.0])
    assert slow.alarm == 61  # the second of two in a row
    assert times_chart("t", [*seconds, 5.0, 1.0]).alarm is None
    few = times_chart("t", seconds[: BASE - 1])
    assert few.limit == math.inf
    assert "limits need 20" in few.words
