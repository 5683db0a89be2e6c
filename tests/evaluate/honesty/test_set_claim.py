"""A claim on sets: the figure equals its definition, the jackknife holds its level, and every verb can fail."""

from typing import Any

import numpy as np
import pytest

from fabrica.evaluate.honesty.claim import Claim
from fabrica.evaluate.honesty.set_claim import judge_sets, relative_kernel_distance
from fabrica.evaluate.sets.embedding import Picture
from fabrica.evaluate.sets.feature import kernel_distance

CLAIM: dict[str, Any] = {
    "claim": "Our patients look real.", "endpoint": "kernel distance", "verb": "equivalence", "population": "blobs",
    "embedding": "thumbnail", "against": "real images", "margin": 2.0, "margin_source": "planted",
}  # fmt: skip


def _names(letter: str, n: int, images: int = 1) -> list[str]:
    return [f"{letter}{i}" for i in range(n) for _ in range(images)]


def test_one_image_a_patient_is_the_kernel_distance() -> None:
    rng = np.random.default_rng(0)
    x, y, z = rng.normal(size=(12, 5)), rng.normal(size=(15, 5)) + 0.3, rng.normal(size=(9, 5)) + 0.8
    groups = _names("x", 12), _names("y", 15)
    found = relative_kernel_distance(x, y, groups)
    assert found.value == pytest.approx(kernel_distance(x, y).value)
    assert found.standard_error == pytest.approx(kernel_distance(x, y).standard_error, rel=0.15)
    both = relative_kernel_distance(x, y, groups, other=z, other_groups=_names("z", 9))
    assert both.value == pytest.approx(kernel_distance(x, y).value - kernel_distance(z, y).value)


def test_images_of_one_patient_are_never_a_pair() -> None:
    """Ten copies of every patient change nothing: a mean over patients, not over images."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(8, 4)), rng.normal(size=(9, 4)) + 0.5
    once = relative_kernel_distance(x, y, (_names("x", 8), _names("y", 9)))
    often = relative_kernel_distance(np.repeat(x, 10, 0), np.repeat(y, 10, 0), (_names("x", 8, 10), _names("y", 9, 10)))
    assert often.value == pytest.approx(once.value)
    assert often.standard_error == pytest.approx(once.standard_error)
    same = relative_kernel_distance(x, x + 1e-9, (_names("x", 8), _names("x", 8)))
    assert same.n == 8  # a name on both sides is one patient, and no pair with themselves
    assert abs(same.value) < 1e-6


def test_intervals_of_a_difference_cover_it() -> None:
    """Of 200 trials with a known difference, the 95 % interval holds it about as often."""
    shifts = 0.6, 0.9
    rng = np.random.default_rng(2)
    large = [rng.normal(size=(4000, 3)) + s for s in shifts]
    truth = kernel_distance(large[0], rng.normal(size=(4000, 3))).value - kernel_distance(large[1], rng.normal(size=(4000, 3))).value  # fmt: skip
    hits = 0
    for _ in range(200):
        y, x, z = (rng.normal(size=(40, 3)) + s for s in (0.0, *shifts))
        found = relative_kernel_distance(
            x, y, (_names("x", 40), _names("y", 40)), other=z, other_groups=_names("z", 40)
        )
        assert found.interval is not None
        hits += found.interval[0] <= truth <= found.interval[1]
    assert 178 <= hits <= 199


@pytest.mark.parametrize(
    ("rows", "names", "words"),
    [
        (np.zeros((2, 3)), ["a", "b"], "2 patients on one side"),
        (np.zeros((4, 3)), ["a", "b", "c"], "one finite row an image"),
        (np.full((4, 3), np.nan), ["a", "b", "c", "d"], "one finite row an image"),
        (np.zeros(4), ["a", "b", "c", "d"], "one finite row an image"),
    ],
)
def test_wrong_input(rows: np.ndarray, names: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        relative_kernel_distance(rows, np.ones((5, 3)), (names, _names("y", 5)))


def _set(letter: str, n: int, level: float = 0.0, seed: int = 0) -> list[Picture]:
    """Blobs; `level` moves where they lie."""
    rng = np.random.default_rng([seed, ord(letter)])
    y, x = np.mgrid[-1:1:24j, -1:1:24j]
    made = []
    for i in range(n):
        dy, dx = 0.2 * rng.normal(size=2) + level
        values = np.exp(-((y - dy) ** 2 + (x - dx) ** 2) / 0.2) + 0.05 * rng.normal(size=y.shape)
        made.append(Picture(f"{letter}{i}", f"{letter}{i}", values, values > 0.3, (1.0, 1.0)))
    return made


@pytest.mark.parametrize(
    ("change", "ours", "status"),
    [
        ({}, 0.0, "SUPPORTED"),
        ({}, 0.6, "NOT SUPPORTED"),
        ({"margin": 1e-4}, 0.0, "NOT SUPPORTED"),
        ({"against": "competitor", "verb": "superiority", "margin": None}, 0.0, "SUPPORTED"),
        ({"against": "competitor", "verb": "superiority", "margin": None}, 0.35, "NOT SUPPORTED"),
        ({"against": "competitor", "verb": "superiority", "margin": None}, 0.8, "NOT SUPPORTED"),
    ],
)
def test_each_verb(change: dict[str, Any], ours: float, status: str) -> None:
    claim = Claim.of({k: v for k, v in {**CLAIM, **change}.items() if v is not None})
    sets = {"generated": _set("g", 40, ours), "reference": _set("r", 40), "competitor": _set("c", 40, 0.35)}
    verdict = judge_sets(claim, sets, {})
    assert verdict.status == status, verdict.may
    assert verdict.patients == 40
    assert "by thumbnail" in verdict.may
    assert verdict.interval is not None
    assert 0 <= (verdict.p_value or 0) <= 1


def test_what_cannot_carry_a_verdict_is_refused() -> None:
    sets = {"generated": _set("g", 19), "reference": _set("r", 40)}
    few = judge_sets(Claim.of(CLAIM), sets, {}, "EXPLORATORY: late")
    assert (few.status, few.patients, few.remarks) == ("REFUSED", 19, ("EXPLORATORY: late",))
    unknown = judge_sets(Claim.of({**CLAIM, "embedding": "thumb"}), {**sets, "generated": _set("g", 20)}, {})
    assert unknown.status == "REFUSED"
    assert "no embedding 'thumb' here, but radiomics" in unknown.may
    copy = {"generated": _set("g", 20), "reference": _set("r", 40), "competitor": _set("g", 20)}
    rival = {k: v for k, v in CLAIM.items() if not k.startswith("margin")}
    twin = judge_sets(Claim.of({**rival, "against": "competitor", "verb": "superiority"}), copy, {})
    assert "copy of the other" in twin.may


def test_the_holdout_joins_the_real_patients() -> None:
    sets = {"generated": _set("g", 30), "reference": _set("r", 12)}
    assert judge_sets(Claim.of(CLAIM), sets, {}).patients == 12
    assert judge_sets(Claim.of(CLAIM), {**sets, "holdout": _set("h", 20)}, {}).patients == 30
