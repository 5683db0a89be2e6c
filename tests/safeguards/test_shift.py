"""Scans unlike those of training: thresholds keep their rate, faults are told, and what is not known is said."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fabrica.data.virtual import VirtualCohort
from fabrica.safeguards.ladder import degraded
from fabrica.safeguards.shift import FEWEST, Cloud, Reference, Seen, conformal, farthest, features, fit, shift_check


def _rows(count: int, seed: int, far: float = 0.0) -> list[dict[str, dict[str, np.ndarray]]]:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(6, 6))
    return [{"T1w": {"intensity": rng.normal(size=6) @ mixing + far, "grid": np.zeros(3)}} for _ in range(count)]


def test_a_threshold_is_a_rank() -> None:
    assert conformal(list(range(1, 20))) == 19  # of 19 the largest: one in twenty
    assert conformal(list(range(1, 40))) == 38
    assert conformal(list(range(18))) == math.inf


def test_false_alarms_are_as_rare_as_promised_and_shift_is_told() -> None:
    alarms, found = [], []
    for k in range(40):
        reference = fit("w", _rows(40, 3 * k), _rows(59, 3 * k + 1))
        assert reference.why_not == ""
        alarms += [reference.shifted(reference.look(row)) for row in _rows(20, 3 * k + 2)]
        found += [reference.shifted(reference.look(row)) for row in _rows(5, k, far=12.0)]
    assert np.mean(alarms) <= 0.05 + 3 * (0.05 * 0.95 / len(alarms)) ** 0.5
    assert np.mean(found) > 0.95


def test_a_scan_outside_of_all_directions_is_far_whatever_the_directions() -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(size=(60, 2)), np.zeros((60, 1))], axis=1)  # the third never varies
    cloud = Cloud.of(rows, 1e-3)
    assert cloud.score(np.array([0.0, 0.0, 0.0])) < 1
    assert cloud.score(np.array([0.0, 0.0, 0.1])) > 5
    with pytest.raises(ValueError, match="8 are needed"):
        Cloud.of(rows[:5], 1e-3)


def test_few_patients_are_not_assessable_and_say_how_many_are_needed() -> None:
    reference = fit("w", _rows(40, 0), _rows(FEWEST - 1, 1))
    assert "18 validation patients, 19 are needed" in reference.why_not
    check = shift_check([Seen(9.0, "T1w grid")] * 10, reference, "test patients")
    assert check.verdict == "NOT ASSESSABLE"
    assert "at least" not in check.reason
    assert "8 of a contrast" in fit("w", _rows(3, 0), _rows(30, 1)).why_not


def test_new_patients_like_those_of_training_are_seldom_warned_of() -> None:
    """The threshold is a rank among few: a hundred scans share what it happens to be."""
    warned = []
    for k in range(150):
        reference = fit("w", _rows(20, 3 * k), _rows(19, 3 * k + 1))
        looked = [reference.look(row) for row in _rows(100, 3 * k + 2)]
        warned.append(shift_check(looked, reference, "new patients").verdict == "WARN")
    assert np.mean(warned) <= 0.01 + 3 * (0.01 * 0.99 / 150) ** 0.5 + 1 / 150


def test_the_verdict_counts_alarms_against_their_rate() -> None:
    reference = fit("w", _rows(40, 0), _rows(40, 1))
    near, far = Seen(0.0, "T1w grid"), Seen(1e5, "T1w grid")
    assert shift_check([near] * 18 + [far] * 2, reference, "new patients").verdict == "PASS"
    many = shift_check([near] * 10 + [far] * 10, reference, "new patients")
    assert many.verdict == "WARN"
    assert many.value == 0.5
    assert shift_check([], reference, "new patients").verdict == "NOT ASSESSABLE"


def test_a_site_is_told_whose_single_scans_are_hardly_odd() -> None:
    reference = fit("w", _rows(60, 0), _rows(60, 1))
    other = [
        reference.look({"T1w": {**row["T1w"], "intensity": row["T1w"]["intensity"] * 1.35}}) for row in _rows(60, 2)
    ]
    kind, p = farthest(other, reference)
    assert kind == "T1w intensity"
    assert p < 0.005
    check = shift_check(other, reference, "new patients")
    assert check.verdict == "WARN"
    assert "lie farther out by T1w intensity" in check.reason
    assert farthest(other[:4], reference) == ("", 1.0)


def test_a_gain_is_no_shift_of_arbitrary_units_and_faults_of_a_scanner_are() -> None:
    members = VirtualCohort(50, spacing_mm=4, planes=[18, 21], disease="none").cohort().members
    images = [m.load(["T1w"]).images["T1w"] for m in members]
    rows = [{"T1w": features(image)} for image in images]
    reference = fit("w", rows[:24], rows[24:46])
    louder = replace(images[46], data=images[46].data * 7)
    one, other = (features(image) for image in (images[46], louder))
    assert all(np.allclose(one[kind], other[kind], rtol=1e-4, atol=1e-5) for kind in one)
    for kind in ("noise", "blur", "coarse", "kernel"):
        seen = reference.look({"T1w": features(degraded(images[46], kind, 3, 0))})
        assert reference.shifted(seen), kind
        assert seen.worst.startswith("T1w ")
    wider = replace(images[47], affine=images[47].affine @ torch.diag(torch.tensor([1.0, 2.0, 2.0, 1.0]).double()))
    assert "grid" in reference.look({"T1w": features(wider)}).worst
    assert "most by its" in reference.words(seen)


def test_a_reference_lies_beside_the_weights_that_it_is_of(tmp_path: Path) -> None:
    made = fit("w", _rows(30, 0), _rows(30, 1))
    made.write(tmp_path)
    again = Reference.read(tmp_path, "w")
    assert again.threshold == made.threshold
    (row,) = _rows(1, 5)
    assert again.look(row).score == pytest.approx(made.look(row).score)
    assert Reference.read(tmp_path, "other").why_not == "the reference is that of other weights"
    with pytest.raises(ValueError, match="Training knew no FLAIR"):
        again.look({"FLAIR": row["T1w"]})
    (tmp_path / "shift.json").write_text("{}")
    with pytest.raises(ValueError, match="is no reference of scans"):
        Reference.read(tmp_path, "w")
    assert "no reference" in Reference.read(tmp_path / "nowhere", "w").why_not


def test_an_empty_scan_says_nothing() -> None:
    (member,) = VirtualCohort(1, spacing_mm=4, planes=[18, 20]).cohort().members
    image = member.load(["T1w"]).images["T1w"]
    with pytest.raises(ValueError, match="is empty"):
        features(replace(image, data=torch.zeros_like(image.data)))
