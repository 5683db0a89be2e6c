"""Steps of the optimiser: what is orthogonal, what is AdamW's, and which weights are which."""

import copy
from typing import Literal

import pytest
import torch
from torch import nn

from fabrica.contracts import Field, Signature
from fabrica.families.gan import Gan
from fabrica.learning.optimiser import COEFFICIENTS, MOMENTUM, SIZE, STEPS, Muon, matrices, optimisers, orthogonalised
from fabrica.networks.codec import Decoder, Encoder
from fabrica.networks.discriminator import Discriminator
from fabrica.networks.encoder import Encoder as ToNumbers
from fabrica.networks.transformer import Transformer
from fabrica.networks.unet import UNet, UNetShape

SHAPES = [(16, 16), (24, 200), (200, 24), (64, 63)]


def by_definition(matrix: torch.Tensor) -> torch.Tensor:
    """The quintic on singular values, in float64."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    s, (a, b, c) = s / s.norm(), COEFFICIENTS
    for _ in range(STEPS):
        s = a * s + b * s**3 + c * s**5
    return u @ s.diag() @ v


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_is_the_quintic_of_singular_values(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(orthogonalised(matrix).double(), by_definition(matrix), atol=3e-5, rtol=0)


def test_a_step_turns_large_directions_and_small_ones_alike() -> None:
    u, _, v = torch.linalg.svd(torch.randn(40, 90, generator=torch.Generator().manual_seed(2)), full_matrices=False)
    values = torch.linalg.svdvals(orthogonalised(u @ torch.logspace(0, -2, 40).diag() @ v))
    assert values.min() > 0.6
    assert values.max() < 1.25


def test_no_gradient_is_no_step_and_not_a_number() -> None:
    assert orthogonalised(torch.zeros(20, 30)).abs().max() == 0


def test_the_library_takes_the_same_steps() -> None:
    """torch.optim.Muon rounds to bfloat16 inside."""
    start = torch.randn(32, 48, generator=torch.Generator().manual_seed(3))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    one = Muon([ours], {ours}, 0.02)
    other = torch.optim.Muon([theirs], 0.02, weight_decay=1e-4, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw")
    for k in range(5):
        gradient = torch.randn(32, 48, generator=torch.Generator().manual_seed(10 + k))
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        one.step()
        other.step()
    moved, wanted = ours.detach() - start, theirs.detach() - start
    assert (moved - wanted).norm() < 0.02 * wanted.norm()


def test_what_is_no_matrix_moves_as_the_library_has_it() -> None:
    net = nn.Sequential(nn.Conv2d(2, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 2, 3)).to(
        memory_format=torch.channels_last
    )
    same = nn.Sequential(nn.Conv2d(2, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 2, 3)).to(
        memory_format=torch.channels_last
    )
    same.load_state_dict(net.state_dict())
    assert matrices(net) == set()
    one = Muon(net.parameters(), matrices(net), 3e-3)
    other = torch.optim.AdamW(same.parameters(), 3e-3, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    for k in range(4):
        x = torch.randn(3, 2, 9, 9, generator=torch.Generator().manual_seed(k))
        for optimiser, module in ((one, net), (other, same)):
            optimiser.zero_grad()
            module(x).square().mean().backward()
            optimiser.step()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), same.parameters(), strict=True))


def test_an_update_has_the_size_of_adams_whatever_the_shape() -> None:
    for shape in SHAPES:
        p = nn.Parameter(torch.zeros(shape))
        p.grad = torch.randn(shape, generator=torch.Generator().manual_seed(4)) * 1e-4
        Muon([p], {p}, 1.0).step()
        assert 0.6 * SIZE < p.detach().square().mean().sqrt() < 1.25 * SIZE


def test_parameters_without_a_gradient_stay() -> None:
    p, q = nn.Parameter(torch.ones(20, 20)), nn.Parameter(torch.ones(5))
    Muon([p, q], {p}, 1.0).step()
    assert p.detach().eq(1).all()
    assert q.detach().eq(1).all()


def _turned(net: nn.Module) -> set[str]:
    named = {id(p): n for n, p in net.named_parameters()}
    return {named[id(p)] for p in matrices(net)}


def test_ends_norms_and_tables_are_no_matrices() -> None:
    """A wide head too: three labels in patches of eight voxels are 24 rows, and start at zero."""
    shape = UNetShape(channels=(16, 32), blocks=1)
    net = UNet(3, 3, 3, (Field("class", "class", 40), Field("report", "embedding", 64)), shape)
    turned = _turned(net)
    assert len(net.head.weight) == 24
    assert {"down.0.conv1.weight", "middle.attention.qkv.weight", "embed.0.weight"} <= turned
    assert not any(n.split(".")[0] in ("stem", "head", "gain", "entries") for n in turned)
    assert not any("norm" in name or name.endswith("bias") for name in turned)


@pytest.mark.parametrize("kind", ["transformer", "state-space"])
def test_ends_of_networks_of_tokens(kind: Literal["transformer", "state-space"]) -> None:
    volume = Transformer(3, 3, 3, (), UNetShape(channels=(96,), blocks=1, patch=2, kind=kind))
    turned = _turned(volume)
    assert "modulate.weight" in turned
    assert not any(n.split(".")[0] in ("stem", "head", "entries") for n in turned)
    depthwise = {n for n, m in volume.named_modules() if isinstance(m, nn.Conv3d) and m.groups > 1}
    assert bool(depthwise) == (kind == "state-space")
    assert not turned & {f"{n}.weight" for n in depthwise}


def test_ends_of_codecs_critics_and_networks_to_numbers() -> None:
    shape, wide = UNetShape(channels=(16, 32), blocks=1), 40
    for codec in (Encoder(2, wide, wide, shape), Decoder(2, wide, wide, shape)):
        turned, last = _turned(codec), len(codec.layers) - 1
        assert turned
        assert not turned & {"layers.0.weight", f"layers.{last}.weight"}
    critic = Discriminator(2, wide, (Field("class", "class", 3),), shape)
    assert {"blocks.0.conv1.weight", "project.weight"} <= _turned(critic)
    assert not any(n.split(".")[0] in ("stem", "head", "entries") for n in _turned(critic))
    numbers = ToNumbers(2, 0, wide, (Field("T1w"),), shape)
    assert "head.0.weight" in _turned(numbers)
    assert not _turned(numbers) & {"stem.weight", "head.2.weight"}


def test_a_copy_keeps_its_ends() -> None:
    net = UNet(3, 3, 3, (), UNetShape(channels=(16, 32), blocks=1))
    assert _turned(copy.deepcopy(net)) == _turned(net)


def test_weights_that_a_parametrisation_makes_are_left_to_adamw() -> None:
    gan = Gan(Signature((Field("image"),), "yx"), UNetShape(channels=(16, 32), blocks=1), "fp32", penalty=0.0)
    names = {id(p): n for n, p in gan.named_parameters()}
    turned = {names[id(p)] for p in matrices(gan)}
    assert any(n.startswith("generator") for n in turned)
    assert not any("parametrizations" in n for n in turned)


def test_rivals_take_no_momentum_and_smaller_steps_unless_told() -> None:
    """What a generator and its critic did some steps ago does not move them: known answer by hand."""
    net = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20))
    alone = optimisers(net, {"model": net.parameters()})
    assert alone["model"].rate == 3e-3
    assert {id(p) for p in alone["model"].param_groups[1]["params"]} == {id(net[0].weight), id(net[1].weight)}
    rivals = {"critic": net[0].parameters(), "model": net[1].parameters()}
    against = optimisers(net, rivals)
    assert [o.rate for o in against.values()] == [5e-4, 5e-4]
    assert not any(o.param_groups[1]["params"] for o in against.values())
    weight, before = net[1].weight, net[1].weight.detach().clone()
    for gradient in (1.0, -1.0):
        weight.grad = torch.full_like(weight, gradient)
        against["model"].step()
    # |g| is 1 both times, so each step is the learning rate against its own gradient alone: there and back
    torch.testing.assert_close(weight.detach(), before, atol=1e-6, rtol=0)
    rivals = {"critic": net[0].parameters(), "model": net[1].parameters()}
    told = optimisers(net, rivals, "muon", 0.01)
    assert [o.rate for o in told.values()] == [0.01, 0.01]
    assert all(len(o.param_groups[1]["params"]) == 1 for o in told.values())
