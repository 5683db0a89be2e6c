"""Equalised intensities: exact there and back, the cohort's distribution function, laws of whatever draws in them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from scipy import stats

from fabrica.contracts import Condition, Field, Problem, Signature
from fabrica.families import Equalised, Flow, Latent, Vae, latent_signature
from fabrica.families.equalised import KNOTS
from fabrica.generate.painting import Lesion, paint_lesion
from fabrica.generate.scans import generate_images
from fabrica.learning.checkpoint import load
from fabrica.networks.unet import UNetShape
from fabrica.recipe.checks import from_plain
from fabrica.recipe.text import RecipeError
from fabrica.rng import Rng
from fabrica.run.answering import Answering
from fabrica.run.family import build_family
from fabrica.run.folder import RunFolder
from fabrica.run.sequence import run_recipe
from fabrica.testing import check_family

SMALL = UNetShape((8, 16), 1)
IMAGE = Signature((Field("FLAIR"),), "yx")
SOUND = Condition()


def _fitted(values: np.ndarray, share: float = 0.5, signature: Signature = IMAGE) -> Equalised:
    made = Equalised(signature, share)
    made.fit({channel: [values] for channel in made.bent})
    return made


def _as_batch(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, np.float32)).reshape(1, 1, -1, 1)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("kind", ["normal", "heavy tail", "common values", "two values", "HU"])
def test_there_and_back(kind: str, share: float) -> None:
    rng = np.random.default_rng(0)
    values = {
        "normal": rng.normal(0.4, 0.1, 20_000),
        "heavy tail": rng.standard_cauchy(20_000),
        "common values": rng.choice([0.0, 0.1, 0.103, 0.9], 20_000, p=[0.6, 0.2, 0.1, 0.1]),
        "two values": np.repeat([-3.0, 7.0], 500),
        "HU": np.concatenate([np.zeros(9000), rng.normal(1.04, 0.02, 900), [3.9, 30.0]]),
    }[kind]
    codec, span = _fitted(values, share), float(np.ptp(np.quantile(values, (0.0005, 0.9995))))
    middle = float(np.median(values))
    x = torch.cat([_as_batch(values), _as_batch(np.linspace(middle - 3 * span, middle + 3 * span, 999))], 2)
    u = codec.encode(x)
    back = codec.decode(u, SOUND)
    scale = span + x.abs()
    assert float(((back - x).abs() / scale).max()) < 1e-5 / (1 - share)
    order = x.flatten().argsort()
    assert (u.flatten()[order].diff() >= 0).all()
    steps, rises = x.flatten()[order].double().diff(), u.flatten()[order].double().diff()
    apart = steps > 1e-3 * span
    room = float((codec.high - codec.low)[0])
    assert (rises[apart] / steps[apart] * room >= (1 - share) * 0.99).all()  # no range keeps less than that


def test_it_is_the_distribution_function() -> None:
    """Against scipy's empirical distribution function, between the ends."""
    values = np.random.default_rng(1).gamma(2.0, 0.1, 50_000)
    codec = _fitted(values, 0.7)
    x = np.linspace(*np.quantile(values, (0.002, 0.998)), 400)
    linear = (x - float(codec.low[0])) / float((codec.high - codec.low)[0])
    expected = 0.3 * linear + 0.7 * stats.ecdf(values).cdf.evaluate(x)
    np.testing.assert_allclose(codec.encode(_as_batch(x)).flatten().numpy(), expected, atol=0.004)


def test_what_is_spread_evenly_stays() -> None:
    codec = _fitted(np.linspace(0, 1, 100_001), 0.9)
    x = _as_batch(np.linspace(0.02, 0.98, 99))
    u = codec.encode(x).flatten()
    slope = u.diff() / x.flatten().diff()
    assert float((slope / slope.mean() - 1).abs().max()) < 0.02


def test_common_greys_survive_noise() -> None:
    """Four pixels in five of a picture are 126 of 255, as air is in some CTs: noise of three greys leaves most of them 126."""
    rng = np.random.default_rng(2)
    greys = np.where(rng.random(40_000) < 0.8, 126, rng.integers(0, 256, 40_000))
    codec, x = _fitted(greys / 255), _as_batch(greys / 255)
    noise = 3 / 255 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    flat = x.mul(255).round() == 126

    def kept(noisy: torch.Tensor) -> float:
        return float((noisy.mul(255).round()[flat] == 126).float().mean())

    assert kept(x + noise) < 0.2
    assert kept(codec.decode(codec.encode(x) + noise, SOUND)) > 0.95
    assert codec.widest > 40


def test_channels_have_their_own_curves_and_labels_none() -> None:
    signature = Signature((Field("T1w"), Field("lesion", "label", 2), Field("FLAIR")), "zyx")
    codec = Equalised(signature, 0.5)
    assert (codec.codes, codec.factor) == (4, 1)
    assert codec.bent == (0, 3)
    rng = np.random.default_rng(0)
    x = torch.rand(2, 4, 3, 5, 7)
    assert codec.widest == pytest.approx(1, abs=1e-3)  # as it was before the fit: straight
    torch.testing.assert_close(codec.encode(x), x)
    codec.fit({0: [rng.gamma(1, 0.1, 999), rng.gamma(1, 0.1, 999)], 3: [rng.normal(5, 1, 999)]})
    u = codec.encode(x)
    assert torch.equal(u[:, 1:3], x[:, 1:3])
    assert codec.high[0] < 1.2
    assert codec.high[3] > 6
    torch.testing.assert_close(codec.decode(u, SOUND), x, rtol=0, atol=1e-5)


def test_a_channel_without_images_stays_straight_and_a_voxel_that_is_no_number_bends_nothing() -> None:
    rng = np.random.default_rng(0)
    sound, x = rng.gamma(1, 0.2, 999), torch.rand(1, 2, 4, 4)
    signature = Signature((Field("T1w"), Field("FLAIR")), "yx")
    codec, other = Equalised(signature, 0.5), Equalised(signature, 0.5)
    codec.fit({0: [sound]})
    other.fit({0: [np.concatenate([sound, [np.nan, np.inf]])], 1: [np.full(9, np.nan)]})
    assert torch.equal(codec.encode(x), other.encode(x))
    torch.testing.assert_close(codec.encode(x)[:, 1], x[:, 1])
    assert codec.widest > 2


def test_a_constant_channel_stays_straight_and_nothing_is_made_up_of_nan() -> None:
    codec = _fitted(np.full(100, 0.3))
    x = torch.linspace(-1, 2, 12).reshape(1, 1, 3, 4)
    torch.testing.assert_close(codec.decode(codec.encode(x), SOUND), x)
    x[0, 0, 1, 2], x[0, 0, 2, 2] = torch.nan, torch.inf
    for changed in (codec.encode(x), codec.decode(x, SOUND)):
        assert changed.isfinite().sum() == 10
        assert changed[0, 0, 1, 2].isnan()


@pytest.mark.parametrize("axes", ["yx", "zyx"])
@pytest.mark.parametrize("prior", [Flow, Vae])
def test_laws_of_what_draws_in_them(prior: type, axes: str) -> None:
    torch.manual_seed(0)
    signature = Signature((Field("FLAIR"),), axes, (Field("age", "number", 1),))
    codec = Equalised(signature, 0.5)
    assert latent_signature(signature, codec, prior) is signature
    side = (16,) * len(axes)
    ages = torch.tensor([-1.0, 0.0, 1.0])
    target = torch.rand(3, 1, *side) ** 4 + ages.reshape(-1, 1, *[1] * len(axes))
    codec.fit({0: list(target.flatten(1).numpy())})

    def make(inner: Equalised) -> Latent:
        return Latent(inner, prior(signature, SMALL, "fp32"), signature.condition)

    model = make(codec)
    problem = Problem(("a", "b", "c"), (1, *side), Condition({"age": ages}), target=target)
    steps = torch.optim.AdamW(model.prior.parameters(), lr=3e-3)
    model.train()
    for step in range(30):
        steps.zero_grad()
        torch.stack(
            [t.mean() for t in model.loss(problem, "model", Rng([step, 91, 92]), 0.0).values()]
        ).sum().backward()
        steps.step()
    check_family(model.eval(), problem, lambda: make(Equalised(signature, 0.5)))


def test_voxels_that_are_not_known_teach_nothing() -> None:
    """Unlike codes, intensities keep their places: a part of an image teaches by itself."""
    torch.manual_seed(0)
    codec = _fitted(np.random.default_rng(0).gamma(1, 0.2, 999))
    model = Latent(codec, Flow(IMAGE, SMALL, "fp32"), ()).eval()
    target, weight = torch.rand(2, 1, 16, 16), torch.ones(2, 1, 16, 16)
    weight[0, :, 8:] = 0
    other = target.clone()
    other[0, :, 8:] = 1.0
    problem = Problem(("a", "b"), (1, 16, 16), target=target, weight=weight)
    seen: list[torch.Tensor | None] = []
    model.prior.loss = lambda inner, group, rng, progress: (  # type: ignore[method-assign]
        seen.append(inner.weight) or {"loss": (inner.target * inner.weight).flatten(1).sum(1)}
    )
    first, second = (model.loss(replace(problem, target=t), "model", Rng([0, 1]), 0.0)["loss"] for t in (target, other))
    assert torch.equal(first, second)
    assert seen[0] is weight


def test_they_have_nothing_to_train_or_to_draw() -> None:
    codec, problem = _fitted(np.linspace(0, 1, 9)), Problem(("a",), (1, 4, 4))
    assert codec.groups() == {}
    with pytest.raises(TypeError, match="nothing to train"):
        codec.loss(problem, "model", Rng([0]), 0.0)
    with pytest.raises(TypeError, match="drawn by the family"):
        codec.sample(problem, Rng([0]))


# ---------------------------------------------------------------- from a recipe

PLAIN = {
    "cohorts": {"s": {"virtual": {"patients": 4, "seed": 0, "spacing_mm": 4, "planes": [14, 20]}}},
    "split": {"train": 0.5, "test": 0.5}, "evaluate": {"draws": 2, "evaluations": [2]},
    "job": {"name": "translation", "from": ["T1w"], "x": ["T2w"]},
    "family": {"name": "flow", "in": {"equalised": 0.5}, "network": {"channels": [8, 16], "blocks": 1}},
    "train": {"steps": 3, "batch": 2, "precision": "fp32"},
}  # fmt: skip


def _quiet(text: str) -> None:
    pass


def test_a_recipe_reads_its_curves_from_the_training_part(tmp_path: Path) -> None:
    said: list[str] = []
    recipe, run = from_plain(PLAIN), tmp_path / "run"
    result = run_recipe(recipe, run, say=said.append)
    assert [t for t in said if "equalised" in t] == [
        said[k] for k, t in enumerate(said) if t.startswith("model: inten")
    ]
    assert any("none less than 0.5" in t for t in said)
    tensors = load(run / "stages" / "model")[0]  # type: ignore[index]
    levels = tensors["average/codec.levels"][0]
    assert (levels.diff() > 0).all()
    assert float(levels.diff().max() * (KNOTS - 1)) > 3  # air is common
    assert not any("codec" in name for name in load(run / "stages" / "model-baseline")[0])  # type: ignore[index]
    stage = next(s for s in result.report.stages if s.name == "model")
    assert next(c.evaluations for c in stage.costs) == 2
    scores = {r.by: r.value for r in stage.cases if r.metric == "psnr"}
    assert {"model: one draw", "model: mean of draws"} <= scores.keys()

    answering = Answering(RunFolder(run, recipe), recipe.stage("model"))
    family = answering.family
    assert isinstance(family, Latent)
    assert torch.equal(family.codec.levels[0], levels)
    again = run_recipe(recipe, run, say=_quiet)
    for first, second in zip(stage.cases, again.report.stages[0].cases, strict=True):
        assert first.unit == "s" or first == second

    from fabrica.data.virtual import VirtualCohort
    from fabrica.data.virtual.export import write_cohort

    write_cohort(VirtualCohort(1, 9, 4, planes=(14, 20)), tmp_path / "new", _quiet)
    assert generate_images(run, tmp_path / "new", tmp_path / "out", stage="model", say=_quiet)
    with pytest.raises(RecipeError, match="works in its run's equalised intensities.*fabrica generate"):
        from_plain({**{k: PLAIN[k] for k in ("cohorts", "job")}, "family": {"run": str(run), "stage": "model"}})


def test_training_goes_on_by_the_curves_it_began_with(tmp_path: Path) -> None:
    """A resumed run neither reads them again nor starts straight."""
    from fabrica.learning.loop import Interrupted

    def stop(stage: str, progress: object) -> None:
        if stage == "model" and progress.step == 2:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    recipe = from_plain({**PLAIN, "baseline": "none"})
    with pytest.raises(Interrupted):
        run_recipe(recipe, tmp_path / "stopped", say=_quiet, watch=stop)
    index = tmp_path / "stopped" / "stages" / "model" / "checkpoint.json"
    assert json.loads(index.read_text())["facts"]["step"] == 2
    said: list[str] = []
    run_recipe(recipe, tmp_path / "stopped", say=said.append)
    assert not any("common ones" in t for t in said)
    run_recipe(recipe, tmp_path / "whole", say=_quiet)
    one, other = (load(tmp_path / n / "stages" / "model")[0] for n in ("stopped", "whole"))  # type: ignore[index]
    assert one.keys() == other.keys()
    assert all(torch.equal(one[n], other[n]) for n in one)


def test_pictures_come_back_in_their_greys(tmp_path: Path) -> None:
    """8-bit pictures of nearly one grey: even an untrained family's draws pass through the cohort's curve."""
    rng = np.random.default_rng(0)
    (tmp_path / "d").mkdir()
    for k in range(12):
        greys = np.where(rng.random((16, 16)) < 0.9, 126, rng.integers(0, 256, (16, 16))).astype(np.uint8)
        Pillow.fromarray(greys, "L").save(tmp_path / "d" / f"p{k:02d}.png")
    recipe = from_plain({
        "cohorts": {"s": {"path": str(tmp_path / "d")}}, "split": {"train": 0.75, "test": 0.25}, "evaluate": {"draws": 1, "evaluations": []},
        "job": {"name": "synthesis", "x": ["image"]}, "family": PLAIN["family"], "train": {"steps": 1, "batch": 2},
    })  # fmt: skip
    run_recipe(recipe, tmp_path / "run", say=_quiet)
    family = Answering(RunFolder(tmp_path / "run", recipe), recipe.stage("model")).family
    assert isinstance(family, Latent)
    assert isinstance(family.codec, Equalised)
    every = torch.arange(256.0).reshape(1, 1, 16, 16) / 255
    back = family.codec.decode(family.codec.encode(every), SOUND)
    assert torch.equal((255 * back).round(), 255 * every)
    rise = family.codec.encode(every).flatten().diff()
    assert rise[125:127].min() > 10 * rise[:100].median()


@pytest.mark.parametrize("share", [0, 1, 1.5, -0.2, "half", True, None, [0.5]])
def test_shares_that_are_none(share: object) -> None:
    family = {"name": "flow", "in": {"equalised": share}}
    with pytest.raises(RecipeError, match=r"above 0 and below 1. Write: in: \{equalised: 0.5\}"):
        from_plain({**PLAIN, "family": family})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"family": {"name": "flow", "in": {"equalised": 0.5, "stage": "codec"}}},
            r"Write: in: \{stage: codec\}, in: \{equalised: 0.5\}",
        ),
        ({"job": {"name": "segmentation", "from": ["T1w"], "x": ["lesion"]}}, "no intensities to equalise"),
        (
            {"family": {"name": "cycle", "in": {"equalised": 0.5}}, "pairing": "none"},
            "compares with images as they are.*Leave in out",
        ),
        ({"family": {"name": "autoregressive", "in": {"equalised": 0.5}}}, "cannot learn T2w"),
        ({"family": {"name": "vq", "in": {"equalised": 0.5}}}, "draws"),
    ],
)
def test_what_cannot_work_in_them(change: dict, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        from_plain({**PLAIN, **change})


def test_codes_of_equalised_intensities_are_refused() -> None:
    codec = {"name": "vae", "kl": 0.01, "in": {"equalised": 0.5}}
    shared = {"cohorts": PLAIN["cohorts"], "baseline": "none"}
    stages = {
        "codec": {"job": {"name": "synthesis", "x": ["T2w"], "place": False}, "family": codec, "train": PLAIN["train"]},
        "model": {"job": PLAIN["job"], "family": {"name": "flow", "in": {"stage": "codec"}}, "train": PLAIN["train"]},
    }
    with pytest.raises(RecipeError, match="is no codec of its own"):
        from_plain({**shared, "stages": stages})


def test_a_baseline_works_in_intensities_as_they_are() -> None:
    recipe = from_plain(PLAIN)
    assert [(s.name, s.equalised) for s in recipe.stages] == [("model", 0.5), ("model-baseline", 0.0)]
    assert isinstance(build_family(recipe.stages[0], recipe.stages[0].build_job(), "fp32", recipe), Latent)
    assert not isinstance(build_family(recipe.stages[1], recipe.stages[1].build_job(), "fp32", recipe), Latent)


def test_painting_is_refused(tmp_path: Path) -> None:
    job = {"name": "synthesis", "x": ["FLAIR", "lesion"]}
    recipe = from_plain({**PLAIN, "job": job, "evaluate": {"draws": 1, "evaluations": [], "realism": 0}})
    run_recipe(recipe, tmp_path / "run", say=_quiet)
    with pytest.raises(ValueError, match="Train without in: family: {name: flow}"):
        paint_lesion(tmp_path / "run", tmp_path / "none", tmp_path / "out", Lesion((0, 0, 0), 8))
