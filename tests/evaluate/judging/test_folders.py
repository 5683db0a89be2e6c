"""Folders of paired images from any generator: numbers, or words, for every metric of every pair."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from scipy import ndimage

from fabrica import io
from fabrica.contracts import Image
from fabrica.evaluate.honesty.claim import Claim
from fabrica.evaluate.judging.folder_checks import _faults_of_pair
from fabrica.evaluate.judging.folders import evaluate_folders
from fabrica.evaluate.judging.shelf import Asked, Folders

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
    evaluate_folders(
        Folders(tmp_path / "g", tmp_path / "r"), tmp_path / "out", Asked(1000.0, quick=True), lambda _: None
    )
    with (tmp_path / "out" / "cases.csv").open() as file:
        rows = {(r["case"], r["metric"]): r["value"] for r in csv.DictReader(file) if r["by"] == "model"}
    assert len(rows) == 3 * 10
    assert rows["b.nii.gz", "psnr"].startswith("infinite")
    assert "ms_ssim got an image of" in rows["a.nii.gz", "ms_ssim"]
    assert "not zero everywhere" in rows["c.nii.gz", "nmse"]
    assert "this one is constant" in rows["c.nii.gz", "hfen"]
    for metric in ("mae", "rmse", "psnr", "gmsd", "haarpsi", "hfen"):
        assert np.isfinite(float(rows["a.nii.gz", metric])), metric
    assert not any(value == "nan" for value in rows.values())
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match="nothing holds no readable image"):
        evaluate_folders(Folders(tmp_path / "g", tmp_path / "nothing"), tmp_path / "x", Asked(), lambda _: None)


def _patients(folder: Path, seeds: range, blur: float = 0.0, first: str = "p") -> None:
    """Slices of patients: smooth blobs with noise."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[-1:1:40j, -1:1:40j]
        blob = 60 + 200 * np.exp(-((y - 0.1 * rng.normal()) ** 2 + (x - 0.1 * rng.normal()) ** 2) / 0.3)
        image = ndimage.gaussian_filter(blob + 10 * rng.normal(size=(40, 40)), blur)
        path = folder / f"{first}{seed}" / "slice.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, image=image.astype(np.float32))


def _report(tmp_path: Path, **folders: Path) -> dict[str, Any]:
    evaluate_folders(Folders(**folders), tmp_path / "out", Asked(300.0, quick=True), lambda _: None)
    found: dict[str, Any] = json.loads((tmp_path / "out" / "report.json").read_text())
    assert ": NaN" not in (tmp_path / "out" / "report.json").read_text()
    return found


def test_sets_of_patients_are_judged_beside_real_ones(tmp_path: Path) -> None:
    _patients(tmp_path / "real", range(24))
    _patients(tmp_path / "blurred", range(100, 124), blur=1.0, first="g")
    report = _report(tmp_path, generated=tmp_path / "blurred", reference=tmp_path / "real")
    distances = {(d["embedding"], d["measure"]): d for d in report["realism"]["distances"]}
    spectrum = distances["spectrum", "Fréchet distance"]
    assert spectrum["patients"] == 12
    assert spectrum["value"] > spectrum["null_range"][1]
    assert all(t["p_value"] < 0.05 for t in report["realism"]["tests"] if t["embedding"] == "spectrum")
    assert any(line.startswith("paired metrics: needs") for line in report["not_evaluated"])
    assert any(line.startswith("memorised share: needs --training") for line in report["not_evaluated"])
    html = (tmp_path / "out" / "index.html").read_text()
    assert "Realism of the set" in html
    assert "Not evaluated" in html
    assert "<h2>Training</h2>" not in html
    assert "<h2>Pictures" not in html
    assert "blurred judged by real" in html
    again = _report(tmp_path, generated=tmp_path / "blurred", reference=tmp_path / "real")
    assert again["realism"] == report["realism"]


def test_real_patients_are_not_told_from_real_patients(tmp_path: Path) -> None:
    _patients(tmp_path / "real", range(24))
    _patients(tmp_path / "more", range(200, 224), first="g")
    report = _report(tmp_path, generated=tmp_path / "more", reference=tmp_path / "real")
    assert "no proof of likeness" in report["realism"]["sentence"]
    for d in report["realism"]["distances"]:
        if d["measure"] == "Fréchet distance":
            assert d["value"] < 1.5 * d["null"]


def test_copies_of_the_training_set_are_seen(tmp_path: Path) -> None:
    _patients(tmp_path / "train", range(20))
    _patients(tmp_path / "holdout", range(300, 320), first="h")
    _patients(tmp_path / "real", range(400, 420), first="r")
    shutil.copytree(tmp_path / "train", tmp_path / "copies")
    folders = {n: tmp_path / n for n in ("training", "holdout")} | {"training": tmp_path / "train"}
    report = _report(tmp_path, generated=tmp_path / "copies", reference=tmp_path / "real", **folders)
    for name, shares in report["realism"]["authentic"].items():
        assert shares["generated"] == 0, name
        assert shares["holdout"] > 0.3, name
    assert not any("memorised" in line for line in report["not_evaluated"])


def test_whoever_trained_may_not_judge(tmp_path: Path) -> None:
    _patients(tmp_path / "real", range(3))
    with pytest.raises(ValueError, match="p0, p1, p2: in the training folder and in --reference"):
        _report(tmp_path, generated=tmp_path / "real", reference=tmp_path / "real", training=tmp_path / "real")


def test_a_dot_in_a_folder_is_part_of_the_patients_name(tmp_path: Path) -> None:
    for side, blur in (("real", 0.0), ("g", 0.7)):
        _patients(tmp_path / side, range(6), blur=blur, first="1.2.840.")
    report = _report(tmp_path, generated=tmp_path / "g", reference=tmp_path / "real")
    assert {c["patient"] for c in report["stages"][0]["cases"]} == {f"1.2.840.{i}" for i in range(6)}


def test_three_patients_get_figures_and_no_verdict(tmp_path: Path) -> None:
    _patients(tmp_path / "real", range(3))
    _patients(tmp_path / "g", range(3), blur=0.7)
    report = _report(tmp_path, generated=tmp_path / "g", reference=tmp_path / "real")
    assert report["sentence"].startswith("With 3 test patients the figures below are descriptive")
    assert report["realism"]["distances"] == report["realism"]["tests"] == []
    assert any("needs at least 5" in line for line in report["not_evaluated"])
    assert any("same patients" in line for line in report["remarks"])


def test_masks_and_shifts_and_broken_files(tmp_path: Path, make_image: MAKE) -> None:
    truth = make_image((12, 24, 26), name="T1w")
    inside = replace(truth, data=torch.zeros_like(truth.data), meaning=replace(truth.meaning, kind="label", unit=""))
    inside.data[:, 3:9, 4:20, 4:20] = 1
    wrong = replace(truth, data=torch.where(inside.data > 0, truth.data, truth.data + 500))
    for name, image in (("generated", wrong), ("reference", truth), ("masks", inside)):
        io.write_nifti(image, tmp_path / name / "p1.nii.gz")
        io.write_nifti(image, tmp_path / name / "p2.nii.gz")
    (tmp_path / "generated" / "p2.nii.gz").write_bytes((tmp_path / "generated" / "p2.nii.gz").read_bytes()[:2000])
    report = _report(tmp_path, **{n: tmp_path / n for n in ("generated", "reference", "masks")})
    values = {(c["case"], c["metric"]): c["value"] for c in report["stages"][0]["cases"] if c["by"] == "model"}
    assert values["p1.nii.gz", "mae"] == pytest.approx(0, abs=1e-3)  # outside the mask nothing counts
    assert ("p2.nii.gz", "mae") not in values or "failed" in str(values["p2.nii.gz", "mae"])
    assert any("p2.nii.gz" in remark for remark in report["remarks"])


def test_failed_and_missing_cases_count_as_the_worst_and_equal_ones_as_the_best(tmp_path: Path) -> None:
    """24 references: 5 images hold NaN, 5 are missing, 2 are perfect. None of them leaves the mean."""
    _patients(tmp_path / "real", range(24))
    _patients(tmp_path / "g", range(24), blur=0.7)
    for i in range(5):
        bad = np.load(tmp_path / "g" / f"p{i}" / "slice.npz")["image"]
        bad[3, 4] = np.nan
        np.savez(tmp_path / "g" / f"p{i}" / "slice.npz", image=bad)
        shutil.rmtree(tmp_path / "g" / f"p{5 + i}")
    for i in (10, 11):
        shutil.copy(tmp_path / "real" / f"p{i}" / "slice.npz", tmp_path / "g" / f"p{i}" / "slice.npz")
    report = _report(tmp_path, generated=tmp_path / "g", reference=tmp_path / "real")
    rows = [c for c in report["stages"][0]["cases"] if c["metric"] == "psnr"]
    finite = [c["value"] for c in rows if not isinstance(c["value"], str)]
    own = {c["case"]: c["value"] for c in rows if c["by"] == "model"}
    assert sum(str(v).startswith("failed") for v in own.values()) == 10
    psnr = next(s for s in report["summaries"] if s["metric"] == "psnr" and s["by"] == "model")
    filled = [
        v if not isinstance(v, str) else min(finite) if v.startswith("failed") else max(finite) for v in own.values()
    ]
    assert len(filled) == psnr["n"] == 24
    assert psnr["value"] == pytest.approx(np.mean(filled))
    assert (psnr["failed"], psnr["lost"]) == (10, 0)
    assert f"10 failed, counted as the worst value, {min(finite):.4g}" in psnr["note"]
    assert any("5 references have no readable image of their name" in r for r in report["remarks"])
    assert "NOT DISCRIMINATIVE" in json.dumps(report["checks"])  # where 10 of 24 failed, a trivial answer does as well
    page = (tmp_path / "out" / "index.html").read_text()
    assert "10 failed" in page


def test_where_every_case_failed_there_is_no_figure_and_check_19_says_so(tmp_path: Path) -> None:
    _patients(tmp_path / "real", range(6))
    for i in range(6):
        (tmp_path / "g" / f"p{i}").mkdir(parents=True)
        np.savez(tmp_path / "g" / f"p{i}" / "slice.npz", image=np.full((40, 40), np.nan, np.float32))
    report = _report(tmp_path, generated=tmp_path / "g", reference=tmp_path / "real")
    assert all(s["value"] is None for s in report["summaries"] if s["by"] == "model")
    (check,) = [c for c in report["checks"] if c["number"] == 19]
    assert check["status"] == "refused"
    assert "Every case of given images failed" in check["why"]


def test_one_failed_case_beside_metrics_that_nothing_allows_is_no_failure_of_all(tmp_path: Path) -> None:
    """Without --data-range no PSNR can be had; that one image is missing is another matter."""
    _patients(tmp_path / "real", range(6))
    _patients(tmp_path / "g", range(1, 6), blur=0.7)
    folders = Folders(tmp_path / "g", tmp_path / "real")
    evaluate_folders(folders, tmp_path / "out", Asked(None, quick=True), lambda _: None)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [c["status"] for c in report["checks"] if c["number"] == 19] == ["passed"]
    found = {s["metric"]: s for s in report["summaries"] if s["by"] == "model"}
    assert (found["mae"]["failed"], found["psnr"]["value"]) == (1, None)
    assert "needs data_range" in found["psnr"]["note"]


def test_a_claim_is_declared_first_and_judged_on_pairs(tmp_path: Path) -> None:
    for side, blur in (("real", 0.0), ("ours", 0.5), ("theirs", 1.5)):
        _patients(tmp_path / side, range(22), blur=blur)
    claim = Claim.of({"claim": "Ours is sharper.", "endpoint": "ssim", "verb": "superiority", "population": "blobs"})
    folders = Folders(tmp_path / "ours", tmp_path / "real", competitor=tmp_path / "theirs")
    said: list[str] = []
    evaluate_folders(folders, tmp_path / "out", Asked(300.0, claim=claim), said.append)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["verdict"]["status"] == "SUPPORTED"
    assert any(
        s.startswith("SUPPORTED: On the endpoint ssim the model is better than its competitor in blobs") for s in said
    )
    assert json.loads((tmp_path / "out" / "claim.json").read_text())[0]["sha256"] == claim.digest()
    assert "May not be written:" in (tmp_path / "out" / "index.html").read_text()
    with pytest.raises(ValueError, match="--competitor DIR"):
        evaluate_folders(replace(folders, competitor=None), tmp_path / "x", Asked(300.0, claim=claim), lambda _: None)
    assert not (tmp_path / "x").exists()


def test_copies_and_compression_on_one_side_are_said(tmp_path: Path) -> None:
    _patients(tmp_path / "real", range(12))
    _patients(tmp_path / "copied", range(50, 61), first="g")
    shutil.copytree(tmp_path / "copied" / "g50", tmp_path / "copied" / "g99")
    report = _report(tmp_path, generated=tmp_path / "copied", reference=tmp_path / "real")
    assert any("1 of 12 generated images are exact copies" in r for r in report["remarks"])
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 40)).astype(np.uint8)
        (tmp_path / "jpeg" / f"j{i}").mkdir(parents=True)
        Picture.fromarray(pixels).save(tmp_path / "jpeg" / f"j{i}" / "a.jpg")
    report = _report(tmp_path, generated=tmp_path / "jpeg", reference=tmp_path / "real")
    assert report["realism"] is None
    assert any("JPEG on the generated side alone" in line for line in report["not_evaluated"])


def test_pictures_whose_sides_cannot_be_compared_are_said(tmp_path: Path) -> None:
    """JPEG on both sides, slices beside volumes, no labels to obey, and labels that are none."""
    for side in ("made", "true"):
        for i in range(6):
            pixels = np.random.default_rng(i).integers(0, 255, (40, 40)).astype(np.uint8)
            (tmp_path / side / f"{side}{i}").mkdir(parents=True)
            Picture.fromarray(pixels).save(tmp_path / side / f"{side}{i}" / "a.jpg")
    report = _report(tmp_path, generated=tmp_path / "made", reference=tmp_path / "true")
    assert any("Both sides are JPEG" in r for r in report["remarks"])
    _patients(tmp_path / "flat", range(4), first="f")
    for i in range(4):
        (tmp_path / "deep" / f"d{i}").mkdir(parents=True)
        np.savez(tmp_path / "deep" / f"d{i}" / "slice.npz", volume=np.random.default_rng(i).random((8, 40, 40)))
    report = _report(tmp_path, generated=tmp_path / "flat", reference=tmp_path / "deep")
    assert any("needs slices on both sides, or volumes on both" in line for line in report["not_evaluated"])
    (tmp_path / "labels.csv").write_text("folder,name,label\ngenerated,nobody,1\n")
    asked = Asked(300.0, quick=True, labels=tmp_path / "labels.csv")
    _patients(tmp_path / "real", range(50, 54), first="r")
    evaluate_folders(Folders(tmp_path / "flat", tmp_path / "real"), tmp_path / "out", asked, lambda _: None)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert any(line.startswith("adherence to the condition: ") for line in report["not_evaluated"])


def test_a_pair_that_lies_elsewhere_or_the_other_way_round_is_said() -> None:
    y, x = np.mgrid[-1:1:48j, -1:1:48j]
    head = 1.0 * (np.hypot(y, x) < 0.9)
    truth = head + 0.8 * np.sign(x) * (abs(x) > 0.15) * (np.hypot(y, x) < 0.8)

    def faults(image: np.ndarray, **more: Any) -> list[str]:
        return [why for _, why, _ in _faults_of_pair("p", {"generated": image, "reference": truth, **more})]

    assert faults(truth) == []
    assert any("turned left to right" in why for why in faults(truth[:, ::-1].copy()))
    assert any("pixels off its reference" in why for why in faults(np.roll(truth, 5, 0)))
    assert any("covers 30% of its reference" in why for why in faults(truth, covered=0.3))
    assert any("in no unit" in why for why in faults(truth, units=("", "HU")))
