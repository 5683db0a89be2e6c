"""A reader study as a page: one address a reader, whole images to scroll through, each answer kept when it is given.

Nothing that reaches a reader says which side an image is of: no name, no address, no answer.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Form, HTTPException
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from .. import io
from ..contracts import Image
from ..evaluate.judging.reading import CHOICES, given_answers, read_key
from ..io import Scan, UnreadableError
from ..machine.folders import alone
from .pages import PAGES, Session, framed, served
from .pictures import WINDOWS, picture, window_of

QUESTION = {"pairs": "Which of the two was made by a model?", "ratings": "How real does this image look?"}


@dataclass(frozen=True)
class Item:
    """What a reader is asked next: its number from 0, and the images, (1, z, y, x) each."""

    number: int
    images: tuple[Image, ...]


class Study:
    """A key, the images that it names, and the answers beside it.

    Raises ValueError for a folder without a key, images that are not where the key was made of them, or cannot be
    read, and answers that are none.
    """

    def __init__(self, folder: Path, sides: Mapping[str, Mapping[str, Scan]]) -> None:
        self.folder, self.key = folder, read_key(folder)
        self._sides, self._lock = sides, threading.Lock()
        self._since: dict[tuple[str, int], float] = {}  # when a reader first saw an item
        self.image = lru_cache(maxsize=8)(self._image)
        self.sizes: dict[str, set[tuple[float, ...]]] = {"generated": set(), "reference": set()}
        units, samples = set[str](), list[Any]()
        for side, name in sorted({shown for items in self.key.readers.values() for i in items for shown in i.shown}):
            image = self._image(side, name)
            steps = image.affine[:3, :3].norm(dim=0).tolist()
            self.sizes[side].add((*image.data.shape[1:], *(round(float(step), 3) for step in steps)))
            units.add(image.meaning.unit)
            if side == "reference":
                samples.append(image.data[0, image.data.shape[1] // 2].numpy().ravel().copy())  # not the whole volume
        self.hounsfield = units == {"HU"}
        values = np.concatenate(samples)
        self.range = float(np.percentile(values, 0.5)), float(np.percentile(values, 99.5))
        self.given = {reader: given_answers(folder, self.key, reader) for reader in self.key.readers}

    def _image(self, side: str, name: str) -> Image:
        scan = self._sides[side].get(name)
        if scan is None:
            raise ValueError(f"{name} is not among the {side} images. Name the folder that the sheets were made of.")
        try:
            image = io.read(scan)
        except UnreadableError as error:
            raise ValueError(f"{name} cannot be read: {error}") from error
        return replace(image, data=image.data[:, None], axes="zyx") if image.axes == "yx" else image

    @property
    def told_apart(self) -> bool:
        """Does any image have a size, in voxels or mm, that none of the other side has?"""
        return self.sizes["generated"] != self.sizes["reference"]

    def next(self, reader: str) -> Item | None:
        """Nothing where the reader has answered all."""
        number = len(self.given[reader])
        items = self.key.readers[reader]
        if number == len(items):
            return None
        self._since.setdefault((reader, number), time.monotonic())
        return Item(number, tuple(self.image(*shown) for shown in items[number].shown))

    def answer(self, reader: str, number: int, answer: str) -> None:
        """Written and synced before anybody is told. A number that was answered, or was not asked yet, changes nothing.

        Raises ValueError for an answer that is none of the choices.
        """
        if answer not in CHOICES[self.key.kind]:
            raise ValueError(f"Got {answer!r}, expected one of {', '.join(CHOICES[self.key.kind])}.")
        with self._lock:
            if number != len(self.given[reader]) or (reader, number) not in self._since:
                return
            took = time.monotonic() - self._since[reader, number]
            path = self.folder / f"answers-{reader}.csv"
            known = path.read_text(encoding="utf-8-sig") if path.exists() else ""
            start = "item,answer,seconds\n" if not known else "" if known.endswith("\n") else "\n"
            with path.open("a", encoding="utf-8") as file:
                before = file.tell()
                try:
                    file.write(f"{start}{number + 1},{answer},{took:.1f}\n")
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:  # a full disk: half an answer is none
                    os.ftruncate(file.fileno(), before)
                    raise
            self.given[reader].append(answer)

    def range_of(self, image: Image, window: str) -> tuple[float, float]:
        """One range for all, so that brightness says nothing; of HU one of the usual windows."""
        return window_of(image, window) if self.hounsfield else self.range


def application(study: Study, tokens: Mapping[str, str]) -> FastAPI:
    """The page's server; each reader's token opens that reader's items alone."""
    session = Session("readers", tokens)
    app = framed(session)
    _pages(app, study, session)
    return app


def _pages(app: FastAPI, study: Study, session: Session) -> None:
    items, practice, kind = study.key.readers, study.key.practice, study.key.kind
    known = Depends(session.who)

    @app.get("/")
    def page(reader: str = known) -> HTMLResponse:
        item = study.next(reader)
        told: dict[str, Any] = {"question": QUESTION[kind], "kind": kind, "count": len(items[reader])}
        if item is not None:
            told |= {
                "number": item.number, "practice": item.number < practice, "form": session.form(reader),
                "depths": [image.data.shape[1] for image in item.images], "choices": CHOICES[kind],
                "windows": list(WINDOWS) if study.hounsfield else [],
            }  # fmt: skip
        return HTMLResponse(PAGES.get_template("reading.html").render(told, item=item))

    @app.get("/item/{number}/{place}/{z}.png")
    def pixels(number: int, place: int, z: int, window: str = "", reader: str = known) -> Response:
        item = study.next(reader)
        if 0 <= number < (len(items[reader]) if item is None else item.number):
            return Response(status_code=204)  # on its way while it was answered: nothing is missing
        if item is None or number != item.number or not 0 <= place < len(item.images):
            raise HTTPException(404, "There is no such picture.")
        image = item.images[place]
        if not 0 <= z < image.data.shape[1]:
            raise HTTPException(404, "There is no such picture.")
        return Response(picture(image, z, *study.range_of(image, window)), media_type="image/png")

    @app.post("/answer")
    def answered(
        form: Annotated[str, Form()], number: Annotated[int, Form()], answer: Annotated[str, Form()],
        reader: str = known,
    ) -> Response:  # fmt: skip
        if not session.made(form, reader):
            raise HTTPException(403, "This form was not made by this page. Open the page again.")
        if answer not in CHOICES[kind]:
            raise HTTPException(422, "That is no answer to this question.")
        study.answer(reader, number, answer)
        return RedirectResponse("/", 303)


def serve(study: Study, port: int, say: Callable[[str], None]) -> None:
    """Until it is stopped; says the address of each reader, which opens that reader's items alone."""
    if study.told_apart:
        say(
            "SOME IMAGES HAVE A SIZE THAT NONE OF THE OTHER SIDE HAS: readers may tell them by that. Bring both to one"
            " grid first."
        )
    tokens = {reader: secrets.token_urlsafe(24) for reader in study.key.readers}
    with alone(study.folder / ".serving") as ours:
        if not ours:
            raise ValueError(
                f"Another process serves {study.folder}. Stop it first: both would write the same answers."
            )
        served(application(study, tokens), tokens, port, say)
