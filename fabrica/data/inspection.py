"""What was understood of a folder, in words and as a contact sheet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image as Picture
from PIL import ImageDraw

from ..io import UnreadableError
from .cohort import Cohort, ScannedMember
from .prepare import intensity_scale

TILE = 160


def lines(cohort: Cohort, most: int = 12) -> Iterator[str]:
    """Patients, contrasts, grids, units, then every oddity."""
    members = [m for m in cohort.members if isinstance(m, ScannedMember)]
    yield f"{len(cohort.patients)} patient{'s' * (len(cohort.patients) != 1)}, {len(members)} visit{'s' * (len(members) != 1)}"
    for contrast, count in Counter(c for m in members for c in m.contrasts()).most_common():
        scans = [m.scans[contrast] for m in members if contrast in m.scans]
        grids = Counter(_grid(s.shape, s.affine, s.calibrated) for s in scans)
        units = ", ".join(sorted({"label" if s.kind == "label" else s.unit for s in scans}))
        first, n = grids.most_common(1)[0]
        rest = f" and {len(grids) - 1} other grid{'s' * (len(grids) > 2)}" if len(grids) > 1 else ""
        yield f"  {contrast}: {count} ({units}), {first}{rest if n < count else ''}"
    for m in members[:most]:
        yield f"  {m.name}: {', '.join(m.contrasts())}"
    if len(members) > most:
        yield f"  ... and {len(members) - most} more"
    notes = [o for o in cohort.oddities if o.severity == "note"]
    odd = [o for o in cohort.oddities if o.severity != "note"]
    if notes:
        yield f"{len(notes)} file{'s' * (len(notes) > 1)} of text left aside"
    if odd:
        yield f"{len(odd)} odd:"
    for o in odd:
        yield f"  {o.severity}: {o}"


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
