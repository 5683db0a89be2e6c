"""A generated image beside its reference: on one grid, of the same frames and colours, of finite values, or refused."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image as Picture

from fabrica.evaluate.judging.folder_checks import measured
from fabrica.evaluate.judging.shelf import Shelf, covered, evidence, scans
from fabrica.evaluate.metrics.pixel import METRICS
from fabrica.evaluate.report.results import Report
from fabrica.io import UnreadableError

RNG = np.random.default_rng(0)
VALUES = RNG.uniform(10, 100, (16, 16, 8)).astype(np.float32)


def _volume(path: Path, values: np.ndarray, offset: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([2.0, 2, 2, 1])
    affine[0, 3] = offset
    nibabel.save(nibabel.Nifti1Image(values, affine), path)


def _picture(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(values.astype(np.uint8)).save(path)


def _report() -> Report:
    return Report.start({}, "pairs")


def _evidence(folder: Path, report: Report) -> dict:
    found = {side: scans(folder / side, report) for side in ("generated", "reference")}
    (name,) = found["reference"]
    return evidence(name, found, Shelf(), report)


def test_what_lies_elsewhere_is_resampled_and_told(tmp_path: Path) -> None:
    for side, offset in (("generated", 8.0), ("reference", 0.0)):
        _volume(tmp_path / side / "a.nii.gz", VALUES, offset)
    report = _report()
    found = _evidence(tmp_path, report)
    assert found["generated"].shape == found["reference"].shape
    assert 0.5 < found["covered"] < 1
    assert f"resampled to the grid of its reference{covered(found['covered'])}" in " ".join(report.remarks)
    _volume(tmp_path / "generated/a.nii.gz", VALUES, 900.0)
    with pytest.raises(UnreadableError, match="0 % of the reference is covered"):
        _evidence(tmp_path, _report())


def test_series_need_the_frames_of_their_reference(tmp_path: Path) -> None:
    _volume(tmp_path / "reference/a.nii.gz", np.stack([VALUES] * 4, -1))
    _volume(tmp_path / "generated/a.nii.gz", np.stack([VALUES] * 3, -1))
    with pytest.raises(UnreadableError, match="other frames than its reference"):
        _evidence(tmp_path, _report())
    _volume(tmp_path / "generated/a.nii.gz", np.stack([VALUES, VALUES + 2, VALUES + 4, VALUES + 6], -1))
    found = _evidence(tmp_path, _report())
    assert found["series"]
    assert measured(METRICS["mae"], found) == pytest.approx(3.0)


def test_colours_are_compared_with_colours(tmp_path: Path) -> None:
    grey = RNG.integers(0, 200, (24, 24))
    colour = np.stack([grey, grey + 10, grey + 20], -1)
    _picture(tmp_path / "reference/a.png", colour)
    _picture(tmp_path / "generated/a.png", grey)
    with pytest.raises(UnreadableError, match="has 1 colour channels, its reference 3"):
        _evidence(tmp_path, _report())
    _picture(tmp_path / "generated/a.png", colour + 4)
    found = _evidence(tmp_path, report := _report())
    assert "channel by channel" in " ".join(report.remarks)
    assert measured(METRICS["mae"], found) == pytest.approx(4.0, abs=0.01)


def test_what_is_no_number_is_refused(tmp_path: Path) -> None:
    broken = VALUES.copy()
    broken[0, 0, 0] = np.nan
    _volume(tmp_path / "reference/a.nii.gz", VALUES)
    _volume(tmp_path / "generated/a.nii.gz", broken)
    with pytest.raises(UnreadableError):
        _evidence(tmp_path, _report())


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to see")
    with pytest.raises(ValueError, match="holds no readable image"):
        scans(tmp_path, _report())
