"""The nouns refuse what cannot be, and rows of a problem are rows of all its parts."""

import pytest
import torch

from fabrica.contracts import Condition, Field, Image, Problem


def test_an_image_knows_its_shape_and_place() -> None:
    affine = torch.diag(torch.tensor([3.0, 2.0, 1.5, 1.0])).double()
    image = Image(torch.zeros(1, 2, 3, 4), "zyx", affine, Field("T1w"))
    assert image.spacing_mm == (3.0, 2.0, 1.5)
    with pytest.raises(ValueError, match="expected yx"):
        Image(torch.zeros(1, 2, 3), "xy", affine, Field("T1w"))
    with pytest.raises(ValueError, match=r"expected \(C, z, y, x\)"):
        Image(torch.zeros(2, 3, 4), "zyx", affine, Field("T1w"))
    for wrong in (torch.zeros(4, 4), affine * float("nan")):
        with pytest.raises(ValueError, match="invertible"):
            Image(torch.zeros(1, 2, 3, 4), "zyx", wrong, Field("T1w"))


def test_conditions_are_dropped_not_forgotten() -> None:
    condition = Condition({"age": torch.arange(3.0)}, {"age": torch.tensor([True, False, True])})
    dropped = condition.drop("age")
    assert torch.equal(dropped.values["age"], condition.values["age"])
    assert not dropped.present["age"].any()
    assert condition.present["age"].sum() == 2


def test_rows_in_any_order_and_number() -> None:
    problem = Problem(
        ("a", "b"), (1, 2), Condition({"age": torch.tensor([1.0, 2.0])}, {"age": torch.tensor([True, False])}),
        target=torch.tensor([[[1.0, 1]], [[2.0, 2]]]), weight=torch.tensor([[[1.0]], [[0.0]]]), paired=torch.tensor([True, False]),
    )  # fmt: skip
    some = problem.rows(torch.tensor([1, 1, 0]))
    assert some.cases == ("b", "b", "a")
    assert some.condition.values["age"].tolist() == [2, 2, 1]
    assert some.condition.present["age"].tolist() == [False, False, True]
    assert some.target is not None
    assert some.weight is not None
    assert some.paired is not None
    assert some.target[:, 0, 0].tolist() == [2, 2, 1]
    assert some.weight.flatten().tolist() == [0, 0, 1]
    assert some.paired.tolist() == [False, False, True]
