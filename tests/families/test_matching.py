"""Images and texts in one space: what a text is, which rows belong together, and what a report tells of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fabrica.contracts import Batch, Condition
from fabrica.families import Contrastive
from fabrica.jobs.representation import Representation
from fabrica.networks.unet import UNetShape
from fabrica.recipe.checks import from_plain
from fabrica.rng import Rng
from fabrica.run.answering import embedding_of
from fabrica.run.judge_features import Seen, _auc, _by_patient
from fabrica.run.sequence import run_recipe
from fabrica.testing import check_family
from fabrica.testing.jobs import check_job

TEXT = {"findings": {"of": "lesion", "words": 64, "length": 6}}
WORDS = torch.tensor([[3, 4, 5, 0, 0, 0], [3, 4, 5, 0, 0, 0], [6, 7, 0, 0, 0, 0], [0] * 6])


def _batch() -> Batch:
    images = {n: torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0)) for n in ("FLAIR", "lesion")}
    present = {"findings": torch.tensor([True, True, True, False])}
    return Batch(tuple("abcd"), images, torch.eye(4).repeat(4, 1, 1), {"findings": WORDS}, present)


def _family(**options: Any) -> tuple[Representation, Contrastive]:
    torch.manual_seed(0)
    job = Representation(["FLAIR"], width=8, text=TEXT)
    return job, Contrastive(job.signature(), UNetShape((8, 16), 1), "fp32", **options)


@pytest.mark.parametrize("options", [{}, {"form": "infonce", "hide": 0.5}], ids=["vicreg", "infonce, hidden blocks"])
def test_laws(options: dict[str, Any]) -> None:
    job, family = _family(**options)
    check_job(job, _batch())
    problem = job.problem(_batch(), Rng(range(4)))
    check_family(family, problem)
    assert job.weighed_by == ("lesion",)  # the mask is read for its words and shown to nobody
    assert "lesion" not in problem.condition.values
    terms = family.loss(problem, "model", Rng(range(4)), 0.0)
    assert float(terms["words"][3].detach()) == 0.0  # a row without a text teaches nothing of words
    terms["words"].sum().backward()
    assert all(p.grad is not None for p in family.reader.parameters())


def test_rows_that_say_the_same_belong_to_one_another() -> None:
    _, family = _family(words=1.0)
    condition = Condition({"findings": WORDS}, {"findings": torch.tensor([True, True, True, False])})
    told = family.worded(condition, 4).detach()
    torch.testing.assert_close(told[0], told[1])
    right = family._matched([told], condition)
    wrong = family._matched([told[[2, 2, 0, 0]]], condition)
    assert float(right.detach().sum()) < float(wrong.detach().sum())
    with torch.no_grad():
        family.sharpness.fill_(10.0)
    sharp = family._matched([told], condition)
    assert sharp[:2].detach().numpy() == pytest.approx(
        np.log(2), abs=1e-3
    )  # two rows share the chance, neither is wrong
    assert sharp[3] == 0


def test_hidden_blocks_are_as_many_as_asked() -> None:
    _, family = _family(hide=0.25)
    image = torch.ones(200, 1, 16, 16)
    hidden = family._hidden(image, Rng(range(200)))
    assert float((hidden == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    blocks = hidden.reshape(200, 8, 2, 8, 2)
    assert bool((blocks.amax((2, 4)) == blocks.amin((2, 4))).all())


def test_areas_and_intervals_are_of_patients() -> None:
    rng = np.random.default_rng(0)
    patients = tuple(f"p{k // 5}" for k in range(200))
    truth = (np.arange(200) % 2).astype(float)
    seen = Seen(np.zeros((200, 1)), np.zeros((200, 1)), ("",) * 200, patients)
    found = _auc("a", "model", truth + rng.normal(0, 0.1, 200), truth, seen, 0)
    assert found.value == 1.0
    chance = _auc("a", "model", rng.normal(size=200), truth, seen, 0)
    assert chance.interval is not None
    assert chance.interval[0] < 0.5 < chance.interval[1]
    truth[:] = np.nan
    truth[:4] = [0, 1, 0, 1]
    assert "8 of each are needed" in str(_auc("a", "model", truth, truth, seen, 0).value)
    value, interval = _by_patient(("a",) * 3, lambda rows: float(len(rows)), 0)
    assert (value, interval) == (3.0, None)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plain = {
        "cohorts": {"all": {"virtual": {"patients": 8, "spacing_mm": 4, "planes": [14, 20], "disease": "mixed"}}},
        "split": {"train": 0.5, "test": 0.5},
        "job": {"name": "representation", "from": ["FLAIR"], "width": 8, "text": {"findings": {"of": "lesion", "words": 128, "length": 24}}},
        "family": {"name": "contrastive", "form": "infonce", "network": {"channels": [8, 16], "blocks": 1}},
        "train": {"steps": 3, "batch": 8, "precision": "fp32"},
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("matching") / "run"
    run_recipe(from_plain(plain), folder, say=lambda text: None)
    return folder


def test_a_report_tells_what_features_find(run: Path) -> None:
    figures = json.loads((run / "report/report.json").read_text())["stages"][0]["figures"]
    names = {f["name"] for f in figures}
    assert {"zero-shot AUC, a lesion", "zero-shot AUC, largest on the left"} <= names
    assert any("own sentence among the 1 nearest" in name for name in names)
    assert {f["by"] for f in figures} >= {"model", "the commonest sentences", "coarse pixels"}
    ((name, how),) = embedding_of(run).items()
    assert name.startswith("model of run (")
    assert callable(how)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"text": {"findings": 64}}, "texts are read here"),
        ({"text": {"findings": {"of": "T1w"}}}, "is written from T1w, expected a label map"),
        ({"text": {"findings": {"of": "lesion"}}, "axes": "zyx"}, "with axes: yx"),
    ],
)
def test_impossible_texts_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Representation(["FLAIR"], **options)
    plain = Representation(["FLAIR"], width=8)
    family = Contrastive(plain.signature(), UNetShape((8,), 1), "fp32")
    with pytest.raises(ValueError, match="trained without texts"):
        family.worded(Condition(), 1)
    with pytest.raises(ValueError, match="hide is 1"):
        Contrastive(plain.signature(), UNetShape((8,), 1), "fp32", hide=1)
