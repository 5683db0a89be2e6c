"""A family that works in words, named alone: what the recipe stands for, what is left as it is, what is refused."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from fabrica.recipe.checks import from_plain, load
from fabrica.recipe.short_form import written_out
from fabrica.recipe.text import RecipeError

BASE: dict[str, Any] = {"cohorts": {"all": {"virtual": {"patients": 4}}}, "baseline": "none"}
TRANSLATION = {"name": "translation", "from": ["T1w"], "x": ["T2w"]}


def _plain(family: Any, job: Any = TRANSLATION, **more: Any) -> dict[str, Any]:
    return {**BASE, "job": job, "family": family, "train": {"minutes": 3, "batch": 4}, **more}


@pytest.mark.parametrize("name", ["vq", "autoregressive"])
@pytest.mark.parametrize("axes", ["yx", "zyx"])
@pytest.mark.parametrize("job", ["translation", "synthesis", "segmentation"])
def test_one_line_changes_the_family(name: str, axes: str, job: str) -> None:
    labels = {"name": "segmentation", "from": ["T1w"], "x": ["lesion"]}
    asked = {"synthesis": {"name": "synthesis", "x": ["T2w"]}, "translation": TRANSLATION, "segmentation": labels}[job]
    if (name, job) == ("autoregressive", "segmentation"):
        assert [s.name for s in from_plain(_plain(name, labels)).stages] == ["model"]  # label maps are words
        return
    recipe = from_plain(_plain({"name": name}, {**asked, "axes": axes}))
    codec, model = recipe.stages
    assert (codec.name, codec.family.name, model.family.name, model.codec) == ("codec", "vq", "autoregressive", "codec")
    assert model.job.name == job
    assert codec.build_job().signature().x == model.build_job().signature().x
    assert codec.train.minutes == pytest.approx(1.0)
    assert model.train.minutes == pytest.approx(2.0)
    assert codec.train.batch == model.train.batch == 4


@pytest.mark.parametrize("axes", ["yx", "zyx"])
@pytest.mark.parametrize(
    ("name", "codec"),
    [("flow", "vae"), ("diffusion", "vae"), ("shortcut", "vq"), ("autoregressive", "vq"), ("gan", "vae")],
)
def test_one_word_puts_a_family_into_codes(name: str, codec: str, axes: str) -> None:
    asked = {**TRANSLATION, "axes": axes}
    network = {"channels": [8, 16, 32], "blocks": 1}
    recipe = from_plain(_plain({"name": name, "in": codec, "network": network}, asked))
    first, second = recipe.stages
    assert (first.family.name, second.family.name, second.codec) == (codec, name, "codec")
    assert (first.network.channels, second.network.channels, second.network.patch) == ((8, 16, 32), (16, 32), 1)
    if codec == "vae":  # no ladder, every detail: others draw its codes
        assert first.family.options == {"kl": 0.01, "rungs": 0, "codes": 4}
    assert (first.train.minutes, second.train.minutes) == (pytest.approx(1.0), pytest.approx(2.0))


def test_options_beside_the_word_are_of_what_draws() -> None:
    plain = _plain({"name": "shortcut", "in": "vae", "steps": 2}, sampler={"name": "euler", "steps": 2})
    with pytest.raises(RecipeError, match="sampler"):  # which is refused to a shortcut in pixels, too
        from_plain(plain)
    first, second = from_plain(_plain({"name": "shortcut", "in": "vae", "steps": 2})).stages
    assert second.family.options == {"steps": 2}
    assert "steps" not in first.family.options


@pytest.mark.parametrize(
    ("family", "job", "words"),
    [
        ({"name": "flow", "in": "vea"}, TRANSLATION, "family.in is 'vea'.*without stages in: vae"),
        ({"name": "cycle", "in": "vae"}, TRANSLATION, "compares with images as they are"),
        ({"name": "flow", "in": "vae"}, {"name": "outcome", "from": ["T1w"], "x": "age", "width": 20.0}, "family.in is 'vae'"),
        ({"name": "autoregressive", "in": "vae"}, TRANSLATION, "draws words, and Vae has none"),
    ],
)  # fmt: skip
def test_words_that_put_nothing_into_codes(family: dict[str, Any], job: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words) as raised:
        from_plain(_plain(family, job))
    assert "stages." not in str(raised.value)


def test_stages_name_their_codec() -> None:
    stages = {"model": {"job": TRANSLATION, "family": {"name": "flow", "in": "vae"}, "train": {"steps": 1}}}
    with pytest.raises(RecipeError, match=r"Write: in: \{stage: codec\}"):
        from_plain({**BASE, "stages": stages})
    alone = {"model": {"job": TRANSLATION, "family": {"name": "autoregressive"}, "train": {"steps": 1}}}
    with pytest.raises(RecipeError, match=r"in: \{stage: codec\}\}, as in recipes/words.yaml"):
        from_plain({**BASE, "stages": alone})


def test_a_name_alone_is_a_family() -> None:
    assert [s.name for s in from_plain(_plain("vq")).stages] == ["codec", "model"]


def test_stages_written_out_need_one_that_draws_the_words() -> None:
    stages = {"codec": {"job": TRANSLATION, "family": {"name": "vq"}, "train": {"steps": 1}}}
    with pytest.raises(RecipeError, match="vq needs a stage that draws its words. Add one of the same x"):
        from_plain({**BASE, "stages": stages})


def test_options_go_to_whom_they_belong() -> None:
    network = {"channels": [8, 16, 32], "blocks": 1, "patch": 2}
    for family, owner in (({"name": "vq", "levels": [5, 5]}, 0), ({"name": "autoregressive", "steps": 3}, 1)):
        stages = from_plain(_plain({**family, "network": network}, prepare={"size": [32, 32]})).stages
        option = next(k for k in family if k != "name")
        assert option in stages[owner].family.options
        assert option not in stages[1 - owner].family.options
        assert stages[0].network.channels == (8, 16, 32)
        assert (stages[1].network.channels, stages[1].network.patch) == ((16, 32), 1)
        assert stages[0].prepare == stages[1].prepare


def test_steps_are_shared_out_and_no_stage_goes_without() -> None:
    for steps, shared in ((9, (3, 6)), (1, (1, 1))):
        stages = from_plain(_plain("vq", train={"steps": steps})).stages
        assert tuple(s.train.steps for s in stages) == shared


def test_a_baseline_stands_beside_the_model_and_not_beside_the_codec() -> None:
    plain = {k: v for k, v in _plain("vq").items() if k != "baseline"}
    codec, model, baseline = from_plain(plain).stages
    assert (codec.name, model.name, baseline.name) == ("codec", "model", "model-baseline")
    assert baseline.network == codec.network != model.network  # not what codes left of it
    assert baseline.train.minutes == 3.0


@pytest.mark.parametrize(
    "plain",
    [
        _plain("flow"), _plain("vae"), _plain({"name": "flow", "in": {"stage": "codec"}}), _plain("nonesuch"),
        _plain("vq", {"name": "nonesuch"}), _plain("vq", None), _plain({"name": "vq", "network": 3}), _plain({"run": "runs/0001", "stage": "x"}),
        _plain("autoregressive", {"name": "segmentation", "from": ["T1w"], "x": {"name": "lesion", "classes": ["none", "lesion"]}}),
        _plain({}), _plain({"network": {"blocks": 1}}), {**BASE, "stages": {"codec": {"job": TRANSLATION, "family": "vq"}}},
    ],
)  # fmt: skip
def test_everything_else_is_as_it_was_written(plain: dict[str, Any]) -> None:
    assert written_out(plain) is plain


def test_a_mistake_is_named_where_the_recipe_made_it(tmp_path: Path) -> None:
    for wrong, said in (
        (_plain("vq", train={"minutes": "long"}), ": train.minutes is 'long'"),
        (_plain("vq", train={"minutes": True}), ": train.minutes is True"),
        (_plain({"name": "vq", "steps": 3}), "steps"),
        (_plain("vq", trian={}), "trian"),
        (_plain("vq", train={"steps": 0}), "positive"),
        (
            _plain("vq", train={"steps": 3, "start": "runs/0001/stages/model"}),
            ": vq is two stages, and weights are of one",
        ),
        (_plain({}), "family has no name"),
    ):
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(wrong, sort_keys=False))
        with pytest.raises(RecipeError, match=said) as raised:
            load(file)
        assert re.match(rf"{re.escape(str(file))}:\d+: ", str(raised.value)), raised.value
        assert "stages." not in str(raised.value)


def test_what_draws_words_may_be_another_network_and_the_codec_is_none() -> None:
    network = {"kind": "transformer", "channels": [48], "blocks": 1, "patch": 4}
    codec, model = from_plain(_plain({"name": "autoregressive", "network": network})).stages
    assert (codec.network.kind, model.network.kind) == ("unet", "transformer")


def test_what_it_stands_for_is_read_as_itself() -> None:
    recipe = from_plain(_plain("autoregressive"))
    assert from_plain(recipe.plain()).plain() == recipe.plain()
