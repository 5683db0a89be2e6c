"""Rounds brought together: exact where it can be, and nobody's fault spoils them."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fabrica.families import Regression
from fabrica.jobs import Translation
from fabrica.learning.federation import (
    FederationError,
    LocalPlan,
    Update,
    combined,
    local_round,
    shared_weights,
    take_over,
)
from fabrica.networks.unet import UNetShape

from .test_loop import MemoryLoader

JOB = Translation(["T1w"], ["FLAIR"], vary=0.0)  # what varies by a row of a batch is not the same elsewhere


def _family(seed: int = 0) -> Regression:
    torch.manual_seed(seed)
    made = Regression(JOB.signature(), UNetShape((8, 16), 1), "fp32")
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.02 * torch.randn_like(p))  # ends that start at zero would hide what is behind them
    return made


class Part(MemoryLoader):
    """Some of the places, all of them in one batch, unturned: the images of a site."""

    def __init__(self, places: list[int]) -> None:
        super().__init__(batch=len(places))
        self.own = places

    def load(self, step: int):  # type: ignore[no-untyped-def]
        batch = self.rows(self.own, 0)
        whole = MemoryLoader(batch=12).rows(list(range(12)), 0)  # flips by place, whoever has it
        return replace(batch, images={n: whole.images[n][self.own] for n in batch.images}, affine=whole.affine[self.own],
                       values={n: v[self.own] for n, v in whole.values.items()})  # fmt: skip


def test_a_full_batch_step_of_three_sites_is_the_central_step() -> None:
    start = _family()
    sites = [[0, 1], [2, 3, 4, 5, 6], [7, 8, 9, 10, 11]]
    plan = LocalPlan(1, learning_rate=0.01, optimiser="sgd")
    updates = []
    for k, places in enumerate(sites):
        own = copy.deepcopy(start)
        loss = local_round(own, JOB, Part(places), plan)
        updates.append(Update(f"site {k}", shared_weights(own), len(places), loss))
    found = combined(shared_weights(start), updates, 3)
    central = copy.deepcopy(start)
    local_round(central, JOB, Part(list(range(12))), plan)
    for name, tensor in shared_weights(central).items():
        assert float((found.weights[name] - tensor).abs().max()) < 1e-5 * max(1.0, float(tensor.abs().max())), name
    assert any(float((t - shared_weights(start)[n]).abs().max()) > 1e-4 for n, t in found.weights.items())


def test_a_proximal_term_holds_a_site_at_the_shared_weights() -> None:
    moved = []
    for mu in (0.0, 100.0):
        own, start = _family(), shared_weights(_family())
        local_round(own, JOB, Part([0, 1, 2]), LocalPlan(5, learning_rate=0.005, optimiser="sgd", proximal=mu))
        after = shared_weights(own)
        moved.append(float(sum((after[n] - start[n]).square().sum() for n in start)) ** 0.5)
    assert moved[1] < 0.7 * moved[0]


def test_heads_that_stay_at_home_are_not_sent_and_not_overwritten() -> None:
    family = _family()
    names = list(family.state_dict())
    prefix = names[-1].rpartition(".")[0]
    sent = shared_weights(family, [prefix])
    assert not any(n.startswith(prefix) for n in sent)
    before = {n: t.clone() for n, t in family.state_dict().items() if n.startswith(prefix)}
    take_over(family, {n: torch.zeros_like(t) for n, t in sent.items()}, [prefix])
    assert all(torch.equal(family.state_dict()[n], t) for n, t in before.items())
    assert all(float(family.state_dict()[n].abs().max()) == 0 for n in sent)
    with pytest.raises(ValueError, match="keeps all weights at home"):
        shared_weights(family, [""])
    with pytest.raises(FederationError, match="do not fit this site's network"):
        take_over(family, {"x": torch.zeros(1)})


def _updates(**faults: Tensor) -> list[Update]:
    base = {"a": torch.zeros(4), "n": torch.tensor(3)}
    made = []
    for k, name in enumerate(("one", "two", "three", "four")):
        own = {"a": torch.full((4,), 1.0 + 0.1 * k), "n": torch.tensor(3)}
        if name in faults:
            own["a"] = faults[name]
        made.append(Update(name, own, k + 1, 0.5))
    assert base
    return made


BEFORE = {"a": torch.zeros(4), "n": torch.tensor(3)}


def test_sites_count_by_their_images() -> None:
    found = combined(BEFORE, _updates(), 4)
    expected = (1.0 * 1 + 1.1 * 2 + 1.2 * 3 + 1.3 * 4) / 10
    torch.testing.assert_close(found.weights["a"], torch.full((4,), expected))
    assert int(found.weights["n"]) == 3
    assert found.taken == ("one", "two", "three", "four")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (torch.tensor([1.0, float("nan"), 0, 0]), "numbers that are none"),
        (torch.full((4,), 1e4), "times as far as the others"),
        (torch.zeros(5), "has shape"),
    ],
)
def test_a_site_that_sends_nonsense_is_left_out_and_named(fault: Tensor, said: str) -> None:
    found = combined(BEFORE, _updates(two=fault), 3)
    assert found.taken == ("one", "three", "four")
    assert said in found.refused["two"]
    assert bool(torch.isfinite(found.weights["a"]).all())
    assert float(found.weights["a"].max()) < 1.4
    with pytest.raises(FederationError, match="3 of at least 4 sites"):
        combined(BEFORE, _updates(two=fault), 4)


def test_two_sites_cannot_tell_which_of_them_lies_out_and_nobody_is_a_fault() -> None:
    found = combined(BEFORE, _updates(two=torch.full((4,), 50.0))[:2], 2)
    assert found.taken == ("one", "two")
    with pytest.raises(FederationError, match="nobody else answered"):
        combined(BEFORE, [], 1)
    assert isinstance(_family(), nn.Module)
