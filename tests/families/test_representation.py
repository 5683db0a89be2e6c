"""An encoder that learns from images alone, and networks that users bring along, as embeddings of an evaluation."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from typer.testing import CliRunner

from fabrica.cli import app
from fabrica.contracts import Condition, Field, Problem, Signature
from fabrica.evaluate.sets.embedding import Picture
from fabrica.evaluate.sets.network import from_onnx
from fabrica.families import Contrastive
from fabrica.families.contrastive import _covariance
from fabrica.networks.unet import UNetShape
from fabrica.recipe.checks import from_plain
from fabrica.recipe.text import RecipeError
from fabrica.run.answering import embedding_of
from fabrica.run.sequence import run_recipe
from fabrica.testing import check_family

from ..evaluate.judging.test_folders import _patients
from ..jobs.test_outcome import _pictures
from ..margin import SEED, above, learns

RECIPE = {
    "split": {"train": 0.8, "test": 0.2}, "job": {"name": "representation", "from": ["image"], "width": 16},
    "family": {"name": "contrastive", "network": {"channels": [8, 16], "blocks": 1}},
    "train": {"steps": 60, "batch": 16, "precision": "fp32", "average": 0.9},
}  # fmt: skip


@pytest.fixture(scope="module", params=["vicreg", "infonce"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = _pictures(tmp_path_factory.mktemp("pictures") / "data", 48, 0)
    folder = tmp_path_factory.mktemp("runs") / "0001"
    family = {**RECIPE["family"], "form": request.param}  # type: ignore[dict-item]
    run_recipe(
        from_plain({**RECIPE, "seed": SEED, "family": family, "cohorts": {"all": {"path": str(data)}}}),
        folder,
        say=lambda text: None,
    )
    return folder


def _drawn(kind: int, seed: int) -> Picture:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    shape = np.hypot(y, x) < 0.4 if kind else (abs(y) < 0.4) & (abs(x) < 0.1)
    return Picture(f"{kind}-{seed}", f"{seed}", 150.0 * shape + 8 * rng.normal(size=(28, 28)) + 30, np.ones((28, 28), bool), (1.0, 1.0))  # fmt: skip


@learns
def test_learned_features_tell_shapes_apart_and_have_not_collapsed(trained: Path) -> None:
    ((name, how),) = embedding_of(trained).items()
    assert name.startswith("model of 0001 (")
    features = np.stack([how(_drawn(kind, seed), 1.0) for kind in (0, 1) for seed in range(6)])
    assert features.shape == (12, 16)
    # worst of 0.00114 (0.44 of the bound; fp32, 5 seeds); 0.00266 (0.19 of the bound; bf16, 1 seed)
    above("the spread of the narrowest feature", float(features.std(0).min()), 5e-4)
    within = np.linalg.norm(features[:6] - features[:6].mean(0), axis=1).mean()
    between = np.linalg.norm(features[:6].mean(0) - features[6:].mean(0))
    # worst of 26 (0.08 of the bound; fp32, 5 seeds); 62.7 (0.03 of the bound; bf16, 1 seed)
    above("two shapes apart, of the spread of one", float(between / within), 2)
    np.testing.assert_array_equal(how(_drawn(0, 1), 1.0), how(_drawn(0, 1), 5.0))


def test_the_run_says_how_to_use_it(trained: Path) -> None:
    report = json.loads((trained / "report" / "report.json").read_text())
    assert any("--embedding 0001" in line for line in report["not_evaluated"])


@pytest.mark.parametrize("form", ["vicreg", "infonce"])
@pytest.mark.parametrize("given", ["yx", "zyx"])
def test_laws(given: str, form: Literal["vicreg", "infonce"]) -> None:
    torch.manual_seed(0)
    signature = Signature((Field("features", "embedding", 6),), "", (Field("T1w"),), given_axes=given)
    family = Contrastive(signature, UNetShape((8, 16), 1), "fp32", form=form)
    values = {"T1w": torch.rand(3, 1, *[16] * len(given))}
    check_family(family, Problem(("a", "b", "c"), (6,), Condition(values)))


def test_covariance_by_hand() -> None:
    z = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    assert float(_covariance(z)) == pytest.approx(2 * 2**2 / 2)
    assert float(_covariance(torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]))) == pytest.approx(0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"family": {"name": "regression"}}, "cannot learn features, embedding. Write: family: {name: contrastive}"),
        ({"job": {"name": "synthesis", "x": ["image"]}}, "Contrastive cannot learn image"),
        ({"job": {"name": "representation", "from": ["image"], "width": 1}}, "at least 2 features"),
    ],
)
def test_recipes_that_cannot_be(change: dict, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        from_plain({**RECIPE, "cohorts": {"all": {"path": "x"}}, **change})
    assert Contrastive.learns == ("embedding",)


def _network(path: Path, channels: int = 3, side: int | str = 8) -> Path:
    """Mean over space of each channel, then a row of ones: a graph that can be checked by hand."""
    shape = [1, channels, side, side]
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["y"])]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, channels])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [given], [out]), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 10
    onnx.save(model, path)
    return path


def test_a_network_of_the_user(tmp_path: Path) -> None:
    ((name, how),) = from_onnx(_network(tmp_path / "own.onnx")).items()
    assert name.startswith("own (")
    picture = _drawn(1, 0)
    found = how(picture, 10.0)
    low = np.percentile(picture.values, 1)
    np.testing.assert_allclose(found, np.full(3, ((picture.values - low) / 320).mean()), rtol=1e-2)
    ((other, _),) = from_onnx(_network(tmp_path / "wide.onnx", 1, "side")).items()
    assert other != name
    with pytest.raises(ValueError, match="no network at"):
        from_onnx(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(ValueError, match="no ONNX graph"):
        from_onnx(tmp_path / "bad.onnx")


def test_evaluation_and_recomputation_with_both(tmp_path: Path, trained: Path) -> None:
    _patients(tmp_path / "real", range(12))
    _patients(tmp_path / "ours", range(50, 62), blur=1.0, first="g")
    own = _network(tmp_path / "own.onnx")
    call = ["evaluate", "--generated", str(tmp_path / "ours"), "--reference", str(tmp_path / "real"), "--out", str(tmp_path / "out"), "--quick"]  # fmt: skip
    done = CliRunner().invoke(app, [*call, "--embedding", str(own), "--embedding", str(trained)])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    used = {d["embedding"] for d in report["realism"]["distances"]}
    assert len(used) == 5
    assert any(e.startswith("own (") for e in used)
    again = CliRunner().invoke(app, ["evaluate", "--recompute", str(tmp_path / "out")])
    assert "The same bytes" in again.output, again.output
    _network(own, 2)
    changed = CliRunner().invoke(app, ["evaluate", "--recompute", str(tmp_path / "out")])
    assert changed.exit_code == 2
    assert "a network has changed" in changed.output
