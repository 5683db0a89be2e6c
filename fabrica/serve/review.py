"""The review page: a prepared series as it is stored, beside its source; a person accepts or rejects it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import torch
from fastapi import Depends, FastAPI, Form, HTTPException
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from .. import io
from ..contracts import Field, Image
from ..data.grid import grid_of, resample
from ..deliver.draws import Kept, kept
from ..deliver.objects.parametric_map import PRIOR, SPREAD
from ..deliver.outbox import Outbox, Prepared
from ..deliver.reading import PARAMETRIC_MAP, stored_answers, stored_image
from ..deliver.verification import verify
from ..deliver.withdrawal import withdraw
from .pages import PAGES, Session, framed, served
from .pictures import WINDOWS, Overlay, overlay_of, picture, window_of


@dataclass(frozen=True)
class Shown:
    """A series and its source on one grid, (z, y, x), and what may be laid over them."""

    result: Image
    source: Image | None
    overlays: Mapping[str, Overlay]
    answers: tuple[str, ...] = ()  # of a report, whose `result` is what it was told from
    draws: Kept | None = None  # that the series is the mean of

    @property
    def base(self) -> Image:
        """What an overlay lies on: the series, or its source where the series is itself one (classes, dose)."""
        return self.source if self.source is not None and self.own else self.result

    @property
    def own(self) -> str:
        """The overlay that the series is itself, or nothing."""
        return next((k for k in ("classes", "dose") if k in self.overlays), "")


KINDS = {SPREAD: "spread", PRIOR: "prior"}  # label of a map -> overlay
_BLANK = Image(torch.zeros(1, 1, 16, 16), "zyx", torch.eye(4).double(), Field("nothing"), calibrated=False)


def key_of(series: str) -> str:
    """What stands in addresses in place of a UID."""
    return hashlib.sha256(series.encode()).hexdigest()[:16]


class Reviewing:
    """The outbox as the page sees it."""

    def __init__(self, store: Path) -> None:
        self.outbox = Outbox(store)
        self.shown, self.whose = lru_cache(maxsize=4)(self._shown), lru_cache(maxsize=4096)(self._whose)
        self.drawn = lru_cache(maxsize=4)(self._drawn)

    def series(self) -> list[tuple[str, Prepared]]:
        return [(key_of(s.uid), s) for s in self.outbox.series()]

    def _whose(self, uid: str) -> str:
        """Of whom and when, for the person who decides: it stands on the page, never in an address or a log."""
        import pydicom

        path = next((self.outbox.folder / "objects" / uid).glob("*.dcm"), None)
        if path is None:
            return ""
        header = pydicom.dcmread(path, stop_before_pixels=True)
        name = str(header.get("PatientName", "")).replace("^", " ").split("=")[0].strip()
        when = str(header.get("StudyDate") or "")
        study = f"study of {when[:4]}-{when[4:6]}-{when[6:8]}" if len(when) == 8 else ""
        return ", ".join(word for word in (name, str(header.get("PatientID", "")), study) if word)

    def find(self, key: str) -> Prepared:
        for known, series in self.series():
            if known == key:
                return series
        raise HTTPException(404, "There is no such series.")

    def _shown(self, uid: str, sources: tuple[str, ...]) -> Shown:
        """Read back from the stored files: what is looked at is what is sent."""
        stored = self.outbox.files(uid)
        result, answers = stored_image(stored), tuple(stored_answers(stored))
        files = [Path(s) for s in sources if Path(s).is_file()]
        given = _given(files) if len(files) == len(sources) else None  # a part of it would show another source
        if result is None and answers:  # numbers are judged beside the images that they were told from
            return Shown(given or _BLANK, given, {}, answers)
        if result is None:
            raise HTTPException(404, "This series has no planes to show.")
        if given is not None and (result.times is not None or given.times is not None):  # moments are no places
            given = given if given.data.shape == result.data.shape else None
        source = None if given is None else resample(given, grid_of(result))
        draws = kept(self.outbox.folder, uid, str(self._made(uid).get("draws", "")))
        return Shown(result, source, self._overlays(uid, result, source), draws=draws)

    def _made(self, uid: str) -> Mapping[str, Any]:
        """What the ledger says of how a series was made."""
        return next((line.event for line in self.outbox.trace(uid) if line.event.get("what") == "made"), {})

    def _drawn(self, uid: str, sources: tuple[str, ...], number: int) -> Image:
        """One of the draws that a series is the mean of, in its numbers and on its planes."""
        shown = self.shown(uid, sources)
        if shown.draws is None or not 0 <= number < len(shown.draws.files):
            raise HTTPException(404, "There is no such draw.")
        image = io.read_image(shown.draws.unchanged(number))
        image = replace(image, data=image.data[:, None], axes="zyx") if image.axes == "yx" else image
        meaning = shown.result.meaning
        brought = resample(replace(image, meaning=meaning), grid_of(shown.result))
        return replace(brought, data=brought.data * shown.draws.factor)

    def picture(self, key: str, which: str, z: int, window: str, overlay: str) -> bytes:
        """A plane as PNG of the result, its source, or a draw (draw-0, ...); raises HTTPException 404 for another."""
        series = self.find(key)
        shown = self.shown(series.uid, series.sources)
        image, over = shown.source, None
        if which == "result":
            image, over = shown.base, shown.overlays.get(shown.own or overlay)
        elif which.startswith("draw-") and which[5:].isdecimal():
            drawn = self.drawn(series.uid, series.sources, int(which[5:]))
            image, over = (shown.base, replace(shown.overlays[shown.own], image=drawn)) if shown.own else (drawn, None)
            over = over or shown.overlays.get(overlay)
        elif which != "source":
            image = None
        if image is None or not 0 <= z < image.data.shape[1]:
            raise HTTPException(404, "There is no such picture.")
        like = image if which == "source" else shown.base  # draws are seen in the window of their mean
        return picture(image, z, *window_of(like, window), over)

    def _overlays(self, uid: str, result: Image, source: Image | None) -> dict[str, Overlay]:
        unit = result.meaning.unit
        if result.meaning.kind == "label":
            return {"classes": overlay_of("classes", result, "")}
        if unit == "Gy":
            return {"dose": overlay_of("dose", result, unit)}
        found = {}
        for part in self.outbox.parts(uid):
            files = self.outbox.files(part)
            kind = KINDS.get(map_label(files), "")
            if kind and (image := stored_image(files)) is not None:
                found[kind] = overlay_of(kind, resample(image, grid_of(result)), unit)
        if source is not None and unit == source.meaning.unit and unit not in ("", "a.u."):
            apart = replace(result, data=result.data - source.data)
            found["difference"] = overlay_of("difference", apart, unit)
        return found

    def told(self, key: str) -> dict[str, Any]:
        """What the page of a series says."""
        series = self.find(key)
        shown = self.shown(series.uid, series.sources)
        made = self._made(series.uid)
        facts = {
            k: v
            for k, v in made.items()
            if k not in ("what", "series", "sources", "sha256", "evidence", "draws", "doubt")
        }
        windows = list(WINDOWS) if shown.base.meaning.unit == "HU" else []
        legends = {name: over.legend for name, over in shown.overlays.items()}
        return {
            "key": key, "series": series, "whose": self.whose(series.uid), "depth": shown.result.data.shape[1],
            "facts": facts, "windows": windows, "source": shown.source is not None, "overlays": legends,
            "draws": len(shown.draws.files) if shown.draws else 0, "own": shown.own, "answers": shown.answers,
            "evidence": made.get("evidence", []), "doubt": made.get("doubt", ""),
            "cleared": bool(made.get("draws")) and not shown.draws,
            "readers": self.outbox.readers(), "accepted": self.outbox.accepted_by(series.uid),
        }  # fmt: skip

    def values(self, key: str, z: int, y: float, x: float, draw: int = -1) -> dict[str, str]:
        """Numbers at a place of the pictures, shares of their height and width: of the result, source, overlays, and a
        draw where one is shown.
        """
        series = self.find(key)
        shown = self.shown(series.uid, series.sources)
        images = {"result": shown.result, "source": shown.source} | {k: o.image for k, o in shown.overlays.items()}
        if draw >= 0:
            images[f"draw {draw + 1}"] = self.drawn(series.uid, series.sources, draw)
        found = {}
        for name, image in images.items():
            if image is not None and name != shown.own:
                depth, height, width = image.data.shape[1:]
                row, column = min(int(y * height), height - 1), min(int(x * width), width - 1)
                value = float(image.data[0, min(z, depth - 1), row, column])
                unit = shown.overlays[name].unit if name in shown.overlays else image.meaning.unit
                found[name] = f"{value:.4g} {unit}".strip()
        return found


def _given(files: Sequence[Path]) -> Image | None:
    """Nothing where it cannot be read: the page says so, and the result can be judged all the same."""
    try:
        return stored_image(files) if files else None
    except Exception:  # whatever lies there now
        return None


def map_label(files: Sequence[Path]) -> str:
    """What the map in some files is a map of; nothing of other objects."""
    import pydicom

    header = pydicom.dcmread(files[0], stop_before_pixels=True)
    return str(header.get("ContentLabel", "")) if str(header.SOPClassUID) == PARAMETRIC_MAP else ""


def application(store: Path, token: str) -> FastAPI:
    """The page's server; `token` opens it, kept in a cookie of this site alone."""
    session, outbox = Session("review", {"": token}), Outbox(store)
    app = framed(session, lambda known: outbox.note("entered", page="review", known=known))
    _pages(app, Reviewing(store), session)
    return app


def _pages(app: FastAPI, reviewing: Reviewing, session: Session) -> None:
    """What only somebody with the token sees and does."""
    known = [Depends(session.who)]

    @app.get("/", dependencies=known)
    def index() -> HTMLResponse:
        return HTMLResponse(PAGES.get_template("index.html").render(series=reviewing.series(), whose=reviewing.whose))

    @app.get("/series/{key}", dependencies=known)
    def one(key: str) -> HTMLResponse:
        return HTMLResponse(PAGES.get_template("series.html").render(reviewing.told(key), form=session.form(key)))

    @app.get("/series/{key}/{which}/{z}.png", dependencies=known)
    def pixels(key: str, which: str, z: int, window: str = "", overlay: str = "") -> Response:
        return Response(reviewing.picture(key, which, z, window, overlay), media_type="image/png")

    @app.get("/series/{key}/values", dependencies=known)
    def values(key: str, z: int, y: float, x: float, draw: int = -1) -> dict[str, str]:
        if z < 0 or not (0 <= y < 1 and 0 <= x < 1):
            raise HTTPException(422, "A place lies within the picture.")
        return reviewing.values(key, z, y, x, draw)

    @app.post("/series/{key}/verdict", dependencies=known)
    def judged(
        key: str, form: Annotated[str, Form()], verdict: Annotated[str, Form()], reason: Annotated[str, Form()] = "",
        person: Annotated[str, Form()] = "",
    ) -> Response:  # fmt: skip
        series = reviewing.find(key)
        if not session.made(form, key):
            raise HTTPException(403, "This form was not made by this page. Open the series again.")
        if verdict not in ("accept", "reject") or not reason.strip() or not person.strip():
            raise HTTPException(422, "A decision is accept or reject, with a reason and your name.")
        reviewing.outbox.files(series.uid)  # what was looked at is still what is stored
        reviewing.outbox.judge(series.uid, "accept" if verdict == "accept" else "reject", reason[:500], person[:100])
        try:
            if verdict == "reject":
                withdraw(reviewing.outbox, series.uid)
            else:
                verify(reviewing.outbox, series.uid)
            reviewing.outbox.sign()
        except Exception as error:  # the decision stands
            words = "Your decision is kept. What follows from it could not be done"
            raise HTTPException(500, f"{words} ({type(error).__name__}).") from error
        return RedirectResponse("/", 303)


def serve(store: Path, port: int, say: Callable[[str], None]) -> None:
    """Until it is stopped; says the address that opens the page."""
    token = secrets.token_urlsafe(24)
    served(application(store, token), {"": token}, port, say)
