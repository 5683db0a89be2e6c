"""Texts as conditions: empty is absent, padding changes nothing, words reach the image, other networks refuse them."""

import pytest
import torch

from fabrica.contracts import Condition, Field
from fabrica.networks.blocks import planes_and_vectors
from fabrica.networks.encoder import Encoder
from fabrica.networks.reader import Reader
from fabrica.networks.transformer import Transformer
from fabrica.networks.unet import UNet, UNetShape

TEXT = Field("findings", "token", 20, "", length=6)
SHAPES = {
    "unet": UNetShape((16, 32), 1), "one level": UNetShape((16,), 1), "transformer": UNetShape((48,), 2, kind="transformer"),
    "state-space": UNetShape((48,), 1, kind="state-space"), "unet, less memory": UNetShape((16, 32), 1, recompute=True),
}  # fmt: skip


def _net(kind: str, dimensions: int = 2) -> UNet | Transformer:
    torch.manual_seed(0)
    shape = SHAPES[kind]
    net = (UNet if shape.kind == "unet" else Transformer)(dimensions, 1, 1, (TEXT,), shape, "fp32")
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return net


def _told(words: list[list[int]], present: list[bool] | None = None) -> Condition:
    known = {} if present is None else {"findings": torch.tensor(present)}
    return Condition({"findings": torch.tensor(words)}, known)


def _answer(net: UNet | Transformer, condition: Condition, rows: int = 2) -> torch.Tensor:
    x = torch.randn(1, 1, *[8] * net.dimensions, generator=torch.Generator().manual_seed(1)).expand(
        rows, -1, *[-1] * net.dimensions
    )
    return net(x, torch.zeros(rows), condition).detach()


@pytest.mark.parametrize("kind", list(SHAPES))
@pytest.mark.parametrize("dimensions", [2, 3])
def test_words_reach_the_image_and_their_absence_is_one_answer(kind: str, dimensions: int) -> None:
    net = _net(kind, dimensions)
    found = _answer(net, _told([[3, 4, 5, 0, 0, 0], [3, 4, 6, 0, 0, 0]]))
    assert (found[0] - found[1]).abs().max() > 1e-4
    none = _answer(net, Condition())
    empty = _answer(net, _told([[0] * 6, [3, 4, 5, 0, 0, 0]], [True, False]))
    torch.testing.assert_close(empty, none, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(none[0], none[1])
    assert (found - none).abs().max() > 1e-4
    order = _answer(net, _told([[3, 4, 5, 0, 0, 0], [5, 4, 3, 0, 0, 0]]))
    assert (order[0] - order[1]).abs().max() > 1e-5


@pytest.mark.parametrize("kind", ["unet", "transformer"])
def test_at_first_cross_attention_changes_nothing_and_it_learns(kind: str) -> None:
    torch.manual_seed(0)
    shape = SHAPES[kind]
    net = (UNet if shape.kind == "unet" else Transformer)(2, 1, 1, (TEXT,), shape, "fp32")
    torch.nn.init.normal_(net.head.weight, std=0.1)  # an end at zero would hide everything
    net.zero_grad()
    x = torch.randn(2, 1, 8, 8)
    net(x, torch.zeros(2), _told([[3, 4, 5, 0, 0, 0], [3, 4, 6, 0, 0, 0]])).square().mean().backward()
    assert all(m.out.weight.grad is not None and m.out.weight.grad.abs().max() > 0 for m in net.meet)


def test_a_row_is_read_without_its_neighbours_and_without_padding() -> None:
    torch.manual_seed(0)
    reader = Reader((TEXT,), 16)
    both = reader(_told([[3, 4, 5, 0, 0, 0], [7, 8, 0, 0, 0, 0]]), 2, torch.device("cpu"))
    alone = reader(_told([[7, 8, 0, 0, 0, 0]]), 1, torch.device("cpu"))
    torch.testing.assert_close(both.whole[1:], alone.whole)
    assert both.there.tolist() == [[True, True, True, True, False, False, False], [True, True, True, *[False] * 4]]


def test_networks_that_read_nothing_say_so() -> None:
    with pytest.raises(ValueError, match="reads no texts, and is given findings"):
        planes_and_vectors((TEXT,))
    with pytest.raises(ValueError, match="reads no texts"):
        Encoder(2, 1, 1, (TEXT,), UNetShape((16,), 1))
