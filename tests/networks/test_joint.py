"""The network of images and words: what is hidden has no influence, what is given has, and both ways."""

import pytest
import torch

from fabrica.contracts import POSITION, Condition, Field, Signature
from fabrica.networks.backbone import backbone
from fabrica.networks.joint import BINS, SPAN, Joint, as_value, as_words, middles, positions
from fabrica.networks.tiled import Tiled, tiled
from fabrica.networks.unet import UNetShape
from fabrica.rng import Rng

TEXT, SEX, AGE = Field("findings", "token", 20, "", length=5), Field("sex", "class", 2), Field("age", "number")
X = (Field("T1w"), Field("lesion", "label", 2))
SIGNATURE = Signature(X, "yx", (*X, TEXT, SEX, AGE, POSITION), beside=(TEXT, SEX, AGE))
SHAPE = UNetShape(channels=(8, 16, 24), blocks=1)


@pytest.fixture(scope="module")
def net() -> Joint:
    torch.manual_seed(0)
    made = backbone(SIGNATURE, 3, SHAPE, "fp32")
    assert isinstance(made, Joint)
    with torch.no_grad():  # ends start at zero: everything has to answer
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made.eval()


def _condition(**given: bool) -> Condition:
    rng = Rng([0, 1])
    values = {
        "T1w": rng.child("t").uniform(1, 16, 16), "lesion": torch.ones(2, 2, 16, 16) * 0.5, "position": torch.zeros(2),
        "findings": torch.tensor([[3, 4, 5, 0, 0], [6, 7, 0, 0, 0]]), "sex": torch.tensor([0, 1]), "age": torch.tensor([-1.0, 1.5]),
    }  # fmt: skip
    return Condition(values, {n: torch.full((2,), given.get(n, False)) for n in values if n != "position"})


def _ask(net: Joint, condition: Condition, known: dict[str, torch.Tensor] | None = None) -> tuple:
    x = Rng([5, 6]).normal(3, 16, 16)
    with torch.no_grad():
        images, words = net.both(x, torch.tensor([0.1, 0.3]), condition, known)
        assert torch.equal(net(x, torch.tensor([0.1, 0.3]), condition), images) or known
        heard = net.heard(net.looked(x, torch.tensor([0.1, 0.3]), condition), condition, known)
    assert all(torch.equal(heard[n], words[n]) for n in words)
    return images, words


def test_shapes(net: Joint) -> None:
    images, words = _ask(net, _condition())
    assert images.shape == (2, 3, 16, 16)
    assert {n: tuple(w.shape) for n, w in words.items()} == {
        "findings": (2, 5, 20),
        "sex": (2, 1, 2),
        "age": (2, 1, BINS),
    }


@pytest.mark.parametrize("name", ["T1w", "findings", "sex", "age"])
def test_what_is_hidden_changes_nothing_and_what_is_given_changes_images_and_words(net: Joint, name: str) -> None:
    hidden, given = _condition(), _condition(**{name: True})
    turned = {**hidden.values, name: hidden.values[name].flip(0)}
    for part in (0, 1):
        one, other = _ask(net, hidden)[part], _ask(net, Condition(turned, hidden.present))[part]
        same = torch.equal(one, other) if part == 0 else all(torch.equal(one[n], other[n]) for n in one)
        assert same, f"hidden {name} is seen"
        one, other = _ask(net, given)[part], _ask(net, Condition(turned, given.present))[part]
        differs = not torch.equal(one, other) if part == 0 else not torch.equal(one["findings"], other["findings"])
        assert differs, f"given {name} is not seen"


def test_what_a_walk_makes_of_a_given_image_is_not_looked_at(net: Joint) -> None:
    """Training never asks for it, so that a walk may lead anywhere: even where nothing is a number."""
    x, level = Rng([5, 6]).normal(3, 16, 16), torch.tensor([0.1, 0.3])
    lost = x.clone()
    lost[:, :1] = torch.nan
    with torch.no_grad():
        for given in (True, False):
            condition = _condition(T1w=given)
            same = torch.equal(net(x, level, condition), net(lost, level, condition))
            assert same == given


def test_single_words_can_be_hidden(net: Joint) -> None:
    known = {"findings": torch.tensor([[True, True, False, False, False]] * 2)}
    condition = _condition()
    before = _ask(net, condition, known)[1]["findings"]
    for place, seen in ((1, True), (2, False)):
        words = condition.values["findings"].clone()
        words[:, place] = 9
        after = _ask(net, Condition({**condition.values, "findings": words}, condition.present), known)[1]["findings"]
        assert torch.equal(before, after) != seen


def test_numbers_lie_in_bins_and_come_back() -> None:
    value = torch.linspace(-SPAN + 0.01, SPAN - 0.01, 200)
    words = as_words(AGE, value)
    assert words.shape == (200, 1)
    assert float((as_value(AGE, words) - value).abs().max()) <= SPAN / BINS + 1e-6
    assert torch.equal(as_words(AGE, middles(value.device))[:, 0], torch.arange(BINS))
    assert as_words(AGE, torch.tensor([-99.0, 99.0])).flatten().tolist() == [0, BINS - 1]
    assert [positions(f) for f in (TEXT, SEX, AGE)] == [5, 1, 1]


def test_odd_sides_are_refused_with_what_they_must_be(net: Joint) -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        net(torch.zeros(1, 3, 12, 12), torch.zeros(1), Condition({"position": torch.zeros(1)}))
    with pytest.raises(ValueError, match="made of convolutions"):
        backbone(SIGNATURE, 3, UNetShape(channels=(48,), kind="transformer"), "fp32")


def test_it_works_by_windows_as_a_whole(net: Joint) -> None:
    holder = torch.nn.ModuleList([net])
    with tiled(holder, (8, 8)):
        assert isinstance(holder[0], Tiled)
        assert holder[0](torch.zeros(2, 3, 16, 16), torch.zeros(2), _condition(T1w=True)).shape == (2, 3, 16, 16)
    assert holder[0] is net
