"""Sharded stores: the same batches as from memory maps, less on disk, and the same run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fabrica.contracts import Image
from fabrica.data.prepare import fit
from fabrica.data.sharded import ENDING, Sharded, write_sharded
from fabrica.data.store import Layout, Loader, Store, build_store
from fabrica.recipe.checks import from_plain
from fabrica.recipe.text import RecipeError
from fabrica.run.sequence import run_recipe

from .test_store import _members


@pytest.fixture
def both(make_image: Callable[..., Image], tmp_path: Path) -> tuple[Store, Store]:
    members = _members(make_image)
    preparation = fit((m.load(["T1w", "FLAIR"]) for m in members), "T1w", "yx", None)
    stores = [
        build_store(tmp_path / name, members, ["T1w", "FLAIR"], "T1w", preparation, sharded=name == "zarr")[0]
        for name in ("map", "zarr")
    ]
    return stores[0], stores[1]


@pytest.mark.parametrize(("axes", "size"), [("yx", (1, 16, 16)), ("zyx", (8, 16, 16))])
def test_batches_are_the_same(both: tuple[Store, Store], axes: str, size: tuple[int, int, int]) -> None:
    layout = Layout(("T1w", "FLAIR"), axes, size, {"T1w": 2} if axes == "yx" else {}, augment=0.5)
    one, other = (Loader(store, layout, 3, seed=5) for store in both)
    for step in range(4):
        own, theirs = one.load(step), other.load(step)
        assert own.cases == theirs.cases
        for name, value in own.images.items():
            assert torch.equal(value, theirs.images[name])


def test_it_answers_as_an_array(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((2, 37, 70, 65), np.float32)
    write_sharded(tmp_path / f"a{ENDING}", values)
    found = Sharded(tmp_path / f"a{ENDING}")
    assert (found.shape, len(found), found.dtype) == (values.shape, 2, values.dtype)
    planes = np.array([5, 4, 36, 4])
    for key in (
        0,
        (slice(None), 3),
        (slice(None), slice(2, 9), slice(1, 65), slice(60, None)),
        (slice(None), planes, slice(3, 7), slice(2)),
    ):
        assert np.array_equal(found[key], values[key])
    assert np.array_equal(np.asarray(found), values)
    assert all(np.array_equal(a, b) for a, b in zip(found, values, strict=True))
    assert (
        len([p for p in (tmp_path / f"a{ENDING}").rglob("*") if p.is_file() and p.name != "zarr.json"]) == 2
    )  # a shard a channel


def test_it_takes_less_disk_and_the_digest_sees_every_voxel(both: tuple[Store, Store], tmp_path: Path) -> None:
    size = [sum(f.stat().st_size for f in (tmp_path / n).rglob("*") if f.is_file()) for n in ("map", "zarr")]
    assert size[1] < size[0]
    before = both[1].digest()
    path = next(iter(both[1].entries[0].files.values()))
    changed = np.array(Sharded(path))
    changed[0, 0, 0, 0] += 1
    write_sharded(path, changed)
    assert both[1].digest() != before


def test_a_run_on_a_sharded_store_ends_the_same(tmp_path: Path) -> None:
    plain = {
        "cohorts": {"all": {"virtual": {"patients": 4, "spacing_mm": 4, "planes": [16, 20]}}}, "split": {"train": 0.5, "test": 0.5},
        "baseline": "none", "job": {"name": "translation", "from": ["T1w"], "x": ["FLAIR"]},
        "family": {"name": "regression", "network": {"channels": [8, 8], "blocks": 1}},
        "train": {"steps": 3, "batch": 2, "precision": "fp32"}, "evaluate": {"draws": 1, "realism": 0},
    }  # fmt: skip
    found = []
    for name in ("memory-map", "zarr"):
        run_recipe(from_plain({**plain, "prepare": {"store": name}}), tmp_path / name, say=lambda _: None, device="cpu")
        found.append(next((tmp_path / name).rglob("checkpoint-*.safetensors")).name)
    assert found[0] == found[1]  # named by its hash
    with pytest.raises(RecipeError, match="store"):
        from_plain({**plain, "prepare": {"store": "hdf5"}})
