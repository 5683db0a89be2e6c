"""OHIF as a witness: a drawn segmentation over its source, in another program's page, without a shift.

    npm pack @ohif/app@3.12.10 && tar xzf ohif-app-3.12.10.tgz
    python benchmarks/ohif.py --app package/dist [--out runs/ohif]

An Orthanc is started, a scan with a bright body and the segmentation of that body are stored, OHIF (MIT, prebuilt, 200 MB,
not part of the repository) is served beside it on loopback and opened in headless Chromium: once without the overlay, once with.
Prints one JSON object: the share of the body that is coloured, of colour that lies on the body, and their middles apart, in pixels.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from PIL import Image as Picture
from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent))

from fabrica.deliver.destinations.settings import destination
from fabrica.deliver.objects.marking import Making
from fabrica.deliver.objects.segmentation import segmentation
from fabrica.deliver.objects.source import read_headers
from fabrica.deliver.record import Drawn, Record
from tests.deliver.conftest import started
from tests.deliver.scanner import write_series
from tests.servers import free_port

Views = dict[int, np.ndarray]
LOOKED_AT = (3, 4, 12, 19, 20)  # the body begins in the plane numbered 4 from 0, and ends in 19
PLANES, SIDE, SPACING = 24, 128, (3.0, 2.0, 2.0)
CONFIG = """window.config = { routerBasename: null, extensions: [], modes: [], showStudyList: true, maxNumberOfWebWorkers: 2,
  showWarningMessageForCrossOrigin: false, showCPUFallbackMessage: false, showLoadingIndicator: true,
  strictZSpacingForVolumeViewport: true, defaultDataSourceName: 'dicomweb',
  maxNumRequests: { interaction: 10, thumbnail: 5, prefetch: 5 },
  dataSources: [{ namespace: '@ohif/extension-default.dataSourcesModule.dicomweb', sourceName: 'dicomweb', configuration: {
    friendlyName: 'archive', name: 'archive', wadoUriRoot: '/dicom-web', qidoRoot: '/dicom-web', wadoRoot: '/dicom-web',
    qidoSupportsIncludeField: false, imageRendering: 'wadors', thumbnailRendering: 'wadors', enableStudyLazyLoad: true,
    supportsFuzzyMatching: false, supportsWildcard: true, omitQuotationForMultipartRequest: true,
    bulkDataURI: { enabled: true } } }] };
"""
KINDS = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".html": "text/html",
    ".wasm": "application/wasm",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--app", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/ohif"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with started(_made(options.out / "archive")) as archive:
        study = _stored(options.out, archive.web)
        with _served(options.app, archive.http) as address:
            plain, over = _looked(f"{address}/viewer?StudyInstanceUIDs={study}", options.out)
    print(json.dumps(_compared(plain, over)))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _body() -> np.ndarray:
    """No mirror and no turn leaves it as it is: an L that leans, in the middle planes."""
    body = np.zeros((PLANES, SIDE, SIDE), bool)
    body[4:20, 30:90, 34:50] = True
    body[4:20, 76:90, 34:84] = True
    return body


def _stored(out: Path, web: str) -> str:
    body = _body()
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = *SPACING, 1
    affine[:3, 3] = (-127, -127, 40)
    scan = np.where(body, 900.0, 120.0)
    scan[:, :6, :6] = 900.0  # in a corner of every plane, so that all are shown in one window
    files = write_series(out / "scan", scan, affine)
    drawn = Drawn("case", "lesion", "", "label", ("a",), ("1",), ("T1w",), classes=2)
    record = Record(
        out,
        "run",
        "model",
        "segmentation",
        "regression",
        "ab" * 32,
        "cd" * 32,
        0,
        "0",
        "2026-01-01T00:00:00+00:00",
        (drawn,),
    )
    series = segmentation(Making(record, drawn, read_headers(files)), body.astype(float), affine, classes=2)
    (out / "seg").mkdir(exist_ok=True)
    for k, ds in enumerate(series.datasets):
        ds.save_as(out / "seg" / f"{k}.dcm", enforce_file_format=True)
    to = destination(web)
    left = to.store([*files, *sorted((out / "seg").glob("*.dcm"))])
    assert not left, left
    return str(series.datasets[0].StudyInstanceUID)


@contextmanager
def _served(app: Path, archive: int) -> Iterator[str]:
    """OHIF's files and the archive under one address."""
    pages = FastAPI()
    headers = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}

    @pages.api_route("/dicom-web/{path:path}", methods=["GET", "POST"])
    async def asked(path: str, request: Request) -> Response:
        url = f"http://127.0.0.1:{archive}/dicom-web/{path}" + (f"?{request.url.query}" if request.url.query else "")
        known = {k: v for k, v in request.headers.items() if k in ("accept", "content-type")}
        found = urllib.request.Request(url, headers=known, data=await request.body() or None, method=request.method)
        try:
            with urllib.request.urlopen(found, timeout=60) as answer:
                return Response(
                    answer.read(), answer.status, {**headers, "content-type": answer.headers["content-type"]}
                )
        except urllib.error.HTTPError as error:
            return Response(error.read(), error.code, headers)

    @pages.get("/app-config.js")
    def config() -> Response:
        return Response(CONFIG, media_type="text/javascript", headers=headers)

    @pages.get("/{path:path}")
    def file(path: str) -> Response:
        known = (app / path).resolve()
        known = known if known.is_file() and known.is_relative_to(app.resolve()) else app / "index.html"
        return Response(
            known.read_bytes(), media_type=KINDS.get(known.suffix, "application/octet-stream"), headers=headers
        )

    server = uvicorn.Server(uvicorn.Config(pages, port=(port := free_port()), log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.1)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


def _looked(address: str, out: Path) -> tuple[Views, Views]:
    """The viewport without and with the overlay, as (y, x, 3), by plane."""
    flags = [
        "--no-sandbox",
        "--use-gl=angle",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--ignore-gpu-blocklist",
    ]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", headless=True, args=flags)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(address)
        page.wait_for_selector("canvas", timeout=120_000)
        page.get_by_text("Skip all").click()
        page.get_by_text("Confirm and hide").click()
        page.wait_for_timeout(5000)
        plain = {plane: _viewport(page, plane) for plane in LOOKED_AT}
        page.screenshot(path=str(out / "plain.png"))
        _open_overlay(page, out)
        over = {plane: _viewport(page, plane) for plane in LOOKED_AT}
        page.screenshot(path=str(out / "over.png"))
        browser.close()
    return plain, over


def _open_overlay(page: Page, out: Path) -> None:
    page.get_by_text("SEG", exact=True).first.dblclick()
    page.wait_for_timeout(6000)
    page.screenshot(path=str(out / "asked.png"))
    if page.get_by_text("Yes", exact=True).count():
        page.get_by_text("Yes", exact=True).first.click()
        page.wait_for_timeout(6000)


def _viewport(page: Page, plane: int) -> np.ndarray:
    box = page.locator("canvas").first
    box.hover()
    for key, times in (("ArrowUp", PLANES + 2), ("ArrowDown", plane)):
        for _ in range(times):
            page.keyboard.press(key)
            page.wait_for_timeout(60)
    page.wait_for_timeout(1500)
    return np.asarray(Picture.open(BytesIO(box.screenshot())).convert("RGB")).astype(int)


def _compared(plain: Views, over: Views) -> dict[str, Any]:
    return {f"plane {k}": _one(plain[k], over[k]) for k in LOOKED_AT}


def _one(plain: np.ndarray, over: np.ndarray) -> dict[str, Any]:
    height, width = plain.shape[:2]  # the image is as high as the canvas; words of the page stand around its middle
    reach = int(0.35 * height)
    middle = slice(height // 2 - reach, height // 2 + reach), slice(width // 2 - reach, width // 2 + reach)
    plain, over = plain[middle], over[middle]
    body = plain.min(-1) > 128
    colour = over.max(-1) - over.min(-1) > 40
    both = (body & colour).sum()
    seen = bool(body.any() and colour.any())
    middles = [np.argwhere(m).mean(0) for m in (body, colour)] if seen else []
    return {
        "body_px": int(body.sum()), "coloured_px": int(colour.sum()),
        "coloured": float(both / max(1, body.sum())), "on_the_body": float(both / max(1, colour.sum())),
        "px_a_voxel": round(height / SIDE, 2),
        "apart_px": float(np.hypot(*(middles[0] - middles[1]))) if seen else None,
    }  # fmt: skip


if __name__ == "__main__":
    main()
