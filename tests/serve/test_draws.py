"""What a person flips through: the draws behind a mean, and what of it no datum fixes."""

import json
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image as Picture

from fabrica import io
from fabrica.deliver import draws
from fabrica.deliver.outbox import Outbox
from fabrica.deliver.provenance import provenance
from fabrica.deliver.reading import stored_image
from fabrica.deliver.record import Record
from fabrica.generate.handover import hand_over
from fabrica.generate.scans import generate_images
from fabrica.recipe.checks import from_plain
from fabrica.run.sequence import run_recipe
from fabrica.safeguards.hallucination import WIDTH
from fabrica.serve.review import application, key_of, map_label

from ..deliver.conftest import drawn, trained  # noqa: F401 (fixtures)
from ..deliver.scanner import head, write_series

TOKEN = "a-token-of-tests"
NOISE = 0.1  # of the brightest voxel
RESTORING = {
    "cohorts": {
        "heads": {"virtual": {"patients": 2, "spacing_mm": 4, "skull": True, "planes": [18, 22], "disease": "none"}},
        "scans": {"virtual": {"patients": 1, "first": 9, "spacing_mm": 4, "skull": True, "planes": [18, 20]}},
    },
    "split": {"train": 0.0, "test": 1.0, "only_train": ["heads"]},
    "job": {"name": "enhancement", "x": "T1w", "deviation": 0.2},
    "family": {"name": "flow", "network": {"channels": [8, 16], "blocks": 1}},
    "sampler": {"name": "posterior", "steps": 3},
    "baseline": "none",
    "train": {"steps": 40, "batch": 4, "precision": "fp32"},
    "evaluate": {"draws": 1, "realism": 0, "evaluations": []},
}


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What generate wrote of a noisy DICOM head: three draws of what it may have been."""
    folder = tmp_path_factory.mktemp("restored")
    run_recipe(from_plain(RESTORING), folder / "run", say=lambda _: None)
    volume, affine = head()
    noisy = volume + NOISE * volume.max() * np.random.default_rng(0).standard_normal(volume.shape)
    write_series(folder / "dicom", np.abs(noisy), affine)
    generate_images(folder / "run", folder / "dicom", folder / "out", draws=3, say=lambda _: None)
    return folder / "out"


@pytest.fixture
def store(restored: Path, tmp_path: Path) -> tuple[Path, str]:
    (uid,) = hand_over(Record.read(restored), Outbox(tmp_path), say=lambda _: None)
    return tmp_path, uid


@pytest.fixture
def client(store: tuple[Path, str]) -> TestClient:
    made = TestClient(application(store[0], TOKEN), base_url="http://127.0.0.1:1", raise_server_exceptions=False)
    assert made.get(f"/enter?t={TOKEN}").status_code == 200
    return made


def _pixels(client: TestClient, path: str) -> np.ndarray:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return np.asarray(Picture.open(BytesIO(answer.content)).convert("RGB")).astype(int)


def _maps(store: tuple[Path, str]) -> dict[str, list[Path]]:
    outbox = Outbox(store[0])
    return {map_label(files): files for files in map(outbox.files, outbox.parts(store[1]))}


def test_what_the_prior_decided_goes_with_the_mean_in_its_numbers(restored: Path, store: tuple[Path, str]) -> None:
    (image,) = Record.read(restored).images
    decided = io.read_image(restored / image.decided).data.numpy()
    mean = np.mean([io.read_image(restored / f).data.numpy() for f in image.files], 0)
    assert 0.02 < np.abs(decided).sum() / np.abs(mean).sum() < 0.9  # some is measured, some is not
    maps = _maps(store)
    assert set(maps) == {"SPREAD", "PRIOR"}
    stored, series = stored_image(maps["PRIOR"]), stored_image(Outbox(store[0]).files(store[1]))
    assert stored is not None
    assert series is not None
    assert float(stored.data.min()) < 0 < float(stored.data.max())
    share = float(stored.data.abs().sum() / series.data.abs().sum())
    assert share == pytest.approx(np.abs(decided).sum() / mean.clip(0).sum(), rel=0.01)
    header = pydicom.dcmread(maps["PRIOR"][0], stop_before_pixels=True)
    assert header.SyntheticData == "YES"
    assert header.SeriesDescription.startswith("SYNTHETIC prior's part of T1w")
    assert header.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99FABRICA"


def test_the_priors_part_is_what_wiener_says(restored: Path) -> None:
    """Of white noise of deviation s that was found in the scan, 1 / (1 + (WIDTH / s)^2) of each voxel is not fixed."""
    (image,) = Record.read(restored).images
    mean = torch.stack([io.read_image(restored / f).data for f in image.files]).mean(0)
    decided = io.read_image(restored / image.decided).data
    inside = mean > 0.2 * mean.max()
    share = decided[inside] / mean[inside]
    assert float(share.median()) == pytest.approx(1 / (1 + (WIDTH / NOISE) ** 2), rel=0.3)
    assert float(share.std()) < 0.01


def test_a_file_of_the_priors_part_that_was_changed_is_refused(restored: Path, tmp_path: Path) -> None:
    shutil.copytree(restored, tmp_path / "out")
    record = Record.read(tmp_path / "out")
    (tmp_path / "out" / record.images[0].decided).write_bytes(b"other")
    with pytest.raises(ValueError, match="was changed after it was drawn"):
        hand_over(record, Outbox(tmp_path / "store"), say=lambda _: None)


def test_every_draw_is_shown_and_none_is_sent(client: TestClient, store: tuple[Path, str]) -> None:
    key, outbox = key_of(store[1]), Outbox(store[0])
    seen = [_pixels(client, f"/series/{key}/draw-{k}/1.png") for k in range(3)]
    mean = _pixels(client, f"/series/{key}/result/1.png")
    assert all(np.abs(seen[a] - seen[b]).max() > 10 for a, b in ((0, 1), (0, 2), (1, 2)))
    assert np.abs(np.mean(seen, 0) - mean).mean() < 3  # in one window, their mean is the mean
    page = client.get(f"/series/{key}").text
    assert "draw 3 of 3, not sent" in page
    assert "decided by the model, not by data" in page
    assert "There is no map of what the model added" not in page
    told = client.get(f"/series/{key}/values", params={"z": 1, "y": 0.5, "x": 0.5, "draw": 2}).json()
    assert set(told) == {"result", "source", "spread", "prior", "draw 3"}
    assert client.get(f"/series/{key}/draw-3/1.png").status_code == 404
    assert client.get(f"/series/{key}/draw-x/1.png").status_code == 404
    assert client.get(f"/series/{key}/values", params={"z": 1, "y": 0.5, "x": 0.5, "draw": 9}).status_code == 404
    outbox.judge(store[1], "accept", "looks right", "Dr. A")
    outbox.enqueue(store[1], "folder:x")
    assert {one.series for one in outbox.waiting("folder:x")} == {store[1], *outbox.parts(store[1])}


def test_the_priors_part_lies_over_the_picture(client: TestClient, store: tuple[Path, str]) -> None:
    key = key_of(store[1])
    plain = _pixels(client, f"/series/{key}/result/1.png")
    for which in ("result", "draw-1"):
        laid = _pixels(client, f"/series/{key}/{which}/1.png?overlay=prior")
        assert np.abs(laid[..., 0] - laid[..., 2]).max() > 60  # coloured
    assert np.abs(plain[..., 0] - plain[..., 2]).max() == 0


@pytest.mark.parametrize("which", ["0.nii.gz", draws.LIST])
def test_draws_that_were_changed_are_not_shown(which: str, client: TestClient, store: tuple[Path, str]) -> None:
    path = store[0] / draws.FOLDER / store[1] / which
    path.write_bytes(path.read_bytes() + b" ")
    answer = client.get(f"/series/{key_of(store[1])}/draw-0/1.png")
    assert answer.status_code == 409
    assert "not what was made" in answer.text


def test_draws_that_were_cleared_are_said_and_the_mean_is_judged(client: TestClient, store: tuple[Path, str]) -> None:
    shutil.rmtree(store[0] / draws.FOLDER)
    page = client.get(f"/series/{key_of(store[1])}")
    assert page.status_code == 200
    assert "no longer kept here" in page.text
    assert "not sent" not in page.text
    assert client.get(f"/series/{key_of(store[1])}/draw-0/1.png").status_code == 404


def test_the_same_draws_again_are_those_that_are_kept(restored: Path, store: tuple[Path, str]) -> None:
    folder = store[0] / draws.FOLDER / store[1]
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert hand_over(Record.read(restored), Outbox(store[0]), say=lambda _: None) == [store[1]]
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before


def test_the_trace_says_which_cohort_taught_it(restored: Path, store: tuple[Path, str]) -> None:
    known = json.loads((restored.parent / "run/environment.json").read_text())["data_sha256"]["model"]
    line = Outbox(store[0]).trace(store[1])[0]
    assert line.event["cohort"] == known == Record.read(restored).cohort
    told = provenance(Outbox(store[0]).trace(store[1])).serialize(format="json")
    assert f"fabrica:cohort-{known}" in told


def test_the_page_says_where_a_source_is_unlike_those_of_training(restored: Path, tmp_path: Path) -> None:
    record = Record.read(restored)
    doubt = "unlike the scans of training (score 9.00, above 3.00; most by its intensity)"
    odd = replace(record, images=tuple(replace(one, doubt=doubt) for one in record.images))
    (uid,) = hand_over(odd, Outbox(tmp_path), say=lambda _: None)
    made = TestClient(application(tmp_path, TOKEN), base_url="http://127.0.0.1:1", raise_server_exceptions=False)
    made.get(f"/enter?t={TOKEN}")
    assert (
        f"Of its source: {doubt}. What was measured of this model may not hold"
        in made.get(f"/series/{key_of(uid)}").text
    )
    odd.write()
    assert Record.read(restored).images[0].doubt == doubt
    record.write()


def test_words_of_a_patient_are_no_markup_on_the_page(restored: Path, tmp_path: Path) -> None:
    """Names and descriptions come from files that anybody may have written."""
    shutil.copytree(restored.parent / "dicom", tmp_path / "dicom")
    for path in sorted((tmp_path / "dicom").glob("*.dcm")):
        ds = pydicom.dcmread(path)
        ds.PatientName, ds.PatientID = "<script>a(1)</script>^<b>", "<img src=x>"
        ds.save_as(path)
    generate_images(restored.parent / "run", tmp_path / "dicom", tmp_path / "out", draws=1, say=lambda _: None)
    (uid,) = hand_over(Record.read(tmp_path / "out"), Outbox(tmp_path / "store"), say=lambda _: None)
    made = TestClient(
        application(tmp_path / "store", TOKEN), base_url="http://127.0.0.1:1", raise_server_exceptions=False
    )
    made.get(f"/enter?t={TOKEN}")
    for page in ("/", f"/series/{key_of(uid)}"):
        text = made.get(page).text
        assert "&lt;script&gt;a(1)&lt;/script&gt;" in text
        assert "<script>a" not in text
        assert "<img src=x" not in text


def test_a_translation_says_that_nothing_of_it_was_measured(
    drawn: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    (uid,) = hand_over(Record.read(drawn), Outbox(tmp_path), say=lambda _: None)
    made = TestClient(application(tmp_path, TOKEN), base_url="http://127.0.0.1:1", raise_server_exceptions=False)
    made.get(f"/enter?t={TOKEN}")
    page = made.get(f"/series/{key_of(uid)}").text
    assert "All of it is the model" in page
    assert "draw 2 of 2, not sent" in page
    (one,) = Record.read(drawn).images
    assert not one.decided
