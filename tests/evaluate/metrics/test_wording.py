"""Sentences by their facts, counted by hand."""

import pytest

from fabrica.evaluate.metrics.wording import obeyed, wording_figures

NO, ONE = {"count": "no"}, {"count": "one", "size": "small", "side": "left"}


def test_counted_by_hand() -> None:
    said = [NO, {**ONE, "side": "right"}, NO, ONE]
    true = [NO, ONE, ONE, NO]
    texts = ["a", "b", "c", "d"]
    found = wording_figures(texts, ["A", "b ", "x", "y"], said, true)
    assert found == {
        "exact sentences": 0.5, "fact precision": pytest.approx(2 / 4), "fact recall": pytest.approx(2 / 6),
        "omitted": 0.5, "invented": 0.5,
    }  # fmt: skip


def test_what_nothing_can_be_said_of_is_left_out() -> None:
    assert wording_figures(["a"], ["a"], [NO], [NO]) == {"exact sentences": 1.0, "invented": 0.0}
    assert "invented" not in wording_figures(["a"], ["a"], [ONE], [ONE])


def test_obeyed() -> None:
    assert obeyed([{**ONE, "size": "large"}], [ONE]) == pytest.approx(2 / 3)
    assert obeyed([], []) is None
