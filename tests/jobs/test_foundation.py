"""The job of any parts from any others: who is shown what, what is asked, and what it refuses."""

import itertools

import pytest
import torch

from fabrica.contracts import Batch
from fabrica.jobs import Foundation
from fabrica.rng import Rng

ROWS = 400
TEXT = {"findings": {"of": "lesion", "words": 32, "length": 6}}


def _job(**more: object) -> Foundation:
    return Foundation(["T1w", "lesion"], text=TEXT, covariates={"age": [50, 20]}, by={"sex": ["F", "M"]}, **more)  # type: ignore[arg-type]


def _batch(lacking: tuple[str, ...] = ()) -> Batch:
    rng = Rng(range(ROWS))
    images = {"T1w": rng.child("t").uniform(1, 8, 8), "lesion": (rng.child("l").uniform(1, 8, 8) > 0.8).float()}
    values = {
        "age": torch.full((ROWS,), 70.0),
        "sex": torch.ones(ROWS),
        "findings": torch.ones(ROWS, 6).long(),
        "position": torch.zeros(ROWS),
    }
    present = {n: torch.full((ROWS,), n not in lacking) for n in ("T1w", "lesion", "age", "sex", "findings")}
    return Batch(tuple(map(str, range(ROWS))), images, torch.eye(4).expand(ROWS, 4, 4), values, present)


def test_each_row_asks_for_what_it_is_not_shown_and_for_something() -> None:
    job = _job()
    problem = job.problem(_batch(), Rng(range(ROWS)))
    given = {n: problem.condition.present[n] for n in job.names}
    assert problem.weight is not None
    asked = {"T1w": problem.weight[:, 0, 0, 0] > 0, "lesion": problem.weight[:, 1, 0, 0] > 0, **problem.wanted}
    for name in job.names:
        assert torch.equal(asked[name], ~given[name])
    count = torch.stack(list(given.values())).sum(0)
    assert int(count.max()) == len(job.names) - 1
    assert set(count.tolist()) == set(range(len(job.names)))  # from nothing to all but one
    for one, other in itertools.permutations(job.names, 2):
        assert bool((given[one] & asked[other]).any()), f"{one} -> {other} is never trained"
    assert torch.allclose(problem.beside["age"], torch.ones(ROWS))  # (70 - 50) / 20
    assert float(problem.weight[:, 1].mean()) == float(problem.weight[:, 2].mean())


@pytest.mark.parametrize("lacking", [("T1w",), ("findings", "lesion"), ("age", "sex")])
def test_what_a_patient_lacks_is_neither_shown_nor_asked(lacking: tuple[str, ...]) -> None:
    job = _job()
    problem = job.problem(_batch(lacking), Rng(range(ROWS)))
    assert problem.weight is not None
    for name in lacking:
        assert not bool(problem.condition.present[name].any())
        channel = {"T1w": 0, "lesion": 1}.get(name)
        wanted = problem.wanted[name] if channel is None else problem.weight[:, channel] > 0
        assert not bool(wanted.any())
    others = [problem.condition.present[n] for n in job.names if n not in lacking]
    assert not bool(torch.stack(others).all(0).any())  # something that it has is asked for


def test_a_batch_without_values_is_a_question_all_the_same() -> None:
    batch = _batch()
    bare = Batch(
        batch.cases, batch.images, batch.affine, {"position": torch.zeros(ROWS)}, {"T1w": torch.ones(ROWS).bool()}
    )
    asked = _job().question(bare, Rng([0])).condition
    assert not any(bool(asked.present[n].any()) for n in ("findings", "age", "sex"))
    assert asked.values["findings"].shape == (ROWS, 6)


def test_directions() -> None:
    job = _job(directions=["T1w -> lesion, findings", "-> T1w", "age,sex->T1w"])
    assert job.directions == ((("T1w",), ("lesion", "findings")), ((), ("T1w",)), (("age", "sex"), ("T1w",)))
    every = _job().directions
    assert [asked for _, asked in every] == [(n,) for n in _job().names]
    assert all(set(given) | set(asked) == set(_job().names) for given, asked in every)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"directions": ["T1w to lesion"]}, 'expected "T1w, T2w -> FLAIR"'),
        ({"directions": ["T1w ->"]}, 'expected "T1w, T2w -> FLAIR"'),
        ({"directions": ["T1w -> PET"]}, "Unknown part of foundation 'PET'"),
        ({"directions": ["T1w, age -> age"]}, "gives what it asks for: age"),
        ({"axes": "zyx"}, "needs slices so far"),
    ],
)
def test_impossible_questions_are_refused(more: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _job(**more)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ({"findings": {"of": "tumour"}}, "Unknown label map of foundation.text.findings.of 'tumour'"),
        ({"findings": {"from": "lesion"}}, "Unknown key of foundation.text.findings 'from'"),
        ({"findings": {"length": 1}}, "length is 1, expected 2 or more"),
        ({"findings": 64}, "Write: findings: {of: lesion}"),
        ({"T1w": {}}, "each once"),
    ],
)
def test_impossible_texts_are_refused(text: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Foundation(["T1w", "lesion"], text=text)
    with pytest.raises(ValueError, match="at least two"):
        Foundation(["T1w"])
