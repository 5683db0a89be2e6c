"""A series that was delivered and then rejected: its archives are told so by a Key Object (IHE IOCM)."""

from __future__ import annotations

from .objects.rejection import rejection
from .outbox import Outbox


def withdraw(outbox: Outbox, series: str) -> list[str]:
    """Destinations that are now to be told that a series is rejected: those that have, or may have, any of it.

    Nothing where it was never sent. Raises ValueError for a series that nobody has rejected.
    """
    import pydicom

    (found,) = outbox.series(series) or (None,)
    if found is None or found.verdict != "reject":
        raise ValueError(f"{series} is not rejected: nothing is withdrawn. Reject it: fabrica review")
    places = outbox.places(series)
    if places:
        datasets = [pydicom.dcmread(path, stop_before_pixels=True) for path in outbox.files(series)]
        note = rejection(datasets, found.reason, found.person, found.time)
        event = {"withdraws": series, "reason": found.reason, "person": found.person}
        outbox.add(note, [], event, part_of=series, withdraws=True)
        for place in places:
            outbox.enqueue(note.uid, place)
    return places
