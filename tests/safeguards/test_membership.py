"""Attacks by score, canaries, and what they may be believed for."""

import math

import numpy as np
import pytest
import torch

from fabrica.safeguards.privacy.canaries import (
    STRENGTH,
    TAGS,
    Exposure,
    canaries_check,
    chosen,
    exposure_of,
    pattern,
)
from fabrica.safeguards.privacy.membership import attack, beside_shadows, membership_check


def test_a_model_that_knows_its_patients_is_caught() -> None:
    rng = np.random.default_rng(0)
    found = attack("loss", rng.normal(5, 1, 200), rng.normal(0, 1, 200))
    assert found.rate == 0.01
    assert found.found > 0.9
    assert found.interval[0] > 0.85
    check = membership_check([found])
    assert check.verdict == "WARN"
    assert "do not give them away" in check.reason


def test_a_model_that_knows_nobody_passes_as_often_as_promised() -> None:
    for members, others in ((150, 150), (500, 20), (75, 75)):
        caught = []
        for k in range(200):
            rng = np.random.default_rng(k)
            found = [attack(f"a{i}", rng.normal(size=members), rng.normal(size=others), attacks=2) for i in range(2)]
            caught.append(membership_check(found).verdict == "WARN")
        assert np.mean(caught) <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


def test_few_others_promise_no_rate_below_one_of_them() -> None:
    found = attack("loss", np.arange(75.0), np.arange(49.0))
    assert found.rate == pytest.approx(1 / 50)
    assert found.found == pytest.approx(26 / 75)  # above the largest of all others
    assert found.strict is None
    many = attack("loss", np.arange(4000.0), np.arange(3000.0))
    assert many.strict == pytest.approx(1002 / 4000)  # the threshold is 2,997: rank 2,998 of 3,001
    with pytest.raises(ValueError, match="10 of each are needed"):
        attack("loss", np.arange(5.0), np.arange(50.0))


def test_what_was_not_shown_is_said() -> None:
    assert membership_check((), "why").verdict == "NOT ASSESSABLE"
    assert membership_check((), void="the sides differ").verdict == "VOID"
    assert canaries_check({}, "none").verdict == "NOT ASSESSABLE"


def test_marks_are_faint_and_differ() -> None:
    marks = torch.stack([pattern(k, (1, 32, 32)) for k in range(40)]).flatten(1)
    torch.testing.assert_close(marks.square().mean(1).sqrt(), torch.full((40,), STRENGTH))
    torch.testing.assert_close(marks.mean(1), torch.zeros(40), atol=1e-6, rtol=0)
    alike = torch.corrcoef(marks) - torch.eye(40)
    assert float(alike.abs().max()) < 0.9
    assert pattern(3, (5, 8, 8)).shape == (5, 8, 8)


def test_whom_marks_are_put_into_depends_on_the_seed_alone() -> None:
    names = [f"p{k}" for k in range(50)]
    first = chosen(names, 8, 0)
    assert len(first) == 8
    assert chosen(names[::-1], 8, 0) == first
    assert chosen(names, 8, 1) != first
    assert all(0 <= tag < TAGS for tag in first.values())


def test_exposure_is_a_rank_and_chance_gives_even_ones() -> None:
    losses = torch.arange(TAGS).double()
    assert exposure_of(losses, 0).bits == 10
    assert exposure_of(losses, TAGS - 1).bits == 0
    assert exposure_of(torch.zeros(TAGS), 5).rank == 1 + TAGS // 2
    rng = np.random.default_rng(0)
    bits = [exposure_of(torch.from_numpy(rng.normal(size=TAGS)), 7).bits for _ in range(400)]
    assert np.mean(bits) == pytest.approx(math.log2(math.e), abs=0.25)


def test_marks_that_were_learned_are_told() -> None:
    assert (
        canaries_check({f"p{k}": Exposure(rank) for k, rank in enumerate((1, 2, 900, 1, 3, 40, 1, 7))}).verdict
        == "WARN"
    )
    even = {f"p{k}": Exposure(rank) for k, rank in enumerate((100, 512, 900, 30, 700, 250, 1000, 400))}
    check = canaries_check(even)
    assert check.verdict == "PASS"
    assert "bits in the mean" in check.reason


def test_shadow_models_take_away_what_is_hard_about_a_person() -> None:
    """People differ more than membership does: beside models of others it is seen, and only then."""
    rng = np.random.default_rng(5)
    people, models, gap = 200, 8, 1.0
    hard = rng.normal(0, 5, people)
    inside = np.stack([np.arange(people) % 2 == k % 2 for k in range(models)])
    for k in range(0, models, 2):
        chance = rng.permutation(people)
        inside[k], inside[k + 1] = chance < people // 2, chance >= people // 2
    scores = hard + gap * inside + rng.normal(0, 0.2, (models, people)) + rng.normal(0, 3, (models, 1))
    member = np.arange(people) < people // 2
    own = hard + gap * member + rng.normal(0, 0.2, people)
    alone = attack("loss", own[member], own[~member])
    beside = beside_shadows(own, scores, inside)
    told = attack("loss beside others", beside[member], beside[~member])
    assert alone.auc < 0.65
    assert told.auc > 0.99
    assert told.interval[0] > 0.5
    assert beside[member].mean() - beside[~member].mean() == pytest.approx(gap, abs=0.1)
    with pytest.raises(ValueError, match="everybody or nobody"):
        beside_shadows(own, scores, np.ones_like(inside))
    with pytest.raises(ValueError, match="expected"):
        beside_shadows(own[1:], scores, inside)
