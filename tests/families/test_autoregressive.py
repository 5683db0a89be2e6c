"""Words in any order: chances add up to one, draws follow them, and codes of a codec become images."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from fabrica.contracts import Codec, Condition, Family, Field, Problem, Signature
from fabrica.families import Autoregressive, Flow, Fsq, Latent, Vae, density_of, latent_signature, words_of
from fabrica.networks.blocks import folded
from fabrica.networks.codec import Levels
from fabrica.networks.unet import UNetShape
from fabrica.recipe.checks import from_plain
from fabrica.recipe.text import RecipeError
from fabrica.rng import Rng
from fabrica.run.sequence import run_recipe
from fabrica.testing import check_family

from ..margin import PRECISION, SEED, above, below, learns, near
from .test_codecs import STAGES, VIRTUAL, _images, _train

PLAIN = UNetShape((8,), 1, patch=1)
MASK = Signature((Field("lesion", "label", 2),), "yx")


def _settled(family: Autoregressive) -> Autoregressive:
    torch.manual_seed(3)
    for parameter in family.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape)
    return family.eval()


def _every(side: int, fields: tuple[Field, ...]) -> torch.Tensor:
    """All label maps of a small grid, one-hot."""
    ranges = [range(f.channels) for f in fields for _ in range(side * side)]
    digits = torch.tensor(list(itertools.product(*ranges))).reshape(-1, len(fields), side, side)
    return torch.cat([F.one_hot(digits[:, k], f.channels).movedim(-1, 1) for k, f in enumerate(fields)], 1).float()


@pytest.mark.parametrize("fields", [MASK.x, (Field("a", "label", 3), Field("b", "label", 2))])
def test_chances_of_all_answers_add_up_to_one(fields: tuple[Field, ...]) -> None:
    side = 2 if len(fields) == 1 else 1
    family = _settled(Autoregressive(Signature(fields, "yx"), PLAIN, "fp32"))
    every = _every(side, fields)
    chance = family.log_prob(every, Condition()).double().exp()
    assert len(every) == math.prod(f.channels for f in fields) ** (side * side)
    assert float(chance.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(chance.std()) > 0.01  # not merely the uniform distribution


def test_surprise_is_that_of_guessing_until_something_is_learned() -> None:
    """A network whose head is zero finds every word equally likely: log 3 and log 2 for each of 6 places."""
    fields = (Field("a", "label", 3), Field("b", "label", 2))
    family = Autoregressive(Signature(fields, "yx"), PLAIN, "fp32")
    x = torch.cat([F.one_hot(torch.randint(0, n, (4, 2, 3)), n).movedim(-1, 1) for n in (3, 2)], 1).float()
    words = words_of(family, x, Condition(), [3, 2])
    assert words.count == 12
    assert words.guessing == pytest.approx(6 * math.log(6))
    at_first = words.nats()
    torch.testing.assert_close(at_first, torch.full((4,), words.guessing))
    _settled(family)
    torch.testing.assert_close(words.nats(), -family.log_prob(x, Condition()))
    assert not torch.allclose(words.nats(), at_first)


def test_surprise_of_codes_counts_their_words() -> None:
    torch.manual_seed(0)
    signature = Signature((Field("FLAIR"),), "yx", (Field("T1w"),))
    codec = Fsq(Signature((Field("FLAIR"),), "yx"), UNetShape((8, 16), 1), "fp32", levels=(4, 3))
    prior = Autoregressive(latent_signature(signature, codec, Autoregressive), PLAIN, "fp32")
    model = Latent(codec, prior, signature.condition)
    x, given = torch.rand(2, 1, 8, 8), Condition({"T1w": torch.rand(2, 1, 8, 8)})
    told = words_of(model, x, given, [1])
    assert told.count == 2 * 2 * 2
    torch.testing.assert_close(told.nats(), torch.full((2,), 4 * math.log(12)))
    _settled(prior)
    words = codec.levels.one_hot(codec.encode(x))
    inner = Condition({"T1w": folded(given.values["T1w"], 4)})
    torch.testing.assert_close(told.nats(), -prior.log_prob(words, inner))


def test_what_knows_no_chances_is_not_asked() -> None:
    flow = Flow(Signature((Field("FLAIR"),), "yx"), PLAIN, "fp32")
    vae = Vae(Signature((Field("FLAIR"),), "yx"), UNetShape((8, 16), 1), "fp32")
    assert density_of(flow) is None
    assert density_of(Latent(vae, flow, ())) is None
    for family in (flow, Latent(vae, flow, ())):
        with pytest.raises(TypeError, match="knows no chances"):
            words_of(family, torch.zeros(1, 1, 8, 8), Condition(), [1])


def test_draws_follow_the_chain_rule() -> None:
    """With a step a word: frequencies are the mean over all orders of the chances that each order gives."""
    family = _settled(Autoregressive(MASK, PLAIN, "fp32", steps=60))
    every, rows = _every(2, MASK.x), 6000
    orders = [torch.tensor(o).reshape(1, 1, 2, 2) for o in itertools.permutations(range(4))]
    expected = torch.stack([family.along(o, every, Condition()).exp() for o in orders]).mean(0).detach()
    drawn = family.sample(Problem(tuple(map(str, range(rows))), (2, 2, 2)), Rng(range(rows)))
    assert torch.equal(drawn.sum(1), torch.ones(rows, 2, 2))
    index = (drawn[:, 1].flatten(1) * torch.tensor([8.0, 4, 2, 1])).sum(1).long()
    seen = torch.bincount(index, minlength=16) / rows
    error = (expected * (1 - expected) / rows).sqrt()
    assert float(((seen - expected) / error).abs().max()) < 4
    assert float((seen - 1 / 16).abs().max()) > 0.02  # a uniform draw would not pass for this one


def _patterns(labels: torch.Tensor) -> torch.Tensor:
    """Stripes along one axis or the other."""
    stripes = (torch.arange(8) // 2 % 2).float()
    both = torch.stack([stripes[:, None].expand(8, 8), stripes[None].expand(8, 8)])
    return F.one_hot(both[labels].long(), 2).movedim(-1, 1).float()


@learns
def test_it_learns_what_goes_together_and_its_condition() -> None:
    signature = Signature(MASK.x, "yx", (Field("class", "class", 2),))
    torch.manual_seed(SEED)
    family = Autoregressive(signature, UNetShape((16, 32), 1, patch=1), PRECISION, steps=16)
    optimiser, labels = torch.optim.Adam(family.parameters(), 3e-3), torch.arange(16) % 2
    for step in range(150):
        problem = Problem(tuple(map(str, range(16))), (2, 8, 8), Condition({"class": labels}), target=_patterns(labels))
        loss = family.loss(problem, "model", Rng(range(16)).child(step), 0.0)["nats"].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    # worst of 2.13e-06 (0.00 of the bound; fp32, 5 seeds); 1.52e-06 (0.00 of the bound; bf16, 2 seeds)
    below("nats", float(loss.detach()), 0.05)
    family.eval()
    drawn = family.sample(problem, Rng(range(100, 116)))
    wrong = (drawn - _patterns(labels)).abs().mean((1, 2, 3))
    # worst of 0 (0.00 of the bound; fp32, 5 seeds); 0 (0.00 of the bound; bf16, 2 seeds)
    below("wrong words of a draw", float(wrong.max()), 0.1)
    other = problem.rows(torch.arange(15, -1, -1))
    turned = family.sample(other, Rng(range(100, 116))) - _patterns(labels.flip(0))
    # worst of 0 (0.00 of the bound; fp32, 5 seeds); 0 (0.00 of the bound; bf16, 2 seeds)
    below("wrong words by another condition", float(turned.abs().mean()), 0.1)
    right = family.log_prob(_patterns(labels), problem.condition)
    swapped = family.log_prob(_patterns(1 - labels), problem.condition)
    # worst of 470 (0.02 of the bound; fp32, 5 seeds); 471 (0.02 of the bound; bf16, 2 seeds)
    above("nats between right and wrong", float((right - swapped).min()), 10)
    check_family(family, problem.rows(torch.tensor([0, 1, 2])))


def test_what_is_unknown_is_neither_seen_nor_counted() -> None:
    family = _settled(Autoregressive(MASK, PLAIN, "fp32"))
    weight = torch.ones(2, 1, 4, 4)
    weight[:, :, :2] = 0
    target = _patterns(torch.tensor([0, 1]))[:, :, :4, :4].clone()
    changed = target.clone()
    changed[:, :, :2] = changed[:, :, :2].flip(1)
    losses = [
        family.loss(Problem(("a", "b"), (2, 4, 4), target=t, weight=weight), "model", Rng([1, 2]), 0.0)["nats"]
        for t in (target, changed)
    ]
    torch.testing.assert_close(losses[0], losses[1])
    blank = Problem(("a", "b"), (2, 4, 4), target=target, weight=torch.zeros(2, 1, 1, 1))
    assert torch.equal(family.loss(blank, "model", Rng([1, 2]), 0.0)["nats"], torch.zeros(2))
    with pytest.raises(ValueError, match="Training needs targets"):
        family.loss(Problem(("a",), (2, 4, 4)), "model", Rng([1]), 0.0)


def test_few_steps_draw_every_word() -> None:
    for steps in (1, 3, 1000):
        family = _settled(Autoregressive(MASK, PLAIN, "fp32", steps=steps))
        assert torch.equal(family.sample(Problem(("a",), (2, 3, 5)), Rng([1])).sum(1), torch.ones(1, 3, 5))
    with pytest.raises(ValueError, match="at least 1"):
        Autoregressive(MASK, PLAIN, "fp32", steps=0)


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (2, 3)])
def test_words_side_by_side_and_back(levels: tuple[int, ...]) -> None:
    book = Levels(levels)
    codes = book.codes(torch.randint(0, book.size, (2, 3, 4)))
    words = book.one_hot(codes)
    assert words.shape == (2, sum(levels), 3, 4)
    assert torch.equal(words.sum(1), torch.full((2, 3, 4), float(len(levels))))
    torch.testing.assert_close(book.from_one_hot(words), codes)


def test_a_condition_keeps_every_voxel() -> None:
    x = torch.randn(2, 3, 8, 12)
    assert torch.equal(folded(x, 4), F.pixel_unshuffle(x, 4))
    volume = torch.randn(1, 2, 4, 6, 8)
    small = folded(volume, 2)
    assert small.shape == (1, 16, 2, 3, 4)
    assert torch.equal(small[0, 8 + 5, 1, 2, 3], volume[0, 1, 2 + 1, 4 + 0, 6 + 1])  # channel, then z y x of the block
    assert folded(x, 1) is x


@learns
def test_words_of_a_codec_become_images() -> None:
    torch.manual_seed(SEED)
    signature = Signature((Field("FLAIR"),), "yx")
    codec = Fsq(signature, UNetShape((16, 32), 1), PRECISION, levels=(4, 4))
    _train(codec, 300)
    prior = Autoregressive(latent_signature(signature, codec, Autoregressive), UNetShape((32,), 2, patch=1), PRECISION)
    model = Latent(codec, prior, ())
    assert model.multiple == 4
    _train(model, 400)
    rows = tuple(map(str, range(24)))
    drawn, real = model.sample(Problem(rows, (1, 16, 16)), Rng(range(24))), _images(200, Rng(range(900, 1100)))
    # worst of 0.228 (0.56 of the bound; fp32, 5 seeds)
    near("the mean of draws", float(drawn.mean()), float(real.mean()), 0.12)
    # worst of 0.159 (0.16 of the bound; fp32, 5 seeds)
    above("how far draws lie apart", float((drawn[:12] - drawn[12:]).abs().mean()), 0.025)
    check_family(model, Problem(("a", "b"), (1, 16, 16), target=real[:2]))


def test_a_prior_of_words_needs_a_codec_of_words() -> None:
    signature = Signature((Field("FLAIR"),), "yx")
    vae = Vae(signature, UNetShape((8, 16), 1), "fp32")
    with pytest.raises(ValueError, match="Autoregressive draws words, and Vae has none"):
        latent_signature(signature, vae, Autoregressive)


def _words(codec: str = "vq", **network: object) -> dict:
    stages = {
        "codec": {**STAGES["codec"], "family": {**STAGES["codec"]["family"], "name": codec}},
        "prior": {**STAGES["prior"], "family": {"name": "autoregressive", "in": {"stage": "codec"}, "steps": 3,
                                                "network": {"channels": [8, 16], "blocks": 1, "patch": 1, **network}}},
    }  # fmt: skip
    if codec == "vq":
        stages["codec"]["family"] = {"name": "vq", "network": STAGES["codec"]["family"]["network"]}
    return {**VIRTUAL, "split": {"train": 0.5, "test": 0.5}, "stages": stages, "evaluate": {"draws": 2}}


def test_translation_by_words_from_a_recipe(tmp_path: Path) -> None:
    result = run_recipe(from_plain(_words()), tmp_path / "run", say=lambda text: None)
    values = [r.value for r in result.report.stages[1].cases if r.metric == "psnr" and r.by.startswith("model")]
    assert values
    assert all(isinstance(v, float) for v in values)


def test_chances_stand_in_the_report(tmp_path: Path) -> None:
    recipe = _words()
    recipe["evaluate"] = {"draws": 1, "likelihood": 1, "realism": 0}
    result = run_recipe(from_plain(recipe), tmp_path / "run", say=lambda text: None)
    (found,) = result.report.stages[1].figures
    assert found.name == "surprise at the truth (nats a word)"
    guessed = float(found.convention.split("guessing evenly: ")[1].split(";")[0])
    assert guessed == pytest.approx((math.log(8) + 3 * math.log(5)) / 4, abs=1e-3)
    assert isinstance(found.value, float)
    assert math.isfinite(found.value)  # what three steps bring is luck
    assert found.value > 0
    assert found.n == 1
    assert "surprise" not in str(result.report.stages[0].figures)


@pytest.mark.parametrize("likelihood", [-1, 2.0, True])
def test_a_number_of_cases_is_a_number_of_cases(likelihood: object) -> None:
    with pytest.raises(RecipeError, match="likelihood"):
        from_plain({**_words(), "evaluate": {"likelihood": likelihood}})


def test_chances_that_nobody_knows_are_refused_before_any_training() -> None:
    with pytest.raises(RecipeError, match="knows no chances. Leave likelihood out"):
        from_plain({**_words(), "stages": STAGES, "evaluate": {"likelihood": 1}})


def test_what_cannot_be_is_said_before_any_training() -> None:
    with pytest.raises(RecipeError, match="draws words, and Vae has none"):
        from_plain(_words("vae"))
    with pytest.raises(RecipeError, match="multiples of 32, scans are prepared to multiples of 16"):
        from_plain(_words(channels=[8, 8, 8, 8]))
    stage = {"job": {"name": "synthesis", "x": ["T1w"]}, "family": {"name": "autoregressive"}, "train": {"steps": 1}}
    alone = {"cohorts": {"all": {"path": "x"}}, "baseline": "none", "stages": {"model": stage}}
    with pytest.raises(RecipeError, match="cannot learn T1w"):
        from_plain(alone)


@pytest.mark.parametrize(("codec", "prior"), [(Fsq, Autoregressive), (Vae, Flow)])
def test_a_voxel_that_is_no_number_spoils_the_loss_of_its_row_alone(codec: type[Codec], prior: type[Family]) -> None:
    """NaN is no word: training has to be able to name the patient."""
    torch.manual_seed(0)
    signature = Signature((Field("FLAIR"),), "yx")
    made = codec(signature, UNetShape((8, 16), 1), "fp32")
    inner = prior(latent_signature(signature, made, prior), UNetShape((8,), 1, patch=1), "fp32")
    family = Latent(made, inner, ())
    target = torch.rand(3, 1, 16, 16)
    target[1, 0, 3, 4] = torch.nan
    problem = Problem(("a", "b", "c"), (1, 16, 16), target=target)
    for term in family.loss(problem, "model", Rng(range(3)), 0.0).values():
        assert term.isnan().tolist() == [False, True, False]
