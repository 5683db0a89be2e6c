"""Private gradients: what one patient adds is bounded, noise has its size, samples are Poisson; and what is refused."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fabrica.contracts import Family
from fabrica.families import FAMILIES
from fabrica.learning import gradients
from fabrica.learning.accounting import Spent
from fabrica.learning.checkpoint import load
from fabrica.learning.gradients import Loss, PrivateGradients, check_private, groups_of
from fabrica.networks.unet import UNetShape
from fabrica.recipe.checks import from_plain
from fabrica.recipe.values import PrivacyPlan
from fabrica.run.sequence import run_recipe

from .test_loop import JOB, MemoryLoader, _family


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise."""
    monkeypatch.setattr(
        gradients, "noise_for", lambda epsilon, rate, steps, delta: Spent(epsilon, delta, 0.0, rate, steps, "")
    )


def _taken(module: nn.Module, patients: int, clip: float) -> list[torch.Tensor]:
    """The sum over the first so many patients, all of them sampled."""
    loader = MemoryLoader(batch=8)
    made = PrivateGradients(PrivacyPlan(8, 1e-5, clip=clip), loader, 10)
    made.groups, made.rate = made.groups[:patients], 1.0
    made.into(module, JOB, "network", 0, 0.5)
    return [p.grad * patients for p in module.parameters() if p.grad is not None]


def _norm(tensors: list[torch.Tensor]) -> float:
    return float(torch.stack([t.norm() for t in tensors]).norm())


@pytest.mark.usefixtures("quiet")
def test_one_patient_moves_a_step_by_at_most_the_clip() -> None:
    module = Loss(_family())
    nn.init.normal_(module.family.net.out.weight if hasattr(module.family.net, "out") else next(module.parameters()))
    for clip in (0.01, 0.5):
        sums = [_taken(module, n, clip) for n in (1, 2, 3)]
        assert _norm(sums[0]) == pytest.approx(clip, rel=1e-3)
        for fewer, more in pairwise(sums):
            assert _norm([a - b for a, b in zip(more, fewer, strict=True)]) <= clip * 1.001


def test_noise_has_the_size_that_was_accounted() -> None:
    module = Loss(_family())
    made = PrivateGradients(PrivacyPlan(8, 1e-5, clip=1e-6), MemoryLoader(batch=8), 10)
    made.into(module, JOB, "network", 0, 0.5)
    drawn = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    wanted = made.spent.noise * 1e-6 / (made.rate * len(made.groups))
    assert float(drawn.std()) == pytest.approx(wanted, rel=0.05)
    assert made.spent.epsilon <= 8
    made.into(module, JOB, "network", 0, 0.5)
    again = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    assert not torch.equal(drawn, again)  # no seed of a checkpoint tells it


@pytest.mark.usefixtures("quiet")
def test_patients_are_taken_by_chance_each_for_himself(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = MemoryLoader(batch=1)
    made = PrivateGradients(PrivacyPlan(8, 1e-5), loader, 10)
    assert made.rate == pytest.approx(1 / 3)
    seen = np.zeros(3)
    monkeypatch.setattr(made, "_loss", lambda *args: (seen.__setitem__(args[-1], seen[args[-1]] + 1), Zero(args[0]))[1])
    module = Loss(_family())
    for step in range(300):
        made.into(module, JOB, "network", step, 0.5)
    assert np.abs(seen / 300 - 1 / 3).max() < 0.1


def Zero(module: nn.Module) -> torch.Tensor:  # noqa: N802
    return sum(p.sum() for p in module.parameters()) * 0.0


def test_slices_of_a_patient_are_one_group_and_images_are_their_own() -> None:
    loader = MemoryLoader()
    assert [len(g) for g in groups_of(loader, "patient")] == [4, 4, 4]
    assert [len(g) for g in groups_of(loader, "image")] == [1] * 12


@pytest.mark.parametrize("name", ["gan", "vae"])
def test_families_that_keep_more_than_weights_are_refused(name: str) -> None:
    family: Family = FAMILIES.find(name)(JOB.signature(), UNetShape((8, 16), 1), "fp32")
    with pytest.raises(ValueError, match="private"):
        check_private(family, list(family.groups()))
    check_private(_family(), ["network"])


PLAIN = {
    "cohorts": {"all": {"virtual": {"patients": 14, "spacing_mm": 4, "planes": [18, 20]}}},
    "split": {"train": 0.7, "test": 0.3}, "baseline": "none",
    "job": {"name": "synthesis", "x": ["T1w"]}, "family": {"name": "flow", "network": {"channels": [8, 16], "blocks": 1}},
    "prepare": {"size": [48, 48]},
    "train": {"steps": 3, "batch": 4, "precision": "fp32", "privacy": {"epsilon": 8, "delta": 1.0e-5, "scales": {"T1w": 1000}}},
    "evaluate": {"draws": 1, "realism": 0, "evaluations": []},
}  # fmt: skip


def test_a_private_checkpoint_tells_nothing_of_its_patients(tmp_path: Path) -> None:
    report = run_recipe(from_plain(PLAIN), tmp_path / "run", say=lambda _: None).report
    assert any("differential privacy per patient" in line for line in report.remarks)
    _, facts = load(tmp_path / "run/stages/model") or ({}, {})
    promised = facts["privacy"]
    assert promised["epsilon"] <= 8
    assert (promised["per"], promised["delta"], promised["steps"]) == ("patient", 1e-5, 3)
    assert promised["accountant"].startswith("PRV")
    assert facts["trained_on"] == []
    assert facts["curve"] == []
    assert facts["preparation"]["scales"] == {"T1w": [0.0, 1000.0]}
    assert facts["preparation"]["size"] == [1, 48, 48]
    assert not (tmp_path / "run/stages/model/samples").exists()


def test_jobs_that_keep_what_they_learn_beside_the_weights_are_refused(tmp_path: Path) -> None:
    course = {
        "cohorts": {"all": {"virtual": {"patients": 20, "spacing_mm": 4, "planes": [18, 20]}, "events": {"yearly": 2.0}}},
        "job": {"name": "survival", "from": ["FLAIR"], "horizons": [1]}, "family": {"name": "regression", "network": {"channels": [8, 16], "blocks": 1}},
        "train": {**PLAIN["train"], "privacy": {"epsilon": 8, "delta": 1e-5, "scales": {"FLAIR": 1000}}},
    }  # fmt: skip
    with pytest.raises(ValueError, match="keeps what it learned of patients beside the weights"):
        run_recipe(from_plain({**PLAIN, **course}), tmp_path / "run", say=lambda _: None)


def test_what_two_private_trainings_spend_is_not_added_up(tmp_path: Path) -> None:
    run_recipe(from_plain(PLAIN), tmp_path / "first", say=lambda _: None)
    then = {**PLAIN, "train": {**PLAIN["train"], "start": str(tmp_path / "first/stages/model")}}
    with pytest.raises(ValueError, match="not added up"):
        run_recipe(from_plain(then), tmp_path / "second", say=lambda _: None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": {**PLAIN["train"], "privacy": {"epsilon": 8}}}, "delta"),
        ({"train": {**PLAIN["train"], "privacy": {"epsilon": 0, "delta": 1e-5}}}, "epsilon"),
        ({"train": {"minutes": 1, "privacy": {"epsilon": 8, "delta": 1e-5}}}, "counted in steps"),
        ({"train": {**PLAIN["train"], "privacy": {"epsilon": 8, "delta": 1e-5}}}, "scales: {T1w: 1000}"),
        ({"prepare": {}}, "how large its patients are"),
    ],
)
def test_what_a_private_training_cannot_promise_is_refused(change: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        run_recipe(from_plain({**PLAIN, **change}), tmp_path / "run", say=lambda _: None)
