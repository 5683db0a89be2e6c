"""The verdict that the evidence carries, the sentences, and every planted fault refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fabrica.evaluate.honesty.claim import Claim, declare, judge

GOOD: dict[str, Any] = {
    "claim": "Ours is as sharp as theirs.", "endpoint": "ssim", "verb": "superiority", "population": "brains, scanner A",
}  # fmt: skip
MARGIN = {"margin": 0.02, "margin_source": "test-retest of the scanner"}


def _values(n: int, shift: float = 0.0, spread: float = 0.01, images: int = 1) -> tuple[dict, dict, dict]:
    rng = np.random.default_rng(0)
    cases = [f"p{i}/{k}" for i in range(n) for k in range(images)]
    theirs = {c: float(v) for c, v in zip(cases, rng.normal(0.8, 0.05, len(cases)), strict=True)}
    ours = {c: theirs[c] + shift + float(d) for c, d in zip(cases, rng.normal(0, spread, len(cases)), strict=True)}
    return ours, theirs, {c: c.split("/")[0] for c in cases}


@pytest.mark.parametrize(
    ("verb", "shift", "spread", "status"),
    [
        ("superiority", 0.02, 0.01, "SUPPORTED"), ("superiority", 0.0, 0.01, "NOT SUPPORTED"),
        ("superiority", -0.02, 0.01, "NOT SUPPORTED"), ("non-inferiority", 0.0, 0.01, "SUPPORTED"),
        ("non-inferiority", -0.03, 0.01, "NOT SUPPORTED"), ("non-inferiority", -0.05, 0.2, "NOT SUPPORTED"),
        ("equivalence", 0.0, 0.01, "SUPPORTED"), ("equivalence", 0.05, 0.01, "NOT SUPPORTED"),
        ("equivalence", 0.0, 0.2, "NOT SUPPORTED"),
    ],
)  # fmt: skip
def test_each_verb(verb: str, shift: float, spread: float, status: str) -> None:
    claim = Claim.of({**GOOD, "verb": verb, **(MARGIN if verb != "superiority" else {})})
    verdict = judge(claim, *_values(30, shift, spread))
    assert verdict.status == status
    assert verdict.patients == 30
    assert ("It was not shown" in verdict.may) == (status != "SUPPORTED")
    assert verdict.interval is not None
    assert verdict.interval[0] <= verdict.interval[1]
    if status == "NOT SUPPORTED":
        assert "a test that finds none proves none" in verdict.may_not  # check 20


def test_lower_is_better_where_it_is() -> None:
    ours, theirs, patients = _values(30, -0.02)
    assert judge(Claim.of({**GOOD, "endpoint": "mae"}), ours, theirs, patients).status == "SUPPORTED"
    worse = judge(Claim.of({**GOOD, "endpoint": "mae", "verb": "non-inferiority", **MARGIN}), theirs, ours, patients)
    assert worse.status == "NOT SUPPORTED"


def test_few_patients_carry_no_verdict_however_many_images() -> None:
    verdict = judge(Claim.of(GOOD), *_values(12, 0.1, images=20))
    assert verdict.status == "REFUSED"
    assert "12 patients, at least 20 are needed" in verdict.may
    assert verdict.p_value is None


def test_many_images_of_a_patient_are_one_patient() -> None:
    one, many = judge(Claim.of(GOOD), *_values(24, 0.003)), judge(Claim.of(GOOD), *_values(24, 0.003, images=30))
    assert one.patients == many.patients == 24


def test_failed_cases_count_as_worst_and_perfect_ones_as_best() -> None:
    ours, theirs, patients = _values(30, 0.02)
    gone = dict(ours)
    for case in list(gone)[:8]:
        gone[case] = None
    lost = judge(Claim.of(GOOD), gone, theirs, patients)
    assert lost.status == "NOT SUPPORTED"
    assert "8 failed cases count as the worst value" in lost.remarks[0]
    missing = judge(Claim.of(GOOD), {c: v for c, v in gone.items() if v is not None}, theirs, patients)
    assert (missing.difference, missing.status) == (lost.difference, lost.status)
    perfect = judge(Claim.of(GOOD), {**ours, "p0/0": float("inf")}, theirs, patients)
    assert perfect.status == "SUPPORTED"
    assert np.isfinite(perfect.difference or np.nan)
    nothing = judge(Claim.of(GOOD), dict.fromkeys(ours), dict.fromkeys(theirs), patients)
    assert nothing.status == "REFUSED"


def test_a_copy_of_the_competitor_is_not_equivalent_to_it() -> None:
    ours, _, patients = _values(30)
    verdict = judge(Claim.of({**GOOD, "verb": "equivalence", **MARGIN}), ours, dict(ours), patients)
    assert verdict.status == "REFUSED"
    assert "copy of the other" in verdict.may


def test_level_under_the_null() -> None:
    """Of 400 claims of superiority without any difference about 2.5 % are supported."""
    supported = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        values = [{f"p{i}": float(v) for i, v in enumerate(rng.normal(0.8, 0.05, 20))} for _ in range(2)]
        supported += judge(Claim.of(GOOD), *values, {c: c for c in values[0]}).status == "SUPPORTED"
    assert 2 <= supported <= 20


def test_another_claim_after_the_first_is_exploratory(tmp_path: Path) -> None:
    first, second = Claim.of(GOOD), Claim.of({**GOOD, "endpoint": "psnr"})
    assert declare(first, tmp_path) == declare(first, tmp_path) == ""
    assert declare(second, tmp_path).startswith("EXPLORATORY")
    assert declare(first, tmp_path) == ""
    assert [e["endpoint"] for e in json.loads((tmp_path / "claim.json").read_text())] == ["ssim", "psnr"]
    assert "EXPLORATORY" in judge(second, *_values(30), stamp=declare(second, tmp_path)).remarks[0]


@pytest.mark.parametrize("text", ["{", '{"a": 1}', '[{"endpoint": "ssim"}]', "[3]"])
def test_a_damaged_ledger_is_not_overwritten(tmp_path: Path, text: str) -> None:
    (tmp_path / "claim.json").write_text(text)
    with pytest.raises(ValueError, match="is damaged.*--out DIR"):
        declare(Claim.of(GOOD), tmp_path)
    assert (tmp_path / "claim.json").read_text() == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"endpoint": "sssim"}, "Did you mean 'ssim'"),
        ({"verb": "better"}, "verb"),
        ({"endpont": "ssim"}, "Did you mean 'endpoint'"),
        ({"population": " "}, "lacks population"),
        ({"claim": 3}, "lacks claim"),
        ({"alpha": 0.9}, "alpha is 0.9"),
        ({"alpha": "small"}, "alpha"),
        ({"margin": 0.02}, "Superiority has no margin"),
        ({"verb": "equivalence"}, "needs a margin above 0 and where it comes from"),
        ({"verb": "equivalence", "margin": 0.02}, "where it comes from"),
        ({"verb": "non-inferiority", **MARGIN, "margin": -1}, "needs a margin above 0"),
    ],
)
def test_planted_faults(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Claim.of({**GOOD, **change})


def test_no_claim_is_a_list() -> None:
    with pytest.raises(ValueError, match="block of keys"):
        Claim.of(["ssim"])


def test_whoever_has_no_value_is_nobody_to_beat() -> None:
    """A competitor, or our own side, of whom nothing could be measured: no verdict, however good the other is."""
    ours, theirs, patients = _values(30, 0.02)
    for a, b, name in (
        (ours, {}, "competitor"),
        (ours, dict.fromkeys(theirs), "competitor"),
        (dict.fromkeys(ours), theirs, "the model"),
    ):
        verdict = judge(Claim.of(GOOD), a, b, patients)
        assert verdict.status == "REFUSED"
        assert "could be measured" in verdict.may
        assert name in verdict.may
    half = {c: (v if i < 14 else None) for i, (c, v) in enumerate(theirs.items())}
    assert "16 of 30 cases of its competitor failed: at most 50% may" in judge(Claim.of(GOOD), ours, half, patients).may


def test_a_failed_case_never_meets_a_goal() -> None:
    """Eight cases at .9, seventeen failed, and a goal of .6: the failed count as 0, not as the goal."""
    cases = [f"p{i}" for i in range(25)]
    goal = {**GOOD, "endpoint": "dice", "against": "goal", "goal": 0.6, "goal_source": "planted"}
    ours = {c: (0.9 if i < 13 else None) for i, c in enumerate(cases)}
    verdict = judge(Claim.of(goal), ours, dict.fromkeys(cases, 0.6), {c: c for c in cases})
    assert verdict.status == "NOT SUPPORTED"
    assert verdict.difference == pytest.approx(13 / 25 * 0.9 - 0.6)
    assert "12 failed cases count as the worst value, 0" in verdict.remarks[0]
    few = judge(
        Claim.of(goal),
        {c: (0.9 if i < 8 else None) for i, c in enumerate(cases)},
        dict.fromkeys(cases, 0.6),
        {c: c for c in cases},
    )
    assert few.status == "REFUSED"


def test_without_a_worst_value_few_cases_may_fail() -> None:
    ours, theirs, patients = _values(40, -0.05)
    claim = Claim.of({**GOOD, "endpoint": "mae", "verb": "non-inferiority", **MARGIN})
    lost = {c: (None if i < 3 else v) for i, (c, v) in enumerate(ours.items())}
    verdict = judge(claim, lost, theirs, patients)
    assert verdict.status == "REFUSED"
    assert "3 of 40 cases of the model failed, and mae has no worst value" in verdict.may
    one = {c: (None if i < 1 else v) for i, (c, v) in enumerate(ours.items())}
    assert judge(claim, one, theirs, patients).status == "SUPPORTED"


def test_an_infinite_loss_is_no_perfect_answer() -> None:
    ours, theirs, patients = _values(25, -0.01)
    wild = {c: (float("inf") if i == 0 else v) for i, (c, v) in enumerate(ours.items())}
    verdict = judge(Claim.of({**GOOD, "endpoint": "mae"}), wild, theirs, patients)
    sound = judge(Claim.of({**GOOD, "endpoint": "mae"}), ours, theirs, patients)
    assert (verdict.difference or 0) > (sound.difference or 0)  # further from better


@pytest.mark.parametrize("margin", [float("inf"), float("nan")])
def test_a_margin_is_a_number(margin: float) -> None:
    with pytest.raises(ValueError, match="margin is (inf|nan), expected a number"):
        Claim.of({**GOOD, "verb": "equivalence", "margin": margin, "margin_source": "x"})


def test_every_pixel_metric_can_be_claimed() -> None:
    """Whatever has a better direction, one by one: no name of a task's score takes a metric of images away."""
    from fabrica.evaluate.honesty.endpoints import SCORES
    from fabrica.evaluate.metrics.pixel import METRICS

    for name, metric in METRICS.items():
        if metric.better != "neither":
            assert Claim.of({**GOOD, "endpoint": name}).endpoint == name
    assert not set(SCORES) & set(METRICS)


def test_perfect_answers_are_no_missing_ones() -> None:
    """Infinite PSNR in every case: as good as the best finite one; on both sides there is nothing to compare."""
    _, theirs, patients = _values(25)
    perfect = dict.fromkeys(theirs, float("inf"))
    claim = Claim.of({**GOOD, "endpoint": "psnr"})
    assert judge(claim, perfect, theirs, patients).status == "SUPPORTED"
    both = judge(claim, perfect, dict(perfect), patients)
    assert both.status == "REFUSED"
    assert "no case has a finite psnr" in both.may
