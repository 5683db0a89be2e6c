"""Folders of paired images from any generator: numbers, or words, for every metric of every pair."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fabrica import io
from fabrica.contracts import Image
from fabrica.evaluate.folders import evaluate_folders

MAKE = Callable[..., Image]


def test_every_pair_has_an_answer_for_every_metric(tmp_path: Path, make_image: MAKE) -> None:
    """A small volume, an equal pair and an empty reference: what cannot be computed is said, the rest goes on."""
    image = make_image((9, 24, 26), name="T1w")
    noisy = make_image((9, 24, 26), seed=1, name="T1w")
    empty = make_image((9, 24, 26), name="T1w")
    empty.data.zero_()
    for name, ours, theirs in (("a", noisy, image), ("b", image, image), ("c", noisy, empty)):
        io.write_nifti(ours, tmp_path / "g" / f"{name}.nii.gz")
        io.write_nifti(theirs, tmp_path / "r" / f"{name}.nii.gz")
    evaluate_folders(tmp_path / "g", tmp_path / "r", tmp_path / "out", 1000.0, lambda _: None)
    with (tmp_path / "out" / "cases.csv").open() as file:
        rows = {(r["case"], r["metric"]): r["value"] for r in csv.DictReader(file)}
    assert len(rows) == 3 * 10
    assert rows["b.nii.gz", "psnr"].startswith("infinite")
    assert "ms_ssim got an image of" in rows["a.nii.gz", "ms_ssim"]
    assert "not zero everywhere" in rows["c.nii.gz", "nmse"]
    assert "this one is constant" in rows["c.nii.gz", "hfen"]
    for metric in ("mae", "rmse", "psnr", "gmsd", "haarpsi", "hfen"):
        assert np.isfinite(float(rows["a.nii.gz", metric])), metric
    assert not any(value == "nan" for value in rows.values())
    with pytest.raises(ValueError, match="No file name stands in both"):
        evaluate_folders(tmp_path / "g", tmp_path / "out", tmp_path / "x", None, lambda _: None)
