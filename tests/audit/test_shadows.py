"""Shadow models: whom they are trained on, that they are trained once, and what they add to an attack."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from fabrica.audit.conduct import MEMBERSHIP, Asked, audit
from fabrica.audit.shadows import drawn_people, shadows
from fabrica.audit.subject import Subject
from fabrica.evaluate.sets.embedding import Picture
from fabrica.machine.executors import Dask, Local
from fabrica.safeguards.privacy.spaces import embedded

from .conftest import quiet


def test_everybody_stands_in_as_many_models_as_anybody_else() -> None:
    people = [f"p{k}" for k in range(30)]
    for each in (7, 11, 15):
        drawn = drawn_people(people, each, 8, seed=3)
        assert all(len(set(own)) == each for own in drawn)
        counts = Counter(name for own in drawn for name in own)
        assert max(counts.values()) - min(counts.get(p, 0) for p in people) <= 1
    first, second = drawn_people(people, 15, 2, seed=0)
    assert not set(first) & set(second)  # of halves, the second is what the first left
    assert drawn_people(people, 15, 2, seed=1) != [first, second]


def test_membership_is_told_beside_models_of_others(finished: Path) -> None:
    run, said = finished / "run", list[str]()
    asked = Asked(only=(MEMBERSHIP,), shadows=4)
    gate = audit(run, asked, device="cpu", say=said.append)
    assert "2 attacks tried" in gate.checks[MEMBERSHIP].reason
    assert "beside 4 shadow models" in (run / "audit/index.html").read_text()
    assert "4 shadow models on 20 of 80 patients each" in " ".join(said)
    places = list((run / "audit/shadows").glob("*/*"))
    assert len(places) == 4
    assert not any((place / "store").exists() for place in places)
    weights = {f: f.stat().st_mtime_ns for place in places for f in place.rglob("*.safetensors")}
    again = shadows(Subject.open(run, None, "cpu", 0, quiet), 4, Local("cpu"))
    assert sorted(map(len, (one.inside for one in again))) == [20] * 4
    assert weights == {f: f.stat().st_mtime_ns for place in places for f in place.rglob("*.safetensors")}


def test_workers_train_the_same_models(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished / "run", run, ignore=shutil.ignore_patterns("audit"))
    shadows(Subject.open(run, None, "cpu", 0, quiet), 4, Dask(workers=2, device="cpu"))
    own, others = (
        {p.relative_to(at).as_posix(): p.read_bytes() for p in at.rglob("*.safetensors")}
        for at in (run / "audit/shadows", finished / "run/audit/shadows")
    )
    assert len(own) == 4
    assert own == others


def test_what_cannot_be_repeated_is_refused(finished: Path) -> None:
    with pytest.raises(ValueError, match="named by --holdout"):
        audit(finished / "run", Asked(only=(MEMBERSHIP,), shadows=4, holdout=finished / "new"), say=quiet)
    with pytest.raises(ValueError, match="2 shadow models, expected at least 4"):
        audit(finished / "run", Asked(only=(MEMBERSHIP,), shadows=2), say=quiet)


def test_copies_are_looked_for_by_the_users_own_features(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [torch.from_numpy(rng.uniform(0.2, 1, (1, 1, 16, 16))).float() for _ in range(12)]

    def corner(picture: Picture, width: float) -> np.ndarray:
        return np.asarray(picture.values[:2, :2].ravel(), np.float64)

    rows = embedded(images, (1.0, 1.0, 1.0), corner)
    assert rows.shape == (12, 4)
    assert rows[3] == pytest.approx((images[3] / images[3].max())[0, 0, :2, :2].ravel().numpy())
    with pytest.raises(ValueError, match="NaN or infinity"):
        embedded(images, (1.0, 1.0, 1.0), lambda picture, width: np.full(3, np.nan))
