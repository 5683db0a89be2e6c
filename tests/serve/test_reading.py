"""A reader study's pages: asked by strangers and by other readers, and used in a real browser to its end."""

import csv
import json
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image as Picture
from playwright.sync_api import sync_playwright
from typer.testing import CliRunner

from fabrica import io
from fabrica.cli import app as cli
from fabrica.evaluate.judging.reading import PRACTICE, analyse, make_sheets
from fabrica.machine.folders import alone
from fabrica.serve.pages import HEADERS
from fabrica.serve.reading import Study, application, serve

COUNT = 6
TOKENS = {"reader-1": "first-token", "reader-2": "second-token"}
KINDS = ("pairs", "ratings")


def _images(folder: Path, bright: float, size: tuple[int, int, int] = (24, 20, 6)) -> Path:
    """Generated ones have a bright square, real ones a dark one: whoever looks can tell."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(int(bright))
    for i in range(COUNT):
        data = 100 + 10 * rng.random(size)
        data[8:14, 6:12] = bright
        nib.save(nib.Nifti1Image(data.astype(np.float32), np.diag([1.0, 1, 3, 1])), folder / f"p{i}_T1w.nii.gz")
    return folder


def _sides(place: Path) -> dict[str, dict[str, io.Scan]]:
    return {s: io.by_name(place / s, io.scan_folder(place / s).scans) for s in ("generated", "reference")}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    _images(tmp_path / "generated", 200)
    _images(tmp_path / "reference", 20)
    return tmp_path


def _study(place: Path, kind: str = "pairs") -> Study:
    sides = _sides(place)
    make_sheets(sides["generated"], sides["reference"], place / "study", readers=2, kind=kind)
    return Study(place / "study", sides)


def _client(study: Study, reader: str = "reader-1") -> TestClient:
    client = TestClient(application(study, TOKENS), base_url="http://127.0.0.1:1", raise_server_exceptions=False)
    assert client.get(f"/enter?t={TOKENS[reader]}").status_code == 200
    return client


def _form(client: TestClient) -> dict[str, str]:
    page = client.get("/").text
    return dict(re.findall(r'type="hidden" name="(\w+)" value="(\w+)"', page))


def _is_generated(client: TestClient, number: int, place: int) -> bool:
    """As a reader sees it: the square is brighter than what is around it."""
    shown = client.get(f"/item/{number}/{place}/3.png")
    assert shown.status_code == 200
    pixels = np.asarray(Picture.open(BytesIO(shown.content)).convert("L")).astype(float)
    height, width = pixels.shape
    return bool(pixels[int(0.45 * height), int(0.45 * width)] > pixels[5, 5])


def _answer(client: TestClient, kind: str) -> None:
    form = _form(client)
    made = _is_generated(client, int(form["number"]), 0)
    words = {"pairs": "left" if made else "right", "ratings": "1" if made else "5"}
    assert client.post("/answer", data={**form, "answer": words[kind]}).status_code == 200


@pytest.mark.parametrize("kind", KINDS)
def test_what_readers_see_and_answer_becomes_the_studys_figure(place: Path, kind: str) -> None:
    study = _study(place, kind)
    for reader in TOKENS:
        client = _client(study, reader)
        for _ in study.key.readers[reader]:
            _answer(client, kind)
        assert "Thank you" in client.get("/").text
        assert client.get("/item/0/0/0.png").status_code == 204  # was on its way while it was answered
    found = analyse(place / "study")
    if kind == "pairs":
        assert float(found["all readers"]) == 1
        assert found["all readers"].n == 2 * (COUNT - PRACTICE)
    else:
        assert [float(found[reader]) for reader in TOKENS] == [1, 1]
    with (place / "study/answers-reader-1.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [r["item"] for r in rows] == [str(i + 1) for i in range(len(rows))]
    assert all(float(r["seconds"]) >= 0 for r in rows)
    done = CliRunner().invoke(cli, ["readers", "--out", str(place / "study")])
    assert done.exit_code == 0, done.output


def test_nothing_is_shown_to_strangers_nor_to_another_reader(place: Path) -> None:
    study = _study(place)
    stranger = TestClient(application(study, TOKENS), base_url="http://127.0.0.1:1", raise_server_exceptions=False)
    for path in ("/", "/item/0/0/0.png"):
        assert stranger.get(path).status_code == 401
        assert stranger.get(path, headers={"cookie": "fabrica_readers=guess"}).status_code == 401
    assert stranger.get("/enter?t=guess").status_code == 401
    assert stranger.post("/answer", data={"form": "x", "number": "0", "answer": "left"}).status_code == 401
    first, second = _client(study), _client(study, "reader-2")
    form = _form(first)
    assert second.post("/answer", data={**form, "answer": "left"}).status_code == 403
    assert not list((place / "study").glob("answers-*"))
    assert first.get("/", headers={"host": "evil.example"}).status_code == 421
    answer = first.get("/")
    assert all(answer.headers[name] == value for name, value in HEADERS.items())


def test_nothing_that_is_sent_tells_the_side(place: Path) -> None:
    study = _study(place)
    client = _client(study)
    page = client.get("/").text
    for words in ("generated", "reference", "T1w", "p0", "p1", str(place)):
        assert words not in page
    picture = client.get("/item/0/0/0.png")
    assert not Picture.open(BytesIO(picture.content)).info
    names = {key: value for key, value in picture.headers.items() if key not in ("content-length", "date")}
    other = client.get("/item/0/1/0.png")
    assert names == {key: value for key, value in other.headers.items() if key not in ("content-length", "date")}
    for path in ("/item/1/0/0.png", "/item/0/2/0.png", "/item/0/0/99.png", "/item/0/-1/0.png", "/item/0/0/-1.png"):
        assert client.get(path).status_code == 404


def test_an_answer_is_given_once_and_stays(place: Path) -> None:
    """A second tab, a double click, a study that was stopped: the first answer counts, the next item is asked."""
    study = _study(place)
    client = _client(study)
    form = _form(client)
    assert client.post("/answer", data={**form, "answer": "maybe"}).status_code == 422
    assert client.post("/answer", data={**form, "number": "3", "answer": "left"}).status_code == 200  # never asked
    assert study.given["reader-1"] == []
    for answer in ("left", "right"):
        assert client.post("/answer", data={**form, "answer": answer}).status_code == 200
    assert study.given["reader-1"] == ["left"]
    with pytest.raises(ValueError, match="expected one of left, right"):
        study.answer("reader-1", 1, "1")
    path = place / "study/answers-reader-1.csv"
    path.write_text(path.read_text().rstrip())  # as an editor may leave it
    again = Study(place / "study", _sides(place))
    assert again.given == {"reader-1": ["left"], "reader-2": []}
    client = _client(again)
    form = _form(client)
    assert form["number"] == "1"
    assert client.post("/answer", data={**form, "answer": "right"}).status_code == 200
    assert Study(place / "study", _sides(place)).given["reader-1"] == ["left", "right"]
    done = CliRunner().invoke(cli, ["readers", "--out", str(place / "study")])
    assert done.exit_code == 2
    assert f"2 of {COUNT} items are answered" in done.output


def test_one_window_for_both_sides_and_sizes_in_mm(place: Path) -> None:
    """Only where all are in HU is there a choice of windows; steps of another size are told before anybody looks."""
    study = _study(place)
    assert not study.told_apart
    assert not study.hounsfield
    shown = [study.image(*one) for one in study.key.readers["reader-1"][0].shown]
    assert len({study.range_of(image, "bone") for image in shown}) == 1
    for path in (place / "generated").glob("*.nii.gz"):
        old = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(old.dataobj), np.diag([1.0, 2, 3, 1])), path)
    assert Study(place / "study", _sides(place)).told_apart


def test_studies_that_cannot_be_opened(place: Path) -> None:
    said: list[str] = []
    _study(place)
    sides = _sides(place)
    call = ["readers", "--serve", "--out", str(place / "study")]
    assert "images of both sides" in CliRunner().invoke(cli, call).output
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        named = ["--generated", str(place / "generated"), "--reference", str(place / "reference"), "--port", port]
        assert "Add --count 2 --kind pairs" in CliRunner().invoke(cli, [*call, *named]).output
        done = CliRunner().invoke(cli, [*call, *named, "--count", "2"])
        assert "cannot be listened on" in done.output
        with alone(place / "study/.serving"), pytest.raises(ValueError, match="Another process serves"):
            serve(Study(place / "study", sides), 0, said.append)
        _images(place / "small", 200, (12, 10, 3))
        other = io.by_name(place / "small", io.scan_folder(place / "small").scans)
        mixed = Study(place / "study", {**sides, "generated": other})
        with pytest.raises(ValueError, match="cannot be listened on"):
            serve(mixed, int(port), said.append)
    assert "readers may tell them by that" in said[-1]
    with pytest.raises(ValueError, match="is not among the reference images"):
        Study(place / "study", {**sides, "reference": {}})
    (place / "generated/p3_T1w.nii.gz").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"p3_T1w.nii.gz cannot be read"):
        Study(place / "study", sides)
    key = json.loads((place / "study/key.json").read_text())
    (place / "study/key.json").write_text(json.dumps({**key, "kind": "stars"}))
    with pytest.raises(ValueError, match="is not the key of a study"):
        Study(place / "study", sides)


@pytest.fixture
def opened(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The addresses that the command says, of a server that runs."""
    import uvicorn

    said, ready, servers = list[str](), threading.Event(), list[uvicorn.Server]()
    monkeypatch.setattr(uvicorn.Server, "install_signal_handlers", lambda _: None, raising=False)
    started = uvicorn.Server.run

    def kept(self: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
        servers.append(self)
        ready.set()
        started(self, sockets)

    monkeypatch.setattr(uvicorn.Server, "run", kept)
    study = _study(place)
    thread = threading.Thread(target=serve, args=(study, 0, said.append), daemon=True)
    thread.start()
    assert ready.wait(20)
    yield [line.split()[2] for line in said]
    servers[0].should_exit = True
    thread.join(20)


def test_a_reader_answers_all_by_the_keyboard_in_a_browser(opened: list[str], place: Path, tmp_path: Path) -> None:
    browser_file = shutil.which("chromium")
    if browser_file is None:
        pytest.skip("chromium is not installed. As root: make peers")
    asked: list[str] = []
    failures: list[str] = []
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=browser_file, headless=True, args=flags)
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.on("request", lambda r: asked.append(r.url))
        page.on("console", lambda m: failures.append(m.text) if m.type == "error" else None)
        page.goto(opened[0])
        for number in range(COUNT):
            page.wait_for_selector(f".views[data-number='{number}']")
            page.wait_for_selector("#place:has-text('of')")
            before = page.locator("#place").inner_text()
            page.keyboard.press("ArrowRight")
            assert page.locator("#place").inner_text() != before
            if number == 0:
                page.wait_for_load_state("networkidle")
                page.screenshot(path=str(tmp_path / "reading.png"))
            page.keyboard.press("l" if number % 2 else "2")
        page.wait_for_selector("h1:has-text('Thank you')")
        browser.close()
    with (place / "study/answers-reader-1.csv").open() as table:
        assert [r["answer"] for r in csv.DictReader(table)] == ["right", "left"] * (COUNT // 2)
    assert all(url.startswith("http://127.0.0.1:") for url in asked)
    assert not failures
    assert (tmp_path / "reading.png").stat().st_size > 20_000
