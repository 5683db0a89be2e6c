"""Sheets for readers: which of two is generated, or how real is this one; a page that needs no server, answers as CSV.

Each reader sees another order. Sides are balanced; the first pairs are for practice and count for nothing; no answer is told. The key
stays with whoever made the sheets.
"""

from __future__ import annotations

import base64
import csv
import io as buffers
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from .. import io
from ..io import Scan, UnreadableError
from ..rng import derive
from .readers import forced_choice
from .result import Result
from .task import auc_delong

PRACTICE = 3  # first items of a sheet, which are not counted
SIDE = 320  # pixels of a picture on the page
Pixels = NDArray[np.floating[Any]]


def make_sheets(
    generated: Mapping[str, Scan], reference: Mapping[str, Scan], out: Path, *, readers: int, kind: str = "pairs", seed: int = 0
) -> list[Path]:  # fmt: skip
    """One HTML page a reader and key.json. `kind`: pairs (two-alternative forced choice) or ratings (1 to 5).

    All pictures have one window, from the reference images. Raises ValueError for fewer than 2 + PRACTICE images a side.
    """
    if kind not in ("pairs", "ratings"):
        raise ValueError(f"The kind of sheet is {kind!r}, expected pairs or ratings.")
    if (out / "key.json").exists():
        raise ValueError(
            f"{out} holds the key of a study; its answers would be read by another. Make sheets in another folder: --out DIR"
        )
    ours, theirs = _planes(generated), _planes(reference)
    count = min(len(ours), len(theirs))
    if count < 2 + PRACTICE:
        raise ValueError(
            f"There are {count} images on the smaller side, at least {2 + PRACTICE} are needed, {PRACTICE} of them for practice."
        )
    low, high = np.percentile(np.concatenate([p.ravel() for p in theirs.values()]), [0.5, 99.5])
    pictures = {
        side: {n: _png(p, float(low), float(high)) for n, p in planes.items()}
        for side, planes in (("generated", ours), ("reference", theirs))
    }
    out.mkdir(parents=True, exist_ok=True)
    key: dict[str, Any] = {"kind": kind, "practice": PRACTICE, "readers": {}}
    pages = []
    for number in range(1, readers + 1):
        name = f"reader-{number}"
        items = (
            _pairs(ours, theirs, count, seed, name) if kind == "pairs" else _ratings(ours, theirs, count, seed, name)
        )
        key["readers"][name] = items
        shown = [[pictures[side][image] for side, image in item["shown"]] for item in items]
        pages.append(out / f"{name}.html")
        template = (Path(__file__).parent / "reading.html").read_text()
        page = jinja2.Environment(autoescape=True).from_string(template)
        pages[-1].write_text(page.render(name=name, kind=kind, items=shown, practice=PRACTICE))
    (out / "key.json").write_text(json.dumps(key, indent=1))
    return pages


def _planes(scans: Mapping[str, Scan]) -> dict[str, Pixels]:
    """The middle slice of every readable image."""
    found = {}
    for name, scan in scans.items():
        try:
            image = io.read(scan)
        except UnreadableError:
            continue
        if image.axes in ("yx", "zyx"):
            values = image.data[0].numpy()
            found[name] = values if values.ndim == 2 else values[len(values) // 2]
    return found


def _png(plane: Pixels, low: float, high: float) -> str:
    grey = (255 * np.clip((plane - low) / max(high - low, 1e-12), 0, 1)).astype(np.uint8)
    picture = Picture.fromarray(grey, "L")
    factor = SIDE / max(picture.size)
    picture = picture.resize(
        (round(picture.width * factor), round(picture.height * factor)), Picture.Resampling.BICUBIC
    )
    buffer = buffers.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _stream(seed: int, name: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=derive(seed, "reading", name)))


def _pairs(
    ours: Mapping[str, Pixels], theirs: Mapping[str, Pixels], count: int, seed: int, name: str
) -> list[dict[str, Any]]:
    """Pairs by chance, the generated image on either side equally often."""
    rng = _stream(seed, name)
    left = rng.permutation(list(ours))[:count].tolist(), rng.permutation(list(theirs))[:count].tolist()
    first = rng.permutation(np.arange(count) % 2 == 0)
    items = []
    for i, (a, b) in enumerate(zip(*left, strict=True)):
        shown = [("generated", a), ("reference", b)] if first[i] else [("reference", b), ("generated", a)]
        items.append({"shown": shown, "right": "left" if first[i] else "right"})
    return items


def _ratings(
    ours: Mapping[str, Pixels], theirs: Mapping[str, Pixels], count: int, seed: int, name: str
) -> list[dict[str, Any]]:
    rng = _stream(seed, name)
    sides = [("generated", n) for n in rng.permutation(list(ours))[:count].tolist()]
    sides += [("reference", n) for n in rng.permutation(list(theirs))[:count].tolist()]
    return [{"shown": [sides[i]], "right": sides[i][0]} for i in rng.permutation(len(sides))]


def read_answers(folder: Path) -> tuple[str, dict[str, list[tuple[dict[str, Any], str]]]]:
    """(kind, reader -> (item, answer) without practice) from key.json and answers-*.csv (item, answer).

    Raises ValueError for a missing key, an unknown reader, an answer that is none, or an item left out.
    """
    file = folder / "key.json"
    if not file.is_file():
        raise ValueError(
            f"{folder} holds no key.json. Make sheets first: fabrica readers --generated DIR --reference DIR --out {folder}"
        )
    key = json.loads(file.read_text())
    allowed = {"left", "right"} if key["kind"] == "pairs" else {"1", "2", "3", "4", "5"}
    found = {}
    for path in sorted(folder.glob("answers-*.csv")):
        name = path.stem.removeprefix("answers-")
        if name not in key["readers"]:
            raise ValueError(f"{path.name} is of no reader of this study. Readers: {', '.join(key['readers'])}.")
        with path.open(newline="", encoding="utf-8-sig") as table:
            given = {r.get("item", ""): (r.get("answer") or "").strip() for r in csv.DictReader(table)}
        items = key["readers"][name]
        for i in range(len(items)):
            if given.get(str(i + 1)) not in allowed:
                raise ValueError(
                    f"{path.name}: item {i + 1} has the answer {given.get(str(i + 1))!r}, expected one of {', '.join(sorted(allowed))}."
                )
        found[name] = [(item, given[str(i + 1)]) for i, item in enumerate(items) if i >= key["practice"]]
    if not found:
        raise ValueError(f"{folder} holds no answers-READER.csv yet. The last button of a sheet saves it.")
    return str(key["kind"]), found


def analyse(folder: Path) -> dict[str, Result]:
    """Forced choice over readers, or for ratings the area under the ROC curve with which each reader tells real from generated."""
    kind, answers = read_answers(folder)
    if kind == "pairs":
        right = [float(answer == item["right"]) for items in answers.values() for item, answer in items]
        names = [name for name, items in answers.items() for _ in items]
        return {"all readers": forced_choice(right, names)}
    return {name: _rated(items) for name, items in answers.items()}


def _rated(items: Sequence[tuple[dict[str, Any], str]]) -> Result:
    labels = [int(item["right"] == "generated") for item, _ in items]
    return auc_delong([-float(answer) for _, answer in items], labels, convention="logit")
