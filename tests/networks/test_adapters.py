"""Low-rank adapters: nothing is changed at first, little is learned, and merged weights answer alike."""

import pytest
import torch
from torch import nn

from fabrica.contracts import Condition
from fabrica.networks.adapters import LowRank, adapt, factors, merge, merged
from fabrica.networks.unet import UNet, UNetShape


def _net() -> UNet:
    torch.manual_seed(0)
    net = UNet(2, 1, 1, (), UNetShape((16, 32), 1), "fp32")
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return net


def _answer(net: nn.Module) -> torch.Tensor:
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    return net(x, torch.zeros(2), Condition())


def test_at_first_nothing_is_changed_and_little_learns() -> None:
    net = _net()
    before, total = _answer(net).detach(), sum(p.numel() for p in net.parameters())
    learned = adapt(net, set(net.parameters()), 2)
    torch.testing.assert_close(_answer(net), before, atol=1e-6, rtol=1e-6)
    assert learned < 0.25 * total
    assert {n.rpartition(".")[2] for n, p in net.named_parameters() if p.requires_grad} == {"up", "down"}
    _answer(net).square().mean().backward()
    assert all((p.grad is not None) == p.requires_grad for p in net.parameters())


def test_merged_weights_answer_alike_in_the_module_and_in_a_file() -> None:
    net, plain = _net(), _net()
    adapt(net, set(net.parameters()), 3)
    for part in net.modules():
        if isinstance(part, LowRank):
            nn.init.normal_(part.up, std=0.1)
    wanted, thin = _answer(net).detach(), factors(net)
    plain.load_state_dict(merged(plain.state_dict(), thin))
    torch.testing.assert_close(_answer(plain), wanted, atol=1e-5, rtol=1e-5)
    merge(net)
    torch.testing.assert_close(_answer(net), wanted, atol=1e-5, rtol=1e-5)
    assert net.state_dict().keys() == plain.state_dict().keys()
    assert (_answer(_net()) - wanted).abs().max() > 0.01


def test_only_layers_that_were_to_be_trained_change() -> None:
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8))
    adapt(net, set(net[1].parameters()), 2)
    assert {n.partition(".")[0] for n, p in net.named_parameters() if p.requires_grad} == {"1"}
    with pytest.raises(ValueError, match="takes an adapter"):
        adapt(nn.GroupNorm(2, 8), set(), 2)
    with pytest.raises(KeyError):
        merged({}, {"a.up": torch.zeros(2, 1), "a.down": torch.zeros(1, 2)})
    with pytest.raises(ValueError, match="has the shape"):
        merged({"a.weight": torch.zeros(3, 2)}, {"a.up": torch.zeros(2, 1), "a.down": torch.zeros(1, 2)})
