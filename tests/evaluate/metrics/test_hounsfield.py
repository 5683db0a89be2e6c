"""CT errors by tissue and by window: closed forms, and that the generated image never says what tissue is."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fabrica import io
from fabrica.contracts import Field
from fabrica.evaluate.judging.folders import evaluate_folders
from fabrica.evaluate.judging.shelf import Asked, Folders
from fabrica.evaluate.metrics import pixel
from fabrica.evaluate.metrics.hounsfield import WINDOWS_HU, rows_of


@pytest.fixture
def ct() -> np.ndarray:
    """A quarter air, a quarter bone, half soft tissue."""
    values = np.full((8, 12, 12), 40.0)
    values[:2], values[2:4] = -1000.0, 700.0
    return values


def test_a_constant_error_is_itself_in_every_tissue(ct: np.ndarray) -> None:
    found = pixel.tissue_errors(ct + 20, ct)
    assert (found.value, found.details["me"], found.n) == (20.0, 20.0, ct.size)
    assert pixel.psnr(ct + 20, ct, data_range=4024) == pytest.approx(46.0726, abs=1e-4)
    for name, share in (("air", 0.25), ("soft tissue", 0.5), ("bone", 0.25)):
        assert found.details[name] == {"mae": 20.0, "me": 20.0, "voxels": int(share * ct.size)}
    assert "air below -200 HU, bone from 250 HU" in found.convention


def test_tissue_comes_from_the_reference_and_signs_stay(ct: np.ndarray) -> None:
    melted = np.where(ct > 600, 0.0, ct)  # bone drawn as water
    found = pixel.tissue_errors(melted, ct)
    assert found.details["bone"] == {"mae": 700.0, "me": -700.0, "voxels": 2 * 144}
    assert found.details["soft tissue"]["mae"] == found.details["air"]["mae"] == 0.0
    assert found.value == pytest.approx(175.0)
    swapped = pixel.tissue_errors(ct, melted)
    assert "bone" not in swapped.details
    assert swapped.details["soft tissue"]["me"] == pytest.approx(700 / 3)
    inside = ct < 600
    assert pixel.tissue_errors(melted, ct, mask=inside).value == 0.0
    moved = pixel.tissue_errors(melted, ct, bone_above=800.0)
    assert moved.details["soft tissue"]["voxels"] == 6 * 144
    with pytest.raises(ValueError, match="expected the first below the second"):
        pixel.tissue_errors(ct, ct, air_below=300.0)


def test_a_window_cuts_what_it_does_not_show(ct: np.ndarray) -> None:
    harder = np.where(ct > 600, 1500.0, ct)
    assert pixel.window_psnr(harder, ct, window=WINDOWS_HU["soft-tissue"]) == np.inf
    error = (1300.0 - 700.0) ** 2 / 4
    assert pixel.window_psnr(harder, ct, window=WINDOWS_HU["bone"]) == pytest.approx(10 * np.log10(1800**2 / error))
    noisy = ct + np.random.default_rng(0).normal(0, 10, ct.shape)
    wide, narrow = (pixel.window_psnr(noisy, ct, window=w, mask=abs(ct) < 100) for w in ((-1000, 1000), (-160, 240)))
    assert wide - narrow == pytest.approx(20 * np.log10(2000 / 400))
    with pytest.raises(ValueError, match="expected low below high"):
        pixel.window_psnr(ct, ct, window=(240, -160))


def test_rows_have_a_number_or_words(ct: np.ndarray) -> None:
    rows = rows_of({"generated": ct + 20, "reference": ct, "mask": ct < 600})
    assert rows["mae of air"] == (20.0, "HU")
    assert rows["mae of bone"] == ("not evaluated: needs voxels of bone", "HU")
    assert set(rows) == {
        "mae of air", "mae of soft tissue", "mae of bone", "psnr in the soft-tissue window", "psnr in the lung window",
        "psnr in the bone window",
    }  # fmt: skip
    assert str(rows_of({"generated": ct, "reference": ct})["psnr in the bone window"][0]).startswith("infinite")
    broken = np.full_like(ct, np.nan)
    assert "NaN" in str(rows_of({"generated": broken, "reference": ct})["mae of soft tissue"][0])


def test_a_folder_of_ct_is_measured_by_tissue_and_a_folder_of_mr_is_not(tmp_path: Path, make_image) -> None:
    for side, error in (("reference", 0.0), ("generated", 20.0)):
        for k in range(2):
            image = make_image((14, 24, 26), name="CT", seed=k)
            values = torch.full_like(image.data, 40.0)
            values[:, :4], values[:, 4:7] = -1000.0, 700.0
            ct = replace(image, data=values + error, meaning=Field("CT"))  # a file that states no unit
            io.write_nifti(ct, tmp_path / "ct" / side / f"p{k}" / "ct.nii.gz")
            io.write_nifti(
                replace(ct, data=ct.data + 1024, meaning=Field("T1w")), tmp_path / "mr" / side / f"p{k}" / "t1.nii.gz"
            )
    for kind in ("ct", "mr"):
        folders = Folders(tmp_path / kind / "generated", tmp_path / kind / "reference")
        evaluate_folders(folders, tmp_path / f"out_{kind}", Asked(4095.0, quick=True), lambda _: None)
    assert "as HU do" in (tmp_path / "out_ct" / "report.json").read_text()
    assert "as HU do" not in (tmp_path / "out_mr" / "report.json").read_text()
    lost = tmp_path / "ct" / "generated" / "p1" / "ct.nii.gz"
    lost.rename(lost.with_name("elsewhere.nii.gz"))
    folders = Folders(tmp_path / "ct" / "generated", tmp_path / "ct" / "reference")
    evaluate_folders(folders, tmp_path / "out_lost", Asked(4095.0, quick=True), lambda _: None)
    summary = json.loads((tmp_path / "out_lost" / "report.json").read_text())["summaries"]
    (bone,) = [s for s in summary if s["metric"] == "mae of bone"]
    assert (bone["n"], bone["failed"], bone["value"]) == (2, 1, 20.0)
    table = (tmp_path / "out_ct" / "cases.csv").read_text()
    assert table.count("mae of bone,20.0,HU") == 2
    assert "in the lung window" in table
    assert "mae of bone" not in (tmp_path / "out_mr" / "cases.csv").read_text()
