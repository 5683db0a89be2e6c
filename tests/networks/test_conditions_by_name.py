"""Conditions enter by their place among the fields, whatever they are called."""

import pytest
import torch

from fabrica.contracts import Condition, Field
from fabrica.networks.unet import UNet, UNetShape


@pytest.mark.parametrize("name", ["type", "half", "T1.5 field", "forward"])
def test_a_condition_may_have_any_name(name: str) -> None:
    net = UNet(2, 1, 1, (Field(name, "class", 2), Field(f"{name} 2", "number")), UNetShape((8,), 1, patch=1))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, level = torch.rand(2, 1, 8, 8), torch.zeros(2)
    one, other = (
        net(x, level, Condition({name: torch.tensor(c), f"{name} 2": torch.zeros(2)})) for c in ([0, 0], [0, 1])
    )
    assert torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])
