"""The way out: send, read back, compare, and only then call it delivered."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from .destinations import Destination, UnreachableError
from .outbox import Outbox, Waiting

KEY = ("SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "SyntheticData", "ContentQualification",
       "ImageType", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope",
       "RescaleIntercept", "PixelRepresentation", "Rows", "Columns", "InstanceNumber", "SeriesDescription",
       "FrameOfReferenceUID", "ContentSequence", "SegmentSequence", "SharedFunctionalGroupsSequence",
       "PerFrameFunctionalGroupsSequence", "GridFrameOffsetVector", "DoseGridScaling")  # fmt: skip
TRIES = 3
WAIT_S = 1.0  # before the second try; twice as long before each further one
Say = Callable[[str], None]


def deliver(outbox: Outbox, to: Destination, say: Say = print, *, tries: int = TRIES, wait_s: float = WAIT_S) -> int:
    """Everything that waits for a destination; how many instances still do. Nothing is lost, nothing sent twice
    unasked.
    """
    for attempt in range(tries):
        waiting = outbox.waiting(to.name)
        if not waiting:
            return 0
        if attempt:
            time.sleep(wait_s * 2 ** (attempt - 1))
        for series, own in groupby(waiting, lambda w: w.series):
            try:
                _deliver_series(outbox, to, series, list(own), say)
            except UnreachableError as error:
                say(str(error))
                break
    return len(outbox.waiting(to.name))


def _deliver_series(outbox: Outbox, to: Destination, series: str, waiting: Sequence[Waiting], say: Say) -> None:
    files = {path.stem: path for path in outbox.files(series)}
    left = [w.instance for w in waiting]
    if any(w.attempts for w in waiting):  # sent before, and nobody knows what became of it
        there = _arrived(to, files, left)
        outbox.delivered(to.name, [uid for uid, wrong in there.items() if not wrong])
        left = [uid for uid in left if uid not in there or there[uid]]
    if not left:
        say(f"{len(waiting)} instances were there already.")
        return
    outbox.attempted(to.name, left)
    errors = dict(to.store([files[uid] for uid in left]))
    try:
        there = _arrived(to, files, left) if len(errors) < len(left) else {}
    except UnreachableError as error:
        outbox.failed(to.name, {uid: errors.get(uid, str(error)) for uid in left})
        refused = sorted(set(errors.values()))
        raise UnreachableError(f"{'; '.join(refused)}. {error}" if refused else str(error)) from error
    for uid in left:
        if uid not in there:
            errors.setdefault(uid, "it is not there when read back")
        elif there[uid]:
            errors[uid] = there[uid]
    good = [uid for uid in left if uid in there and not there[uid]]
    outbox.delivered(to.name, good)
    outbox.failed(to.name, {uid: error for uid, error in errors.items() if uid not in good})
    say(f"{len(good)} of {len(left)} instances delivered to {to.name} and read back.")
    for words in sorted({text for uid, text in errors.items() if uid not in good}):
        say(f"Not delivered: {words}")


def _arrived(to: Destination, files: Mapping[str, Path], wanted: Sequence[str]) -> dict[str, str]:
    """Of those that are there: what differs, in words; nothing where they are equal."""
    import pydicom

    first = pydicom.dcmread(next(iter(files.values())), stop_before_pixels=True)
    found = {}
    for ds in to.fetch(str(first.StudyInstanceUID), str(first.SeriesInstanceUID)):
        uid = str(ds.SOPInstanceUID)
        if uid in wanted:
            found[uid] = difference(pydicom.dcmread(files[uid]), ds)
    return found


def difference(ours: Any, theirs: Any) -> str:
    """What of an instance came back changed, or nothing."""
    for name in KEY:
        if ours.get(name) != theirs.get(name):
            return f"its {name} came back changed"
    return "" if _pixels(ours) == _pixels(theirs) else "its pixels came back changed"


def _pixels(ds: Any) -> bytes:
    """As they are meant, in whatever syntax they came; nothing of an object that has none."""
    return ds.pixel_array.tobytes() if "PixelData" in ds or "FloatPixelData" in ds else b""
