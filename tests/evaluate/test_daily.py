"""Constraints of a day: figures, intervals that hold, lights only where an interval allows one."""

from pathlib import Path

import numpy as np
import pytest

from fabrica.evaluate.judging.constraints import Constraint
from fabrica.evaluate.judging.daily import (
    AS_IT_WAS,
    FLOOR,
    TODAY,
    Reading,
    factors_of,
    read,
    reading_rows,
    same_dose_rows,
    table,
)
from fabrica.run.daily import Calibrated, read_factors, write_factors

SO_FAR = "accumulated EQD2"
CORD = Constraint.of("SpinalCord D0.1cc <= 45 Gy")
TARGET = Constraint.of("PTV70 D95% >= 66 Gy")


def test_an_interval_decides_or_leaves_open() -> None:
    one = Reading(CORD, TODAY, 40.0, (42.0, 44.0))
    assert one.mean == 43
    assert one.spread == 1 + FLOOR
    assert one.light({}) == "no interval"
    assert one.interval({one.key: 1.0}) == (41.5, 44.5)
    assert one.light({one.key: 1.0}) == "kept"
    assert one.light({one.key: 3.0}) == "open"
    assert Reading(CORD, TODAY, 40.0, (50.0,)).light({one.key: 3.0}) == "broken"
    target = {(TODAY, TARGET.text): 2.0}
    assert Reading(TARGET, TODAY, 68.0, (64.0,)).light(target) == "broken"
    assert Reading(TARGET, TODAY, 68.0, (67.5,)).light(target) == "kept"


def test_a_figure_is_read_where_its_structure_is() -> None:
    gray, inside = np.full((4, 4, 4), 30.0), np.zeros((4, 4, 4), bool)
    inside[1:3] = True
    gray[1] = 50.0
    one = read(CORD, TODAY, (gray, inside), [(gray + 1, inside)], (gray + 2, inside), ((3, 3, 3), (3, 3, 3)))
    assert one is not None
    assert (one.planned, one.drawn, one.truth) == (50.0, (51.0,), 52.0)
    assert read(CORD, TODAY, (gray, inside & False), [(gray, inside)], None, ((3, 3, 3), (3, 3, 3))) is None
    assert read(CORD, TODAY, (gray, inside), [(gray, inside & False)], None, ((3, 3, 3), (3, 3, 3))) is None


def test_intervals_hold_for_new_patients() -> None:
    """Over many cohorts of 19 calibration patients with three days each, nine in ten new figures lie inside."""
    rng, held, asked = np.random.default_rng(0), 0, 0
    for _ in range(300):

        def patient(number: int) -> list[Reading]:
            bias = rng.normal(0, 2)  # days of one patient err alike
            return [Reading(CORD, TODAY, 40.0, (40.0,), 40.0 + bias + rng.normal(0, 0.5)) for _ in range(3)]

        factors = factors_of({str(k): patient(k) for k in range(19)}, 0.9)
        ends = [(one.interval(factors), one.truth) for one in patient(99)]
        held += all(low <= truth <= high for (low, high), truth in ends)
        asked += 1
    assert 0.86 <= held / asked <= 0.95  # 18 of 20 by theory
    few = {str(k): [Reading(CORD, TODAY, 40.0, (40.0,), 41.0)] for k in range(8)}
    assert factors_of(few, 0.9) == {}
    assert factors_of(few, 0.8) == {(TODAY, CORD.text): 1.0 / FLOOR}
    assert factors_of({"a": [Reading(CORD, TODAY, 40.0, (40.0,))]}, 0.5) == {}


def test_rows_say_who_was_right() -> None:
    readings = [Reading(CORD, TODAY, 40.0, (43.0, 43.0), 46.0), Reading(CORD, SO_FAR, 40.0, (41.0, 41.0), 41.5)]
    rows = reading_rows(("p_day1", "p"), readings, {(TODAY, CORD.text): 2.0, (SO_FAR, CORD.text): 2.0})
    found = {(r.contrast, r.by, r.metric): r.value for r in rows}
    assert found[TODAY, "model: mean of draws", "SpinalCord D0.1cc off"] == 3
    assert found[TODAY, AS_IT_WAS, "SpinalCord D0.1cc off"] == 6
    assert found[TODAY, "model: mean of draws", f"{CORD.text}: decided as by the true dose"] == 0
    assert found[TODAY, "model: interval", "share of true figures inside"] == 0
    assert found[TODAY, "model: interval", "share of given lights that are right"] == 0
    assert found[SO_FAR, "model: interval", "share of given lights that are right"] == 1
    assert not [r for r in reading_rows(("p", "p"), readings, {}) if r.by == "model: interval"]
    known = reading_rows(("p", "p"), [Reading(CORD, TODAY, 40.0, (43.0,))], {(TODAY, CORD.text): 5.0})
    assert [(r.by, r.metric) for r in known if "light" in r.metric] == [
        ("model: interval", "share of lights that are given")
    ]


def test_the_table_shows_lights_where_there_are_intervals() -> None:
    readings = [
        Reading(CORD, TODAY, 40.0, (50.0,)), Reading(CORD, SO_FAR, 40.0, (41.0,)), Reading(TARGET, TODAY, 68.0, (67.0,)),
    ]  # fmt: skip
    shown = table(readings, {(TODAY, CORD.text): 4.0, (SO_FAR, CORD.text): 4.0})
    assert "50.0 Gy (48.0 to 52.0)" in shown
    assert shown.count("broken") == 1
    assert shown.count("no interval") == 1
    assert "&lt;= 45 Gy" in shown
    assert "at planning <" not in shown
    other = [Reading(CORD, TODAY, 40.0, (42.0,)), Reading(CORD, SO_FAR, 38.5, (41.0,))]  # another measure
    assert "41.0 Gy, 38.5 at planning" in table(other, {})
    assert shown.count("<tr>") == 3


def test_equal_doses_pass_and_others_do_not() -> None:
    z, y, x = np.indices((12, 12, 12))
    gray = 60 * np.exp(-((z - 6) ** 2 + (y - 6) ** 2 + (x - 6) ** 2) / 20)
    same = {r.metric: r.value for r in same_dose_rows(("p", "p", TODAY), "model", gray, gray, (3, 3, 3))}
    assert same == {"mean dose difference": 0.0, "gamma 2 %/2 mm": 100.0, "gamma 2 %/2 mm local": 100.0}
    off = {r.metric: r.value for r in same_dose_rows(("p", "p", TODAY), "model", 1.1 * gray, gray, (3, 3, 3))}
    assert off["mean dose difference"] == pytest.approx(0.1 * gray[gray >= 6].mean())
    assert off["gamma 2 %/2 mm local"] < off["gamma 2 %/2 mm"] < 100


def test_widths_of_intervals_are_kept_with_the_run(tmp_path: Path) -> None:
    assert read_factors(tmp_path) is None
    known = Calibrated(0.9, 16, 19, {(TODAY, CORD.text): 1.25})
    write_factors(tmp_path, known)
    assert read_factors(tmp_path) == known
    (tmp_path / "daily.json").write_text('{"level": 0.9, "draws": 16}')
    with pytest.raises(ValueError, match=r"daily\.json is damaged.*fabrica run"):
        read_factors(tmp_path)
