"""The number of evaluations: the fewest within the spread over seeds of the best, by realism and distortion together."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from fabrica.families import Flow, Regression
from fabrica.families.drawn import Drawn
from fabrica.jobs import JOBS
from fabrica.networks.unet import UNetShape
from fabrica.run.costs import CHOICE, Choice, Tried, chosen_by, kept_choice
from fabrica.run.evaluations import SIDE, _fewest, _mean, _middle

SMALL = UNetShape((8, 16), 1)


def _scores(table: dict[int, list[tuple[float | None, float]]]) -> dict[int, list[tuple[float | None, float, float]]]:
    return {n: [(d, r, 0.1) for d, r in rows] for n, rows in table.items()}


@pytest.mark.parametrize(
    ("table", "chosen"),
    [
        ({2: [(0.30, 5.0), (0.31, 5.2)], 8: [(0.31, 1.0), (0.32, 1.3)], 17: [(0.31, 1.1), (0.32, 1.2)]}, 8),  # blur is nearer, and nothing real
        ({2: [(0.30, 1.1), (0.31, 1.2)], 8: [(0.31, 1.0), (0.32, 1.3)], 17: [(0.31, 1.1), (0.32, 1.2)]}, 2),  # alike: the fewest
        ({2: [(0.90, 1.0), (0.91, 1.2)], 8: [(0.30, 1.1), (0.32, 1.2)], 17: [(0.31, 1.1), (0.32, 1.2)]}, 8),  # real, and of nobody
        ({2: [(0.10, 9.0), (0.11, 9.0)], 17: [(0.40, 1.0), (0.41, 1.1)]}, 17),  # they disagree: realism decides
        ({2: [(None, 9.0), (None, 9.1)], 8: [(None, 1.0), (None, 1.2)]}, 8),  # nothing is given: there is no truth to be far from
    ],
)  # fmt: skip
def test_the_fewest_that_are_as_good_by_both(table: dict, chosen: int) -> None:
    assert _fewest(_scores(table)) == chosen


def test_constant_draws_have_no_distance_and_are_not_chosen() -> None:
    """JSON has no infinity: what is kept says that there is none."""
    infinite = float("inf")
    scores = _scores({2: [(0.3, infinite), (0.3, infinite)], 8: [(0.3, 1.0), (0.3, 1.1)]})
    assert _fewest(scores) == 8
    assert _mean(2, scores[2]) == Tried(2, 0.3, None, 0.1)
    json.dumps(asdict(_mean(2, scores[2])), allow_nan=False)


def test_a_choice_is_kept_and_draws_follow_it(tmp_path: Path) -> None:
    assert kept_choice(tmp_path) is None
    plain = {
        "evaluations": 4,
        "own": False,
        "patients": 2,
        "tried": [{"evaluations": 4, "distortion": 0.1, "realism": 0.2, "seconds": 0.3}],
    }
    (tmp_path / CHOICE).write_text(json.dumps(plain))
    choice = kept_choice(tmp_path)
    assert choice == Choice(4, False, 2, (Tried(4, 0.1, 0.2, 0.3),))
    assert "chosen on 2 validation patients (4: error 0.100, distance 0.2)" in choice.in_words("model")
    constant = replace(choice, tried=(Tried(4, 0.1, None, 0.3),))
    assert "(4: error 0.100, no texture)" in constant.in_words("model")
    signature = JOBS.find("synthesis")(["T1w"]).signature()
    family = Flow(signature, SMALL, "fp32")
    assert isinstance(fewer := chosen_by(family, choice), Drawn)
    assert fewer.options == {"steps": 4}
    assert chosen_by(family, Choice(17, True, 2, ())) is family
    given = JOBS.find("translation")(["T1w"], ["T2w"]).signature()
    plain_one = Regression(given, SMALL, "fp32")
    assert chosen_by(plain_one, choice) is plain_one
    (tmp_path / CHOICE).write_text('{"evaluations": "many"}')
    with pytest.raises(ValueError, match=r"evaluations.json is damaged .* the choice is made again"):
        kept_choice(tmp_path)


def test_of_a_volume_the_middle_is_asked_in_sides_that_the_network_takes() -> None:
    layout = SimpleNamespace(axes="zyx")
    ready, family = SimpleNamespace(layout=layout), SimpleNamespace(multiple=16)
    assert SIDE == 48
    assert _middle((40, 200, 12), ready, family) == (slice(0, 40), slice(76, 124), slice(0, 12))
    assert _middle((40, 200, 12), ready, SimpleNamespace(multiple=32))[1] == slice(84, 116)
    layout.axes = "yx"
    assert _middle((1, 30, 50), ready, family) == (slice(0, 1), slice(0, 30), slice(0, 50))
