"""Guidance: its formula, its band, its cost, and what a recipe refuses."""

from collections.abc import Iterable, Mapping

import pytest
import torch
from torch import Tensor, nn

from fabrica.contracts import Condition, Denoiser, Problem
from fabrica.families import Drawn, Guided, with_guidance
from fabrica.families.guided import Strengthened
from fabrica.recipe.checks import from_plain
from fabrica.recipe.text import RecipeError
from fabrica.rng import Rng
from fabrica.run.family import build_family, drawer
from fabrica.testing import check_family


class Pull(Denoiser):
    """Answers the class where it is known and 0 where it is not; counts the rows that it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return {}

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        raise NotImplementedError

    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        raise NotImplementedError

    def denoise(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        self.rows.append(len(x))
        known = condition.present.get("class", torch.ones(len(x), dtype=torch.bool))
        wide = [-1, *[1] * (x.ndim - 1)]
        clean = (condition.values["class"] * known).reshape(wide) + condition.values["age"].reshape(wide)
        return clean + 0 * x + 0.0 * sigma.reshape(wide)


def _problem(rows: int = 3) -> Problem:
    values = {"class": torch.arange(rows).float() + 1, "age": torch.full((rows,), 10.0)}
    return Problem(tuple(f"c{i}" for i in range(rows)), (1, 4, 4), Condition(values))


def test_formula_only_inside_the_band_and_only_of_the_named_condition() -> None:
    problem, x = _problem(4), torch.randn(4, 1, 4, 4)
    sigma = torch.tensor([0.1, 1.0, 3.0, 10.0])
    found = Guided(Pull(), ("class",), 2.5, 0.15, 3.0).denoise(x, sigma, problem.condition)
    wanted = torch.tensor([1, 2 * 2.5, 3 * 2.5, 4]) + 10
    torch.testing.assert_close(found[:, 0, 0, 0], wanted)


def test_a_row_whose_condition_is_unknown_is_left_as_it_is() -> None:
    problem = _problem(2)
    condition = Condition(problem.condition.values, {"class": torch.tensor([False, True])})
    found = Guided(Pull(), ("class",), 3.0).denoise(torch.zeros(2, 1, 4, 4), torch.ones(2), condition)
    torch.testing.assert_close(found[:, 0, 0, 0], torch.tensor([10.0, 16.0]))


def test_cost_is_far_from_double_and_strength_one_changes_nothing() -> None:
    problem, plain, guided = _problem(), Pull(), Pull()
    sampler = Drawn(plain, *_midpoint()).sample(problem, Rng(range(3)))
    same = Drawn(Guided(guided, ("class",), 1.0), *_midpoint()).sample(problem, Rng(range(3)))
    torch.testing.assert_close(same, sampler)
    assert sum(plain.rows) < sum(guided.rows) < 1.6 * sum(plain.rows)
    assert len(plain.rows) == len(guided.rows) <= 20


def _midpoint() -> tuple[object, dict[str, float]]:
    from fabrica.sampling import SAMPLERS

    return SAMPLERS.find("midpoint"), {}


PLAIN = {
    "cohorts": {"all": {"path": "x"}}, "baseline": "none", "train": {"steps": 1},
    "job": {"name": "synthesis", "x": ["T1w"], "by": {"class": ["a", "b"]}, "drop": 0.2},
    "family": {"name": "flow", "network": {"channels": [8, 16], "blocks": 1}}, "guidance": {"strength": 2},
}  # fmt: skip


@pytest.mark.parametrize("sampler", [None, "heun"])
def test_a_recipe_reaches_it_with_any_sampler(sampler: str | None) -> None:
    recipe = from_plain({**PLAIN, **({"sampler": sampler} if sampler else {})})
    stage = recipe.stages[0]
    torch.manual_seed(0)
    family = drawer(stage, build_family(stage, stage.build_job(), "fp32"))
    inner = family.prior if isinstance(family, Drawn) else family
    assert isinstance(inner, Guided)
    assert inner.names == ("class",)
    problem = Problem(("a", "b"), (1, 8, 8), Condition({"class": torch.tensor([0.0, 1]), "position": torch.zeros(2)}))
    for parameter in inner.prior.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    check_family(family, problem)
    weak = Drawn(Guided(inner.prior, ("class",), 1.0), *_midpoint()).sample(problem, Rng([0, 1]))
    strong = Drawn(Guided(inner.prior, ("class",), 4.0), *_midpoint()).sample(problem, Rng([0, 1]))
    assert not torch.allclose(weak, strong)


class PullNetwork(nn.Module):
    """As Pull, of a network: the class where it is known."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def forward(self, x: Tensor, level: Tensor, condition: Condition) -> Tensor:
        self.rows.append(len(x))
        known = condition.present.get("class", torch.ones(len(x), dtype=torch.bool))
        wide = [-1, *[1] * (x.ndim - 1)]
        answer = (condition.values["class"] * known + condition.values["age"]).reshape(wide)
        return answer + 0 * x + 100 * level.reshape(wide)


def test_networks_without_a_band_are_pulled_by_the_same_formula() -> None:
    problem, net = _problem(), PullNetwork()
    level = torch.tensor([1.0, 2.0, 3.0])
    condition = Condition(problem.condition.values, {"class": torch.tensor([False, True, True])})
    found = Strengthened(net, ("class",), 2.5)(torch.zeros(3, 1, 4, 4), level, condition)
    torch.testing.assert_close(found[:, 0, 0, 0], torch.tensor([0.0, 5.0, 7.5]) + 10 + 100 * level)
    assert net.rows == [6]


@pytest.mark.parametrize("name", ["autoregressive", "consistency", "shortcut"])
def test_few_steps_and_words_are_guided_from_a_recipe(name: str) -> None:
    """Draws change with the strength, at 1 not at all, the trained family not either; laws hold."""
    x = ["label:3"] if name == "autoregressive" else ["T1w"]
    torch.manual_seed(0)
    draws, trained = {}, None
    for strength in (1, 4):
        recipe = from_plain({**PLAIN, "job": {**PLAIN["job"], "x": x}, "family": {**PLAIN["family"], "name": name}, "guidance": {"strength": strength}})  # fmt: skip
        stage = recipe.stages[0]
        if trained is None:
            trained = build_family(stage, stage.build_job(), "fp32")
            for parameter in trained.parameters():
                parameter.data += 0.1 * torch.randn(parameter.shape)
        family = drawer(stage, trained)
        channels = 3 if name == "autoregressive" else 1
        values = {"class": torch.tensor([0.0, 1]), "position": torch.zeros(2)}
        target = torch.eye(channels)[torch.arange(128).reshape(2, 8, 8) % channels].movedim(-1, 1)
        problem = Problem(("a", "b"), (channels, 8, 8), Condition(values), target=target)
        check_family(family, problem)
        draws[strength] = family.eval().sample(problem, Rng([0, 1]))
    assert trained is not None
    torch.testing.assert_close(draws[1], trained.sample(problem, Rng([0, 1])))
    assert not torch.allclose(draws[1], draws[4])
    assert not any(isinstance(m, Strengthened) for m in trained.modules())


def test_what_draws_at_once_cannot_be_guided() -> None:
    stage = from_plain({k: v for k, v in PLAIN.items() if k != "guidance"} | {"family": {"name": "gan"}}).stages[0]
    with pytest.raises(TypeError, match="Gan cannot be guided"):
        with_guidance(build_family(stage, stage.build_job(), "fp32"), ("class",), 2.0, 0.15, 3.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"family": {"name": "vae"}}, "step by step, Vae has none"),
        ({"family": {"name": "gan"}}, "step by step, Gan has none"),
        (
            {"family": {"name": "shortcut"}, "guidance": {"strength": 3, "low": 0.1}},
            r"low, noise levels that Shortcut does not have. Write: guidance: \{strength: 3\}",
        ),
        ({"job": {"name": "synthesis", "x": ["T1w"], "by": {"class": ["a", "b"]}}}, "drop: 0.1"),
        ({"guidance": {"strength": 0}}, "strength above 0"),
        ({"guidance": {"low": 3, "high": 1}}, "low < high"),
        ({"guidance": {"strenght": 2}}, "Did you mean 'strength'"),
        ({"job": {**PLAIN["job"], "drop": 1.5}}, "drop is 1.5"),
    ],
)
def test_a_recipe_refuses_what_cannot_be(change: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        from_plain({**PLAIN, **change})
