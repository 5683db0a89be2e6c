"""Pictures that a table numbers by slice and frame, as one volume or one film."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..io import Scan, raster
from .identity import Row
from .tables import Line, number_of


def stacked(rows: Sequence[Row], lines: Sequence[Line]) -> list[Row]:
    """Rows of one patient, visit and contrast that say a slice or a frame become one; others stay as they are.

    Raises UnreadableError naming the row for a place that is no whole number, is taken twice, or belongs to no picture.
    """
    found: list[Row] = []
    groups: dict[tuple[str, str, str], dict[tuple[int, int], Row]] = {}
    for row, line in zip(rows, lines, strict=True):
        place = _place(line)
        if place is None:
            found.append(row)
            continue
        if row.scan.format != "raster" or len(row.scan.shape) != 3:
            raise line.fault("says a slice or a frame of what is no picture.", "Leave both columns empty there.")
        group = groups.setdefault((row.patient, row.visit, row.contrast), {})
        if place in group:
            raise line.fault(
                f"is slice {place[0]}, frame {place[1]} of {row.patient} again, as {group[place].scan.name} is.",
                "A place holds one picture: correct one of them.",
            )
        group[place] = row
    for group in groups.values():
        first = next(iter(group.values()))
        found.append(replace(first, scan=raster.stack({place: row.scan for place, row in group.items()})))
    return found


def _place(line: Line) -> tuple[int, int] | None:
    """(slice, frame) of a row, 0 where only the other is said; None where neither is."""
    said = [line.get("slice"), line.get("frame")]
    if not any(said):
        return None
    numbers = []
    for name, text in zip(("slice", "frame"), said, strict=True):
        number = number_of(text) if text else 0.0
        if number is None or number != int(number):
            raise line.fault(f"has the {name} {text!r}, expected a whole number.", "Number slices and frames.")
        numbers.append(int(number))
    return numbers[0], numbers[1]


def places_of(scan: Scan) -> Iterator[tuple[Path, tuple[int | str, int | str]]]:
    """Each file of a stack with its slice and frame; one file without of any other scan."""
    places = raster.places(scan)
    if places is None:
        yield scan.files[0], ("", "")
        return
    yield from zip(scan.files, places, strict=True)
