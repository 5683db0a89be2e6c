"""The node's web side beside the page: STOW-RS to take images in, and figures to watch it (PS3.18 10.5)."""

from __future__ import annotations

import hmac
import io
import re
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from ..deliver.outbox import Outbox
from .intake import Intake
from .monitoring import figures
from .storage import LEVELS, NOT_UNDERSTOOD, Say, status
from .workitems import add_workitems

LARGEST, MOST = 256 * 2**20, 4  # bytes of a request, and how many are held at once
SLOWEST_S, LONGEST_S = 60.0, 900.0  # without another byte, and in all
DEFLATED = re.compile(rb"\x02\x00\x10\x00UI..1\.2\.840\.10008\.1\.2\.1\.99", re.DOTALL)  # a few bytes become gigabytes
BOUNDARY = re.compile(r'multipart/related;.*?boundary="?([^";]{1,70})"?', re.IGNORECASE)
REFERENCED, FAILED, CLASS, INSTANCE, REASON = "00081199", "00081198", "00081150", "00081155", "00081197"


def add_intake(app: FastAPI, intake: Intake, outbox: Outbox, token: str, say: Say = print) -> None:
    """`POST /dicom-web/studies`, work items and `GET /metrics`, with `Authorization: Bearer TOKEN`."""
    held = threading.BoundedSemaphore(MOST)  # requests whose images are in memory

    def allowed(authorization: Annotated[str, Header()] = "") -> None:
        if not hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "Say the token: Authorization: Bearer TOKEN")

    add_workitems(app, intake, outbox, allowed)

    @app.get("/metrics", dependencies=[Depends(allowed)])
    def watched() -> Response:
        return PlainTextResponse(figures(intake, outbox), media_type="text/plain; version=0.0.4")

    @app.post("/dicom-web/studies", dependencies=[Depends(allowed)])
    async def stored(request: Request, content_type: Annotated[str, Header()] = "") -> Response:
        boundary = BOUNDARY.search(content_type)
        if boundary is None or "application/dicom" not in content_type:
            raise HTTPException(415, 'Send multipart/related; type="application/dicom"; boundary=...')
        if not held.acquire(blocking=False):
            return Response("Other requests are being stored.", 503, {"Retry-After": "1"})
        try:
            parts = parts_of(await _body(request), boundary[1])
            return await run_in_threadpool(answer, intake, parts, say)
        finally:
            held.release()


async def _body(request: Request) -> bytes:
    """What is sent, up to LARGEST; refused where it is more, or comes too slowly to wait for."""
    import asyncio

    kept, stream, until = io.BytesIO(), request.stream(), time.monotonic() + LONGEST_S
    while True:
        try:
            chunk = await asyncio.wait_for(anext(stream, None), min(SLOWEST_S, until - time.monotonic()))
        except TimeoutError as error:
            raise HTTPException(408, "Nothing more came.") from error
        if chunk is None:
            return kept.getvalue()
        if kept.tell() + len(chunk) > LARGEST:
            raise HTTPException(413, f"More than {LARGEST // 2**20} MiB. Send fewer images at a time.")
        kept.write(chunk)


def parts_of(body: bytes, boundary: str) -> Iterator[bytes]:
    """The contents of a multipart body, without their headers."""
    mark = b"--" + boundary.encode()
    for part in body.split(mark)[1:]:
        if part.startswith(b"--"):
            return
        _, gap, content = part.partition(b"\r\n\r\n")
        if gap:
            yield content.removesuffix(b"\r\n")


def answer(intake: Intake, contents: Iterator[bytes], say: Say = print) -> Response:
    """What became of each: 200 where all was stored, 202 where some was, 409 where nothing."""
    good, bad = list[Mapping[str, Any]](), list[Mapping[str, Any]]()
    for content in contents:
        kind, instance, failure = _kept(intake, content, say)
        item = {CLASS: _uid(kind), INSTANCE: _uid(instance)}
        if failure:
            bad.append({**item, REASON: {"vr": "US", "Value": [failure]}})
        else:
            good.append(item)
    if not good and not bad:
        raise HTTPException(400, "The request holds no part.")
    told = {name: {"vr": "SQ", "Value": items} for name, items in ((REFERENCED, good), (FAILED, bad)) if items}
    return JSONResponse(told, 409 if not good else 202 if bad else 200, media_type="application/dicom+json")


def _uid(value: str) -> Mapping[str, Any]:
    return {"vr": "UI", "Value": [value]} if value else {"vr": "UI"}


def _kept(intake: Intake, content: bytes, say: Say) -> tuple[str, str, int]:
    """(class, instance, why not or 0)."""
    import pydicom

    told = {"kind": "", "instance": ""}

    def keep() -> int:
        if DEFLATED.search(content):
            return NOT_UNDERSTOOD
        header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
        study, series, told["instance"] = (str(header.get(name, "")) for name in LEVELS)
        told["kind"] = str(header.get("SOPClassUID", ""))
        intake.keep(study, series, told["instance"], content)
        return 0x0000

    code = status(keep, say)
    return told["kind"], told["instance"], code
