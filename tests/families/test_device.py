"""Everything stays on the device that it was given: on "meta", a device that every machine has and that mixes with none."""

import contextlib

import pytest
import torch

from fabrica.contracts import Batch, Job
from fabrica.data.store import to_device
from fabrica.families import FAMILIES, Diffusion, Drawn
from fabrica.jobs import JOBS
from fabrica.networks.unet import UNetShape
from fabrica.rng import Rng
from fabrica.sampling import SAMPLERS

SMALL = UNetShape(channels=(8, 16), blocks=1)
WHERE = torch.device("meta")
ROWS = [1, 2]


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast refuses the device by name."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


def _jobs() -> dict[str, Job]:
    translation, synthesis, segmentation = (JOBS.find(n) for n in ("translation", "synthesis", "segmentation"))
    outcome, representation = (JOBS.find(n) for n in ("outcome", "representation"))
    return {
        "translation": translation(source=["T1w"], x=["FLAIR"]),
        "volumes, any missing": translation(source=["T1w", "FLAIR"], x=["T1w", "FLAIR"], axes="zyx", drop=0.5),
        "synthesis by class": synthesis(x=["FLAIR"], by={"sex": ["F", "M"]}, covariates=["age"]),
        "synthesis of nothing given": synthesis(x=["FLAIR", "lesion"], axes="zyx"),
        "segmentation": segmentation(source=["T1w"], x=["lesion"]),
        "a class": outcome(source=["T1w"], x="sex", classes=["F", "M"]),
        "a number": outcome(source=["T1w"], x="age", axes="zyx"),
        "features": representation(source=["T1w"]),
    }


def _batch(axes: str) -> Batch:
    side = (16,) * len(axes)
    images = {n: torch.rand(2, 1, *side) for n in ("T1w", "FLAIR")} | {"lesion": torch.zeros(2, 1, *side)}
    images["place"] = torch.rand(2, 3, *side)
    values = {n: torch.zeros(2) for n in ("position", "sex", "age")}
    present = {n: torch.ones(2, dtype=torch.bool) for n in (*images, "sex", "age")}
    return to_device(Batch(("a", "b"), images, torch.eye(4).expand(2, 4, 4), values, present), WHERE)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        (n, g)
        for n in FAMILIES.names()
        for g, job in _jobs().items()
        if all(f.kind in FAMILIES.find(n).learns for f in job.signature().x)
        and (n != "regression" or "synthesis" not in g)
        and (n not in ("cycle", "bridge") or g == "translation")
        and n != "unrolled"  # solves with raw data, and asks their values when to stop
    ],
)
def test_losses_gradients_and_draws_stay_where_the_family_is(name: str, given: str) -> None:
    job = _jobs()[given]
    family = FAMILIES.find(name)(job.signature(), SMALL, "fp32").to(WHERE)
    batch = _batch(job.signature().grid_axes)
    problem = job.problem(batch, Rng(ROWS))
    for group, parameters in family.groups().items():
        terms = family.loss(problem, group, Rng(ROWS), 0.0)
        assert {t.device for t in terms.values()} == {WHERE}
        torch.stack([t.mean() for t in terms.values()]).sum().backward()
        assert any(p.grad is not None for p in parameters)
    assert family.sample(job.question(batch, Rng([0])), Rng(ROWS)).device == WHERE


@pytest.mark.parametrize("sampler", [n for n in SAMPLERS.names() if SAMPLERS.find(n).operator is None])
def test_samplers_start_where_the_prior_is(sampler: str) -> None:
    job = _jobs()["synthesis of nothing given"]
    family = Drawn(Diffusion(job.signature(), SMALL, "fp32").to(WHERE), SAMPLERS.find(sampler), {"steps": 2})
    assert family.sample(job.question(_batch("zyx"), Rng([0])), Rng(ROWS)).device == WHERE


def test_the_device_mixes_with_none() -> None:
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(2) + torch.ones(2, device=WHERE)
