"""What is computed another way than it is written gives what was written."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from fabrica.networks.blocks import channels_last, conv, enlarged
from fabrica.networks.normalisation import ChannelNorm

SIDES = (6, 5, 7)


def _gradients(result: Tensor, *of: Tensor) -> list[Tensor]:
    torch.manual_seed(3)
    return list(torch.autograd.grad((result * torch.randn(result.shape, dtype=result.dtype)).sum(), of))


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_enlarging_is_repeating_and_convolving(dimensions: int, factor: int) -> None:
    torch.manual_seed(0)
    layer = conv(dimensions, 3, 4, 3).double()
    x = torch.randn(2, 3, *SIDES[:dimensions], dtype=torch.double, requires_grad=True)
    repeated = x
    for axis in range(2, x.ndim):
        repeated = repeated.repeat_interleave(factor, axis)
    plain, ours = layer(repeated), enlarged(x, layer, factor)
    assert layer.bias is not None
    torch.testing.assert_close(ours, plain)
    known = (x, layer.weight, layer.bias)
    torch.testing.assert_close(_gradients(ours, *known), _gradients(plain, *known))


def test_kernels_are_summed_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    layer, x = conv(2, 8, 8, 3), torch.randn(1, 8, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        ours = enlarged(x, layer, 2)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), enlarged(x, layer, 2), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("depth", [2, 7, 8])
def test_a_lone_volume_becomes_what_it_becomes_beside_another(depth: int) -> None:
    torch.manual_seed(0)
    layer = conv(3, 16, 24, 3)
    x = torch.randn(1, 16, depth, 6, 5, requires_grad=True)
    ours = layer(x)
    beside = torch.nn.functional.conv3d(torch.cat([x, x]), layer.weight, layer.bias, padding=1)[:1]
    assert layer.bias is not None
    assert ours.shape == beside.shape
    torch.testing.assert_close(ours, beside)
    known = (x, layer.weight, layer.bias)
    torch.testing.assert_close(_gradients(ours, *known), _gradients(beside, *known), atol=1e-4, rtol=1e-4)


def test_a_plane_alone_has_no_halves_to_share() -> None:
    torch.manual_seed(0)
    layer, x = conv(3, 4, 4, 3), torch.randn(1, 4, 1, 6, 5)
    torch.testing.assert_close(layer(x), functional.conv3d(x, layer.weight, layer.bias, padding=1))


@pytest.mark.parametrize("kernel", [1, 2])
def test_other_kernels_go_their_way(kernel: int) -> None:
    torch.manual_seed(0)
    layer, x = conv(3, 4, 6, kernel, stride=kernel), torch.randn(1, 4, 8, 6, 4)
    torch.testing.assert_close(layer(x), functional.conv3d(x, layer.weight, layer.bias, stride=kernel))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN has one path")
@pytest.mark.parametrize("side", [8, 16])
def test_a_lone_volume_does_not_take_the_slow_path(side: int) -> None:
    layer = conv(3, 32, 32, 3)
    x = torch.randn(1, 32, side, side, side).contiguous(memory_format=channels_last(3)).requires_grad_()

    def slow(run: nn.Module) -> bool:
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            run(x).sum().backward()
        return any("slow_conv" in event.key for event in seen.key_averages())

    plain = nn.Conv3d(32, 32, 3, padding=1)
    assert slow(plain)  # or torch has mended it, and VolumeConv can go
    assert not slow(layer)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("layout", ["last", "first"])
def test_the_norm_of_channels_is_the_plain_one(dimensions: int, layout: str) -> None:
    torch.manual_seed(0)
    norm = ChannelNorm(6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, *SIDES[:dimensions]) * 3 + 1
    x = x.contiguous(memory_format=channels_last(dimensions)) if layout == "last" else x
    x.requires_grad_()
    normal = functional.layer_norm(x.movedim(1, -1), (6,), norm.weight, norm.bias).movedim(-1, 1)
    plain, ours = functional.silu(normal), norm(x)
    torch.testing.assert_close(ours, plain)
    known = (x, norm.weight, norm.bias)
    torch.testing.assert_close(_gradients(ours, *known), _gradients(plain, *known), atol=1e-5, rtol=1e-4)


def test_the_norm_of_channels_sees_no_neighbour_and_keeps_its_dtype() -> None:
    norm, x = ChannelNorm(8), torch.randn(1, 8, 5, 5)
    other = x.clone()
    other[..., 2, 2] += 10
    changed = (norm(other) != norm(x)).any(1)[0]
    assert changed.sum() == 1
    assert changed[2, 2]
    assert norm(x.bfloat16()).dtype == torch.bfloat16
