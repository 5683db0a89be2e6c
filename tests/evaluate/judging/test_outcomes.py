"""Answers of several models: kept as tables, averaged over seeds, compared over the same patients."""

from pathlib import Path

import numpy as np
import pytest

from fabrica.evaluate.judging.outcomes import (
    Answered,
    Question,
    averaged,
    paired_figures,
    read_answers,
    set_figures,
    write_answers,
)
from fabrica.evaluate.metrics import task
from fabrica.evaluate.report.results import Report, StageResult
from fabrica.evaluate.result import Row
from fabrica.jobs.outcome import Outcome
from fabrica.study.arms import ARMS
from fabrica.study.downstream import TO_BEAT, _figures

QUESTION = Question("class", ("healthy", "sick"), "", 0.0)
TRUTH = np.arange(60) % 2


def _answers(seed: int, skill: float) -> list[Answered]:
    rng = np.random.default_rng(seed)
    chance = 1 / (1 + np.exp(-(skill * (2 * TRUTH - 1) + rng.normal(size=60))))
    return [
        Answered(f"c{i}", f"p{i}", float(t), np.array([1 - c, c]))
        for i, (t, c) in enumerate(zip(TRUTH, chance, strict=True))
    ]


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = _answers(0, 1.0)
    write_answers(tmp_path / "answers" / "model.csv", QUESTION, found)
    names, again = read_answers(tmp_path / "answers" / "model.csv")
    assert names == QUESTION.classes
    for one, other in zip(found, again, strict=True):
        assert (one.case, one.patient, one.truth) == (other.case, other.patient, other.truth)
        np.testing.assert_array_equal(one.answer, other.answer)


def test_seeds_are_averaged_over_the_cases_of_all() -> None:
    a, b = _answers(0, 1.0), _answers(1, 1.0)[3:]
    mean = averaged([a, b])
    assert [m.case for m in mean] == [m.case for m in b]
    np.testing.assert_allclose(mean[0].answer, (a[3].answer + b[0].answer) / 2)


def test_figures_of_arms_are_those_of_their_mean_answers(tmp_path: Path) -> None:
    """AUC with DeLong's interval, calibration, and the paired difference to the arm to beat."""
    skills = {"real": 1.0, "synthetic": 0.3, "real + synthetic": 2.0, TO_BEAT: 0.7}
    assert set(skills) == set(ARMS)
    folders, mean = {}, {}
    for k, (arm, skill) in enumerate(skills.items()):
        seeds = [_answers(10 * k + s, skill) for s in range(2)]
        folders[arm], mean[arm] = [tmp_path / str(k) / str(s) for s in range(2)], averaged(seeds)
        for place, found in zip(folders[arm], seeds, strict=True):
            write_answers(place / "answers" / "model.csv", QUESTION, found)
    job = Outcome(["T1w"], "class", classes=["healthy", "sick"])
    figures = _figures(job, folders)
    for arm in skills:
        scores = [a.answer[1] for a in mean[arm]]
        wanted = task.auc_delong(scores, TRUTH, convention="logit")
        found = {f.name: f for f in figures[arm]}
        assert found["AUC, sick"].value == pytest.approx(wanted.value)
        assert found["AUC, sick"].interval == pytest.approx(wanted.interval)
        assert found["calibration error, sick"].value == pytest.approx(task.calibration(scores, TRUTH).value)
        if arm == TO_BEAT:
            assert not any(name.startswith("AUC minus") for name in found)
            continue
        gap = task.auc_delong_paired(scores, [a.answer[1] for a in mean[TO_BEAT]], TRUTH)
        assert found[f"AUC minus that of {TO_BEAT}, sick"].value == pytest.approx(gap.value)
        assert found[f"AUC minus that of {TO_BEAT}, sick"].n == 60
    (folders["real"][0] / "answers" / "model.csv").unlink()
    assert _figures(job, folders) == {}


def test_patients_with_two_truths_and_numbers_have_no_paired_area() -> None:
    a = _answers(0, 1.0)
    twice = [*a, Answered("c60", "p0", 1.0 - a[0].truth, a[0].answer)]
    assert paired_figures("arm", QUESTION, twice, twice, "other") == []
    assert "needs one class a patient" in str(set_figures("arm", QUESTION, twice)[0].value)
    age = Question("age", (), "years", 50.0)
    assert paired_figures("arm", age, a, a, "other") == []


def test_cases_that_several_seeds_answered_all_count() -> None:
    """Rows of one case under one name: the page's mean is over all of them, patients first."""
    report = Report.start({}, "arms")
    cases = [Row(f"c{c}", f"p{c}", "", "model", "dice", 0.1 * (c + s)) for s in range(3) for c in range(4)]
    report.stages.append(StageResult("real", "downstream", "", {}, 0, 0.0, [], cases=cases))
    (found,) = report.summaries()
    assert found["value"] == pytest.approx(np.mean([0.1 * (c + s) for s in range(3) for c in range(4)]))
    assert (found["n"], found["lost"]) == (4, 0)
