"""Series: figures by hand, order that is seen, folders of series, a shuffled series that ranks worst."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fabrica import io
from fabrica.contracts import Field, Image
from fabrica.evaluate.judging.folders import evaluate_folders
from fabrica.evaluate.judging.shelf import Asked, Folders
from fabrica.evaluate.metrics.pixel import mae
from fabrica.evaluate.metrics.temporal import cyclic_gap, jerkiness, motion_error, over_frames
from fabrica.evaluate.sets.embedding import EMBEDDINGS, Picture, usable
from fabrica.evaluate.sets.realism import realism


def _beat(seed: int, frames: int = 16, side: int = 24) -> np.ndarray:
    """A disc that grows and shrinks once, with a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    size = 0.5 + 0.2 * np.sin(2 * np.pi * (np.arange(frames) / frames + 0.1 * rng.normal()))
    inside = 1 / (1 + np.exp(20 * (np.hypot(y, x)[None] - size[:, None, None])))
    return 100 + 200 * inside + 2 * rng.normal(size=(frames, side, side))


def test_by_hand() -> None:
    x = np.arange(4.0)[:, None, None] * np.ones((4, 2, 2))
    assert motion_error(x, x) == 0
    assert motion_error(2 * x, x) == pytest.approx(1)
    assert motion_error(x + 5, x) == 0  # what does not move does not count
    saw = np.array([0.0, 1, 0, 1])[:, None, None] * np.ones((4, 2, 2))
    assert jerkiness(2 * saw, saw) == pytest.approx(2)
    assert float(cyclic_gap(x)) == pytest.approx(3)
    assert over_frames(mae, x + 1, x) == pytest.approx(1)


def test_order_is_seen_and_frames_alone_do_not_see_it() -> None:
    truth = _beat(0)
    noisy = truth + 10 * np.random.default_rng(1).normal(size=truth.shape)
    shuffled = truth[np.random.default_rng(2).permutation(len(truth))]
    errors = {name: motion_error(s, truth) for name, s in (("noisy", noisy), ("shuffled", shuffled), ("same", truth))}
    assert errors["same"] < errors["noisy"] < errors["shuffled"]
    assert jerkiness(shuffled, truth) > 2
    assert float(cyclic_gap(truth)) < 1.6
    assert float(cyclic_gap(truth[:5])) > 2


@pytest.mark.parametrize("function", [motion_error, jerkiness])
def test_series_that_cannot_be_measured(function: object) -> None:
    x = np.zeros((4, 3, 3))
    with pytest.raises(ValueError, match="changes from frame to frame"):
        function(x, x)  # type: ignore[operator]
    with pytest.raises(ValueError, match="at least 3 frames"):
        function(x[:2], x[:2])  # type: ignore[operator]
    with pytest.raises(ValueError, match="NaN"):
        function(x * np.nan, x)  # type: ignore[operator]
    with pytest.raises(ValueError, match="changes from frame to frame"):
        cyclic_gap(x)


def _series(first: str, count: int, shuffle: bool, seed: int) -> list[Picture]:
    found = []
    for i in range(count):
        frames = _beat(seed + i)
        if shuffle:
            frames = frames[np.random.default_rng(i).permutation(len(frames))]
        found.append(Picture(f"{first}{i}", f"{first}{i}", frames[8], frames[8] > 150, (1.0, 1.0), frames))
    return found


def test_shuffled_real_series_rank_worst_by_motion_and_by_nothing_else() -> None:
    real, more, shuffled = _series("r", 14, False, 0), _series("m", 14, False, 50), _series("s", 14, True, 90)
    good, bad = realism(more, real), realism(shuffled, real)
    p = [{t.embedding: t.p_value for t in found.tests if t.test == "kernel two-sample"} for found in (good, bad)]
    assert set(p[0]) == {*EMBEDDINGS, "motion"}
    assert p[0]["motion"] > 0.05
    assert p[1]["motion"] < 0.01
    assert p[1]["thumbnail"] > 0.05
    distance = [next(d.value for d in found.distances if d.embedding == "motion" and d.measure == "kernel distance") for found in (good, bad)]  # fmt: skip
    assert distance[1] > 10 * max(distance[0], 0.01)


def test_motion_is_offered_only_where_everything_moves() -> None:
    series, still = _series("a", 2, False, 0), _series("b", 2, False, 5)
    still = [Picture(p.name, p.patient, p.values, p.inside, p.spacing_mm) for p in still]
    assert "motion" in usable({"a": series})
    assert "motion" not in usable({"a": series, "b": still})


def _write(folder: Path, name: str, frames: np.ndarray) -> None:
    affine = torch.eye(4, dtype=torch.float64)[:, [2, 1, 0, 3]]
    data = torch.from_numpy(frames[None, :, None]).float()
    times = torch.arange(len(frames), dtype=torch.float64) * 0.04
    io.write_nifti(Image(data, "tzyx", affine, Field("cine"), times), folder / name)


def test_folders_of_series(tmp_path: Path) -> None:
    for i in range(6):
        truth = _beat(i)
        _write(tmp_path / "real", f"p{i}.nii.gz", truth)
        _write(tmp_path / "ours", f"p{i}.nii.gz", truth[:8] if i == 5 else truth + 3)
    evaluate_folders(Folders(tmp_path / "ours", tmp_path / "real"), tmp_path / "out", Asked(400.0, quick=True), lambda _: None)  # fmt: skip
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    values = {(c["case"], c["metric"]): c["value"] for c in report["stages"][0]["cases"] if c["by"] == "model"}
    assert values["p0.nii.gz", "mae"] == pytest.approx(3, abs=0.01)
    assert values["p0.nii.gz", "motion_error"] == pytest.approx(0, abs=1e-3)
    assert values["p0.nii.gz", "jerkiness"] == pytest.approx(1, abs=1e-3)
    assert "failed: has other frames" in values["p5.nii.gz", "mae"]
    assert "motion" in {d["embedding"] for d in report["realism"]["distances"]} | {t["embedding"] for t in report["realism"]["tests"]}  # fmt: skip
