"""Groups among draws: what is drawn more often than it is, is found; what no reader can tell is said."""

import numpy as np
import pytest

from fabrica.safeguards.amplification import People, amplification


def _people(count: int, share: float, seed: int, apart: float = 3.0) -> tuple[np.ndarray, list[str]]:
    """Features whose first axis tells F from M."""
    rng = np.random.default_rng(seed)
    groups = ["F" if v < share else "M" for v in rng.random(count)]
    features = rng.normal(size=(count, 6))
    features[:, 0] += [apart if g == "F" else 0.0 for g in groups]
    return features, groups


def _sides(apart: float = 3.0) -> tuple[People, People]:
    made = [_people(200, 0.4, seed, apart) for seed in (0, 1)]
    return People(made[0][0], {"sex": made[0][1]}), People(made[1][0], {"sex": made[1][1]})


@pytest.mark.parametrize(("share", "more"), [(0.4, False), (0.8, True)])
def test_a_group_that_is_drawn_more_often_is_found(share: float, more: bool) -> None:
    found = amplification(*_sides(), _people(300, share, 2)[0])
    women = next(s for s in found.shares if s.group == "F")
    assert women.trained == pytest.approx(0.4, abs=0.1)
    assert women.held == pytest.approx(0.4, abs=0.12)
    assert women.drawn == pytest.approx(share, abs=0.12)
    assert (women.interval[0] > 0) == more
    assert women.interval[0] < women.drawn - women.held < women.interval[1]


def test_it_says_so_no_oftener_than_it_promises() -> None:
    wrong = 0
    for k in range(60):
        sides = [_people(80, 0.5, 10 * k + side) for side in (0, 1)]
        trained, held = (People(f, {"sex": g}) for f, g in sides)
        shares = amplification(trained, held, _people(120, 0.5, 10 * k + 2)[0], k).shares
        wrong += not (shares[0].interval[0] <= 0 <= shares[0].interval[1])
    assert wrong <= 9  # of 60: .05 and three standard errors


def test_what_cannot_be_told_is_said() -> None:
    found = amplification(*_sides(apart=0.0), _people(300, 0.4, 2)[0])
    assert not found.shares
    assert "does not tell its groups" in found.unseen[0]
    few = People(np.zeros((5, 6)), {"sex": ["F", "M", "F", "M", "F"]})
    assert "are too few" in amplification(few, few, np.zeros((300, 6))).unseen[0]
    nobody = People(np.zeros((50, 6)), {"sex": ["F"] * 50})
    assert not amplification(nobody, nobody, np.zeros((50, 6))).shares
