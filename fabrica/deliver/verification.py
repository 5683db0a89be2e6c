"""A report of values that people accepted: a verified version, which supersedes the one that the model wrote alone."""

from __future__ import annotations

from .objects.report import verified
from .outbox import Outbox


def verify(outbox: Outbox, series: str) -> str | None:
    """UID of the verified report of a series that stands accepted, made where there is none yet; nothing where it is
    no report, or has not been accepted by as many as are asked. It goes where the report goes.
    """
    import pydicom

    (found,) = outbox.series(outbox.main_of(series)) or (None,)
    if found is None or found.verdict != "accept":
        return None
    first = pydicom.dcmread(outbox.files(found.uid)[0])
    if first.Modality != "SR":
        return None
    made = verified(first, outbox.accepted_by(found.uid), found.time)
    event = {"verifies": found.uid, "persons": outbox.accepted_by(found.uid), "reason": found.reason}
    outbox.add(made, [], event, part_of=found.uid)
    return made.uid
