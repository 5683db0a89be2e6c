"""Texts that a network reads, as conditions of synthesis and translation."""

from typing import Any

import pytest
import torch

from fabrica.contracts import Batch
from fabrica.families import Flow
from fabrica.jobs import Synthesis, Translation
from fabrica.networks.unet import UNetShape
from fabrica.rng import Rng
from fabrica.testing.jobs import check_job

TEXT = {"findings": {"of": "lesion", "words": 64, "length": 6}}


def _batch(rows: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = {n: torch.rand(rows, 1, 16, 16, generator=generator) for n in ("T1w", "FLAIR")}
    images["lesion"] = (torch.rand(rows, 1, 16, 16, generator=generator) > 0.7).float()
    words = torch.tensor([[3, 4, 0, 0, 0, 0], [0] * 6, [5, 6, 7, 0, 0, 0]])[:rows]
    present = {"findings": torch.tensor([True, False, True])[:rows]}
    values = {"findings": words, "position": torch.linspace(0, 1, rows)}
    return Batch(tuple("abc"[:rows]), images, torch.eye(4).repeat(rows, 1, 1), values, present)


@pytest.mark.parametrize(
    "job", [Synthesis(["FLAIR", "lesion"], text=TEXT, drop=0.5), Translation(["T1w", "lesion"], ["FLAIR"], drop=0.5, values={"text": TEXT})]
)  # fmt: skip
def test_texts_are_conditions_that_are_hidden_at_times(job: Synthesis | Translation) -> None:
    check_job(job, _batch())
    (field,) = [f for f in job.signature().condition if f.kind == "token"]
    assert (field.channels, field.length) == (64, 6)
    assert job.described == {"findings": "lesion"}
    assert "findings" in job.hidden
    hidden = [
        job.problem(_batch(), Rng([k, k + 1, k + 2])).condition.present["findings"].tolist() for k in range(0, 60, 3)
    ]
    assert not any(row[1] for row in hidden)  # an empty text is absent
    assert {row[0] for row in hidden} == {True, False}
    question = job.question(_batch(), Rng(range(3)))
    assert question.condition.present["findings"].tolist() == [True, False, True]


def test_a_flow_is_told_by_words() -> None:
    job = Synthesis(["FLAIR", "lesion"], text=TEXT)
    torch.manual_seed(0)
    flow = Flow(job.signature(), UNetShape((16, 32), 1), "fp32")
    loss = flow.loss(job.problem(_batch(), Rng(range(3))), "model", Rng(range(3)), 0.0)["velocity"].mean()
    loss.backward()
    assert all(p.grad is not None for p in flow.net.reader.parameters())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ({"findings": {"of": "tumour"}}, "Unknown label map of synthesis.text.findings.of 'tumour'"),
        ({"findings": {"from": "lesion"}}, "Unknown key of synthesis.text.findings 'from'"),
        ({"findings": 4}, "expected at least 8, such as 64; or a text to be read"),
        ({"findings": "many"}, "gives findings a vector of 'many'"),
        ({"findings": {"words": 3}}, "synthesis.text.findings.words is 3, expected 16 or more"),
    ],
)
def test_impossible_texts_are_refused(text: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Synthesis(["FLAIR", "lesion"], text=text)
    with pytest.raises(ValueError, match="axes: yx"):
        Synthesis(["FLAIR", "lesion"], text=TEXT, axes="zyx")
