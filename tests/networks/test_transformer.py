"""Networks of tokens behind the same call: laws, positions, what is refused."""

from dataclasses import replace

import pytest
import torch

from fabrica.contracts import Condition, Field, Problem, Signature
from fabrica.families import FAMILIES
from fabrica.networks.tiled import tiled
from fabrica.networks.transformer import HEAD, Transformer, rotated, rotations
from fabrica.networks.unet import UNetShape
from fabrica.recipe.checks import from_plain
from fabrica.recipe.text import RecipeError
from fabrica.rng import Rng
from fabrica.testing import check_family

SHAPES = {kind: UNetShape((HEAD,), 2, patch=2, kind=kind) for kind in ("transformer", "state-space")}
every_kind = pytest.mark.parametrize("kind", SHAPES)


def _settled(net: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for parameter in net.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return net


@pytest.mark.parametrize("axes", ["yx", "zyx"])
@pytest.mark.parametrize("name", ["consistency", "diffusion", "flow", "gan", "regression", "shortcut"])
@every_kind
def test_families_run_on_it(name: str, axes: str, kind: str) -> None:
    signature = Signature((Field("FLAIR"),), axes, (Field("T1w"), Field("class", "class", 2)))
    family = _settled(FAMILIES.find(name)(signature, SHAPES[kind], "fp32"))
    assert any(isinstance(m, Transformer) for m in family.modules())
    side = (8,) * len(axes)
    condition = Condition({"T1w": torch.rand(2, 1, *side), "class": torch.tensor([0, 1])})
    check_family(family, Problem(("a", "b"), (1, *side), condition, target=torch.rand(2, 1, *side)))


def test_inner_products_depend_on_differences_of_places() -> None:
    q, k = torch.randn(2, HEAD)
    turn = rotations((6, 5), torch.device("cpu")).reshape(6, 5, -1)

    def product(a: tuple[int, int], b: tuple[int, int]) -> float:
        return float(rotated(q[None], turn[a][None]) @ rotated(k[None], turn[b][None]).T)

    assert product((0, 0), (2, 1)) == pytest.approx(product((3, 2), (5, 3)), abs=1e-4)
    assert product((0, 0), (2, 1)) != pytest.approx(product((0, 0), (1, 2)), abs=1e-3)


@every_kind
@pytest.mark.parametrize("dimensions", [2, 3])
def test_tokens_go_back_to_their_place(dimensions: int, kind: str) -> None:
    """A head that copies its own patch's stem: what is bright in one corner answers in that corner."""
    net = _settled(Transformer(dimensions, 1, 1, (), SHAPES[kind]))
    x = torch.zeros(1, 1, *[8] * dimensions)
    other = x.clone()
    other[(0, 0, *[7] * dimensions)] = 10.0
    change = (net(other, torch.zeros(1), Condition()) - net(x, torch.zeros(1), Condition())).abs()
    assert change.shape == x.shape
    corner = change[(0, 0, *[slice(6, 8)] * dimensions)].mean()
    assert corner > 2 * change.mean()


@every_kind
def test_other_grids_windows_and_recomputing(kind: str) -> None:
    family = FAMILIES.find("flow")(Signature((Field("FLAIR"),), "yx"), SHAPES[kind], "fp32")
    assert family.sample(Problem(("a",), (1, 12, 20)), Rng([0])).shape == (1, 1, 12, 20)
    with tiled(family, (8, 8)):
        assert family.sample(Problem(("a",), (1, 12, 20)), Rng([0])).shape == (1, 1, 12, 20)
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(1)
        net = _settled(Transformer(2, 1, 1, (), replace(SHAPES[kind], recompute=recompute)))
        x = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8)
        net(x, torch.zeros(1), Condition()).square().sum().backward()
        gradients.append(net.stem.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 2"):
        Transformer(2, 1, 1, (), SHAPES["transformer"])(torch.zeros(1, 1, 7, 8), torch.zeros(1), Condition())
    recipe = {
        "cohorts": {"a": {"path": "x"}}, "job": {"name": "synthesis", "x": ["T1w"]}, "train": {"steps": 1},
        "family": {"name": "flow", "network": {"kind": "transformer", "channels": [100]}},
    }  # fmt: skip
    with pytest.raises(RecipeError, match=r"Write: channels: \[144\]"):
        from_plain(recipe)
    recipe["family"]["network"] = {"kind": "mamba"}
    with pytest.raises(RecipeError, match="'transformer'"):
        from_plain(recipe)
