"""Sheets for readers: which of two is generated, or how real is this one; a page that needs no server, answers as CSV.

Each reader sees another order. Sides are balanced; the first pairs are for practice and count for nothing; no answer is
told. The key stays with whoever made the sheets.
"""

from __future__ import annotations

import base64
import csv
import io as buffers
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from ... import io
from ...io import Scan, UnreadableError
from ...rng import derive
from ..metrics.observer import hotelling_observer, ideal_observer, laguerre_gauss
from ..metrics.readers import forced_choice, obuchowski_rockette
from ..metrics.task import auc_delong
from ..result import Result

PRACTICE = 3  # first items of a sheet, which are not counted
STUDY = ("reader", "case", "modality", "truth", "score")
SIDE = 320  # pixels of a picture on the page
CHOICES = {"pairs": ("left", "right"), "ratings": ("1", "2", "3", "4", "5")}
Pixels = NDArray[np.floating[Any]]


def make_sheets(
    generated: Mapping[str, Scan],
    reference: Mapping[str, Scan],
    out: Path,
    *,
    readers: int,
    kind: str = "pairs",
    seed: int = 0,
) -> list[Path]:
    """One HTML page a reader and key.json. `kind`: pairs (two-alternative forced choice) or ratings (1 to 5).

    All pictures have one window, from the reference images. Raises ValueError for fewer than 2 + PRACTICE images a
    side.
    """
    if kind not in CHOICES:
        raise ValueError(f"The kind of sheet is {kind!r}, expected pairs or ratings.")
    if (out / "key.json").exists():
        raise ValueError(
            f"{out} holds the key of a study; its answers would be read by another. Make sheets in another folder:"
            " --out DIR"
        )
    ours, theirs = _planes(generated), _planes(reference)
    count = min(len(ours), len(theirs))
    if count < 2 + PRACTICE:
        raise ValueError(
            f"There are {count} images on the smaller side, at least {2 + PRACTICE} are needed, {PRACTICE} of them for"
            " practice."
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


@dataclass(frozen=True)
class Asked:
    """One item of a sheet: (side, name) of what is shown, and the answer that is right."""

    shown: tuple[tuple[str, str], ...]
    right: str


@dataclass(frozen=True)
class Key:
    """What a study's readers are asked, each in an order of their own; the first `practice` items count for nothing."""

    kind: str
    practice: int
    readers: Mapping[str, Sequence[Asked]]


def read_key(folder: Path) -> Key:
    """Raises ValueError for a folder without a key, and for a key that this version did not write."""
    file = folder / "key.json"
    if not file.is_file():
        raise ValueError(
            f"{folder} holds no key.json. Make sheets first: fabrica readers --generated DIR --reference DIR --out"
            f" {folder}"
        )
    try:
        key = json.loads(file.read_text())
        readers = {
            str(name): [Asked(tuple((str(s), str(n)) for s, n in i["shown"]), str(i["right"])) for i in items]
            for name, items in key["readers"].items()
        }
        found = Key(str(key["kind"]), int(key["practice"]), readers)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{file} is not the key of a study. Make sheets in another folder.") from error
    sides = {side for items in readers.values() for item in items for side, _ in item.shown}
    safe = all(name == Path(name).name for name in readers)  # a name becomes that of a file
    if found.kind not in CHOICES or not sides <= {"generated", "reference"} or not safe:
        raise ValueError(f"{file} is not the key of a study. Make sheets in another folder.")
    return found


def given_answers(folder: Path, key: Key, reader: str) -> list[str]:
    """A reader's answers so far, in the order of the items; none where none were given.

    Raises ValueError for an answer that is none, an item answered twice, and a gap.
    """
    path = folder / f"answers-{reader}.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8-sig") as table:
        rows = [((r.get("item") or "").strip(), (r.get("answer") or "").strip()) for r in csv.DictReader(table)]
    given, numbers = dict(rows), [str(i + 1) for i in range(len(rows))]
    if sorted(item for item, _ in rows) != sorted(numbers) or len(rows) > len(key.readers[reader]):
        raise ValueError(
            f"{path.name} answers other items than 1 to {len(rows)}, expected each item once, from the first."
        )
    for number in numbers:
        if given[number] not in CHOICES[key.kind]:
            expected = ", ".join(CHOICES[key.kind])
            raise ValueError(
                f"{path.name}: item {number} has the answer {given[number]!r}, expected one of {expected}."
            )
    return [given[number] for number in numbers]


def read_answers(folder: Path) -> tuple[str, dict[str, list[tuple[Asked, str]]]]:
    """(kind, reader -> (item, answer) without practice) from key.json and answers-*.csv (item, answer).

    Raises ValueError for a missing key, an unknown reader, an answer that is none, or an item left out.
    """
    key = read_key(folder)
    found = {}
    for path in sorted(folder.glob("answers-*.csv")):
        name = path.stem.removeprefix("answers-")
        if name not in key.readers:
            raise ValueError(f"{path.name} is of no reader of this study. Readers: {', '.join(key.readers)}.")
        items, given = key.readers[name], given_answers(folder, key, name)
        if len(given) < len(items):
            raise ValueError(
                f"{path.name}: {len(given)} of {len(items)} items are answered. Let the reader finish, or take the file"
                " away."
            )
        found[name] = list(zip(items, given, strict=True))[key.practice :]
    if not found:
        raise ValueError(f"{folder} holds no answers-READER.csv yet. The last button of a sheet saves it.")
    return key.kind, found


def analyse(folder: Path) -> dict[str, Result]:
    """Forced choice over readers, or for ratings the area under the ROC curve with which each reader tells real from
    generated.
    """
    kind, answers = read_answers(folder)
    if kind == "pairs":
        right = [float(answer == item.right) for items in answers.values() for item, answer in items]
        names = [name for name, items in answers.items() for _ in items]
        return {"all readers": forced_choice(right, names)}
    return {name: _rated(items) for name, items in answers.items()}


def read_study(table: Path) -> dict[str, Result]:
    """Areas of every reader and modality of a CSV (reader, case, modality, truth 0 or 1, score), and of every two
    modalities the difference over readers and cases (Obuchowski-Rockette, DeLong covariance).

    Every reader scores every case in every modality. Raises ValueError for a table that lacks that, with the first gap.
    """
    if not table.is_file():
        raise ValueError(f"There is no table at {table}. Write a CSV with the columns {', '.join(STUDY)}.")
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if not rows or not set(STUDY) <= set(rows[0]):
        raise ValueError(
            f"{table} lacks some of the columns {', '.join(STUDY)}. Write one row a reader, case and modality."
        )
    modalities, readers, cases = (list(dict.fromkeys(r[k] for r in rows)) for k in ("modality", "reader", "case"))
    scores = {(r["modality"], r["reader"], r["case"]): _score(r, table) for r in rows}
    if gap := next((k for k in itertools.product(modalities, readers, cases) if k not in scores), None):
        raise ValueError(
            f"{table}: {gap[1]} has no score of {gap[2]} by {gap[0]}. Every reader scores every case in every modality."
        )
    if len(scores) != len(rows):
        raise ValueError(f"{table} scores a case twice. Keep one row a reader, case and modality.")
    labels = _truths(rows, table)
    y = [labels[c] for c in cases]
    block = np.array([[[scores[m, r, c] for c in cases] for r in readers] for m in modalities])
    found = {f"{m}, {r}": auc_delong(block[i, j], y) for i, m in enumerate(modalities) for j, r in enumerate(readers)}
    if len(readers) > 1:
        for i, j in itertools.combinations(range(len(modalities)), 2):
            found[f"{modalities[i]} minus {modalities[j]}"] = obuchowski_rockette(block[[i, j]], y)
    return found


def _score(row: Mapping[str, str], table: Path) -> float:
    try:
        value = float(row["score"])
    except (TypeError, ValueError):
        value = float("nan")
    if not np.isfinite(value):
        raise ValueError(f"{table}: {row['reader']} scores {row['case']} {row['score']!r}, expected a number.")
    return value


def _truths(rows: Sequence[Mapping[str, str]], table: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows:
        if row["truth"] not in ("0", "1") or found.setdefault(row["case"], int(row["truth"])) != int(row["truth"]):
            raise ValueError(
                f"{table}: the truth of {row['case']} is {row['truth']!r}, expected 0 or 1, the same in every row."
            )
    return found


def in_words(found: Mapping[str, Result]) -> list[str]:
    """Lines for a terminal."""
    lines = []
    for name, result in found.items():
        bounds = f" ({result.interval[0]:.3f} to {result.interval[1]:.3f})" if result.interval else ""
        chance = f", p {result.p_value:.3g}" if result.p_value is not None else ""
        usual = "0 is no difference" if " minus " in name else ".5 is guessing"
        lines.append(f"{name}: {float(result):.3f}{bounds}{chance}, {result.convention}; {usual}")
        lines += [
            f"  {reader}: {own['share']:.3f} ({own['interval'][0]:.3f} to {own['interval'][1]:.3f}), {own['pairs']}"
            " pairs"
            for reader, own in result.details.get("readers", {}).items()
        ]
        if "equivalent" in result.details:
            lines.append(f"  within .1 of guessing: p {result.details['equivalent']:.3g}")
    return lines


def planes(scans: Mapping[str, Scan]) -> Pixels:
    """(images, y, x): the middle slice of every readable image. Raises ValueError for none, and for slices of several
    sizes.
    """
    found = list(_planes(scans).values())
    shapes = {p.shape for p in found}
    if len(shapes) != 1:
        raise ValueError(f"Got {len(found)} images of the sizes {sorted(shapes)}, expected images of one size.")
    return np.stack(found)


def watch(
    present: Pixels, absent: Pixels, signal: Pixels | None, *, width_px: float, channels: int = 5, seed: int = 0
) -> list[str]:
    """What model observers make of images with and without a signal in their middle, in lines for a terminal."""
    if not width_px > 0:
        raise ValueError(f"width_px is {width_px}, expected the signal's deviation in pixels, above 0.")
    u = laguerre_gauss(present.shape[1:], width_px=width_px * float(np.sqrt(2 * np.pi)), count=channels)
    found = hotelling_observer(present, absent, channels=u, seed=seed)
    low, high = found.interval or (found.value, found.value)
    lines = [
        f"channelised Hotelling observer: d' {found.value:.3f} ({low:.3f} hold-out to {high:.3f} resubstitution), AUC"
        f" {found.details['auc']:.3f} ({found.details['auc_low']:.3f} to {found.details['auc_high']:.3f}),"
        f" {found.convention}, {found.n} images"
    ]
    if signal is None:
        return [*lines, "ideal observer: not evaluated: needs --signal FILE, the signal itself without noise."]
    plane = signal if signal.ndim == 2 else signal[len(signal) // 2]
    best = ideal_observer(plane, absent)
    low, high = best.interval or (best.value, best.value)
    return [
        *lines,
        (
            f"ideal observer: d' {best.value:.3f} ({low:.3f} to {high:.3f}), AUC {best.details['auc']:.3f},"
            f" {best.convention}; without whitening d' {best.details['npw']:.3f}, AUC {best.details['npw_auc']:.3f}"
        ),
    ]


def _rated(items: Sequence[tuple[Asked, str]]) -> Result:
    labels = [int(item.right == "generated") for item, _ in items]
    return auc_delong([-float(answer) for _, answer in items], labels)
