"""A series that was delivered and then rejected: its archives are told so by a Key Object (IHE IOCM)."""

from __future__ import annotations

from .objects.rejection import rejection
from .outbox import Outbox


def withdraw(outbox: Outbox, series: str) -> list[str]:
    """Destinations that are now to be told that a series is rejected: those that have, or may have, any of it or of
    what goes with it; BIDS data sets, which have no such object, have to be cleared by hand.

    Nothing where it was never sent. Raises ValueError for a series that nobody has rejected.
    """
    import pydicom

    (found,) = outbox.series(outbox.main_of(series)) or (None,)
    if found is None or found.verdict != "reject":
        raise ValueError(f"{series} is not rejected: nothing is withdrawn. Reject it: fabrica review")
    every = [found.uid, *outbox.parts(found.uid)]
    places = [p for p in outbox.places(*every) if not p.startswith("bids:")]
    if places:
        files = [path for uid in every for path in outbox.files(uid)]
        datasets = [pydicom.dcmread(path, stop_before_pixels=True) for path in files]
        note = rejection(datasets, found.reason, found.person, found.time)
        event = {"withdraws": found.uid, "reason": found.reason, "person": found.person}
        outbox.add(note, [], event, part_of=found.uid, withdraws=True)
        for place in places:
            outbox.enqueue(note.uid, place)
    return places
