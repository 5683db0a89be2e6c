"""Each of the 25 checks with a planted fault: what is refused, warned of, overruled, and never passed silently."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fabrica.evaluate.honesty import ledger as honesty
from fabrica.evaluate.honesty import validity
from fabrica.evaluate.honesty.claim import Claim
from fabrica.evaluate.honesty.ledger import HonestyError, Ledger, parse_overrides
from fabrica.evaluate.judging.folders import evaluate_folders
from fabrica.evaluate.judging.shelf import Asked, Folders
from fabrica.evaluate.sets import feature, realism
from fabrica.evaluate.sets.embedding import standardised

from ..judging.test_folders import _patients

CLAIM = {"claim": "Ours is sharper.", "endpoint": "psnr", "verb": "superiority", "population": "blobs"}


@pytest.fixture(autouse=True)
def _few_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate has tests of its own (test_validity): here five splits of the patients do."""
    monkeypatch.setattr(validity, "TRIALS", 5)
    monkeypatch.setattr(realism, "SPLITS", 5)


def _change(folder: Path, change: Any, names: str = "image") -> None:
    for file in sorted(folder.rglob("*.npz")):
        with np.load(file) as old:
            image = old["image"]
        np.savez(file, **{names: change(image).astype(np.float32)})


def _judged(tmp_path: Path, asked: Asked | None = None, **folders: str) -> dict[str, Any]:
    out = tmp_path / "out"
    places = {k: tmp_path / v for k, v in folders.items()}
    evaluate_folders(Folders(**places), out, asked or Asked(300.0, quick=True), lambda _: None)
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    report["by_number"] = {c["number"]: c for c in report["checks"]}
    assert len(report["by_number"]) == 25
    return report


@pytest.fixture
def two(tmp_path: Path) -> Path:
    _patients(tmp_path / "real", range(6))
    _patients(tmp_path / "ours", range(6), blur=0.5)
    return tmp_path


def test_a_clean_pair_of_folders_passes_what_was_asked(two: Path) -> None:
    report = _judged(two, generated="ours", reference="real")
    states = {n: c["status"] for n, c in report["by_number"].items()}
    for number in (2, 3, 4, 5, 6, 7, 9, 10, 12, 13, 19, 20, 21):
        assert states[number] == "passed", (number, report["by_number"][number])
    for number in (1, 8, 15, 16, 17, 18, 22, 23, 24, 25):
        assert states[number] == "not asked", number


def test_1_a_patient_of_training_under_another_name(two: Path) -> None:
    shutil.copytree(two / "real" / "p3", two / "train" / "somebody")
    _patients(two / "train", range(50, 53), first="t")
    with pytest.raises(HonestyError, match=r"shows the same image as somebody.*--override '1=why"):
        _judged(two, generated="ours", reference="real", training="train")
    reason = {1: "the copies are phantoms, not patients"}
    report = _judged(
        two, Asked(300.0, quick=True, overrides=reason), generated="ours", reference="real", training="train"
    )
    assert report["by_number"][1]["status"] == "overruled"
    assert "phantoms" in (two / "out" / "index.html").read_text()


@pytest.mark.parametrize(("span", "words"), [(100.0, "run from"), (1e5, "twenty times")])
def test_3_a_range_that_cannot_be(two: Path, span: float, words: str) -> None:
    report = _judged(two, Asked(span, quick=True), generated="ours", reference="real")
    assert report["by_number"][3]["status"] == "refused"
    assert words in report["by_number"][3]["why"]
    values = {c["metric"]: c["value"] for c in report["stages"][0]["cases"] if c["by"] == "model"}
    assert "needs data_range" in values["psnr"]
    assert isinstance(values["mae"], float)


def test_3_by_hand() -> None:
    unit = [np.linspace(0, 1, 50)]
    assert honesty.range_fault(1.0, unit) == ""
    assert "between 0 and 1" in honesty.range_fault(2.0, unit)
    assert "between 0 and 1" in honesty.range_fault(255.0, unit)
    assert honesty.range_fault(4095.0, [np.array([-1024.0, 3071.0])]) == ""


def test_4_negative_values_have_no_ssim(two: Path) -> None:
    for side in ("real", "ours"):
        _change(two / side, lambda image: image - 150)
    report = _judged(two, generated="ours", reference="real")
    assert report["by_number"][4]["status"] == "refused"
    values = {c["metric"]: c["value"] for c in report["stages"][0]["cases"] if c["by"] == "model"}
    assert "refused: negative values" in values["ssim"]
    assert not any(c["metric"] == "ssim" and c["by"] != "model" for c in report["stages"][0]["cases"])
    assert isinstance(values["psnr"], float)


def test_6_every_image_stretched(two: Path) -> None:
    for side in ("real", "ours"):
        _change(two / side, lambda i: (i - i.min()) / np.ptp(i))
    report = _judged(two, Asked(1.0, quick=True), generated="ours", reference="real")
    assert report["by_number"][6]["status"] == "refused"


def test_7_background(two: Path) -> None:
    for side in ("real", "ours"):
        _change(two / side, lambda i: np.pad(i - i.min() + 20, 20))
    report = _judged(two, generated="ours", reference="real")
    assert report["by_number"][7]["status"] == "warned"
    assert "dB higher" in report["by_number"][7]["why"]


def test_8_a_mask_from_the_prediction(two: Path) -> None:
    for file in sorted((two / "ours").rglob("*.npz")):
        with np.load(file) as old:
            mask = old["image"] > 120
        place = two / "masks" / file.relative_to(two / "ours")
        place.parent.mkdir(parents=True)
        np.savez(place, image=mask.astype(np.uint8))
    report = _judged(two, generated="ours", reference="real", masks="masks")
    assert report["by_number"][8]["status"] == "refused"
    honest = ndimage.gaussian_filter(np.random.default_rng(0).random((40, 40)), 2) > 0.5
    truth = np.random.default_rng(1).random((40, 40))
    assert not honesty.mask_of_generated(honest, truth + 0.1, truth)
    assert not honesty.mask_of_generated(truth > 0.5, truth, truth)


@settings(max_examples=15, deadline=None)
@given(dy=st.floats(-3, 3), dx=st.floats(-3, 3))
def test_9_shifts_are_measured_to_a_fraction_of_a_pixel(dy: float, dx: float) -> None:
    image = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(64, 64)), 2.5)
    moved = ndimage.shift(image, (dy, dx), order=3, mode="wrap")
    # the worst of 33 x 33 shifts is off by .30
    assert honesty.shift_pixels(moved, image) == pytest.approx(float(np.hypot(dy, dx)), abs=0.45)


def test_9_a_shifted_and_a_turned_pair(two: Path) -> None:
    _change(two / "ours", lambda i: np.roll(i, 1, 0))
    report = _judged(two, generated="ours", reference="real")
    assert report["by_number"][9]["status"] == "warned"
    wedge = np.add.outer(np.zeros(40), np.arange(40.0))
    assert honesty.flipped(wedge[:, ::-1], wedge)
    assert not honesty.flipped(wedge, wedge)
    assert not honesty.flipped(np.zeros((4, 4)), wedge[:4, :4])
    assert honesty.shift_pixels(np.zeros((8, 8)), np.zeros((8, 8))) == 0


def test_11_fewer_cases_than_features_is_no_evidence(tmp_path: Path) -> None:
    _patients(tmp_path / "real", range(12))
    _patients(tmp_path / "ours", range(50, 62), first="g")
    report = _judged(tmp_path, generated="ours", reference="real")
    assert report["by_number"][11]["status"] == "refused"
    few = [d for d in report["realism"]["distances"] if d["few"]]
    assert {d["measure"] for d in few} == {"Fréchet distance"}


def test_14_compression_is_in_test_folders_and_5_units_here() -> None:
    from fabrica.evaluate.judging.folder_checks import check_pairs

    image = np.random.default_rng(0).random((20, 20)) * 1000
    ledger = Ledger()
    check_pairs(ledger, {"a": {"generated": image, "reference": image, "units": ("a.u.", "HU")}}, None, {"a": "a"})
    assert ledger.found[5].status == "warned"
    check_pairs(
        clean := Ledger(), {"a": {"generated": image, "reference": image, "units": ("HU", "HU")}}, None, {"a": "a"}
    )
    assert 5 not in clean.found


def _claim(tmp_path: Path, patients: int = 22, quick: bool = False, **changes: Any) -> dict[str, Any]:
    for side, blur in (("real", 0.0), ("ours", 0.5), ("theirs", 1.5)):
        _patients(tmp_path / side, range(patients), blur=blur)
    asked = Asked(300.0, claim=Claim.of({**CLAIM, **changes}), quick=quick)
    return _judged(tmp_path, asked, generated="ours", reference="real", competitor="theirs")


def test_a_supported_claim_and_its_ledger(tmp_path: Path) -> None:
    report = _claim(tmp_path, seeds_started=5, seeds_reported=5)
    assert report["verdict"]["status"] == "SUPPORTED", report["verdict"]
    assert all(report["by_number"][n]["status"] == "passed" for n in (16, 17, 18, 25))


def test_the_endpoint_must_have_been_tested_on_these_images(tmp_path: Path) -> None:
    report = _claim(tmp_path, quick=True)
    assert report["verdict"]["status"] == "REFUSED"
    assert "--quick" in report["verdict"]["may"]


def test_16_too_few_patients(tmp_path: Path) -> None:
    report = _claim(tmp_path, patients=8)
    assert report["by_number"][16]["status"] == "refused"
    assert report["verdict"]["status"] == "REFUSED"


def test_17_a_claim_after_the_results(tmp_path: Path) -> None:
    for side, blur in (("real", 0.0), ("ours", 0.5), ("theirs", 1.5)):
        _patients(tmp_path / side, range(22), blur=blur)
    _judged(tmp_path, generated="ours", reference="real", competitor="theirs")
    late = Asked(300.0, claim=Claim.of(CLAIM))
    for _ in range(2):  # it stays late, however often it is asked
        report = _judged(tmp_path, late, generated="ours", reference="real", competitor="theirs")
        assert report["by_number"][17]["status"] == "refused"
        assert report["verdict"]["status"] == "REFUSED"
        assert "results lay here before the claim" in report["verdict"]["may"]


def test_14_eight_bits_of_the_competitor_alone(tmp_path: Path) -> None:
    """What distances between sets would measure of it is its compression: no claim on them stands."""
    for side in ("real", "ours", "theirs"):
        _patients(tmp_path / side, range(22), blur=0.5 * (side != "real"))
    _change(tmp_path / "theirs", lambda image: np.round(image / 4) * 4)
    claim = Claim.of({**CLAIM, "endpoint": "kernel distance", "embedding": "spectrum"})
    report = _judged(tmp_path, Asked(300.0, claim=claim), generated="ours", reference="real", competitor="theirs")
    assert report["by_number"][14]["status"] == "refused"
    assert "on the competitor side alone" in report["by_number"][14]["why"]
    assert report["verdict"]["status"] == "REFUSED"


def test_a_claim_falls_with_what_it_rests_on_alone(tmp_path: Path) -> None:
    """Negative values refuse SSIM, and no claim on the mean error."""
    for side, blur in (("real", 0.0), ("ours", 0.5), ("theirs", 1.5)):
        _patients(tmp_path / side, range(22), blur=blur)
        _change(tmp_path / side, lambda image: image - 150)
    asked = Asked(300.0, claim=Claim.of({**CLAIM, "endpoint": "mae"}))
    report = _judged(tmp_path, asked, generated="ours", reference="real", competitor="theirs")
    assert report["by_number"][4]["status"] == "refused"
    assert report["verdict"]["status"] == "SUPPORTED", report["verdict"]["may"]


def test_checks_without_anything_to_look_at_have_not_passed(tmp_path: Path) -> None:
    _patients(tmp_path / "real", range(6))
    _patients(tmp_path / "ours", range(50, 56), first="g")
    _patients(tmp_path / "masks", range(90, 92), first="m")
    report = _judged(tmp_path, generated="ours", reference="real", masks="masks")
    for number in (3, 4, 5, 6, 7, 8, 9, 21, 25):
        assert report["by_number"][number]["status"] == "not asked", number


def test_17_a_second_claim_in_the_same_folder(tmp_path: Path) -> None:
    _claim(tmp_path)
    report = _claim(tmp_path, endpoint="mae")
    assert report["by_number"][17]["status"] == "refused"


@pytest.mark.parametrize(
    ("change", "number", "status"),
    [
        ({"about": "reconstruction", "raw_data": "simulated"}, 15, "warned"),
        ({"about": "reconstruction"}, 15, "passed"),
        ({"seeds_started": 5, "seeds_reported": 3}, 18, "refused"),
        ({"about": "utility"}, 22, "refused"),
        ({"about": "privacy"}, 23, "refused"),
        ({"about": "coverage"}, 24, "refused"),
    ],
)
def test_what_a_claim_declares(tmp_path: Path, change: dict[str, Any], number: int, status: str) -> None:
    report = _claim(tmp_path, **change)
    assert report["by_number"][number]["status"] == status
    assert (report["verdict"]["status"] == "REFUSED") == (status == "refused")


def test_21_a_blurred_mean_that_does_as_well(tmp_path: Path) -> None:
    _patients(tmp_path / "real", range(6))
    _patients(tmp_path / "ours", range(6))
    _change(tmp_path / "ours", lambda i: i + 80 * np.random.default_rng(0).normal(size=i.shape))
    report = _judged(tmp_path, generated="ours", reference="real")
    assert report["by_number"][21]["status"] == "warned"
    assert "others' mean, blurred" in report["by_number"][21]["why"]


def test_21_the_nearest_training_image_that_does_as_well(tmp_path: Path) -> None:
    """Training images are the truths with a little noise: whoever copies the nearest beats a blurred model."""
    for side in ("real", "ours", "seen"):
        _patients(tmp_path / side, range(6))
    _change(tmp_path / "ours", lambda i: ndimage.gaussian_filter(i, 3))
    _change(tmp_path / "seen", lambda i: i + 0.5 * np.random.default_rng(0).normal(size=i.shape))
    for place in sorted((tmp_path / "seen").iterdir(), reverse=True):
        place.rename(place.with_name(f"t{place.name}"))
    asked = Asked(300.0, quick=True, overrides={1: "the copies are planted on purpose"})
    report = _judged(tmp_path, asked, generated="ours", reference="real", training="seen")
    assert "nearest training image does as well" in report["by_number"][21]["why"]
    rows = [c for c in report["stages"][0]["cases"] if c["by"] == "nearest training image" and c["metric"] == "mae"]
    assert len(rows) == 6
    assert max(c["value"] for c in rows) < 1  # its own copy was found for every case


def test_21_cases_without_a_competitor_are_said(tmp_path: Path) -> None:
    for k in range(3):
        for side, noise in (("real", 0.0), ("ours", 1.0)):
            image = np.random.default_rng(k).normal(size=(40, 40 + k))
            (tmp_path / side / f"p{k}").mkdir(parents=True)
            np.savez(tmp_path / side / f"p{k}" / "a.npz", image=image + noise)
    report = _judged(tmp_path, generated="ours", reference="real")
    assert any("trivial answers to 3 of 3 cases: needs images of other patients" in n for n in report["not_evaluated"])


def test_2_one_image_under_several_names_is_no_several_patients(tmp_path: Path) -> None:
    """Two images copied to 22 "patients" carry no claim."""
    for side, blur in (("real", 0.0), ("ours", 0.5), ("theirs", 1.5)):
        for k in range(22):
            _patients(tmp_path / side, range(k % 2, k % 2 + 1), blur=blur, first=f"c{k}-")
    claim = Claim.of({"claim": "Ours is sharper.", "endpoint": "ssim", "verb": "superiority", "population": "blobs"})
    folders = Folders(tmp_path / "ours", tmp_path / "real", competitor=tmp_path / "theirs")
    evaluate_folders(folders, tmp_path / "out", Asked(300.0, claim=claim, overrides={}), lambda _: None)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (check,) = [c for c in report["checks"] if c["number"] == 2]
    assert check["status"] == "refused"
    assert "22 patients share 2 reference images" in check["why"]
    assert report["verdict"]["status"] == "REFUSED"
    assert "check 2" in report["verdict"]["may"]


def test_2_many_images_of_a_patient_are_one_patient(tmp_path: Path) -> None:
    """Twenty-two patients of four images each: figures and verdict count 22, and so does the width of the interval."""
    for side, blur in (("real", 0.0), ("ours", 0.5), ("theirs", 1.5)):
        for image in range(4):
            _patients(tmp_path / "once" / side, range(22), blur=blur)
            for place in sorted((tmp_path / "once" / side).iterdir()):
                (tmp_path / side / place.name).mkdir(parents=True, exist_ok=True)
                with np.load(place / "slice.npz") as stored:
                    shifted = np.roll(stored["image"], image, 1)
                np.savez(tmp_path / side / place.name / f"{image}.npz", image=shifted)
    asked = Asked(300.0, claim=Claim.of({**CLAIM, "endpoint": "mae"}), quick=True)
    report = _judged(tmp_path, asked, generated="ours", reference="real", competitor="theirs")
    (mae,) = [s for s in report["summaries"] if (s["stage"], s["metric"], s["by"]) == ("given images", "mae", "model")]
    assert (mae["n"], report["verdict"]["patients"]) == (22, 22)
    values = [c["value"] for c in report["stages"][0]["cases"] if (c["metric"], c["by"]) == ("mae", "model")]
    assert len(values) == 88
    as_images = 2 * 1.96 * np.std(values, ddof=1) / len(values) ** 0.5  # the fault: 88 independent images
    assert mae["interval"][1] - mae["interval"][0] > 1.3 * as_images
    assert report["by_number"][2]["status"] == "passed"


def test_12_distances_bear_no_interval_from_resampling(tmp_path: Path) -> None:
    """Nothing in the report calls itself an interval of a distance; the error of a kernel distance is not the spread over subsets."""
    _patients(tmp_path / "real", range(24))
    _patients(tmp_path / "ours", range(100, 124), blur=1.0, first="g")
    report = _judged(tmp_path, generated="ours", reference="real")
    for distance in report["realism"]["distances"]:
        assert set(distance) == {"embedding", "measure", "value", "null", "null_range", "patients", "few"}
    rng = np.random.default_rng(0)
    truth, own, subsets = [], [], []
    for _ in range(60):
        x, y = rng.normal(size=(60, 4)), rng.normal(size=(60, 4)) + 0.5
        found = feature.kernel_distance(x, y)
        truth.append(found.value)
        own.append(found.standard_error)
        parts = [
            feature.kernel_distance(x[rng.permutation(60)[:20]], y[rng.permutation(60)[:20]]).value for _ in range(20)
        ]
        subsets.append(np.std(parts))  # the fault: what is called "KID std"
    assert np.mean(own) == pytest.approx(np.std(truth), rel=0.35)
    assert np.mean(subsets) > 1.3 * np.std(truth)


def test_13_sets_are_scaled_together(tmp_path: Path) -> None:
    """Scaling by one side alone would tell two samples of one source apart, and would depend on which side is called real."""
    _patients(tmp_path / "real", range(24))
    _patients(tmp_path / "ours", range(100, 112), first="g")
    one = _judged(tmp_path, generated="ours", reference="real")
    other = _judged(tmp_path, generated="real", reference="ours")
    values = [{(t["embedding"], t["test"]): t["value"] for t in r["realism"]["tests"]} for r in (one, other)]
    kernel = [k for k in values[0] if k[1].startswith("kernel")]
    assert len(kernel) >= 3
    for key in kernel:
        assert values[0][key] == pytest.approx(values[1][key], rel=1e-6), key
    sides = {
        "real": np.random.default_rng(0).normal(size=(24, 3)),
        "ours": np.random.default_rng(1).normal(size=(12, 3)),
    }
    scaled = np.concatenate(list(standardised(sides, "x").values()))
    assert np.abs(scaled.mean(0)).max() < 1e-9
    assert np.abs(scaled.std(0) - 1).max() < 1e-9
    assert one["by_number"][13]["status"] == "passed"


def test_20_no_difference_found_is_not_no_difference(tmp_path: Path) -> None:
    """Two methods that are alike: superiority is not shown, and nothing says that they are equal."""
    for side in ("real", "ours", "theirs"):
        _patients(tmp_path / side, range(22))
    for side, seed in (("ours", 1), ("theirs", 2)):
        rng = np.random.default_rng(seed)
        _change(tmp_path / side, lambda image, rng=rng: image + 5 * rng.normal(size=image.shape))
    asked = Asked(300.0, claim=Claim.of({**CLAIM, "endpoint": "mae"}))
    report = _judged(tmp_path, asked, generated="ours", reference="real", competitor="theirs")
    verdict = report["verdict"]
    assert verdict["status"] == "NOT SUPPORTED"
    assert verdict["p_value"] > 0.05
    assert verdict["may"].startswith("It was not shown")
    assert "equivalent" not in verdict["may"]
    assert "a test that finds none proves none" in verdict["may_not"]
    with pytest.raises(ValueError, match="needs a margin above 0"):
        Claim.of({**CLAIM, "verb": "equivalence"})  # likeness is claimed with a margin alone


def test_14_eight_bits_on_one_side_alone(tmp_path: Path) -> None:
    _patients(tmp_path / "real", range(12))
    _patients(tmp_path / "ours", range(50, 62), first="g")
    _patients(tmp_path / "same", range(70, 82), first="h")
    _change(tmp_path / "ours", lambda i: np.clip(i, 0, 255).round())
    report = _judged(tmp_path, generated="ours", reference="real")
    assert report["by_number"][14]["status"] == "refused"
    assert "256 grey levels on the generated side alone" in report["by_number"][14]["why"]
    assert report["realism"] is None
    assert _judged(tmp_path, generated="same", reference="real")["by_number"][14]["status"] == "passed"


def test_25_pixels_and_features_favour_different_sets(tmp_path: Path) -> None:
    """Blur is nearer in every pixel metric to a noisy truth; another draw of the noise has the right texture."""
    rng = np.random.default_rng(5)
    _patients(tmp_path / "real", range(12))
    shutil.copytree(tmp_path / "real", tmp_path / "blurred")
    shutil.copytree(tmp_path / "real", tmp_path / "noisy")
    _change(tmp_path / "blurred", lambda i: ndimage.gaussian_filter(i, 2))
    _change(tmp_path / "noisy", lambda i: ndimage.gaussian_filter(i, 2) + 10 * rng.normal(size=i.shape))
    report = _judged(tmp_path, generated="blurred", reference="real", competitor="noisy")
    assert report["by_number"][25]["status"] == "warned"
    assert "no tier stands for the others" in report["by_number"][25]["why"]


def test_overrides_need_a_number_and_a_reason() -> None:
    assert parse_overrides(["7=the task is the background"]) == {7: "the task is the background"}
    with pytest.raises(ValueError, match="overrules nothing"):
        parse_overrides(["seven"])
    with pytest.raises(ValueError, match="no check 26"):
        Ledger({26: "a reason that is long"})
    with pytest.raises(ValueError, match="a reason that readers see"):
        Ledger({7: "why"})


def test_a_finding_is_not_passed_later_and_findings_add_up() -> None:
    ledger = Ledger()
    assert ledger.trigger(9, "a lies off.")
    ledger.trigger(9, "b lies off.")
    ledger.passed(9)
    assert ledger.found[9].why == "a lies off.; b lies off."
    assert ledger.found[9].status == "warned"
    assert not ledger.trigger(3, "wrong.")
    assert [f.number for f in ledger.table()] == list(range(1, 26))
    with pytest.raises(HonestyError, match="Honesty check 1"):
        ledger.stop(1, "shared.", "Take it out.")


def test_a_claim_says_both_numbers_of_seeds_and_known_words() -> None:
    with pytest.raises(ValueError, match="both numbers of seeds"):
        Claim.of({**CLAIM, "seeds_started": 5})
    with pytest.raises(ValueError, match="Did you mean 'privacy'"):
        Claim.of({**CLAIM, "about": "privcy"})
    with pytest.raises(ValueError, match="simulated"):
        Claim.of({**CLAIM, "raw_data": "simulatd"})
    with pytest.raises(ValueError, match="seeds_started is 'many'"):
        Claim.of({**CLAIM, "seeds_started": "many", "seeds_reported": 2})
    assert replace(Claim.of(CLAIM), about="utility").digest() != Claim.of(CLAIM).digest()


def test_a_shift_of_a_large_volume_is_told_from_its_middle() -> None:
    """Where the patient is, however large the dark around him: a whole transform would take 25 times its memory."""
    rng = np.random.default_rng(0)
    image = np.full((30, 400, 400), -1000.0, np.float32)
    inside = ndimage.gaussian_filter(rng.random((30, 140, 160)), 2)
    image[:, 250:390, 20:180] = 300 * (inside - inside.mean()) / inside.std()  # organs
    assert honesty.shift_pixels(np.roll(image, 3, 2), image) == pytest.approx(3, abs=0.3)
    assert honesty.shift_pixels(image, image) == 0
    assert honesty.flipped(image[..., ::-1], image)
