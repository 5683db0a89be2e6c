"""From draws to objects in the outbox: which draws, as which series, of whose patient."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from .. import io
from ..contracts import Image
from ..deliver.objects import derived_series, read_headers
from ..deliver.outbox import Outbox
from ..deliver.record import Drawn, Record, check_drawn, check_sources

Say = Callable[[str], None]


def default_store() -> Path:
    """Where the outbox of this user lies: `fabrica/delivery` below XDG_DATA_HOME."""
    home = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(home) / "fabrica" / "delivery"


def hand_over(
    record: Record, outbox: Outbox, *, which: str = "mean", identity: Path | None = None, source: Path | None = None,
    say: Say = print,
) -> list[str]:  # fmt: skip
    """UIDs of the series that a record's draws became, in the outbox; those that were there stay as they are.

    `which`: mean, all, or the number of a draw; `identity`: a DICOM file that says whose draws of other files are;
    `source`: where the files lie now that draws were made from. Raises ValueError for what cannot be delivered.
    """
    if record.audit.startswith("REFUSED"):
        raise ValueError(
            f"The run {record.run} was audited and {record.audit}: nothing of it is delivered."
            " Overrule it with a reason, then draw again: fabrica audit RUN --override CHECK=REASON"
        )
    found = []
    for drawn in record.images:
        paths = check_sources(drawn, source) if drawn.sources or identity is None else [identity]
        headers = read_headers(paths)
        for name, image in _wanted(record, drawn, which):
            number = int(name) + 1 if name.isdigit() else 0
            series = derived_series(record, drawn, image, headers, which=name, number=number)
            event = {"run": record.run, "stage": record.stage, "weights": record.weights, "recipe": record.recipe,
                     "seed": record.seed, "draw": name, "drawn": record.made, "version": record.version,
                     "sources": sorted(str(h.SOPInstanceUID) for h in headers), "clipped": series.clipped}  # fmt: skip
            new = outbox.add(series, paths, event)
            if series.clipped:
                say(f"{drawn.case}: {series.clipped} voxels did not fit what DICOM stores and were clipped.")
            say(f"{drawn.case}: {drawn.contrast}, {len(series.datasets)} slices, {'made' if new else 'known'}.")
            found.append(series.uid)
    return found


def _wanted(record: Record, drawn: Drawn, which: str) -> Sequence[tuple[str, Image]]:
    """(name, image) of the mean of the draws, of each, or of one."""
    count = len(drawn.files)
    if which not in ("mean", "all") and not (which.isdigit() and int(which) < count):
        raise ValueError(f"--draw {which!r} is none of {drawn.case}'s {count}. Write mean, all, or a number from 0.")
    numbers = list(range(count)) if which in ("mean", "all") else [int(which)]
    images = [io.read_image(path) for path in check_drawn(record, drawn, numbers)]
    images = [i if i.axes == "zyx" else replace(i, data=i.data[:, None], axes="zyx") for i in images]
    if which != "mean":
        return [(str(number), image) for number, image in zip(numbers, images, strict=True)]
    total = images[0].data.double()
    for image in images[1:]:
        total = total + image.data
    return [("mean", replace(images[0], data=(total / count).float()))]
