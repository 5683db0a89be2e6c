"""Claims of every kind through whole folders: pixels, sets, masks; against a competitor, a goal, trivial answers, real images."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from fabrica.evaluate.honesty import validity
from fabrica.evaluate.honesty.claim import Claim
from fabrica.evaluate.judging.folder_claim import check_answerable
from fabrica.evaluate.judging.folders import evaluate_folders
from fabrica.evaluate.judging.shelf import Asked, Folders
from fabrica.evaluate.sets import realism

from .test_folders import _patients

BASE: dict[str, Any] = {"claim": "Ours is good.", "endpoint": "mae", "verb": "superiority", "population": "blobs"}
GOAL = {"against": "goal", "goal_source": "planted"}
MARGIN = {"margin": 0.1, "margin_source": "planted"}


@pytest.fixture(autouse=True)
def _few_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate has tests of its own (test_validity): here five splits of the patients do."""
    monkeypatch.setattr(validity, "TRIALS", 5)
    monkeypatch.setattr(realism, "SPLITS", 5)


def _masks(folder: Path, seeds: range, moved: int = 0, first: str = "p") -> None:
    """A disc a patient, at another place for each; `moved` pixels to the right."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        cy, cx = rng.integers(12, 28, 2)
        y, x = np.mgrid[:40, :40]
        path = folder / f"{first}{seed}" / "slice.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, image=((y - cy) ** 2 + (x - cx - moved) ** 2 < 36).astype(np.float32))


def _as_nifti(folder: Path, spacing_mm: tuple[float, float, float]) -> None:
    """The same files with their pixel sizes."""
    for file in sorted(folder.glob("*/slice.npz")):
        with np.load(file) as stored:
            nibabel.save(
                nibabel.Nifti1Image(stored["image"].T[..., None], np.diag([*spacing_mm, 1])),
                file.with_name("slice.nii.gz"),
            )  # type: ignore[attr-defined]
        file.unlink()


def _judged(tmp_path: Path, claim: dict[str, Any], quick: bool = False, **names: str) -> dict[str, Any]:
    folders = Folders(**{k: tmp_path / v for k, v in names.items()})
    asked = Asked(300.0, claim=Claim.of({**BASE, **claim}), quick=quick)
    evaluate_folders(folders, tmp_path / "out", asked, lambda _: None)
    found: dict[str, Any] = json.loads((tmp_path / "out" / "report.json").read_text())
    return found


@pytest.mark.parametrize(
    ("claim", "status"),
    [
        ({**GOAL, "goal": 20}, "SUPPORTED"),
        ({**GOAL, "goal": 0.01}, "NOT SUPPORTED"),
        ({**GOAL, "goal": 3, "verb": "non-inferiority", **MARGIN, "margin": 6}, "SUPPORTED"),
        ({"against": "trivial answers"}, "SUPPORTED"),
    ],
)
def test_pixels_without_a_competitor(tmp_path: Path, claim: dict[str, Any], status: str) -> None:
    """The call that names generated, reference and a claim, and nobody else."""
    for side, blur in (("real", 0.0), ("ours", 0.5)):
        _patients(tmp_path / side, range(22), blur=blur)
    report = _judged(tmp_path, claim, generated="ours", reference="real")
    assert report["verdict"]["status"] == status, report["verdict"]["may"]
    html = (tmp_path / "out" / "index.html").read_text()
    assert f"against {claim['against']}" in html
    assert ("(planted)" in html) == (claim["against"] == "goal")  # where a goal comes from stands on the page
    if claim["against"] == "trivial answers":
        assert "the best trivial answer (nearest other patient)" in report["verdict"]["may"]
    else:
        assert f"the goal of {claim['goal']:g}" in report["verdict"]["may"]


def test_a_trivial_answer_that_does_as_well_sinks_the_claim(tmp_path: Path) -> None:
    _patients(tmp_path / "real", range(22))
    for k in range(22):  # noise: further from the truth than the mean of others
        with np.load(tmp_path / "real" / f"p{k}" / "slice.npz") as stored:
            noisy = stored["image"] + 80 * np.random.default_rng(k).normal(size=(40, 40))
        (tmp_path / "ours" / f"p{k}").mkdir(parents=True)
        np.savez(tmp_path / "ours" / f"p{k}" / "slice.npz", image=noisy.astype(np.float32))
    report = _judged(tmp_path, {"against": "trivial answers"}, generated="ours", reference="real")
    assert report["verdict"]["status"] == "NOT SUPPORTED"
    assert report["verdict"]["difference"] > 0


def test_a_claim_on_sets_of_other_patients(tmp_path: Path) -> None:
    """Drawn patients who are nobody: no pair anywhere, and a verdict all the same."""
    _patients(tmp_path / "real", range(40))
    _patients(tmp_path / "drawn", range(200, 240), first="g")
    claim = {
        "endpoint": "kernel distance", "embedding": "spectrum", "against": "real images", "verb": "equivalence", **MARGIN,
    }  # fmt: skip
    report = _judged(tmp_path, {**claim, "margin": 1.0}, generated="drawn", reference="real")
    assert report["verdict"]["status"] == "SUPPORTED", report["verdict"]["may"]
    assert "is equivalent to real images within 1 in blobs" in report["verdict"]["may"]
    assert report["verdict"]["patients"] == 40
    other = _judged(tmp_path, {**claim, "embedding": "motion"}, generated="drawn", reference="real")
    assert "no embedding 'motion' here" in other["verdict"]["may"]


def _segmented(tmp_path: Path, moved: int = 1, patients: int = 22) -> dict[str, str]:
    for side in ("real", "ours"):
        _patients(tmp_path / side, range(patients))
    _masks(tmp_path / "masks", range(patients))
    _masks(tmp_path / "found", range(patients), moved)
    _masks(tmp_path / "found_real", range(patients), 1)
    return {
        "generated": "ours", "reference": "real", "masks": "masks", "segmentations": "found",
        "reference_segmentations": "found_real",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("moved", "claim", "status"),
    [
        (1, {"against": "trivial answers"}, "SUPPORTED"),
        (1, {"against": "goal", "goal": 0.8, "goal_source": "planted"}, "SUPPORTED"),
        (3, {"against": "goal", "goal": 0.8, "goal_source": "planted"}, "NOT SUPPORTED"),
        (2, {"against": "real images", "verb": "non-inferiority", **MARGIN, "margin": 0.2}, "SUPPORTED"),
        (4, {"against": "real images", "verb": "non-inferiority", **MARGIN, "margin": 0.2}, "NOT SUPPORTED"),
    ],
)
def test_what_a_segmentation_finds(tmp_path: Path, moved: int, claim: dict[str, Any], status: str) -> None:
    report = _judged(tmp_path, {"endpoint": "dice", **claim}, quick=True, **_segmented(tmp_path, moved))
    assert report["verdict"]["status"] == status, report["verdict"]["may"]
    rows = {(c["by"], c["metric"]) for c in report["stages"][0]["cases"] if c["case"] == "p0/slice.npz"}
    for by in ("model", "the same segmentation of real images", "mask of the patient most alike"):
        for metric in ("dice", "hausdorff95", "surface dice", "volume error", "pieces found"):
            assert (by, metric) in rows, (by, metric)
    html = (tmp_path / "out" / "index.html").read_text()
    assert "the same segmentation of real images" in html


def test_values_of_masks_are_those_of_their_functions(tmp_path: Path) -> None:
    from fabrica.evaluate.metrics import task

    folders = _segmented(tmp_path, 3, 20)
    masks = {s: [np.load(tmp_path / s / f"p{k}" / "slice.npz")["image"] for k in range(20)] for s in ("found", "masks")}
    for side in ("real", "ours", "masks", "found", "found_real"):
        _as_nifti(tmp_path / side, (0.5, 2.0, 3.0))
    report = _judged(tmp_path, {"endpoint": "hausdorff95", **GOAL, "goal": 9}, quick=True, **folders)
    for k in (0, 7):
        a, b = (masks[side][k][None] for side in ("found", "masks"))
        own = {
            c["metric"]: c["value"]
            for c in report["stages"][0]["cases"]
            if c["case"] == f"p{k}/slice.nii.gz" and c["by"] == "model"
        }
        assert own["dice"] == pytest.approx(task.dice(a, b))
        assert own["volume error"] == 0
        assert own["hausdorff95"] == pytest.approx(task.hausdorff95(a, b, spacing_mm=(3.0, 2.0, 0.5)))
    assert report["verdict"]["status"] == "SUPPORTED", report["verdict"]["may"]
    assert next(c for c in report["checks"] if c["number"] == 10)["status"] == "passed"


def test_10_surfaces_need_pixel_sizes(tmp_path: Path) -> None:
    """Arrays without geometry: overlap is measured, millimetres are not, and no claim on them stands."""
    folders = _segmented(tmp_path)
    report = _judged(tmp_path, {"endpoint": "hausdorff95", **GOAL, "goal": 9}, quick=True, **folders)
    assert report["verdict"]["status"] == "REFUSED"
    (check,) = [c for c in report["checks"] if c["number"] == 10]
    assert check["status"] == "refused"
    assert "22 of 22 references (p0/slice.npz) state no pixel size" in check["why"]
    values = {
        c["metric"]: c["value"]
        for c in report["stages"][0]["cases"]
        if (c["case"], c["by"]) == ("p0/slice.npz", "model")
    }
    assert values["hausdorff95"] == values["volume error"] == "not evaluated: needs pixel sizes in mm"
    assert values["dice"] > 0.5


def test_missing_and_damaged_segmentations_are_the_worst(tmp_path: Path) -> None:
    folders = _segmented(tmp_path)
    (tmp_path / "found" / "p0" / "slice.npz").unlink()
    np.savez(tmp_path / "found" / "p1" / "slice.npz", image=np.random.default_rng(0).random((40, 40), np.float32))
    report = _judged(tmp_path, {"endpoint": "dice", **GOAL, "goal": 0.1}, quick=True, **folders)
    words = {
        c["case"]: c["value"] for c in report["stages"][0]["cases"] if c["by"] == "model" and c["metric"] == "dice"
    }
    assert words["p0/slice.npz"] == "failed: there is no segmentation of this name"
    assert "values that are no labels" in words["p1/slice.npz"]
    assert any("2 failed cases count as the worst value" in r for r in report["verdict"]["remarks"])
    (summary,) = [s for s in report["summaries"] if (s["by"], s["metric"]) == ("model", "dice")]
    assert summary["failed"] == 2


def test_21_real_images_are_no_trivial_answer(tmp_path: Path) -> None:
    """Images of other sizes have no trivial answers; what the reader finds in real ones is a ceiling, not a rival."""
    from fabrica.evaluate.report.results import REAL

    for side, kind in (
        ("real", "images"),
        ("ours", "images"),
        ("masks", "masks"),
        ("found", "masks"),
        ("found_real", "masks"),
    ):
        for k in range(3):
            shape = (40, 40 + k)
            image = np.random.default_rng(k).random(shape) if kind == "images" else np.indices(shape)[0] > 20
            (tmp_path / side / f"p{k}").mkdir(parents=True)
            np.savez(tmp_path / side / f"p{k}" / "slice.npz", image=image.astype(np.float32))
    folders = Folders(
        tmp_path / "ours", tmp_path / "real", tmp_path / "masks", segmentations=tmp_path / "found",
        reference_segmentations=tmp_path / "found_real",
    )  # fmt: skip
    evaluate_folders(folders, tmp_path / "out", Asked(1.0, quick=True), lambda _: None)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {c["by"] for c in report["stages"][0]["cases"]} == {"model", REAL}
    assert next(c for c in report["checks"] if c["number"] == 21)["status"] == "not asked"


def test_segmentations_without_masks_are_said(tmp_path: Path) -> None:
    for side in ("real", "ours"):
        _patients(tmp_path / side, range(3))
    _masks(tmp_path / "found", range(3))
    folders = Folders(tmp_path / "ours", tmp_path / "real", segmentations=tmp_path / "found")
    evaluate_folders(folders, tmp_path / "out", Asked(300.0, quick=True), lambda _: None)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert any("needs --masks with the true masks" in line for line in report["not_evaluated"])
    assert not any(c["metric"] == "dice" for c in report["stages"][0]["cases"])


def test_a_mask_that_is_no_lesson_does_as_well(tmp_path: Path) -> None:
    """Check 21 looks at masks too: the mask of the patient most alike, who is a twin, is as good."""
    folders = _segmented(tmp_path, 6, 8)
    for side in ("real", "masks"):
        for k in range(0, 8, 2):  # twins, with a little noise in the image
            with np.load(tmp_path / side / f"p{k}" / "slice.npz") as stored:
                image = ndimage.gaussian_filter(stored["image"], 0.3) if side == "real" else stored["image"]
            np.savez(tmp_path / side / f"p{k + 1}" / "slice.npz", image=image)
    evaluate_folders(
        Folders(**{k: tmp_path / v for k, v in folders.items()}),
        tmp_path / "out",
        Asked(300.0, quick=True),
        lambda _: None,
    )
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (check,) = [c for c in report["checks"] if c["number"] == 21]
    lines = [line for line in check["why"].split(";") if "mask of the patient most alike does as well" in line]
    assert lines
    assert "dice" in lines[0]


@pytest.mark.parametrize(
    ("claim", "given", "words"),
    [
        ({"arm": "synthetic", "against": "real", "about": "utility"}, set(), "fabrica downstream RECIPE --claim"),
        ({"endpoint": "dice", **GOAL, "goal": 0.5}, {"masks"}, "--masks DIR --segmentations DIR"),
        (
            {"endpoint": "dice"},
            {"masks", "segmentations", "competitor"},
            "against: goal, trivial answers or real images",
        ),
        ({"endpoint": "mae"}, set(), "--competitor DIR; or write in the claim: against: trivial answers"),
        (
            {"endpoint": "dice", "against": "real images", "verb": "equivalence", **MARGIN},
            {"masks", "segmentations"},
            "--reference-segmentations DIR",
        ),
    ],
)
def test_claims_that_these_folders_cannot_answer(claim: dict[str, Any], given: set[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_answerable(Claim.of({**BASE, **claim}), given)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"against": "goal"}, "A goal is a number with its source"),
        ({"against": "goal", "goal": 1.0}, "A goal is a number with its source"),
        ({"against": "goal", "goal": float("nan"), "goal_source": "x"}, "A goal is a number with its source"),
        ({"goal": 1.0}, "names a goal and is not against it"),
        ({"against": "everybody"}, "Unknown rival of a claim"),
        ({"against": "real images"}, "as good as its truth"),
        ({"embedding": "radiomics"}, "mae needs no embedding"),
        ({"endpoint": "kernel distance"}, "Write: embedding: radiomics"),
        (
            {"endpoint": "kernel distance", "embedding": "radiomics", **GOAL, "goal": 1.0},
            "a competitor's set or against real",
        ),
        ({"endpoint": "kernel distance", "embedding": "radiomics", "against": "real images"}, "keeps no level"),
        ({"endpoint": "kernel distance", "embedding": "x", "verb": "equivalence", **MARGIN}, "keeps no level"),
        ({"endpoint": "auc"}, "fabrica downstream RECIPE --claim FILE"),
        ({"endpoint": "noise_ratio"}, "Unknown endpoint"),
        ({"arm": "synthetic", "against": "real"}, "about: utility"),
        ({"arm": "synthetic", "against": "synthetic", "about": "utility"}, "one arm against another"),
        ({"arm": "drawn", "against": "real", "about": "utility"}, "Unknown arm"),
        ({"arm": 3}, "arm is 3, expected text"),
        ({"goal": "high"}, "goal is 'high'"),
    ],
)
def test_planted_faults(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Claim.of({**BASE, **change})


def test_formats_may_differ(tmp_path: Path) -> None:
    """A picture judged by arrays of its name; two candidates for one name are no pair."""
    from PIL import Image as Picture

    for k in range(3):
        image = np.random.default_rng(k).integers(0, 255, (40, 40)).astype(np.uint8)
        (tmp_path / "real").mkdir(exist_ok=True)
        (tmp_path / "ours").mkdir(exist_ok=True)
        np.savez(tmp_path / "real" / f"p{k}.npz", image=image.astype(np.float32))
        Picture.fromarray(image).save(tmp_path / "ours" / f"p{k}.png")
    np.savez(tmp_path / "ours" / "p2.npz", image=np.zeros((40, 40), np.float32))
    evaluate_folders(
        Folders(tmp_path / "ours", tmp_path / "real"), tmp_path / "out", Asked(255.0, quick=True), lambda _: None
    )
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    mae = {c["case"]: c["value"] for c in report["stages"][0]["cases"] if (c["by"], c["metric"]) == ("model", "mae")}
    assert set(mae) == {"p0.npz", "p1.npz", "p2.npz"}
    assert mae["p0.npz"] == mae["p1.npz"] == 0
    assert mae["p2.npz"] > 50  # the array of that name, not the picture


def test_images_of_one_file_are_several(tmp_path: Path) -> None:
    """An npz that holds a stack: every image is a case, none is dropped."""
    stack = np.random.default_rng(0).random((5, 40, 40)).astype(np.float32)
    for side, noise in (("real", 0.0), ("ours", 0.1)):
        (tmp_path / side).mkdir()
        np.savez(tmp_path / side / "all.npz", images=stack + noise)
    evaluate_folders(
        Folders(tmp_path / "ours", tmp_path / "real"), tmp_path / "out", Asked(1.0, quick=True), lambda _: None
    )
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    mae = [c for c in report["stages"][0]["cases"] if (c["by"], c["metric"]) == ("model", "mae")]
    assert len({c["patient"] for c in mae}) == len(mae) == 5
    assert all(c["value"] == pytest.approx(0.1, rel=1e-4) for c in mae)


def test_a_competitor_with_other_names_is_not_beaten(tmp_path: Path) -> None:
    for side, blur in (("real", 0.0), ("ours", 1.5)):
        _patients(tmp_path / side, range(22), blur=blur)
    _patients(tmp_path / "theirs", range(22), blur=0.2, first="q")
    report = _judged(tmp_path, {}, generated="ours", reference="real", competitor="theirs")
    assert report["verdict"]["status"] == "REFUSED"
    assert "no case of its competitor could be measured" in report["verdict"]["may"]


def test_cases_that_failed_stay_when_trivial_answers_are_the_rival(tmp_path: Path) -> None:
    """Three of 25 generated images are missing: they count, as the worst, and no case leaves the verdict unsaid."""
    for side, blur in (("real", 0.0), ("ours", 0.5)):
        _patients(tmp_path / side, range(25), blur=blur)
    for k in range(3):
        (tmp_path / "ours" / f"p{k}" / "slice.npz").unlink()
    report = _judged(tmp_path, {"against": "trivial answers", "endpoint": "ssim"}, generated="ours", reference="real")
    assert report["verdict"]["patients"] == 25
    assert "3 failed cases count as the worst value, 0" in report["verdict"]["remarks"][0]
    mae = _judged(tmp_path / "again", {"against": "trivial answers"}, generated="../ours", reference="../real")
    assert mae["verdict"]["status"] == "REFUSED"
    assert "3 of 25 cases of the model failed" in mae["verdict"]["may"]


def test_pictures_of_an_archive_are_of_its_patient(tmp_path: Path) -> None:
    """Two archives of twelve slices are two patients, not twenty-four; folders inside one archive are its patients."""
    import io as buffers
    import zipfile

    from PIL import Image as Picture

    rng = np.random.default_rng(0)

    def picture() -> bytes:
        buffer = buffers.BytesIO()
        Picture.fromarray(rng.integers(0, 255, (40, 40)).astype(np.uint8)).save(buffer, "PNG")
        return buffer.getvalue()

    for side in ("real", "ours"):
        (tmp_path / side).mkdir()
        for patient in ("p01", "p02"):
            with zipfile.ZipFile(tmp_path / side / f"{patient}.zip", "w") as archive:
                for k in range(3):
                    archive.writestr(f"{k}.png", picture())
        with zipfile.ZipFile(tmp_path / side / "all.zip", "w") as archive:
            for name in ("a/0.png", "a/1.png", "b/0.png"):
                archive.writestr(name, picture())
    evaluate_folders(
        Folders(tmp_path / "ours", tmp_path / "real"), tmp_path / "out", Asked(255.0, quick=True), lambda _: None
    )
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    mae = [c for c in report["stages"][0]["cases"] if (c["by"], c["metric"]) == ("model", "mae")]
    assert len(mae) == 9
    assert {c["patient"] for c in mae} == {"p01", "p02", "a", "b"}


def test_a_hash_in_a_folder_is_no_member(tmp_path: Path) -> None:
    for side in ("real", "ours"):
        for k in range(3):
            path = tmp_path / side / "p#1" / f"{k}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, image=np.random.default_rng(k).random((40, 40)).astype(np.float32))
    evaluate_folders(
        Folders(tmp_path / "ours", tmp_path / "real"), tmp_path / "out", Asked(1.0, quick=True), lambda _: None
    )
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {c["patient"] for c in report["stages"][0]["cases"]} == {"p#1"}
