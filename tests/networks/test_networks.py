"""Shapes, conditions that matter, precision, averages."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from fabrica.contracts import Condition, Field
from fabrica.machine.device import peak_bytes
from fabrica.networks.average import Average
from fabrica.networks.normalisation import group_norm, norm_silu
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


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_lean_norm_is_the_plain_one_with_less_memory(modulated: bool, dimensions: int, channels_last: bool) -> None:
    rows, channels, side = 3, 24, 6
    layout = {2: torch.channels_last, 3: torch.channels_last_3d}[dimensions]
    torch.manual_seed(0)
    norm = group_norm(channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(rows, channels, *[side] * dimensions) * 3 + 5
    x = x.contiguous(memory_format=layout) if channels_last else x
    given = [x] + [torch.randn(rows, channels, *[1] * dimensions) for _ in range(2 * modulated)]
    weight = torch.randn_like(x)

    def plain(x: torch.Tensor, scale: torch.Tensor | None = None, shift: torch.Tensor | None = None) -> torch.Tensor:
        y = norm(x)
        return functional.silu(y if scale is None or shift is None else y * (1 + scale) + shift)

    found = []
    for run in (plain, lambda *values: norm_silu(norm, *values)):
        leaves = [v.clone().requires_grad_() for v in given]
        norm.zero_grad()
        y = run(*leaves)
        (y * weight).sum().backward()
        found.append([y, *[v.grad for v in leaves], norm.weight.grad.clone(), norm.bias.grad.clone()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=2e-5, atol=2e-5)
    assert found[1][0].stride() == x.stride()


def test_bfloat16_goes_in_and_comes_out_and_gradients_agree() -> None:
    norm = group_norm(16)
    x = torch.randn(2, 16, 8, 8).bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    y = norm_silu(norm, x)
    y.float().square().sum().backward()
    wide = x.detach().float().requires_grad_()
    functional.silu(norm(wide)).square().sum().backward()
    assert y.dtype == x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(x.grad.float(), wide.grad, rtol=0.05, atol=0.05)


def test_a_training_step_keeps_less(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, level = _net(), torch.randn(4, 1, 64, 64), torch.rand(4)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def step() -> None:
        net(x, level, Condition()).square().mean().backward()

    def plain(norm: nn.GroupNorm, x: torch.Tensor, scale: object = None, shift: object = None) -> torch.Tensor:
        y = norm(x)
        return functional.silu(y if scale is None else torch.addcmul(shift, y, 1 + scale))  # type: ignore[call-overload]

    lean = peak_bytes(step)
    for place in ("unet", "blocks"):
        monkeypatch.setattr(f"fabrica.networks.{place}.norm_silu", plain)
    assert lean < 0.8 * peak_bytes(step)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_recomputing_changes_memory_and_no_gradient(dimensions: int) -> None:
    x, level = torch.randn(2, 1, *[32] * dimensions), torch.rand(2)
    gradients, peaks = [], []
    for recompute in (False, True):
        torch.manual_seed(0)
        net = UNet(dimensions, 1, 1, (), UNetShape((8, 16), 2, recompute=recompute))
        for parameter in net.parameters():
            parameter.data += 0.05
            parameter.grad = torch.zeros_like(parameter)
        peaks.append(peak_bytes(lambda net=net: net(x, level, Condition()).square().mean().backward()))
        gradients.append([p.grad for p in net.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    assert peaks[1] < 0.75 * peaks[0]


def test_a_norm_without_gradients_is_an_inference() -> None:
    norm, x = group_norm(8), torch.randn(2, 8, 4, 4)
    with torch.inference_mode():
        torch.testing.assert_close(norm_silu(norm, x), functional.silu(norm(x)))


@pytest.mark.parametrize("channels", [1, 3, 4, 8, 12, 16, 24, 32, 48, 100, 192])
def test_no_channel_is_normalised_alone(channels: int) -> None:
    """A lone channel would lose how bright an image is: narrow networks learned nothing then."""
    norm = group_norm(channels)
    assert norm.num_groups == 1 or channels // norm.num_groups >= 4
    assert norm.num_groups <= 8


@pytest.mark.parametrize("patch", [1, 2])
def test_what_enters_reaches_the_head_whole(patch: int) -> None:
    """However narrow the stem: the head alone can copy every voxel of every channel."""
    net = UNet(3, 4, 4, (), UNetShape((4,), 1, patch=patch))
    width = net.head.weight.shape[1] - 4 * patch**3
    torch.nn.init.zeros_(net.head.weight)
    for k in range(4 * patch**3):
        net.head.weight.data[(k, width + k, *[net.head.kernel_size[0] // 2] * 3)] = 1.0
    x = torch.randn(2, 4, 4, 4, 8)
    torch.testing.assert_close(net(x, torch.zeros(2), Condition()), x)
