"""Counting on a small problem foretells the large one; what does not fit is refused in words before it starts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fabrica.contracts import Family, Job
from fabrica.data.store import Entry, Layout, Loader, Store
from fabrica.families import FAMILIES, Latent
from fabrica.families.latent import latent_signature
from fabrica.jobs import JOBS
from fabrica.machine.device import peak_bytes
from fabrica.machine.memory import SLACK, MemoryShortage, Need, check
from fabrica.networks.unet import UNet, UNetShape
from fabrica.recipe.checks import from_plain
from fabrica.rng import Rng
from fabrica.run import memory
from fabrica.run.costs import evaluations
from fabrica.run.memory import drawing_bytes, drawing_room, training_need
from fabrica.run.sequence import run_recipe


def _store(folder: Path) -> Store:
    """One case of 64 x 64 x 96 with two contrasts."""
    shape, files = (64, 64, 96), {}
    for name in ("T1w", "FLAIR"):
        files[name] = folder / f"{name}.npy"
        np.save(files[name], np.random.default_rng(0).normal(0.5, 0.1, (1, *shape)).astype(np.float32))
    return Store([Entry("p0", "p0", files, shape, ((1.0,) * 4,) * 4, tuple(range(64)))])


def _parts(tmp_path: Path, name: str, axes: str) -> tuple[Family, Job, Store, Layout]:
    job = JOBS.find("translation")(source=["T1w"], x=["FLAIR"], axes=axes)
    family = FAMILIES.find(name)(job.signature(), UNetShape(channels=(8, 16), blocks=1), "fp32")
    return family, job, _store(tmp_path), Layout(("T1w", "FLAIR"), axes, (1, 64, 96) if axes == "yx" else (32, 32, 48))


@pytest.mark.parametrize("axes", ["yx", "zyx"])
@pytest.mark.parametrize(
    "name", [n for n in FAMILIES.names() if "intensity" in FAMILIES.find(n).learns and n != "unrolled"]
)
def test_the_count_on_a_small_problem_foretells_the_large_one(tmp_path: Path, name: str, axes: str) -> None:
    family, job, store, layout = _parts(tmp_path, name, axes)
    foretold = training_need(family, job, store, layout)
    assert all(p.grad is None for p in family.parameters())
    rows = 2
    batch = Loader(store, layout, rows, 0).load(0)
    drawn = drawing_bytes(family, job.question(batch, Rng([0])))
    for parameter in family.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def train() -> None:
        problem = job.problem(batch, Rng([1, 2]))
        for group in family.groups():
            terms = family.loss(problem, group, Rng([1, 2]), 0.0)
            torch.autograd.backward(torch.stack([t.mean() for t in terms.values()]).sum())

    assert rows * foretold.row / SLACK == pytest.approx(peak_bytes(train), rel=0.12)
    assert foretold.fixed == 8 * sum(p.nbytes for p in family.parameters())

    def draw() -> None:
        with torch.inference_mode():
            family.sample(job.question(batch, Rng([0])), Rng([1, 2]))

    assert rows * drawn / SLACK == pytest.approx(peak_bytes(draw), rel=0.12)


@pytest.mark.parametrize("axes", ["yx", "zyx"])
def test_codes_are_foretold_and_frozen_weights_count_thrice(tmp_path: Path, axes: str) -> None:
    _, job, store, layout = _parts(tmp_path, "flow", axes)
    signature, shape = job.signature(), UNetShape(channels=(8, 16), blocks=1)
    codec = FAMILIES.find("vae")(signature, shape, "fp32", codes=4)
    prior = FAMILIES.find("flow")(
        latent_signature(signature, codec, FAMILIES.find("flow")), replace(shape, patch=1), "fp32"
    )
    latent = Latent(codec, prior, signature.condition)
    foretold, batch, rows = training_need(latent, job, store, layout), Loader(store, layout, 2, 0).load(0), 2
    moving, frozen = (sum(p.nbytes for p in m.parameters()) for m in (prior, codec))
    assert foretold.fixed == 8 * moving + 3 * frozen
    assert all(p.grad is None for p in latent.parameters())
    for parameter in prior.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def train() -> None:
        (loss,) = latent.loss(job.problem(batch, Rng([1, 2])), "model", Rng([1, 2]), 0.0).values()
        torch.autograd.backward(loss.sum())

    assert rows * foretold.row / SLACK == pytest.approx(peak_bytes(train), rel=0.12)


def test_evaluations_are_counted_on_a_corner(tmp_path: Path) -> None:
    """A volume that only windows can draw is not drawn whole to count calls."""
    family, job, store, layout = _parts(tmp_path, "flow", "zyx")
    problem, seen = job.question(Loader(store, layout, 1, 0).load(0), Rng([0])), set()
    for net in (m for m in family.modules() if isinstance(m, UNet)):
        net.register_forward_hook(lambda module, given, out: seen.add(tuple(given[0].shape[2:])))
    assert evaluations(family, problem) == 17
    assert seen == {(16, 16, 16)}
    assert problem.shape[1:] == (32, 32, 48)


def test_the_largest_batch_that_fits() -> None:
    need = Need(fixed=1_000, row=100)
    assert need.most_rows(None, 8) == 8
    assert need.most_rows(10_000, 8) == 8
    assert need.most_rows(1_700, 8) == 4
    assert need.most_rows(1_300, 8) == 1
    assert need.most_rows(1_200, 8) == 0


def test_a_shortage_is_said_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    need = Need(fixed=int(1e9), row=int(5e8))
    monkeypatch.setattr("fabrica.machine.memory.free_bytes", lambda device: int(2e9))
    with pytest.raises(MemoryShortage, match=r"model needs about 5.0 GB of memory, but 2.0 GB are free. Write this."):
        check("model", need, 8, "cpu", "Write this.")
    assert check("model", need, 1, "cpu", "") == "model needs about 1.5 GB of memory; 2.0 GB are free."
    monkeypatch.setattr("fabrica.machine.memory.free_bytes", lambda device: None)
    assert check("model", need, 8, "cpu", "") == "model needs about 5.0 GB of memory."
    assert replace(need, row=0).total(5) == int(1e9)


def test_a_volume_that_does_not_fit_is_drawn_by_windows_that_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, job, store, layout = _parts(tmp_path, "flow", "zyx")
    question = job.question(Loader(store, layout, 1, 0).load(0), Rng([0])).rows(torch.zeros(4, dtype=torch.long))
    one = drawing_bytes(family, question)
    room: dict[float, tuple[int, tuple[int, ...] | None]] = {}
    for share in (100.0, 5.0, 2.5, 0.6, 0.2, 0.001):
        monkeypatch.setattr(memory, "free_bytes", lambda device, share=share: int(share * one))
        room[share] = drawing_room(family, question, 4, "cpu")
    assert room[100.0] == room[5.0] == (4, None)
    assert room[2.5] == (2, None)
    assert room[0.6] == (1, (16, 32, 32))  # the longest side of 32 x 32 x 48 first, then the first of equals
    assert room[0.2] == (1, (16, 16, 32))
    assert room[0.001] == (1, (16, 16, 16))  # the smallest that a network takes
    monkeypatch.setattr(memory, "free_bytes", lambda device: None)
    assert drawing_room(family, question, 4, "cpu") == (4, None)


@pytest.mark.parametrize(
    ("contrast", "acquisition", "family"),
    [("CT", {"name": "ct", "views": 12}, "unrolled"), ("CT", {"name": "ct", "views": 12, "geometry": "fan"}, "bridge"), ("PET", {"name": "pet", "counts": 2e5}, "unrolled")],
)  # fmt: skip
def test_training_on_raw_data_of_every_scanner_is_foretold(
    contrast: str, acquisition: dict, family: str, tmp_path: Path
) -> None:
    """Physics that is made on the way (sparse projections) is counted like everything else."""
    recipe = from_plain({
        "cohorts": {"all": {"virtual": {"patients": 3, "spacing_mm": 4, "planes": [18, 20], "skull": True, "disease": "none"}}}, "baseline": "none", "train": {"steps": 2, "batch": 2, "precision": "fp32"}, "evaluate": {"draws": 1, "realism": 0, "evaluations": []},
        "job": {"name": "reconstruction", "x": contrast, "acquisition": acquisition}, "family": {"name": family, "network": {"channels": [8, 16], "blocks": 1}},
    })  # fmt: skip
    said: list[str] = []
    run_recipe(recipe, tmp_path / "run", say=said.append)
    assert any("of memory" in line for line in said)
