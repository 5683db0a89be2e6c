"""Names, options, types and missing evidence: asked before anything runs."""

from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint
from typing import Literal

import pytest

from fabrica import registry
from fabrica.contracts import Metric
from fabrica.evaluate import METRICS
from fabrica.registry import NotEvaluated, Table, build, check_options, check_type, measure
from fabrica.testing import check_metric


def test_near_names_are_offered() -> None:
    table = Table("family", {"diffusion": 1, "flow": 2})
    assert table.find("flow") == 2
    with pytest.raises(
        ValueError, match=r"Unknown family 'difusion'. Did you mean 'diffusion'\? Known: diffusion, flow."
    ):
        table.find("difusion")


def test_plug_ins_come_through_the_same_door(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("mine", "math:pi", "fabrica.family"),
        EntryPoint("twice", "math:pi", "g"),
        EntryPoint("twice", "math:e", "g"),
    ]

    class Found(list[EntryPoint]):
        names = {"mine", "twice"}  # noqa: RUF012

    monkeypatch.setattr(
        registry, "entry_points", lambda group, name=None: Found(p for p in points if name in (None, p.name))
    )
    table = Table("family", {"flow": 2.0})
    assert table.names() == ["flow", "mine", "twice"]
    assert table.find("mine") == pytest.approx(3.14159, abs=1e-4)
    with pytest.raises(ValueError, match="offered twice"):
        table.find("twice")


@pytest.mark.parametrize(
    ("value", "hint", "fits"),
    [(1, int, True), (True, int, False), (1, float, True), ("1", float, False), (True, bool, True), (1, bool, False),
     ("a", Literal["a", "b"], True), ("c", Literal["a", "b"], False), ([1, 2], tuple[int, ...], True), ([1, "x"], Sequence[int], False),
     (None, int | None, True), ("x", int | None, False), ({"a": 1}, Mapping[str, int], True), ([1, 2, 3], tuple[int, int], False)],
)  # fmt: skip
def test_types_of_plain_data(value: object, hint: object, fits: bool) -> None:
    if fits:
        check_type("x", value, hint)
    else:
        with pytest.raises(ValueError, match="expected"):
            check_type("x", value, hint)


def _thing(size: int, *, colour: str = "red", network: object = None) -> tuple[int, str]:
    return size, colour


def test_options() -> None:
    assert build("thing", _thing, {"size": 3}, network=1) == (3, "red")
    with pytest.raises(ValueError, match="Did you mean 'colour'"):
        build("thing", _thing, {"size": 3, "color": "blue"}, network=1)
    with pytest.raises(ValueError, match="needs 'size'"):
        check_options("thing", _thing, {}, ("network",))
    with pytest.raises(ValueError, match="expected whole number"):
        build("thing", _thing, {"size": 2.5}, network=1)


@pytest.mark.parametrize("name", METRICS.names())
def test_metrics_say_what_they_need(name: str) -> None:
    check_metric(METRICS.find(name))


def test_missing_evidence_is_named_never_guessed() -> None:
    metric = Metric(
        lambda generated, reference, *, data_range: data_range, ("generated", "reference"), "pixel", "higher", "dB"
    )
    assert str(measure(metric, {"generated": 1, "reference": 2})) == "not evaluated: needs data_range"
    assert measure(metric, {"generated": 1, "reference": 2, "data_range": 7.0}) == 7.0
    assert measure(metric, {"generated": 1}) == NotEvaluated(("reference", "data_range"))
