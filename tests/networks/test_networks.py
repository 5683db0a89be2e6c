"""Shapes, conditions that matter, precision, averages."""

import pytest
import torch

from fabrica.contracts import Condition, Field
from fabrica.networks import precision
from fabrica.networks.average import Average
from fabrica.networks.unet import UNet, UNetShape

FIELDS = (Field("T1w"), Field("lesion", "label", 2), Field("age", "number"), Field("class", "class", 4))


def _net(dimensions: int = 2, patch: int = 2, chosen: str = "fp32") -> UNet:
    torch.manual_seed(0)
    net = UNet(dimensions, 1, 2, FIELDS, UNetShape((8, 16), 1, patch), chosen)
    for parameter in net.parameters():  # layers that start at zero hide what comes before them
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return net


def _condition(dimensions: int, rows: int = 2) -> Condition:
    side = (8,) * dimensions
    return Condition(
        {
            "T1w": torch.rand(rows, 1, *side),
            "lesion": torch.rand(rows, 2, *side),
            "age": torch.rand(rows),
            "class": torch.arange(rows),
        }
    )


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("patch", [1, 2])
def test_shapes(dimensions: int, patch: int) -> None:
    x = torch.randn(2, 1, *(8,) * dimensions)
    y = _net(dimensions, patch)(x, torch.zeros(2), _condition(dimensions))
    assert y.shape == (2, 2, *(8,) * dimensions)
    assert y.dtype == torch.float32


@pytest.mark.parametrize("name", ["T1w", "lesion", "age", "class"])
def test_every_condition_matters_and_can_be_missing(name: str) -> None:
    net, x, condition = _net(), torch.randn(2, 1, 8, 8), _condition(2)
    full = net(x, torch.zeros(2), condition)
    dropped = net(x, torch.zeros(2), condition.drop(name))
    assert not torch.allclose(full, dropped)
    values = dict(condition.values)
    values[name] = values[name] + 1 if name != "class" else (values[name] + 1) % 4
    changed = Condition(values, condition.drop(name).present)
    torch.testing.assert_close(net(x, torch.zeros(2), changed), dropped)
    absent = Condition({k: v for k, v in condition.values.items() if k != name})
    torch.testing.assert_close(net(x, torch.zeros(2), absent), dropped)


def test_noise_level_matters() -> None:
    net, x = _net(), torch.randn(2, 1, 8, 8)
    assert not torch.allclose(net(x, torch.zeros(2), _condition(2)), net(x, torch.ones(2), _condition(2)))


def test_unfold_puts_pixels_where_they_were() -> None:
    """A stem and head that only move pixels must give the input back: checked on the index arithmetic alone."""
    net = UNet(2, 1, 1, (), UNetShape((8, 16), 1, 2))
    x = torch.arange(64.0).reshape(1, 1, 8, 8)
    folded = x.reshape(1, 1, 4, 2, 4, 2).permute(0, 1, 3, 5, 2, 4).reshape(1, 4, 4, 4)
    assert torch.equal(net._unfold(folded), x)


def test_odd_sides_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        _net()(torch.randn(1, 1, 10, 8), torch.zeros(1), Condition())


def test_bfloat16_is_close_to_float32() -> None:
    x, condition = torch.randn(2, 1, 8, 8), _condition(2)
    slow, fast = _net()(x, torch.zeros(2), condition), _net(chosen="bf16")(x, torch.zeros(2), condition)
    assert float((slow - fast).detach().abs().max()) < 0.05 * float(slow.detach().abs().max())


def test_precision_is_measured() -> None:
    assert precision.bfloat16_gain() > 0
    assert precision.choose() == ("bf16" if precision.bfloat16_gain() >= precision.WORTH_IT else "fp32")


def test_average_follows_slowly() -> None:
    fast = torch.nn.Linear(2, 2)
    slow = Average(fast, 0.9)
    start = slow.slow.weight.clone()
    with torch.no_grad():
        fast.weight += 1
    slow.update(10_000)
    torch.testing.assert_close(slow.slow.weight, start + 0.1)
    slow.update(0)  # early on the average forgets quickly
    torch.testing.assert_close(slow.slow.weight, start + 0.1 + 0.9 * 0.9)
    assert not any(p.requires_grad for p in slow.slow.parameters())
