"""What was understood of a folder, in words and as a contact sheet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image as Picture
from PIL import ImageDraw

from .. import io
from ..io import Scan, UnreadableError
from ..io.radiotherapy.structures import OnSeries
from .cohort import Cohort, ScannedMember
from .prepare import intensity_scale
from .units import supported_by

TILE = 160
OPENED = 4  # label maps of a contrast whose numbers are looked at
IDS = 12  # numbers of label maps that are shown


def lines(cohort: Cohort, most: int = 12) -> Iterator[str]:
    """Patients, contrasts, grids, units, then every oddity."""
    members = [m for m in cohort.members if isinstance(m, ScannedMember)]
    if cohort.looks_like:
        yield cohort.looks_like
    yield (
        f"{len(cohort.patients)} patient{'s' * (len(cohort.patients) != 1)}, {len(members)}"
        f" visit{'s' * (len(members) != 1)}"
    )
    for contrast, count in Counter(c for m in members for c in m.contrasts()).most_common():
        scans = [m.scans[contrast] for m in members if contrast in m.scans]
        grids = Counter(_grid(s.shape, s.affine, s.calibrated) for s in scans)
        units = ", ".join(sorted(set(_units(contrast, scans, members))))
        first, n = grids.most_common(1)[0]
        rest = f" and {len(grids) - 1} other grid{'s' * (len(grids) > 2)}" if len(grids) > 1 else ""
        yield f"  {contrast}: {count} ({units}), {first}{rest if n < count else ''}"
    for m in members[:most]:
        yield f"  {m.name}: {', '.join(m.contrasts())}"
    if len(members) > most:
        yield f"  ... and {len(members) - most} more"
    yield from _structures(members)
    yield from _who_is_who(cohort, members)
    notes = [o for o in cohort.oddities if o.severity == "note"]
    odd = [o for o in cohort.oddities if o.severity != "note"]
    if notes:
        yield f"{len(notes)} file{'s' * (len(notes) > 1)} of text left aside"
    if odd:
        yield f"{len(odd)} odd:"
    for o in odd:
        yield f"  {o.severity}: {o}"


def _units(contrast: str, scans: Sequence[Scan], members: Sequence[ScannedMember]) -> Iterator[str]:
    """Unit and where it was read; of label maps the numbers that they hold. A few files are opened for it."""
    if any(s.kind == "label" for s in scans):
        ids = sorted({v for m in _some(contrast, members) for v in _labels(m, contrast)})
        shown = ", ".join(f"{v:g}" for v in ids[:IDS]) + (f" and {len(ids) - IDS} more" if len(ids) > IDS else "")
        yield f"labels {shown}" if ids else "label"
    for unit, source in sorted({(s.unit, s.unit_from) for s in scans if s.kind != "label"}):
        told = {"name": " by its name", "sidecar": " by its sidecar", "table": " by the table", "said": " as you say"}
        values = ""
        if source in ("name", "nothing") and unit in ("HU", "SUV?"):
            values = next((v for m in _some(contrast, members, 1) if (v := _by_values(m, contrast))), "")
        how = told.get(source, f" by {source}" if source and unit not in ("a.u.", "SUV?") else "")
        yield f"{unit}{how}{', ' + values if values else ''}"


def _structures(members: Sequence[ScannedMember]) -> Iterator[str]:
    """What structure sets call their structures, which of them the table of names knows, and what is prescribed."""
    drawn = [s for m in members for s in m.scans.values() if isinstance(s.recipe, OnSeries)]
    if not drawn:
        return
    known = sorted({f"{s.modality} ({s.recipe.stated!r})" for s in drawn if s.recipe.matched})
    other = sorted({repr(s.recipe.stated) for s in drawn if not s.recipe.matched})
    if known:
        yield f"  structures by the table of names: {', '.join(known)}"
    if other:
        yield f"  structures by their own name: {', '.join(other)}"
        yield "    give them others in a table: --write-table files.csv, then --table files.csv"
    levels = sorted({f"{v:g} {name}" for s in drawn for name, v in s.values.items() if name.startswith("Gy to ")})
    if levels:
        yield f"  prescribed: {', '.join(levels)}"


def _some(contrast: str, members: Sequence[ScannedMember], most: int = OPENED) -> list[ScannedMember]:
    return [m for m in members if contrast in m.scans][:most]


def _labels(member: ScannedMember, contrast: str) -> list[float]:
    try:
        found: list[float] = torch.unique(io.read(member.scans[contrast]).data).tolist()
    except UnreadableError:
        return []
    return found if len(found) <= 256 else []


def _by_values(member: ScannedMember, contrast: str) -> str:
    try:
        image = io.read(member.scans[contrast])
    except UnreadableError:
        return ""
    scan = member.scans[contrast]
    return supported_by(replace(image, meaning=replace(image.meaning, unit=scan.unit)), scan)


def _who_is_who(cohort: Cohort, members: Sequence[ScannedMember]) -> Iterator[str]:
    """Names with two readings, and pictures of which nobody says whose they are."""
    if cohort.doubts:
        names = f"{len(cohort.doubts)} name{'s' * (len(cohort.doubts) > 1)}"
        yield f"{names} with two readings; nobody is split over training and testing before a table settles it:"
        for doubt in cohort.doubts[:5]:
            yield f"  {doubt}"
        yield "  settle it: fabrica inspect DIR --write-table files.csv, then --table files.csv"
    alone = [m for m in members if not m.visit and all(s.axes == "yx" and not s.patient for s in m.scans.values())]
    if len(alone) > 1 and len(alone) == len(members) == len(cohort.patients):
        yield "  nothing says whose pictures these are: each is its own case, and claims are per image"


def contact_sheet(cohort: Cohort, path: Path, most: int = 48) -> int:
    """The middle slice of up to `most` images as one PNG; returns how many are shown."""
    tiles: list[tuple[str, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]] = []
    for member in cohort.members:
        for contrast in member.contrasts():
            if len(tiles) >= most:
                break
            try:
                image = member.load([contrast]).images[contrast]
            except UnreadableError as error:
                tiles.append((f"{member.name} {contrast}: {error.fault}", np.zeros((TILE, TILE), np.uint8)))
                continue
            volume = image.data.reshape(-1, *image.data.shape[-2:])
            offset, scale = intensity_scale(image)
            top = max(float(volume.max()), 1.0) if image.meaning.kind == "label" else scale
            plane = ((volume[len(volume) // 2] - offset) / top).clamp(0, 1)
            tiles.append((f"{member.name} {contrast}", (255 * plane).byte().numpy()))
    if not tiles:
        raise ValueError("There is nothing to show: no readable image was found.")
    columns = min(8, len(tiles))
    sheet = Picture.new("L", (columns * TILE, -(-len(tiles) // columns) * (TILE + 14)))
    pen = ImageDraw.Draw(sheet)
    for i, (label, pixels) in enumerate(tiles):
        x, y = i % columns * TILE, i // columns * (TILE + 14)
        picture = Picture.fromarray(pixels)
        picture.thumbnail((TILE, TILE))
        sheet.paste(picture, (x + (TILE - picture.width) // 2, y + (TILE - picture.height) // 2))
        pen.text((x + 2, y + TILE), label[:26], fill=200)
    sheet.save(path)
    return len(tiles)


def _grid(shape: tuple[int, ...], affine: np.ndarray[tuple[int, ...], np.dtype[np.float64]], calibrated: bool) -> str:
    size = " x ".join(str(n) for n in shape[1:])
    if not calibrated:
        return f"{size} pixels of unknown size"
    spacing = np.linalg.norm(affine[:3, :3], axis=0)[-min(3, len(shape) - 1) :]
    return f"{size} at {' x '.join(f'{s:.3g}' for s in spacing)} mm"
