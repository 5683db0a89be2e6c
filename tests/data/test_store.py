"""What is stored is what was prepared; batches depend on (seed, step) alone."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from fabrica.contracts import Case, Image
from fabrica.data.cases import prepare_case
from fabrica.data.cohort import Member
from fabrica.data.prepare import GridPreparation
from fabrica.data.store import Entry, Layout, Loader, Store, build_store, encode_values, question_batch
from fabrica.io import UnreadableError

MAKE = Callable[..., Image]


@dataclass(frozen=True)
class Held(Member):
    patient: str
    images: dict[str, Image]
    visit: str = ""
    site: str = ""
    days: float = 0.0
    values: dict[str, float | str] = field(default_factory=dict)

    def contrasts(self) -> tuple[str, ...]:
        return tuple(self.images)

    def load(self, contrasts: object) -> Case:
        return Case(self.patient, {k: v for k, v in self.images.items() if k in contrasts}, self.values)


def _members(make_image: MAKE, count: int = 3) -> list[Held]:
    return [
        Held(
            f"p{i}",
            {"T1w": make_image(seed=i), **({"FLAIR": make_image(seed=i, name="FLAIR")} if i else {})},
            values={"age": 30.0 + i},
        )
        for i in range(count)
    ]


def _store(tmp_path: Path, make_image: MAKE) -> Store:
    preparation = GridPreparation("yx", None, (1, 16, 16), {})
    return build_store(tmp_path, _members(make_image), ["T1w", "FLAIR"], "T1w", preparation)[0]


def test_batches_are_a_function_of_seed_and_step(tmp_path: Path, make_image: MAKE) -> None:
    store = _store(tmp_path, make_image)
    layout = Layout(("T1w", "FLAIR"), "yx", (1, 16, 16), {"T1w": 1}, ("age",))
    one, other = Loader(store, layout, 4, seed=5), Loader(store, layout, 4, seed=5)
    for step in (7, 0, 3):
        a = one.load(step)
        other.load(step + 1)
        b = other.load(step)
        assert a.cases == b.cases
        assert torch.equal(a.images["T1w"], b.images["T1w"])
    assert a.images["T1w"].shape == (4, 3, 16, 16)
    assert a.images["FLAIR"].shape == (4, 1, 16, 16)
    assert Loader(store, layout, 4, seed=6).load(0).cases != one.load(0).cases


def test_an_epoch_sees_every_slice_once(tmp_path: Path, make_image: MAKE) -> None:
    store = _store(tmp_path, make_image)
    loader = Loader(store, Layout(("T1w",), "yx", (1, 16, 16)), 1, seed=0)
    seen = [loader.load(step).cases[0] for step in range(len(loader.places))]
    assert len(set(seen)) == len(seen) == sum(len(e.useful) for e in store.entries)


def test_crops_hold_the_stored_voxels(tmp_path: Path, make_image: MAKE) -> None:
    store = _store(tmp_path, make_image)
    loader = Loader(store, Layout(("T1w",), "yx", (1, 8, 8)), 6, seed=1)
    batch = loader.load(0)
    for row, name in enumerate(batch.cases):
        case, z = name.split("/")
        entry = next(e for e in store.entries if e.name == case)
        plane = torch.tensor(np.array(store.array(entry, "T1w")[0, int(z)]))
        windows = plane.unfold(0, 8, 1).unfold(1, 8, 1)
        crop = batch.images["T1w"][row, 0]
        assert any(bool((windows == c).flatten(2).all(-1).any()) for c in (crop, crop.flip(-1)))


def test_missing_contrasts_are_marked(tmp_path: Path, make_image: MAKE) -> None:
    store = _store(tmp_path, make_image)
    batch = Loader(store, Layout(("T1w", "FLAIR"), "yx", (1, 16, 16)), 12, seed=0).load(0)
    absent = torch.tensor([name.startswith("p0/") for name in batch.cases])
    assert absent.any()
    assert torch.equal(batch.present["FLAIR"], ~absent)
    assert not batch.images["FLAIR"][absent].any()


def test_volumes_and_padding(tmp_path: Path, make_image: MAKE) -> None:
    preparation = GridPreparation("zyx", None, (16, 16, 16), {})
    store, _ = build_store(tmp_path, _members(make_image), ["T1w"], "T1w", preparation)
    batch = Loader(store, Layout(("T1w",), "zyx", (32, 16, 16)), 2, seed=0).load(0)
    assert batch.images["T1w"].shape == (2, 1, 32, 16, 16)
    assert not batch.images["T1w"][:, :, :8].any()


@pytest.mark.parametrize("size", [(4, 8, 8), (8, 16, 8), (12, 24, 16)])
def test_patches_know_their_place_also_when_flipped(tmp_path: Path, size: tuple[int, int, int]) -> None:
    """Volumes whose voxels say where they are: patch and place agree, padding included."""
    shape = (8, 16, 16)
    lines = [2 * (np.arange(n) + 0.5) / n - 1 for n in shape]
    z, y, x = np.meshgrid(*lines, indexing="ij")
    entries = []
    for name, values in (("z", z), ("y", y), ("x", x)):
        np.save(tmp_path / f"{name}.npy", (values + 3).astype(np.float32)[None])
        affine = tuple(map(tuple, np.eye(4)))
        entries.append(Entry(name, name, {"T1w": tmp_path / f"{name}.npy"}, shape, affine, (0,)))
    loader = Loader(Store(entries), Layout(("T1w",), "zyx", size, place=True), 6, seed=1)
    flipped = 0
    for step in range(8):
        batch = loader.load(step)
        assert batch.images["place"].shape == (6, 3, *size)
        for row, case in enumerate(batch.cases):
            seen, place = batch.images["T1w"][row, 0], batch.images["place"][row]
            inside = seen > 0
            expected = place["zyx".index(case[0])]
            mirrored = case[0] == "x" and bool(seen[inside][0] > seen[inside][-1])  # the patient, not its frame
            flipped += mirrored
            torch.testing.assert_close(seen[inside] - 3, -expected[inside] if mirrored else expected[inside])
            assert bool((place.flatten(1).diff(dim=1).abs().max(1).values > 0).all())
            along = place[2, 0, 0]
            assert bool((along.diff() > 0).all())
    assert flipped > 2


def test_a_volume_is_asked_about_with_its_places(make_image: MAKE) -> None:
    prepared = prepare_case(_members(make_image, 1)[0], ["T1w"], "T1w", GridPreparation("zyx", None, (16, 16, 16), {}))
    place = question_batch(prepared, Layout(("T1w",), "zyx", (8, 8, 8), place=True)).images["place"]
    assert place.shape == (1, 3, *prepared.grid.shape)
    torch.testing.assert_close(place.mean((2, 3, 4)), torch.zeros(1, 3), atol=1e-6, rtol=0)
    assert float(place[0, 0, 0].max()) == float(place[0, 0].min()) == pytest.approx(1 / prepared.grid.shape[0] - 1)


def test_questions_are_whole_and_still(make_image: MAKE) -> None:
    member = _members(make_image, 2)[1]
    prepared = prepare_case(member, ["T1w", "FLAIR"], "FLAIR", GridPreparation("yx", None, (1, 16, 16), {}))
    layout = Layout(("T1w", "FLAIR"), "yx", (1, 16, 16), {"T1w": 1}, ("age", "sex"), {"sex": ("F", "M")})
    batch = question_batch(prepared, layout)
    assert len(batch.cases) == prepared.grid.shape[0]
    assert torch.equal(batch.images["T1w"][3, 0], prepared.tensors["T1w"][0, 2])
    assert torch.equal(batch.images["T1w"][0, 0], prepared.tensors["T1w"][0, 0])
    assert batch.values["age"].unique().tolist() == [31.0]
    assert not batch.present["sex"].any()
    assert float(batch.values["position"][0]) < -0.8 < 0.8 < float(batch.values["position"][-1])


def test_values_become_numbers() -> None:
    layout = Layout((), "yx", (1, 8, 8), {}, ("age", "sex"), {"sex": ("F", "M")})
    values, present = encode_values([{"age": 40.0, "sex": "M"}, {"sex": "X"}, {"age": "old"}], layout)
    assert values["age"].tolist() == [40.0, 0.0, 0.0]
    assert present["age"].tolist() == [True, False, False]
    assert values["sex"].tolist() == [1.0, 0.0, 0.0]
    assert present["sex"].tolist() == [True, False, False]


def test_refusals(tmp_path: Path, make_image: MAKE) -> None:
    with pytest.raises(ValueError, match="nothing to train on"):
        Loader(Store([]), Layout((), "yx", (1, 8, 8)), 1, 0)
    with pytest.raises(UnreadableError, match="has none of CT"):
        prepare_case(_members(make_image)[0], ["CT"], "CT", GridPreparation("yx", None, (1, 16, 16), {}))
    store = _store(tmp_path, make_image)
    assert len(store.digest()) == 64
    assert store.digest() == store.digest()
