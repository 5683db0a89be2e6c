"""The review page: asked by strangers, and used in a real browser from source to delivery."""

import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image as Picture
from playwright.sync_api import Page, sync_playwright

from fabrica.contracts import Field, Image
from fabrica.deliver.outbox import Outbox
from fabrica.deliver.reading import stored_image
from fabrica.deliver.record import Record
from fabrica.generate.handover import hand_over
from fabrica.serve.pages import HEADERS
from fabrica.serve.pictures import overlay_of, picture, window_of
from fabrica.serve.review import Reviewing, Shown, application, key_of, serve

from ..deliver.conftest import drawn, trained  # noqa: F401 (fixtures)

TOKEN = "a-token-of-tests"


@pytest.fixture
def store(drawn: Path, tmp_path: Path) -> tuple[Path, str]:  # noqa: F811
    (uid,) = hand_over(Record.read(drawn), Outbox(tmp_path), say=lambda _: None)
    return tmp_path, uid


@pytest.fixture
def client(store: tuple[Path, str]) -> TestClient:
    return TestClient(application(store[0], TOKEN), base_url="http://127.0.0.1:1", raise_server_exceptions=False)


def _entered(client: TestClient) -> TestClient:
    assert client.get(f"/enter?t={TOKEN}").status_code == 200
    return client


def test_nothing_is_shown_without_the_token(client: TestClient, store: tuple[Path, str]) -> None:
    key = key_of(store[1])
    for path in ("/", f"/series/{key}", f"/series/{key}/result/0.png", f"/series/{key}/source/0.png"):
        assert client.get(path).status_code == 401
    assert (
        client.post(
            f"/series/{key}/verdict", data={"verdict": "accept", "reason": "x", "person": "y", "form": "z"}
        ).status_code
        == 401
    )
    assert client.get("/enter?t=guess").status_code == 401
    assert client.get("/enter?t=%FF%00é").status_code == 401
    assert client.get("/", headers={"cookie": "fabrica_review=guess"}).status_code == 401
    assert client.get("/docs").status_code == client.get("/openapi.json").status_code == 404
    noted = [line.event["known"] for line in Outbox(store[0]).lines() if line.event["what"] == "entered"]
    assert noted == [False, False]


def test_other_names_and_places_are_refused(client: TestClient, store: tuple[Path, str]) -> None:
    _entered(client)
    assert client.get("/", headers={"host": "evil.example"}).status_code == 421
    for path in ("/series/../../etc/passwd", "/series/0000000000000000", f"/series/{key_of(store[1])}/result/999.png",
                 f"/series/{key_of(store[1])}/other/0.png"):  # fmt: skip
        assert client.get(path).status_code == 404
    assert client.post(f"/series/{key_of(store[1])}/verdict", content=b"x" * 50_000).status_code == 413
    answer = client.get("/")
    assert all(answer.headers[name] == value for name, value in HEADERS.items())


def test_a_decision_needs_the_pages_own_form_a_reason_and_a_name(client: TestClient, store: tuple[Path, str]) -> None:
    _entered(client)
    key, outbox = key_of(store[1]), Outbox(store[0])
    page = client.get(f"/series/{key}").text
    form = re.search(r'name="form" value="(\w+)"', page)
    assert form
    asked = {"verdict": "accept", "reason": "bone is where it is", "person": "Dr. A", "form": form[1]}
    for change, code in (
        ({"form": "forged"}, 403),
        ({"reason": " "}, 422),
        ({"person": ""}, 422),
        ({"verdict": "maybe"}, 422),
    ):
        assert client.post(f"/series/{key}/verdict", data={**asked, **change}).status_code == code
        assert outbox.series()[0].verdict == ""
    assert client.post(f"/series/{key}/verdict", data=asked).status_code == 200
    assert outbox.series()[0].verdict == "accept"
    assert [line.event["what"] for line in outbox.trace(store[1])].count("judged") == 1


def test_words_of_files_are_no_markup_and_identifiers_stay_out_of_addresses(
    client: TestClient, store: tuple[Path, str]
) -> None:
    _entered(client)
    key = key_of(store[1])
    page = client.get(f"/series/{key}").text
    form = re.search(r'name="form" value="(\w+)"', page)
    assert form
    planted = {"verdict": "reject", "reason": "<script>alert(1)</script>", "person": "<b>x</b>", "form": form[1]}
    assert client.post(f"/series/{key}/verdict", data=planted).status_code == 200
    listed = client.get("/").text
    assert "<script>alert" not in listed
    assert "&lt;script&gt;" in listed
    assert "Ünal Zoë, GEN-0001, study of 2026-01-02" in listed  # whoever decides has to know whose it is
    for text in (page, listed):
        for identifier in ("GEN-0001", "Ünal", store[1]):
            assert identifier not in "".join(re.findall(r'(?:href|src|action)="[^"]*"', text))


def test_changed_files_are_not_shown_nor_judged(client: TestClient, store: tuple[Path, str]) -> None:
    _entered(client)
    path = Outbox(store[0]).files(store[1])[0]
    path.write_bytes(path.read_bytes()[:-2] + b"\1\1")
    answer = client.get(f"/series/{key_of(store[1])}")
    assert answer.status_code == 409
    assert "not what was made" in answer.text


def test_pictures_show_what_is_stored(client: TestClient, store: tuple[Path, str]) -> None:
    _entered(client)
    key = key_of(store[1])
    for which in ("result", "source"):
        shown = Picture.open(BytesIO(client.get(f"/series/{key}/{which}/1.png").content))
        assert max(shown.size) == 512
    data = torch.linspace(-1000, 1000, 400).reshape(1, 1, 20, 20)
    affine = torch.diag(torch.tensor([1.0, 2, 1, 1])).double()[[2, 1, 0, 3]]
    image = Image(data, "zyx", affine, Field("CT", "intensity", 1, "HU"))
    assert window_of(image, "bone") == (-450.0, 1050.0)
    assert window_of(image, "other") == window_of(image, "soft tissue")
    made = np.asarray(Picture.open(BytesIO(picture(image, 0, *window_of(image, "soft tissue")))))
    assert made.shape == (512, 256)  # pixels of 2 x 1 mm become squares
    assert made[0, 0] == 0
    assert made[-1, -1] == 255


@pytest.fixture
def served(store: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The page as its command serves it; the address that it says."""
    import uvicorn

    said, ready, servers = list[str](), threading.Event(), list[uvicorn.Server]()
    monkeypatch.setattr(uvicorn.Server, "install_signal_handlers", lambda _: None, raising=False)
    started = uvicorn.Server.run

    def kept(self: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
        servers.append(self)
        started(self, sockets)

    monkeypatch.setattr(uvicorn.Server, "run", kept)

    def say(text: str) -> None:
        said.append(text)
        ready.set()

    thread = threading.Thread(target=serve, args=(store[0], 0, say), daemon=True)
    thread.start()
    assert ready.wait(20)
    yield said[0].split()[1]
    servers[0].should_exit = True
    thread.join(20)


def _until(page: Page, script: str) -> None:
    """Asked from outside: the page's own policy lets no words become code."""
    for _ in range(100):
        if page.evaluate(script):
            return
        time.sleep(0.05)
    raise AssertionError(script)


def test_a_person_looks_and_accepts_in_a_browser(served: str, store: tuple[Path, str], tmp_path: Path) -> None:
    """Chromium, the keyboard, both pictures, a decision; nothing is asked of any other machine."""
    browser_file = shutil.which("chromium")
    if browser_file is None:
        pytest.skip("chromium is not installed. As root: make peers")
    asked: list[str] = []
    with sync_playwright() as play:
        flags = [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ]
        browser = play.chromium.launch(executable_path=browser_file, headless=True, args=flags)
        page = browser.new_page(viewport={"width": 1200, "height": 1100})
        page.on("request", lambda r: asked.append(r.url))
        failures: list[str] = []
        page.on("console", lambda m: failures.append(m.text) if m.type == "error" else None)
        page.goto(served)
        assert page.locator(".banner").inner_text().startswith("SYNTHETIC")
        page.get_by_role("link", name="SYNTHETIC CT from T1w").click()
        page.wait_for_selector("#result")
        _until(
            page, "document.getElementById('result').naturalWidth * document.getElementById('source').naturalWidth > 0"
        )
        first = page.locator("#number").inner_text()
        page.keyboard.press("ArrowRight")
        assert page.locator("#number").inner_text() == str(int(first) + 1)
        page.select_option("#window", "bone")
        _until(page, "document.getElementById('result').src.includes('bone')")
        page.select_option("#overlay", "spread")
        _until(page, "document.getElementById('result').src.includes('overlay=spread')")
        assert "none to" in page.locator("#legend").inner_text()
        page.locator("h1").click()
        page.keyboard.press("d")
        _until(page, "document.getElementById('result').src.includes('/draw-0/')")
        assert "draw 1, as it was drawn" in page.locator("#which").inner_text()
        page.keyboard.press("D")
        _until(page, "document.getElementById('result').src.includes('/result/')")
        assert page.locator("#which").inner_text().startswith("SYNTHETIC result")
        page.locator("#result").click(position={"x": 120, "y": 150})
        _until(page, "document.getElementById('at-result').textContent.includes('HU')")
        assert "source" in page.locator("#at-source").inner_text()
        page.screenshot(path=str(tmp_path / "review.png"))
        page.get_by_role("button", name="Accept").click()  # without a name: the browser holds it back
        assert page.locator("h1").inner_text() == "SYNTHETIC CT from T1w"
        page.get_by_label("your name").fill("Dr. Á")
        page.get_by_label("reason").fill("agrees with the source")
        page.get_by_role("button", name="Accept").click()
        page.wait_for_selector("td.accept")
        browser.close()
    (series,) = Outbox(store[0]).series()
    assert (series.verdict, series.person, series.reason) == ("accept", "Dr. Á", "agrees with the source")
    assert all(url.startswith("http://127.0.0.1:") for url in asked)
    assert not failures
    assert (tmp_path / "review.png").stat().st_size > 20_000


def _image(unit: str, value: float = 0.0, kind: str = "intensity") -> Image:
    data = torch.full((1, 2, 8, 8), value)
    data[0, 0, :4] += 10
    return Image(data, "zyx", torch.eye(4).double()[[2, 1, 0, 3]], Field("CT", kind, 3 if kind == "label" else 1, unit))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["spread", "difference", "classes", "dose"])
def test_overlays_are_seen_where_there_is_something(kind: str) -> None:
    base = _image("HU")
    over = overlay_of(kind, _image("", 0.0, "label" if kind == "classes" else "intensity"), "HU")
    made = np.asarray(Picture.open(BytesIO(picture(base, 0, -10, 100, over))).convert("RGB")).astype(int)
    plain = np.asarray(Picture.open(BytesIO(picture(base, 0, -10, 100))).convert("RGB")).astype(int)
    changed = np.abs(made - plain).max(-1)
    assert changed[20, 256] > 40
    assert changed[-20].max() == 0
    assert over.top == 10
    assert over.legend


def test_the_highest_dose_is_on_the_scale() -> None:
    image = _image("Gy")
    image.data[0, 0, 0, 0] = 70.0
    assert overlay_of("dose", image, "Gy").top == 70
    assert overlay_of("spread", image, "Gy").top < 70


def test_a_difference_is_blue_below_and_red_above() -> None:
    image = _image("HU")
    image.data[0, 0, 4:] = -10
    made = np.asarray(Picture.open(BytesIO(picture(_image("HU"), 0, -10, 100, overlay_of("difference", image, "HU")))))
    assert made[20, 256, 0] > made[20, 256, 2]
    assert made[-20, 256, 2] > made[-20, 256, 0]


def test_numbers_at_a_place(client: TestClient, store: tuple[Path, str]) -> None:
    _entered(client)
    key = key_of(store[1])
    told = client.get(f"/series/{key}/values", params={"z": 1, "y": 0.5, "x": 0.5})
    assert told.status_code == 200
    assert set(told.json()) == {"result", "source", "spread"}
    assert told.json()["result"].endswith("HU")
    for wrong in ({"z": -1, "y": 0.5, "x": 0.5}, {"z": 1, "y": 1.5, "x": 0.5}, {"z": 1, "y": "a", "x": 0.5}):
        assert client.get(f"/series/{key}/values", params=wrong).status_code == 422
    assert (
        TestClient(client.app, base_url="http://127.0.0.1:1")
        .get(f"/series/{key}/values", params={"z": 1, "y": 0.5, "x": 0.5})
        .status_code
        == 401
    )
    plain = client.get(f"/series/{key}/result/1.png").content
    assert client.get(f"/series/{key}/result/1.png?overlay=spread").status_code == 200
    assert client.get(f"/series/{key}/result/1.png?overlay=nonsense").content == plain


def test_two_persons_have_to_accept_where_two_are_asked(store: tuple[Path, str]) -> None:
    outbox = Outbox(store[0])
    outbox.ask_readers(2)
    outbox.judge(store[1], "accept", "looks right", "Dr. A")
    assert outbox.series()[0].verdict == ""
    outbox.judge(store[1], "accept", "looked again", " dr. a")
    assert outbox.series()[0].verdict == ""  # the same person twice is one
    outbox.judge(store[1], "accept", "agreed", "Dr. B")
    assert outbox.series()[0].verdict == "accept"
    assert outbox.accepted_by(store[1]) == [" dr. a", "Dr. B"]
    outbox.judge(store[1], "reject", "a vessel is missing", "Dr. C")
    outbox.judge(store[1], "accept", "it was the window", "Dr. C")
    assert outbox.series()[0].verdict == ""  # a rejection starts anew
    with pytest.raises(ValueError, match="--readers is 0"):
        outbox.ask_readers(0)


def test_the_page_says_what_was_measured_or_that_nothing_was(client: TestClient, store: tuple[Path, str]) -> None:
    _entered(client)
    page = client.get(f"/series/{key_of(store[1])}").text
    assert "What was measured of this model" in page
    assert "psnr of CT" in page or "NOT MEASURED" in page


def test_a_source_that_cannot_be_read_is_said_and_the_result_is_judged(
    client: TestClient, store: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No DICOM any more, or a part of it gone: never another picture, never an error in place of the page."""
    _entered(client)
    key = key_of(store[1])

    def broken(files: list[Path]) -> Image | None:
        if "objects" not in str(files[0]):
            raise RuntimeError("no DICOM any more")
        return stored_image(files)

    monkeypatch.setattr("fabrica.serve.review.stored_image", broken)
    page = client.get(f"/series/{key}")
    assert page.status_code == 200
    assert "The source cannot be shown" in page.text
    assert client.get(f"/series/{key}/result/1.png").status_code == 200
    assert client.get(f"/series/{key}/source/1.png").status_code == 404


def test_a_decision_stands_where_its_consequence_fails(
    client: TestClient, store: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _entered(client)
    key, outbox = key_of(store[1]), Outbox(store[0])
    form = re.search(r'name="form" value="(\w+)"', client.get(f"/series/{key}").text)
    assert form

    def failing(outbox: Outbox, series: str) -> list[str]:
        raise RuntimeError("no library")

    monkeypatch.setattr("fabrica.serve.review.withdraw", failing)
    answer = client.post(
        f"/series/{key}/verdict", data={"verdict": "reject", "reason": "no", "person": "Dr. A", "form": form[1]}
    )
    assert answer.status_code == 500
    assert "Your decision is kept" in answer.text
    assert outbox.series()[0].verdict == "reject"


def test_what_may_be_laid_over_a_series_follows_from_what_it_is(store: tuple[Path, str]) -> None:
    """Classes and doses are laid over their source; of stated units what changed is seen."""
    reviewing = Reviewing(store[0])
    ct = _image("HU")
    for made, kinds, own in (
        (_image("", kind="label"), {"classes"}, "classes"), (_image("Gy"), {"dose"}, "dose"),
        (_image("HU", 5.0), {"spread", "difference"}, ""),
    ):  # fmt: skip
        found = reviewing._overlays(store[1], made, ct)
        shown = Shown(made, ct, found)
        assert (set(found), shown.own, shown.base is (ct if own else made)) == (kinds, own, True)
    assert "difference" not in reviewing._overlays(store[1], _image("a.u."), _image("a.u."))
    shutil.rmtree(store[0] / "objects" / store[1])
    assert reviewing.whose(store[1]) == ""
