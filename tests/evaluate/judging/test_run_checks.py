"""Honesty checks of runs: each finds its planted fault, and says nothing of a clean run."""

from dataclasses import replace

import numpy as np
import pytest

from fabrica.evaluate.honesty.ledger import Ledger
from fabrica.evaluate.judging.run_checks import check_distances, check_drawn, check_parts, conclude
from fabrica.evaluate.report.results import Report, StageResult
from fabrica.evaluate.result import Row
from fabrica.evaluate.sets.embedding import Picture
from fabrica.evaluate.sets.realism import Distance, Realism


def _status(ledger: Ledger, number: int) -> str:
    ledger.close()
    return next(f.status for f in ledger.table() if f.number == number)


def _picture(name: str, values: np.ndarray) -> Picture:
    return Picture(name, name, values, np.ones(values.shape, bool), (1.0, 1.0))


def _head(seed: int = 0) -> np.ndarray:
    y, x = np.mgrid[-1:1:48j, -1:1:48j]
    rng = np.random.default_rng(seed)
    return np.clip(1.1 - (x / 0.7) ** 2 - (y / 0.8) ** 2, 0, 1) + 2.0 * np.exp(
        -((x - 0.35) ** 2 + (y - rng.uniform(-0.2, 0.2)) ** 2) / 0.02
    )


def test_a_patient_in_two_parts_is_refused() -> None:
    clean, leaking = Ledger(), Ledger()
    check_parts(clean, "model", {"train": {"a", "b"}, "test": {"c"}, "val": set()})
    check_parts(leaking, "model", {"train": {"a", "b"}, "test": {"b", "c"}})
    assert _status(clean, 1) == "passed"
    assert _status(leaking, 1) == "refused"
    assert "1 patients are in test and in train, b among them" in leaking.found[1].why
    check_parts(leaking, "second", {"train": {"a"}, "test": {"c"}})
    assert _status(leaking, 1) == "refused"  # a clean stage does not heal another


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (lambda v: v, "passed", ""),
        (lambda v: np.roll(v, 2, 1), "warned", "pixels off its truth"),
        (lambda v: v[:, ::-1], "warned", "turned left to right"),
    ],
)
def test_draws_that_do_not_lie_on_their_truth(change, status: str, words: str) -> None:
    ledger, truth = Ledger(), _head()
    drawn = [_picture("p", change(truth) + 0.01 * np.random.default_rng(1).normal(size=truth.shape))]
    check_drawn(ledger, drawn, [_picture("p", truth)], paired=True)
    assert _status(ledger, 9) == status
    assert words in (ledger.found[9].why if status == "warned" else "")


def test_draws_of_nobody_are_not_asked_where_they_lie() -> None:
    ledger = Ledger()
    check_drawn(ledger, [_picture("p", np.roll(_head(), 9, 0))], [_picture("p", _head())], paired=False)
    assert _status(ledger, 9) == "not asked"
    assert _status(ledger, 4) == "passed"
    check_drawn(other := Ledger(), [_picture("p", _head())], [_picture("q", _head())], paired=True)
    assert _status(other, 9) == "not asked"  # no draw has a truth of its name


def test_negative_truths_are_said() -> None:
    ledger = Ledger()
    check_drawn(ledger, [], [_picture("p", _head() - 0.5)], paired=True)
    assert _status(ledger, 4) == "refused"
    assert "1 true images hold negative values, p among them" in ledger.found[4].why


def test_distances_of_few_cases_are_no_evidence() -> None:
    one = Distance("radiomics", "Fréchet distance", 2.0, 1.0, (0.5, 1.5), 30)
    enough, few, none = Ledger(), Ledger(), Ledger()
    check_distances(enough, Realism(distances=[one]))
    check_distances(few, Realism(distances=[one, replace(one, few=True)]))
    check_distances(none, None)
    assert _status(enough, 11) == "passed"
    assert _status(few, 11) == "refused"
    assert "By radiomics there are fewer cases than features" in few.found[11].why
    assert [_status(none, n) for n in (11, 12, 13)] == ["not asked"] * 3


@pytest.mark.parametrize(("rival", "status"), [(0.5, "passed"), (0.95, "warned")])
def test_a_trivial_answer_that_wins_is_said(rival: float, status: str) -> None:
    rows = [
        Row(str(k), str(k), "T2w", by, "ssim", v) for k in range(6) for by, v in (("model", 0.9), ("T1w copied", rival))
    ]
    report = Report.start({}, "run")
    report.stages.append(StageResult("model", "translation", "flow", {}, 1, 1.0, [], cases=rows))
    conclude(report)
    assert report.ledger is not None
    assert _status(report.ledger, 21) == status
    assert _status(report.ledger, 2) == "passed"
    assert ("NOT DISCRIMINATIVE" in report.ledger.found[21].why) == (status == "warned")


def test_where_no_truth_is_known_nothing_about_it_is_passed() -> None:
    """A raw scan without an image: misfits are figures, what needs the truth was not evaluated."""
    rows = [
        Row("0", "0", "T1w", by, metric, value)
        for by in ("model", "CG-SENSE")
        for metric, value in (
            ("misfit of k-space", 1.1),
            ("psnr", "needs the true T1w"),
            ("ssim", "needs the true T1w"),
        )
    ]
    report = Report.start({}, "run")
    report.stages.append(StageResult("model", "reconstruction", "flow", {}, 1, 1.0, [], cases=rows))
    conclude(report)
    assert report.ledger is not None
    assert [_status(report.ledger, n) for n in (3, 5, 6, 7, 8, 21)] == ["not asked"] * 6
    assert _status(report.ledger, 2) == "passed"


def test_nothing_drawn_passes_nothing() -> None:
    report = Report.start({}, "run")
    conclude(report)
    assert report.ledger is not None
    assert {f.status for f in report.ledger.table()} == {"not asked"}
