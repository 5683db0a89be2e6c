"""Jobs ask for what they say, hide what they must, and never show the answer."""

from dataclasses import replace

import pytest
import torch

from fabrica.contracts import Batch, Job
from fabrica.jobs import (
    JOBS,
    Anomaly,
    Cine,
    Counterfactual,
    Dose,
    Enhancement,
    Foundation,
    Harmonisation,
    Interpolation,
    Outcome,
    Progression,
    Reconstruction,
    Registration,
    Representation,
    Segmentation,
    Survival,
    Synthesis,
    Translation,
    job_options,
    layout_of,
)
from fabrica.jobs.imaging import one_hot
from fabrica.jobs.values import said, wide_covariates
from fabrica.rng import Rng
from fabrica.testing import check_job

ROWS = 4


def _batch(axes: str = "yx", depth: int = 1, **extra: torch.Tensor) -> Batch:
    side = (8,) * len(axes)
    rng = Rng(range(ROWS))
    images = {
        name: rng.child(name).uniform(depth if name in ("T1w", "T2w") else 1, *side) for name in ("T1w", "T2w", "FLAIR")
    }
    images["lesion"] = (rng.child("lesion").uniform(1, *side) > 0.7).float()
    if axes == "zyx":
        images["place"] = rng.child("place").uniform(3, *side)
    values = {
        "position": torch.linspace(-1, 1, ROWS),
        "age": torch.tensor([20.0, 40, 60, 80]),
        "years": torch.tensor([1.0, 2.0, 3.0, 9.0]),
        "event": torch.tensor([1.0, 0.0, 1.0, 0.0]),
        "class": torch.tensor([0.0, 1, 2, 0]),
        "report": rng.child("report").normal(16),
    }
    return Batch(tuple(f"c{i}" for i in range(ROWS)), {**images, **extra}, torch.eye(4).expand(ROWS, 4, 4), values)


def _wide(batch: Batch) -> Batch:
    """Twice as wide: coils are learned from twelve samples a side at least."""
    return replace(
        batch, images={n: v.repeat_interleave(2, -1).repeat_interleave(2, -2) for n, v in batch.images.items()}
    )


def _planned() -> Batch:
    """Everything that a dose is drawn from."""
    batch = _batch()
    given = {n: torch.rand_like(next(iter(batch.images.values()))[:, :1]) for n in (*Dose().signature().given, "dose")}
    given["possible_dose"] = (given["possible_dose"] > 0.5).float()
    return replace(batch, images=given, present={})


def _followed() -> Batch:
    """Two visits and what lies between them."""
    batch = _batch()
    given = {n: torch.rand_like(batch.images["T1w"]) for n in ("T1w", *Progression("T1w").signature().given)}
    years = {n: torch.full((len(batch.cases),), 1.5) for n in ("years ahead", "years apart")}
    return replace(batch, images=given, values={**batch.values, **years}, present={})


def _filmed() -> Batch:
    """A film of eight frames, every second of them given."""
    batch = _batch()
    film = torch.rand(len(batch.cases), 8, *batch.images["T1w"].shape[2:])
    return replace(batch, images={"cine": film, "given frames of cine": film[:, ::2]}, present={})


def _beating(given: int) -> Batch:
    """A cycle of eight frames with how much it ejects."""
    batch = _filmed()
    values = {**batch.values, "ejection_fraction": torch.tensor([30.0, 40, 50, 60])}
    film = batch.images["cine"]
    return replace(batch, images={"cine": film, "given frames of cine": film[:, :given]}, values=values)


def _moved() -> Batch:
    """Two images and the velocity between them."""
    batch = _batch("zyx")
    signature = Registration("T1w").signature()
    given = {n: torch.rand_like(batch.images["T1w"]) for n in (*signature.given, *signature.asked)}
    return replace(batch, images=given, present={})


def _worded() -> Batch:
    """With what is said of each row."""
    batch = _batch()
    return replace(batch, values={**batch.values, "findings": torch.arange(ROWS * 6).reshape(ROWS, 6) % 7})


EXAMPLES: list[tuple[Job, Batch]] = [
    (Translation(["T1w", "T2w"], ["FLAIR"]), _batch()),
    (Translation(["T1w", "T2w"], ["FLAIR"], neighbours=1), _batch(depth=3)),
    (Translation(["T1w", "T2w", "FLAIR"], ["T1w", "T2w", "FLAIR"], drop=0.3), _batch()),
    (Translation(["T1w", "lesion"], ["FLAIR"], axes="zyx"), _batch("zyx")),
    (
        Translation(
            ["lesion"],
            ["FLAIR"],
            drop=0.3,
            values={"by": {"class": ["a", "b", "c"]}, "covariates": {"age": [50, 10]}, "text": {"report": 16}},
        ),
        _batch(),
    ),
    (Synthesis(["T1w", "lesion"]), _batch()),
    (Synthesis(["FLAIR"], text={"report": 16}, drop=0.2), _batch()),
    (Synthesis(["FLAIR"], axes="zyx", by={"class": ["a", "b", "c"]}, covariates=["age"]), _batch("zyx")),
    (Segmentation(["T1w"], ["lesion"]), _batch()),
    (Synthesis(["FLAIR"], by={"class": ["a", "b", "c"]}, drop=0.5), _batch()),
    (Outcome(["T1w"], "class", classes=["a", "b", "c"]), _batch()),
    (Representation(["T1w", "lesion"], width=8), _batch()),
    (Outcome(["T1w", "lesion"], "age", width=20.0, axes="zyx"), _batch("zyx")),
    (Reconstruction("FLAIR", acquisition={"name": "mr", "coils": 2, "calibration": 12}), _wide(_batch())),
    (Enhancement("FLAIR", factor=[2, 2]), _wide(_batch())),
    (Survival(["T1w"], values={"covariates": ["age"]}), _batch()),
    (Survival(["T1w", "lesion"], form="proportional", axes="zyx"), _batch("zyx")),
    (Anomaly(["T1w", "T2w"], {"disease": ["none"]}), _batch()),
    (Anomaly(["T2w"], {"disease": ["none"]}, source=["T1w"], way="predicted"), _batch()),
    (Cine(frames=8, given=[0, 3]), _beating(2)),
    (Cine(frames=8, given=[0, 3], ejection=False), _beating(2)),
    (Cine(frames=8), _beating(1)),
    (Harmonisation("T1w"), _batch(**{"another site's T1w": torch.rand(ROWS, 1, 8, 8)})),
    (Counterfactual(["T1w"], {"class": "b"}, {"by": {"class": ["a", "b", "c"]}}), _batch()),
    (Counterfactual(["T1w", "T2w"], {"age": "+10"}, {"covariates": ["age"]}), _batch()),
    (Dose(), _planned()),
    (Progression("T1w"), _followed()),
    (Interpolation(frames=8, every=2), _filmed()),
    (Registration("T1w"), _moved()),
    (
        Foundation(
            ["T1w", "lesion"],
            text={"findings": {"of": "lesion", "length": 6}},
            covariates=["age"],
            by={"class": ["a", "b", "c"]},
        ),
        _worded(),
    ),
]


@pytest.mark.parametrize(("job", "batch"), EXAMPLES, ids=lambda v: type(v).__name__)
def test_laws(job: Job, batch: Batch) -> None:
    check_job(job, batch)


def test_every_job_has_an_example() -> None:
    assert {type(job) for job, _ in EXAMPLES} == {JOBS.find(name) for name in JOBS.names()}


def test_completion_asks_for_what_is_hidden_and_only_for_that() -> None:
    names = ["T1w", "T2w", "FLAIR"]
    job, batch = Translation(names, names, drop=0.3), _batch()
    problem = job.problem(batch, Rng(range(ROWS)))
    assert problem.weight is not None
    for row in range(ROWS):
        hidden = [not bool(problem.condition.present[n][row]) for n in names]
        asked = [bool(w) for w in problem.weight[row].flatten()]
        assert hidden == asked
        assert any(hidden)


VALUES = {"by": {"class": ["a", "b", "c"]}, "covariates": ["age"], "text": {"report": 16}}


def test_values_stand_beside_images_and_are_hidden_together() -> None:
    job, batch = Translation(["lesion"], ["FLAIR"], drop=0.5, values=VALUES), _batch()
    assert [f.name for f in job.signature().condition] == ["lesion", "class", "age", "report", "position"]
    assert job.hidden == ("class", "age", "report")  # guidance strengthens them, and keeps the image
    assert Translation(["lesion"], ["FLAIR"], drop=0.5).hidden == ("lesion",)
    assert Translation(["lesion"], ["FLAIR"], values=VALUES).hidden == ()
    shown = set()
    for seed in range(12):
        problem = job.problem(batch, Rng(range(ROWS * seed, ROWS * (seed + 1))))
        present = torch.stack([problem.condition.present[n] for n in job.hidden])
        assert bool((present == present[0]).all())
        shown |= set(present[0].tolist())
        assert torch.allclose(problem.condition.values["age"], torch.tensor([-1.5, -0.5, 0.5, 1.5]))
    assert shown == {True, False}
    asked = job.question(batch, Rng([0])).condition
    assert not set(asked.present) & set(job.hidden)  # drawing shows all of them
    known = replace(batch, present={"age": torch.tensor([True, False, True, True])})
    assert job.question(known, Rng([0])).condition.present["age"].tolist() == [True, False, True, True]


def test_covariates_have_a_scale() -> None:
    batch = replace(_batch(), values={**_batch().values, "weight_kg": torch.tensor([55.0, 70, 85, 100])})
    job = Synthesis(["FLAIR"], covariates={"weight_kg": [70, 15]})
    assert torch.allclose(job.question(batch, Rng([0])).condition.values["weight_kg"], torch.tensor([-1.0, 0, 1, 2]))
    cases = [{"weight_kg": v} for v in (55.0, 70.0, 85.0, 100.0)]
    assert wide_covariates(job.signature().values, cases) == ""
    bare = Synthesis(["FLAIR"], covariates=["weight_kg"])
    assert "Write: covariates: {weight_kg: [70, 19.4]}" in wide_covariates(bare.signature().values, cases)
    assert wide_covariates(bare.signature().values, [{"weight_kg": 0.3}, {"weight_kg": "unknown"}, {}]) == ""
    assert wide_covariates((), cases) == ""


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"classes": {}}, "Unknown key of translation.values 'classes'"),
        ({"by": ["a"]}, "translation.values.by is"),
        ({"covariates": {"age": [50]}}, "expected its centre and a width above 0"),
        ({"covariates": {"age": [50, 0]}}, "expected its centre and a width above 0"),
        ({"text": {"report": 4}}, "expected at least 8"),
    ],
)
def test_values_that_are_none(values: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Translation(["T1w"], ["FLAIR"], values=values)


@pytest.mark.parametrize(
    ("fixed", "words"),
    [({"size": "3"}, "knows no size. It knows: class, age, report"), ({"class": "d"}, "class d is none of a, b, c"), ({"age": "old"}, "A covariate is a number"), ({"age": "nan"}, "age is nan")],
)  # fmt: skip
def test_values_that_cannot_be_asked_for(fixed: dict, words: str) -> None:
    fields = Translation(["T1w"], ["FLAIR"], values=VALUES).signature().values
    assert said(fields, {"class": "b", "age": "61", "report": "x"}) == {"class": "b", "age": 61.0, "report": "x"}
    with pytest.raises(ValueError, match=words):
        said(fields, fixed)


def test_missing_targets_weigh_nothing() -> None:
    batch = replace(_batch(), present={"FLAIR": torch.tensor([True, False, True, True])})
    problem = Translation(["T1w"], ["FLAIR"]).problem(batch, Rng(range(ROWS)))
    assert problem.weight is not None
    assert problem.weight.flatten().tolist() == [1, 0, 1, 1]


def test_inputs_vary_in_training_only() -> None:
    job, batch = Translation(["T1w"], ["FLAIR"], vary=0.3), _batch()
    problem = job.problem(batch, Rng(range(ROWS)))
    assert not torch.allclose(problem.condition.values["T1w"], batch.images["T1w"])
    assert torch.equal(problem.target, batch.images["FLAIR"])
    assert torch.equal(job.question(batch, Rng([0])).condition.values["T1w"], batch.images["T1w"])


def test_neighbours_keep_the_middle_as_target() -> None:
    job = Translation(["T1w"], ["FLAIR"], neighbours=1)
    assert layout_of(job, (1, 8, 8)).context == {"T1w": 1}
    assert job.signature().given == ("T1w",)
    with pytest.raises(ValueError, match="would show it"):
        Translation(["T1w"], ["T1w"], neighbours=1)


def test_labels_become_channels() -> None:
    hot = one_hot(torch.tensor([[[[0.0, 1, 2, 1]]]]), 3)
    assert hot.shape == (1, 3, 1, 4)
    assert hot.argmax(1).flatten().tolist() == [0, 1, 2, 1]
    for wrong in (9.0, -1.0):  # never clamped: 4 of BraTS would become another tissue
        with pytest.raises(ValueError, match="expected 0 to 2"):
            one_hot(torch.tensor([[[[0.0, 1, 2, wrong]]]]), 3)
    job = Synthesis(["T1w", "label:4"])
    assert job.signature().channels == 5


def test_recipe_words() -> None:
    assert job_options({"from": ["T1w"], "x": ["FLAIR"]}) == {"source": ["T1w"], "x": ["FLAIR"]}
    layout = layout_of(Synthesis(["FLAIR"], by={"class": ["a"]}, covariates=["age"]), (1, 8, 8))
    assert layout.values == ("class", "age")
    assert layout.categories == {"class": ("a",)}


def test_synthesis_hides_all_its_conditions_together_and_no_position() -> None:
    job = Synthesis(["FLAIR"], by={"class": ["a", "b", "c"]}, covariates=["age"], drop=0.5)
    batch = _batch()
    seen = set()
    for step in range(20):
        present = job.problem(batch, Rng(range(ROWS)).child(step)).condition.present
        assert torch.equal(present["class"], present["age"])
        assert "position" not in present
        seen |= set(present["class"].tolist())
    assert seen == {True, False}
    assert "class" not in job.question(batch, Rng([0])).condition.present
